"""Key/value heads as a unit: of ablation, knock-out, patching and attribution, in grouped-query models.

A cell at `z`, `q`, `scores` and `pattern` is all query heads of a group; at `k` and `v` it is the key/value head.
"""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.train.prune import remove_heads

from ..models.huggingface import assert_close, random_batch, small_model
from . import naive
from .test_patch import other_tokens, question

N, K, L, H = 4, 2, 2, 6
BATCH = random_batch((6, 4), "left")
OTHER = other_tokens(BATCH, 2, 0)
ASKED = question(BATCH, 0)
BY = ("layer", "kv_head")


def groups() -> dict[str, list[tuple[int, int]]]:
    return {
        f"{layer}.{group}": [(layer, 2 * group), (layer, 2 * group + 1)] for layer in range(L) for group in range(K)
    }


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_ablation_of_a_key_value_head_is_that_of_its_query_heads(method: Any):
    model = small_model("llama")
    table = jh.ablate(model, BATCH, ASKED.objective, method, by=BY, reference=OTHER)
    sets = jh.ablate(model, BATCH, ASKED.objective, method, sets=groups(), reference=OTHER)
    assert table.per_example is not None
    assert sets.per_example is not None
    assert table.values.shape == (L, K)
    assert list(table.frame.index.names) == ["stack", "layer", "kv_head"]
    assert_close(table.per_example.reshape(2, -1), sets.per_example)
    heads = jh.ablate(model, BATCH, ASKED.objective, method, reference=OTHER)
    assert heads.values.shape == (L, N)
    assert "2 kv_heads" in repr(table)


@pytest.mark.parametrize(
    ("site", "by"), [("k", BY), ("v", (*BY, "position")), ("z", (*BY, "position")), ("pattern", BY)]
)
def test_patches_equal_whole_forward_passes(site: str, by: tuple[str, ...]):
    model = small_model("llama")
    table = jh.patch(model, OTHER, BATCH, ASKED.objective, site, by)
    assert table.per_example is not None
    expected = naive.patched(model, BATCH, OTHER, ASKED.judge, site, by)
    assert expected.shape == (2, L, K, 6)[: len(by) + 1]
    assert_close(np.nan_to_num(table.per_example[0]), np.nan_to_num(expected))
    assert np.nanmax(np.abs(expected)) > 1e-3


def test_tables_of_keys_and_values_have_a_row_for_each_key_value_head():
    """However they are asked for; and where each query head has its own, they are heads."""
    model = small_model("llama")
    table = jh.patch(model, OTHER, BATCH, ASKED.objective, "v")
    assert list(table.frame.index.names) == ["stack", "layer", "kv_head"]
    assert len(table.frame) == L * K
    asked = jh.patch(model, OTHER, BATCH, ASKED.objective, "v", BY)
    np.testing.assert_array_equal(table.values, asked.values)
    plain = small_model("gpt2")
    table = jh.patch(plain, OTHER, BATCH, ASKED.objective, "v")
    assert list(table.frame.index.names) == ["stack", "layer", "head"]
    asked = jh.patch(plain, OTHER, BATCH, ASKED.objective, "v", BY)
    assert list(asked.frame.index.names) == ["stack", "layer", "kv_head"]
    np.testing.assert_array_equal(table.values, asked.values)


@pytest.mark.parametrize(
    ("site", "method", "position"), [("z", "atp", ()), ("z", "atp", ("position",)), ("k", "atp+qk", ("position",))]
)
def test_attribution_sums_the_estimates_of_a_group(site: str, method: Any, position: tuple[str, ...]):
    model = small_model("llama")
    arguments = (model, OTHER, BATCH, ASKED.objective, method)
    table = jh.attribute(*arguments, site=site, by=(*BY, *position))
    heads = jh.attribute(*arguments, site=site, by=("layer", "head", *position))
    assert table.per_example is not None
    assert heads.per_example is not None
    assert list(table.frame.index.names)[:3] == ["stack", "layer", "kv_head"]
    if site == "z":
        expected = np.asarray(heads.per_example[0]).reshape(2, L, K, 2, *table.values.shape[3:]).sum(axis=3)
        assert_close(np.nan_to_num(table.per_example[0]), np.nan_to_num(expected))
    else:
        assert_close(np.nan_to_num(table.per_example), np.nan_to_num(heads.per_example))
    assert table.values.shape[1:3] == (L, K)


def test_estimates_beside_exact_effects():
    table = jh.attribute(small_model("llama"), OTHER, BATCH, ASKED.objective, by=BY, exact=True)
    exact = jh.patch(small_model("llama"), OTHER, BATCH, ASKED.objective, by=BY)
    np.testing.assert_array_equal(table.grid("exact"), exact.grid("effect"))


def test_knocking_out_a_group():
    model, last = small_model("llama"), np.asarray(BATCH.last)
    first = np.asarray(BATCH.mask).argmax(axis=1)
    table = jh.knock_out(model, BATCH, ASKED.objective, last, first, by=BY)
    sets = jh.knock_out(model, BATCH, ASKED.objective, last, first, sets=groups())
    assert_close(np.asarray(table.per_example).reshape(2, -1), np.asarray(sets.per_example))


def test_groups_of_different_sizes():
    """After heads were removed: a cell is all query heads that read the key/value head."""
    model, gates = small_model("llama"), np.ones((L, N))
    gates[0, 0] = gates[1, 3] = 0
    smaller = remove_heads(model, gates)
    stack = smaller.stack()
    assert stack.blocks.attention.key_heads is not None
    reads = stack.group_of_heads
    table = jh.ablate(smaller, BATCH, ASKED.objective, "zero", by=BY)
    sets = {
        f"{layer}.{group}": [(layer, int(head)) for head in np.flatnonzero(reads[layer] == group)]
        for layer in range(L)
        for group in range(K)
    }
    assert sorted({len(heads) for heads in sets.values()}) == [1, 2]
    expected = jh.ablate(smaller, BATCH, ASKED.objective, "zero", sets=sets)
    assert_close(np.asarray(table.per_example).reshape(2, -1), np.asarray(expected.per_example))
    patched = jh.patch(smaller, OTHER, BATCH, ASKED.objective, "v", BY)
    assert patched.grid("effect").shape == (L, K)


def test_a_batch_equals_its_single_examples():
    model = small_model("llama")
    table = jh.ablate(model, BATCH, ASKED.objective, "zero", by=BY)
    stream = jh.ablate(
        model, [(BATCH.take(np.array([one])), question_of(one)) for one in range(2)], None, "zero", by=BY
    )
    assert_close(np.asarray(stream.per_example), np.asarray(table.per_example))


def question_of(example: int) -> Any:
    right, wrong = np.random.default_rng(0).integers(0, 37, (2, len(BATCH)))
    return jh.logit_difference(right[[example]], wrong[[example]], np.asarray(BATCH.last)[[example]])


@pytest.mark.parametrize("by", [("kv_head",), ("layer", "kv_head", "head"), ("kv_head", "layer")])
def test_other_axes_are_refused(by: tuple[str, ...]):
    with pytest.raises(ValueError, match=r"by must be one of .*'kv_head'"):
        jh.ablate(small_model("llama"), BATCH, ASKED.objective, by=by)
    with pytest.raises(ValueError, match="resid_pre has no heads"):
        jh.patch(small_model("llama"), OTHER, BATCH, ASKED.objective, "resid_pre", BY)
