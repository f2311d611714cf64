"""Sweeps by differences: effects within 1 % where half precision is off by tens, for families, sweeps and dtypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import precision
from jaxheads.precision import Arithmetic

from ..models.huggingface import random_batch, small_model
from . import naive
from .test_every_family import OBJECTIVE, asked


@pytest.fixture(autouse=True)
def multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CPU the suite runs on."""
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: True)


def with_small_heads(model: jh.Model) -> jh.Model:
    """A model whose heads write little, as those of trained models do."""
    return naive.changed(model, lambda name, weight: 0.02 * weight if name.endswith("W_O") else weight)


def exact_effects(table: jh.HeadTable) -> np.ndarray:
    """The effects of each example that edited copies were run for."""
    assert table.per_example is not None
    if len(table.metrics) == 1:
        return table.per_example
    return table.per_example[table.metrics.index("exact" if "exact" in table.metrics else "effect")]


def error(own: np.ndarray | jh.HeadTable, full: np.ndarray | jh.HeadTable) -> float:
    """How much effects are off, relative to themselves: the median over cells and examples of an effect."""
    own_E, full_E = (exact_effects(x) if isinstance(x, jh.HeadTable) else x for x in (own, full))
    there = np.abs(full_E) > 1e-4 * np.nanmax(np.abs(full_E))
    assert there.sum() > 8
    return float(np.median(np.abs(own_E - full_E)[there] / np.abs(full_E)[there]))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5", "vit", "qwen3_moe", "gpt_neox", "deberta_v2"])
def test_effects_of_every_kind_of_family(family: str):
    model, batch, _ = asked(family, "")
    model, stack = with_small_heads(model), next(iter(model.stacks))
    full, own, half = (
        jh.ablate(model, batch, OBJECTIVE, "zero", stack=stack, arithmetic=arithmetic)
        for arithmetic in ("full", "differences", "emulated bfloat16")
    )
    assert own.provenance["arithmetic"] == "differences"
    assert error(own, full) < 0.01
    assert error(half, full) > 0.1


BATCH, OTHER = random_batch((6, 6, 5)), random_batch((6, 6, 5), seed=1)
SWEEPS: dict[str, Callable[..., jh.HeadTable]] = {
    "patch": lambda model, **on: jh.patch(model, BATCH, OTHER, jh.loss(), "resid_pre", ("layer", "position"), **on),
    "knock_out": lambda model, **on: jh.knock_out(model, BATCH, jh.loss(), 3, 1, **on),
    "interactions": lambda model, **on: jh.interactions(model, BATCH, jh.loss(), [(0, 1), (1, 2)], "zero", **on),
    "paths": lambda model, **on: jh.paths(model, BATCH, OTHER, jh.loss(), **on),
    "paths to receivers": lambda model, **on: jh.paths(model, BATCH, OTHER, jh.loss(), [("k", 1, 3), ("mlp", 1)], **on),
    "all_paths": lambda model, **on: jh.all_paths(model, BATCH, OTHER, jh.loss(), **on),
    "patch_edges": lambda model, **on: jh.patch_edges(model, BATCH, OTHER, jh.loss(), **on),
    "exact": lambda model, **on: jh.attribute(model, BATCH, OTHER, jh.loss(), "eap", exact=True, **on),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_effects_of_every_sweep(name: str):
    ask, model = SWEEPS[name], small_model("gpt2")
    full, own = ask(model, arithmetic="full"), ask(model, arithmetic="differences")
    assert (full.provenance["arithmetic"], own.provenance["arithmetic"]) == ("full", "differences")
    assert 0 < error(own, full) < 0.015


def test_circuits_of_edges():
    model = with_small_heads(small_model("gpt2"))
    graph = jh.patch_edges(model, BATCH, OTHER, jh.loss())
    kept = np.random.default_rng(0).random((5, *graph.grid("effect").shape)) < 0.9

    def values(circuits: np.ndarray, arithmetic: Arithmetic) -> np.ndarray:
        return jh.keep_edges(model, BATCH, OTHER, jh.loss(), circuits, arithmetic=arithmetic)

    whole, full, own = values(np.ones_like(kept), "full"), values(kept, "full"), values(kept, "differences")
    assert 0 < error(own - whole, full - whole) < 0.01


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weights_of_16_bits_give_effects_of_float32(dtype: Any):
    wide = with_small_heads(small_model("gpt2"))
    half = naive.changed(wide, lambda _, weight: weight.astype(dtype) if weight.dtype == jnp.float32 else weight)
    wide = naive.changed(half, lambda _, weight: weight.astype(jnp.float32) if weight.dtype == dtype else weight)
    full = jh.ablate(wide, BATCH, jh.loss(), "zero")
    with jax.numpy_dtype_promotion("standard"):
        own = jh.ablate(half, BATCH, jh.loss(), "zero")
    assert error(own, full) > 0.02
    assert 0 < error(jh.ablate(half, BATCH, jh.loss(), "zero", arithmetic="differences"), full) < 0.01
    assert error(jh.ablate(half, BATCH, jh.loss(), "zero", arithmetic="fine differences"), full) < 5e-4


def test_what_edits_nothing_is_full():
    model = small_model("gpt2")
    for table in (
        jh.importance(model, BATCH, jh.loss(), arithmetic="differences"),
        jh.attribute(model, BATCH, OTHER, jh.loss(), arithmetic="differences"),
        jh.measure(model, BATCH, arithmetic="differences"),
    ):
        assert table.provenance["arithmetic"] == "full"
