"""What a mean is taken over: by position, with the first position apart, or pooled; and never one example alone."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.execution.batching import Chunks

from ..models.huggingface import alone, assert_close, random_batch, small_model
from ..models.specs.spec import small
from . import naive
from .edges_by_hand import Slow
from .seq2seq import a_batch, judge

OBJECTIVE = jh.logit_difference(3, 7)
FIRST, FIRST_LATER = 8.0, 0.5


def asked(batch: jh.Batch) -> naive.Question:
    return naive.logit_difference(np.full(len(batch), 3), np.full(len(batch), 7), np.asarray(batch.last))


def examples(table: jh.HeadTable) -> np.ndarray:
    assert table.per_example is not None
    return table.per_example


def slow(model: jh.Model, batch: jh.Batch, *arguments: Any, **options: Any) -> np.ndarray:
    return naive.effects(model, batch, asked(batch).judge, [naive.means(model, batch, *arguments, **options)])


def planted() -> jh.Model:
    """A head whose output is one constant at the first position and another at all later ones, and a head that copies.

    The stream is [first, later | token, 4 | out, 4]; no mean by position changes what the first head writes.
    """
    D = 10
    positions = np.zeros((16, D))
    positions[0, 0] = positions[1:, 1] = 1
    embed, unembed = np.zeros((4, D)), np.zeros((4, D))
    embed[:, 2:6] = unembed[:, 6:] = np.eye(4)
    W_Q, W_K, W_V, W_O = (np.zeros((2, *shape)) for shape in ((D, 4), (D, 4), (D, 4), (4, D)))
    # Head 0: later positions attend to later ones; its value is the kind of position.
    W_Q[0, 1, 0] = W_K[0, 1, 0] = 10
    W_V[0, 0, 0], W_V[0, 1, 0], W_O[0, 0, 6] = FIRST, FIRST_LATER, 1
    # Head 1: every position attends to all before it alike, and copies their tokens.
    W_V[1, 2:6], W_O[1, :, 6:] = np.eye(4), 3 * np.eye(4)
    return jh.by_hand(embed, [{"W_Q": W_Q, "W_K": W_K, "W_V": W_V, "W_O": W_O}], unembed, positions=positions)


def test_a_pooled_mean_gives_an_effect_that_the_default_does_not():
    rng = np.random.default_rng(0)
    batch = jh.Batch(rng.integers(0, 4, (6, 5)))
    for objective in (jh.loss(), jh.logit_difference(0, 1, 0)):
        pooled = jh.ablate(planted(), batch, objective, per_position=False)
        assert np.abs(pooled.values[0, 0]) > 0.1
        by_default = jh.ablate(planted(), batch, objective)
        np.testing.assert_allclose(examples(by_default)[:, 0, 0], 0, atol=1e-5)
        assert np.abs(examples(by_default)[:, 0, 1]).max() > 0.1
    # What a circuit leaves out is replaced by the same means.
    left_out = jh.circuit(planted(), batch, jh.loss(), [(0, 1)])
    assert left_out.faithfulness.grid("unfaithfulness")[0] == pytest.approx(0, abs=1e-5)
    pooled = jh.circuit(planted(), batch, jh.loss(), [(0, 1)], per_position=False)
    assert pooled.faithfulness.grid("unfaithfulness")[0] > 0.1


@pytest.mark.parametrize(
    ("lengths", "batch", "groups", "layout", "least"),
    [
        ((5,) * 8, (5, 4, 3), None, "by position", 8),
        ((5,) * 7, (5, 4, 3), None, "first position apart", 7),
        ((5,) * 7 + (4,), (5, 4, 3), None, "first position apart", 8),
        # No position is needed that only seven examples have.
        ((5,) * 7 + (4,), (4, 4, 3), None, "by position", 8),
        ((3,) * 9, (5, 4, 3), None, "first position apart", 9),
        ((5,) * 16, (5, 4, 3), [0, 1] * 8, "by position", 8),
        ((5,) * 15, (5, 4, 3), [0, 1] * 7 + [0], "first position apart", 7),
    ],
)
def test_the_default_is_by_position_where_there_are_examples_enough(
    lengths: Any, batch: Any, groups: Any, layout: str, least: int
):
    model, reference, inputs = small_model("gpt2"), random_batch(lengths, "left", seed=1), random_batch(batch)
    own = None if groups is None else [0, 1, 1]
    labels = {"groups": own, "reference_groups": groups}
    table = jh.ablate(model, inputs, OBJECTIVE, reference=reference, **labels)
    assert_close(table.per_example, slow(model, inputs, reference, layout=layout, groups=own, theirs=groups))
    assert (table.provenance["means"], table.provenance["mean_examples"]) == (layout, least)
    kept = jh.circuit(model, inputs, OBJECTIVE, [(0, 1)], reference=reference, **labels)
    assert (kept.faithfulness.provenance["means"], kept.faithfulness.provenance["mean_examples"]) == (layout, least)


@pytest.mark.parametrize("per_position", [None, True, False])
def test_a_user_may_insist(per_position: bool | None):
    model, batch, reference = small_model("gpt2"), random_batch((5, 4)), random_batch((6, 5, 6), seed=1)
    layout = {None: "first position apart", True: "by position", False: "pooled"}[per_position]
    table = jh.ablate(model, batch, OBJECTIVE, reference=reference, per_position=per_position)
    assert table.provenance["means"] == layout
    assert_close(table.per_example, slow(model, batch, reference, layout=layout))


@pytest.mark.parametrize("lengths", [(5,) * 8, (5,) * 7 + (3,)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_without_a_reference_means_are_over_the_other_examples(lengths: tuple[int, ...], side: str):
    model, batch = small_model("llama"), random_batch(lengths, side)
    table = jh.ablate(model, batch, OBJECTIVE)
    layout = "by position" if min(lengths) == 5 else "first position apart"
    assert (table.provenance["means"], table.provenance["mean_examples"]) == (layout, 7)
    assert_close(table.per_example, slow(model, batch, layout=layout))
    # Whichever examples run together, all of the batch's others count.
    assert_close(jh.ablate(model, batch, OBJECTIVE, memory=1).per_example, table.per_example)
    # An example's effect is that of a batch of its own with the others as reference.
    insists = True if layout == "by position" else None
    rest = batch.take(np.arange(1, 8))
    others = jh.ablate(model, alone(batch, 0), OBJECTIVE, reference=rest, per_position=insists)
    assert_close(examples(table)[:1], others.per_example)


@pytest.mark.parametrize("arguments", [{}, {"per_position": True}, {"per_position": False}])
def test_an_example_alone_has_no_mean(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may run before a question is refused")

    monkeypatch.setattr("jaxheads.sweep.exact.replacement.mean_outputs", run)
    monkeypatch.setattr("jaxheads.sweep.exact.work.run_unedited", run)
    model, batch = small_model("gpt2"), random_batch((5,))
    with pytest.raises(ValueError, match="so that no example is its own mean; the batch has 1 for position 0"):
        jh.ablate(model, batch, OBJECTIVE, **arguments)
    for kept in ([(0, 1)], [("embed", "logits")]):
        with pytest.raises(ValueError, match="the batch has 1 for position 0 of group 0; give a reference"):
            jh.circuit(model, batch, OBJECTIVE, kept, **arguments)


def test_pooling_a_reference_of_one_long_text():
    model, batch, reference = small_model("gpt2"), random_batch((5,)), random_batch((30,), seed=1)
    table = jh.ablate(model, batch, OBJECTIVE, reference=reference, per_position=False)
    assert_close(table.per_example, slow(model, batch, reference, layout="pooled"))
    assert table.provenance["mean_examples"] == 1


def test_a_stream_has_means_of_one_kind():
    model, reference = small_model("gpt2"), random_batch((5,) * 8 + (9,) * 3, seed=1)
    short, long = random_batch((5, 4, 3)), random_batch((7, 7))
    streamed = jh.ablate(model, iter([short, short.take([0])]), OBJECTIVE, reference=reference)
    whole = jh.ablate(model, short, OBJECTIVE, reference=reference)
    assert streamed.provenance["means"] == whole.provenance["means"] == "by position"
    assert_close(examples(streamed)[:3], whole.per_example)
    long_first = jh.ablate(model, iter([long, short]), OBJECTIVE, reference=reference)
    assert long_first.provenance["means"] == "first position apart"
    assert_close(examples(long_first)[2:], slow(model, short, reference, layout="first position apart"))
    with pytest.raises(ValueError, match=r"has 3 for position 5 of group 0; .* begin the stream with its longest"):
        jh.ablate(model, iter([short, long]), OBJECTIVE, reference=reference)
    insisted = jh.ablate(model, iter([short, long]), OBJECTIVE, reference=reference, per_position=True)
    assert (insisted.provenance["means"], insisted.provenance["mean_examples"]) == ("by position", 3)
    assert_close(examples(insisted)[3:], slow(model, long, reference, layout="by position"))


def test_the_choice_is_part_of_what_is_resumed(tmp_path: Any):
    model, batch, reference = small_model("gpt2"), random_batch((5, 4)), random_batch((5,) * 8, seed=1)
    tables = {
        value: jh.ablate(model, batch, OBJECTIVE, reference=reference, per_position=value, resume=tmp_path)
        for value in (None, True, False)
    }
    assert len(list(tmp_path.iterdir())) == 2, "the default's means are those by position"
    np.testing.assert_array_equal(tables[None].per_example, tables[True].per_example)
    assert_close(tables[False].per_example, slow(model, batch, reference, layout="pooled"))


def test_a_reference_of_another_length_reaches_every_stack():
    model, batch, reference = small("t5").ours, a_batch("t5"), a_batch("t5", seed=1)
    for stack in ("encoder", "cross"):
        values = naive.means(model, batch, reference, stack=stack).astype(np.float32)
        edit = jh.replace_heads(model, [(1, 2)], values[1][None], stack=stack)
        expected = judge(model, batch, [edit]) - judge(model, batch)
        table = jh.ablate(model, batch, jh.loss(), stack=stack, reference=reference)
        assert_close(examples(table)[:, 1, 2], expected)
        assert table.provenance["means"] == "first position apart"


@pytest.mark.parametrize(
    ("reference", "options", "layout"),
    [
        (random_batch((5,) * 8, seed=2), {}, "by position"),
        (random_batch((5, 4, 5, 5), "left", seed=2), {}, "first position apart"),
        (random_batch((5, 4, 5, 5), "left", seed=2), {"per_position": False}, "pooled"),
        (random_batch((5, 5, 5, 5), seed=2), {"per_position": True, "groups": [0, 1, 1]}, "by position"),
        (None, {}, "first position apart"),
        (None, {"per_position": False}, "pooled"),
    ],
)
def test_edges_carry_the_same_means(reference: jh.Batch | None, options: dict[str, Any], layout: str):
    model, batch = small_model("gpt2"), random_batch((5, 4, 3))
    theirs = [0, 1, 0, 1] if "groups" in options else None
    graph = jh.Graph.of(model.stack())
    kept = np.random.default_rng(0).random(graph.exists.shape) < 0.5
    found = jh.circuit(model, batch, OBJECTIVE, kept, reference=reference, reference_groups=theirs, **options)
    written = Slow(model, batch if reference is None else reference, {}).run()[1]
    sides = batch, batch if reference is None else reference
    groups = options.get("groups"), theirs
    other = {
        name: naive.grouped_means(np.asarray(x)[None], *sides, layout, reference is None, *groups)[0]
        for name, x in written.items()
    }
    cut = {(graph.senders[u], graph.receivers[v]): 1.0 for u, v in np.argwhere(graph.exists & ~kept)}
    expected = asked(batch).judge(Slow(model, batch, cut, other=other).run()[0], batch)
    table = found.faithfulness
    assert_close(examples(table)[table.metrics.index("circuit")][:, 0], expected)
    assert table.provenance["means"] == layout
    if reference is not None and "groups" not in options:
        values = jh.keep_edges(model, batch, reference, OBJECTIVE, kept[None], ablation="mean", **options)
        assert_close(values[0], expected)


def test_examples_that_fill_a_chunk_up_count_once_in_means_of_edges(monkeypatch: pytest.MonkeyPatch):
    model, batch, reference = small_model("gpt2"), random_batch((5, 4)), random_batch((5, 5, 5), seed=3)
    kept = np.zeros((1, *jh.Graph.of(model.stack()).exists.shape), bool)
    whole = jh.keep_edges(model, batch, reference, OBJECTIVE, kept, ablation="mean")
    monkeypatch.setattr("jaxheads.sweep.circuits.kept_runs.edge_chunks", lambda *_, **__: Chunks(2))
    assert_close(jh.keep_edges(model, batch, reference, OBJECTIVE, kept, ablation="mean"), whole)
