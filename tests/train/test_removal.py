"""Removal of heads where query heads share keys: what goes, what reads what, and what is saved and loaded."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.train import head_savings, merge_kv_heads, remove_heads

from ..models.networks import CONFIGS, assert_same, batch_of, random_model

LLAMA = {**CONFIGS["llama"], "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 36, "head_dim": 6}
BATCH = batch_of((6, 9))


@pytest.fixture(scope="module")
def model() -> jh.Model:
    made = random_model("llama", **LLAMA)
    return jh.Model(made.network, name="grouped", hf_config={"model_type": "llama", **LLAMA})


def gates(*layers: tuple[int, ...]) -> np.ndarray:
    """Return gates that keep these query heads of each layer."""
    kept = np.zeros((2, 6), np.float32)
    for layer, heads in enumerate(layers):
        kept[layer, list(heads)] = 1
    return kept


CASES = {
    "two of three of each group": (((0, 4), (2, 3)), 2, 2),
    "groups of different sizes": (((0, 1, 2, 5), (1, 3, 4, 5)), 4, 2),
    "a key head with its last reader": (((3, 5), (0, 1)), 2, 1),
    "one layer keeps more": (((0, 1, 4), (5,)), 3, 2),
    "a layer keeps nothing": (((2,), ()), 1, 1),
    "all": ((tuple(range(6)), tuple(range(6))), 6, 2),
}


@pytest.mark.parametrize(("kept", "heads", "kv_heads"), CASES.values(), ids=CASES)
def test_query_heads_go_and_keys_with_their_last_reader(model: jh.Model, kept: Any, heads: int, kv_heads: int):
    closed = gates(*kept)
    smaller = remove_heads(model, closed, BATCH)
    saved = head_savings(model, smaller).loc["decoder"]
    assert (saved.heads, saved.heads_left, saved.kv_heads, saved.kv_heads_left) == (6, heads, 2, kv_heads)
    # Of 36 features by 6: queries and outputs of 6 heads, keys and values of 2, in 2 layers.
    assert saved.parameters == 2 * 36 * 6 * (2 * 6 + 2 * 2)
    assert saved.parameters_left == 2 * 36 * 6 * (2 * heads + 2 * kv_heads)
    assert saved.saved == pytest.approx(1 - (heads + kv_heads) / 8)
    expected = jh.run(model, BATCH, ("z",), edits=jh.gate(model, closed))
    ours = jh.run(smaller, BATCH, ("z",))
    assert_same(ours.output, expected.output)
    # Heads keep their order; superfluous ones write zeros.
    if heads == 4:
        for layer, numbers in enumerate(kept):
            assert_same(ours.seen["z"][layer][:, :, : len(numbers)], expected.seen["z"][layer][:, :, list(numbers)])


def test_a_model_with_groups_of_different_sizes_is_asked_as_any_other(model: jh.Model):
    kept = ((0, 1, 2, 5), (1, 3, 4, 5))
    smaller, closed = remove_heads(model, gates(*kept)), jh.gate(model, gates(*kept))
    objective = jh.logit_difference(3, 5)
    rows = np.arange(2)[:, None], np.array(kept)
    ours = jh.ablate(smaller, BATCH, objective, "zero").values
    without = gates(*kept)
    for (layer, head), effect in zip(np.ndindex(2, 4), ours.reshape(-1), strict=True):
        fewer = without.copy()
        fewer[layer, kept[layer][head]] = 0
        outputs = [jh.run(model, BATCH, edits=jh.gate(model, each)).output for each in (fewer, without)]
        differences = [np.asarray(out[[0, 1], [5, 8], 3] - out[[0, 1], [5, 8], 5]).mean() for out in outputs]
        assert effect == pytest.approx(differences[0] - differences[1], abs=1e-5)
    seen = jh.run(model, BATCH, ("v", "pattern"), edits=closed).seen
    small = jh.run(smaller, BATCH, ("v", "pattern", "k")).seen
    assert small["v"].shape[3] == small["k"].shape[3] == 4  # one for each query head
    assert_same(small["pattern"][0], seen["pattern"][0][:, list(kept[0])])
    assert_same(small["v"][0], seen["v"][0][:, :, [head // 3 for head in kept[0]]])
    metrics = ("entropy", "previous_token")
    # The second layer reads another stream unless the first layer's heads are closed: only the first is compared.
    for of in ("weights", "raw_norms"):
        whole = jh.measure(model, BATCH, metrics, of=of).values[:, rows[0], rows[1]]
        assert_same(jh.measure(smaller, BATCH, metrics, of=of).values[:, 0], whole[:, 0])
    for circuit in (jh.qk_circuit, jh.ov_circuit):
        product = np.asarray(circuit(model).left @ circuit(model).right)[rows]
        assert_same(np.asarray(circuit(smaller).left @ circuit(smaller).right), product)


def test_every_question_runs_on_it(model: jh.Model):
    smaller = remove_heads(model, gates((0, 1, 2, 5), (1, 3, 4, 5)))
    objective, other = jh.logit_difference(3, 5), jh.Batch(BATCH.tokens[:, ::-1], BATCH.mask)
    clean, other = (jh.Batch(batch.tokens[:, :6]) for batch in (BATCH, other))
    for site in ("k", "v", "q"):
        assert jh.patch(smaller, clean, other, objective, site=site).grid("effect").shape == (2, 4)
        assert jh.attribute(smaller, clean, other, objective, "atp", site=site).grid("effect").shape == (2, 4)
    assert np.isfinite(jh.direct_effects(smaller, clean, objective).values).all()
    assert jh.compare_heads(smaller, clean, "values").values.shape == (8, 8)
    paths = jh.all_paths(smaller, clean, other, objective, kind="v").grid("effect")
    assert np.isfinite(paths[0, :, 1]).all()
    assert np.isfinite(jh.attribute(smaller, clean, other, objective, "eap").grid("effect")).any()
    assert jh.fold_norms(smaller).stack().kv_heads == 4


def test_heads_are_removed_from_what_is_left(model: jh.Model):
    twice = remove_heads(remove_heads(model, gates((0, 1, 2, 5), (1, 3, 4, 5))), np.array([[1, 0, 0, 1], [0, 1, 0, 1]]))
    assert_same(jh.run(twice, BATCH).output, jh.run(remove_heads(model, gates((0, 5), (3, 5))), BATCH).output)
    with pytest.raises(ValueError, match="merge before you remove"):
        merge_kv_heads(remove_heads(model, gates((0, 1, 2, 5), (1, 3, 4, 5))), np.zeros((2, 4), int))


@pytest.mark.parametrize("kept", [((0, 4), (2, 3)), ((0, 1, 2, 5), (1, 3, 4, 5))])
def test_the_smaller_model_is_written_and_loaded(model: jh.Model, tmp_path: Path, kept: Any):
    smaller = remove_heads(model, gates(*kept))
    with pytest.raises(ValueError, match="heads were removed from grouped, pruned, which transformers can't load"):
        jh.to_hf(smaller, tmp_path / "hf")
    loaded = jh.load(jh.to_orbax(smaller, tmp_path / "orbax"))
    np.testing.assert_array_equal(jh.run(loaded, BATCH).output, jh.run(smaller, BATCH).output)
    assert loaded.stack().kv_heads == smaller.stack().kv_heads
    config = tmp_path / "orbax" / "config.json"
    config.write_text(config.read_text().replace('"heads": ', '"heads": 9'))
    with pytest.raises(ValueError, match="does not fit the network"):
        jh.load(tmp_path / "orbax")


def test_the_smaller_model_shares_no_variable_with_the_whole_one(model: jh.Model):
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(model.network)]
    smaller = remove_heads(model, gates((0, 4), (2, 3)))
    state = nnx.state(smaller.network, nnx.Param)
    nnx.update(smaller.network, jax.tree.map(np.zeros_like, state))
    for leaf, old in zip(jax.tree.leaves(model.network), before, strict=True):
        np.testing.assert_array_equal(leaf, old)
