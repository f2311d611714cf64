"""Ablation of more, or less, than one head at a time; of streams; and the knock-out of edges."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import VOCABULARY, assert_close, random_batch, small_model
from . import naive

FAMILIES = ("llama", "gpt2", "bert")


def without(model: jh.Model, batch: jh.Batch, judge: naive.Judge, heads: Any, values: np.ndarray) -> np.ndarray:
    """The effect `[E]` of putting values `[L,B|1,T|1,N,H]` in the place of these heads."""
    layers = sorted({layer for layer, _ in heads})
    edit = jh.replace_heads(model, heads, values[layers].astype(np.float32))
    before = judge(np.asarray(jh.run(model, batch).output, np.float64), batch)
    return judge(np.asarray(jh.run(model, batch, edits=edit).output, np.float64), batch) - before


def question(batch: jh.Batch) -> naive.Question:
    return naive.logit_difference(np.full(len(batch), 3), np.full(len(batch), 7), np.asarray(batch.last))


@pytest.mark.parametrize("family", FAMILIES)
def test_sets_of_heads_in_any_layers(family: str):
    model, batch = small_model(family), random_batch((5, 4, 5, 3), "left")
    asked = question(batch)
    sets = {"two layers": [(0, 1), (1, 3)], "one head": [(1, 0)], "one layer": [(0, 0), (0, 2)], "all": None}
    sets["all"] = [(layer, head) for layer in range(2) for head in range(4)]
    table = jh.ablate(model, batch, asked.objective, "mean", per_position=True, sets=sets)
    stand_in = naive.means(model, batch, layout="by position")
    slow = np.stack([without(model, batch, asked.judge, heads, stand_in) for heads in sets.values()], axis=1)
    assert_close(table.per_example, slow)
    assert table.frame.index.names == ["stack", "set"]
    assert table.frame["heads"].iloc[0] == "two layers: 0.1 1.3"


def test_a_layer_and_a_position_at_a_time():
    model, batch = small_model("gpt2"), random_batch((6, 4), "left")
    asked, zeros = question(batch), naive.zeros(small_model("gpt2"))
    table = jh.ablate(model, batch, asked.objective, "zero", by=("layer",))
    slow = [without(model, batch, asked.judge, [(layer, h) for h in range(4)], zeros) for layer in range(2)]
    assert_close(table.per_example, np.stack(slow, axis=1))
    table = jh.ablate(model, batch, asked.objective, "zero", by=("layer", "head", "position"))
    silent = jh.Batch(batch.tokens, batch.mask)
    z = naive.all_z(model, batch)
    for layer, head, position in ((0, 1, 0), (1, 3, 3), (0, 2, 5)):
        values, there = z[layer][None].copy(), np.asarray(batch.mask) & (np.asarray(batch.positions) == position)
        values[:, there, head] = 0
        edit = jh.replace_heads(model, [(layer, head)], values.astype(np.float32))
        before, after = (
            asked.judge(np.asarray(jh.run(model, silent, edits=e).output, np.float64), batch) for e in ((), edit)
        )
        told = there.any(axis=1)
        assert table.per_example is not None
        found = table.per_example[:, layer, head, position]
        assert_close(found[told], (after - before)[told])
        assert np.isnan(found[~told]).all()
    assert table.provenance["not_finite"] == []  # a position that isn't there is no failure


def test_cumulative_ablation_grows_head_by_head():
    order = [(1, 2), (0, 3), (1, 0)]
    assert jh.cumulative(order) == {"1": order[:1], "2": order[:2], "3": order[:3]}
    model, batch = small_model("llama"), random_batch((5, 4))
    table = jh.ablate(model, batch, jh.logit_difference(3, 7), "zero", sets=jh.cumulative(order))
    single = jh.ablate(model, batch, jh.logit_difference(3, 7), "zero")
    assert_close(table.values[0], single.values[1, 2])


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_interactions_are_what_is_beyond_the_sum(family: str):
    model, batch, heads = small_model(family), random_batch((5, 4)), [(0, 1), (1, 2), (1, 3)]
    asked, zeros = question(batch), naive.zeros(small_model(family))
    table = jh.interactions(model, batch, asked.objective, heads, "zero")
    alone = [without(model, batch, asked.judge, [head], zeros) for head in heads]
    assert table.per_example is not None
    for a, b in combinations(range(3), 2):
        both = without(model, batch, asked.judge, [heads[a], heads[b]], zeros)
        assert_close(table.per_example[0, :, a, b], both - alone[a] - alone[b])
        np.testing.assert_array_equal(table.per_example[:, :, a, b], table.per_example[:, :, b, a])
        assert_close(table.per_example[1, :, a, b], both)
    assert_close(np.diagonal(table.grid("effect")), [each.mean() for each in alone])
    assert np.isnan(np.diagonal(table.grid("interaction"))).all()
    assert table.frame["first_head"].iloc[1] == "0.1"
    assert table.frame["second_head"].iloc[1] == "1.2"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sets", [None, {"two": [(0, 1), (1, 2)], "one": [(1, 0)]}], ids=["by head", "sets"])
def test_knocking_out_edges_masks_scores(family: str, sets: Any):
    model, batch = small_model(family), random_batch((9, 7), "left")
    asked, stack = question(batch), model.stack()
    keys = np.argmax(np.asarray(batch.mask), axis=1) + 1
    table = jh.knock_out(model, batch, asked.objective, batch.last, keys, sets=sets)
    edges = (np.arange(9) == np.asarray(batch.last)[:, None])[:, :, None] & (np.arange(9) == keys[:, None])[:, None]
    before = asked.judge(np.asarray(jh.run(model, batch).output, np.float64), batch)
    chosen = sets or {f"{layer}.{head}": [(layer, head)] for layer in range(2) for head in range(4)}
    slow = []
    for heads in chosen.values():
        edits = []
        for layer, head in heads:
            weight = edges[:, None] & (np.arange(4) == head)[None, :, None, None]
            source = jnp.full((1, 1, 1, 1, 1), jnp.finfo(jnp.float32).min)
            edits.append(
                jh.SiteEdit(jnp.array([layer]), jnp.asarray(weight[None], jnp.float32), source, "scores", stack.name)
            )
        slow.append(asked.judge(np.asarray(jh.run(model, batch, edits=edits).output, np.float64), batch) - before)
    assert table.per_example is not None
    assert_close(table.per_example.reshape(2, -1), np.stack(slow, axis=1))


def windowed() -> jh.Model:
    """A decoder in which a query sees three positions, its own included."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 3}
    model = jh.init({"model_type": "mistral", **sizes, **heads})
    # At the scale of fresh weights attention would be uniform.
    return replace(model, network=jax.tree.map(lambda weight: 10 * weight, model.network))


@pytest.mark.parametrize("family", ["llama", "bert", "mistral"])
def test_any_edges_can_be_knocked_out(family: str):
    """Edges that differ by example and by query, those that are no edges among them, equal whole passes."""
    model, batch = windowed() if family == "mistral" else small_model(family), random_batch((9, 7), "left")
    asked, stack = question(batch), model.stack()
    edges = np.random.default_rng(3).random((2, 9, 9)) < 0.4
    edges &= ~np.eye(9, dtype=bool)
    table = jh.knock_out(model, batch, asked.objective, edges=edges)
    before = asked.judge(np.asarray(jh.run(model, batch).output, np.float64), batch)
    source, slow = jnp.full((1, 1, 1, 1, 1), jnp.finfo(jnp.float32).min), []
    for layer, head in np.ndindex(stack.layers, stack.heads):
        weight = jnp.asarray((edges[:, None] & (np.arange(stack.heads) == head)[:, None, None])[None], jnp.float32)
        edit = jh.SiteEdit(jnp.array([layer]), weight, source, "scores", stack.name)
        slow.append(asked.judge(np.asarray(jh.run(model, batch, edits=edit).output, np.float64), batch) - before)
    assert table.per_example is not None
    assert_close(table.per_example.reshape(2, -1), np.stack(slow, axis=1))
    assert 0 < table.provenance["edges"] < edges.sum()
    alike = jh.knock_out(model, batch, asked.objective, edges=edges[0])
    np.testing.assert_array_equal(np.asarray(alike.per_example)[0], table.per_example[0])


def test_edges_from_each_of_some_queries_to_each_of_some_keys_are_queries_and_keys():
    model, batch = small_model("bert"), random_batch((5, 4))
    queries, keys = np.arange(5) > 1, np.arange(5) < 2
    named = jh.knock_out(model, batch, jh.logit_difference(3, 7), np.tile(queries, (2, 1)), np.tile(keys, (2, 1)))
    edges = jh.knock_out(model, batch, jh.logit_difference(3, 7), edges=queries[:, None] & keys)
    np.testing.assert_array_equal(named.per_example, edges.per_example)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edges": np.ones((2, 5, 5))}, r"edges must be bool \[2, 5, 5\], or \[5, 5\] for all examples; got float64"),
        ({"edges": np.ones((2, 4, 5), bool)}, r"got bool of shape \[2, 4, 5\]"),
        ({"edges": np.triu(np.ones((5, 5), bool), 1)}, r"hits nothing in examples \[0, 1\]"),
        ({"edges": np.ones((5, 5), bool)}, "position 0 would be left without any key"),
        ({"edges": np.ones((5, 5), bool), "keys": 0}, "leave queries and keys out"),
        ({"queries": 3}, "needs queries and keys, or edges"),
    ],
)
def test_edges_that_can_not_be_knocked_out(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.knock_out(small_model("llama"), random_batch((5, 4)), jh.logit_difference(3, 7), **arguments)


def test_a_query_that_a_window_leaves_without_a_key_is_refused():
    """Of three keys in the window none is left, though keys before the window are."""
    model, batch, edges = windowed(), random_batch((9, 9)), np.zeros((9, 9), bool)
    edges[8, 6:] = True
    with pytest.raises(ValueError, match="position 8 would be left without any key"):
        jh.knock_out(model, batch, jh.logit_difference(3, 7), edges=edges)


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (2, 4, "hits nothing in examples"),
        (0, 0, "left without any key"),
        (9, 0, "queries must lie in 0..4"),
        (4, [0, 0, 0], "keys must be bool"),
        (0.5, 0, "queries must be bool"),
    ],
)
def test_knock_outs_that_can_not_be(queries: Any, keys: Any, message: str):
    with pytest.raises(ValueError, match=message):
        jh.knock_out(small_model("llama"), random_batch((5, 4)), jh.logit_difference(3, 7), queries, keys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": {}}, "at least one set"),
        ({"sets": {"none": []}}, "sets: 'none' must be a list"),
        ({"sets": {"far": [(2, 0)]}}, "heads that are not there"),
        ({"by": ("head",)}, "by must be one of"),
        ({"by": ("layer", "position")}, "by head and position"),
        ({"objective": None}, "an objective is needed"),
        ({"batch": iter([random_batch((5,))]), "method": "mean"}, "needs a reference"),
        ({"batch": iter([]), "method": "zero"}, "at least one batch"),
        ({"devices": "cpu"}, "must be a jax.sharding.Mesh"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str):
    arguments = {"model": small_model("llama"), "batch": random_batch((5, 4)), "objective": jh.loss(), **changes}
    with pytest.raises(ValueError, match=message):
        jh.ablate(**arguments)


def test_a_stream_is_one_batch_and_brings_its_own_objectives(tmp_path: Path):
    model, batch, reference = small_model("llama"), random_batch((5, 5, 5, 5)), random_batch((5, 5), seed=9)
    right = np.array([3, 4, 5, 6])
    whole = jh.ablate(model, batch, jh.logit_difference(right, 7), reference=reference)
    pieces = [(batch.take(p), jh.logit_difference(right[p], 7)) for p in ([0, 1, 2], [3])]
    streamed = jh.ablate(model, iter(pieces), reference=reference, resume=tmp_path)
    assert_close(streamed.per_example, whole.per_example)
    ours, theirs = (table.frame.drop(columns="model").to_numpy() for table in (streamed, whole))
    assert_close(ours, theirs)
    assert streamed.provenance["examples"] == 4
    assert streamed.provenance["unedited"] == pytest.approx(whole.provenance["unedited"], abs=1e-5)


def test_a_long_stream_keeps_few_rows():
    model, rng = small_model("gpt2"), np.random.default_rng(0)
    batches = [jh.Batch(rng.integers(0, VOCABULARY, (700, 3))) for _ in range(4)]
    streamed = jh.ablate(model, iter(batches), jh.loss(), "zero")
    whole = jh.ablate(model, jh.Batch(np.concatenate([b.tokens for b in batches])), jh.loss(), "zero")
    assert streamed.per_example is None
    assert whole.per_example is not None
    assert_close(streamed.values, whole.values)
    width = whole.grid("effect_high") - whole.grid("effect_low")
    np.testing.assert_allclose(streamed.grid("effect_high") - streamed.grid("effect_low"), width, rtol=0.15)
