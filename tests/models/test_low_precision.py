"""Weights held in 16 bits: what is computed in them, and what must not be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.models import unembedding
from jaxheads.models.layers import layer_norm, rms_norm
from jaxheads.models.load import load
from jaxheads.models.unembedding import Unembedding

from .networks import batch_of, saved

TYPES = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}
BATCH = batch_of((7, 5, 6, 7))
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=list(TYPES))


@pytest.fixture(autouse=True)
def _promotion() -> Iterator[None]:
    """As users have it: flax's norms reach float32 by promotion. What follows holds that nothing else does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def held_in(directory: Path, family: str, dtype: Any) -> tuple[jh.Model, jh.Model]:
    """A random model as its file says, and loaded in `dtype`."""
    return saved(directory, family), load(directory, dtype=dtype)


def exact(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64)


@pytest.mark.parametrize(("family", "dtype"), [("llama", jnp.bfloat16), ("gpt2", jnp.bfloat16), ("bert", jnp.float16)])
def test_weights_and_sites_are_of_the_type_asked_for_and_near_float32(family: str, dtype: Any, tmp_path: Path):
    full, low = held_in(tmp_path, family, dtype)
    for ours, theirs in zip(jax.tree.leaves(low.network), jax.tree.leaves(full.network), strict=True):
        assert (ours == theirs.astype(dtype)).all()
        assert ours.dtype == dtype
    sites = low.stack().sites
    run, expected = jh.run(low, BATCH, sites), jh.run(full, BATCH, sites)
    assert {site for site in sites if run.seen[site].dtype != dtype} == set()
    step = float(jnp.finfo(dtype).eps)
    for site in (*sites, "output"):
        ours, theirs = (exact(one.output if site == "output" else one.seen[site]) for one in (run, expected))
        masked = theirs == np.finfo(np.float32).min
        assert (ours[masked] == jnp.finfo(dtype).min).all()
        assert np.abs(ours - theirs)[~masked].max() < 10 * step * max(1.0, np.abs(theirs[~masked]).max()), site


def test_the_softmax_is_taken_in_float32(tmp_path: Path):
    _, low = held_in(tmp_path, "llama", jnp.bfloat16)
    seen = jh.run(low, BATCH, ("scores", "pattern")).seen
    by_hand = jax.nn.softmax(seen["scores"].astype(jnp.float32), axis=-1).astype(jnp.bfloat16)
    assert (by_hand == seen["pattern"]).all()
    assert (jax.nn.softmax(seen["scores"], axis=-1) != seen["pattern"]).any()  # it does show


@types
@pytest.mark.parametrize("make", [layer_norm, rms_norm])
def test_norms_take_their_statistics_in_float32(make: Any, dtype: Any):
    norm = jax.tree.map(lambda weight: weight.astype(dtype), make(4096, 1e-6, nnx.Rngs(0)))
    x = (5 + jax.random.normal(jax.random.key(1), (3, 4096))).astype(dtype)
    x_ED = exact(x)
    centred_ED = x_ED - x_ED.mean(axis=1, keepdims=True) if make is layer_norm else x_ED
    expected = centred_ED / np.sqrt((centred_ED**2).mean(axis=1, keepdims=True) + 1e-6)
    assert norm(x).dtype == dtype
    assert np.abs(exact(norm(x)) - expected).max() < 0.6 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()


@types
@pytest.mark.parametrize("biased", [True, False])
def test_logits_that_are_compared_and_log_probabilities_are_summed_in_float32(
    dtype: Any, biased: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unembedding, "COLUMNS_AT_ONCE", 64)
    keys = jax.random.split(jax.random.key(0), 4)
    weight_VD, x_BTD = jax.random.normal(keys[0], (1000, 64)).astype(dtype), jax.random.normal(keys[1], (2, 3, 64))
    bias_V, x_BTD = jax.random.normal(keys[2], (1000,)).astype(dtype), (0.5 * x_BTD).astype(dtype)
    head, columns_BC = Unembedding(weight_VD, bias_V if biased else None), jnp.array([[1, 999, 3], [500, 500, 7]])
    target_BT = jax.random.randint(keys[3], (2, 3), 0, 1000)
    logits = exact(x_BTD) @ exact(weight_VD).T + (exact(bias_V) if biased else 0)
    some, log_p = head.logits(x_BTD, columns_BC), head.log_probability(x_BTD, target_BT)
    assert some.dtype == log_p.dtype == jnp.float32
    np.testing.assert_allclose(some, np.take_along_axis(logits, np.asarray(columns_BC)[:, None], axis=2), atol=1e-5)
    right = np.take_along_axis(logits, np.asarray(target_BT)[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(log_p, right - np.log(np.exp(logits).sum(axis=2)), atol=2e-5)
    np.testing.assert_allclose(exact(head.logits(x_BTD)), logits, atol=1e-5)


def test_effects_are_finite_and_near_those_of_float32(tmp_path: Path):
    full, low = held_in(tmp_path, "llama", jnp.bfloat16)
    ours, theirs = (jh.ablate(model, BATCH, jh.loss(), "zero") for model in (low, full))
    assert ours.provenance["not_finite"] == []
    step, largest = float(jnp.finfo(jnp.bfloat16).eps), np.abs(theirs.values).max()
    assert largest > 20 * step
    assert np.abs(ours.values - theirs.values).max() < 5 * step
