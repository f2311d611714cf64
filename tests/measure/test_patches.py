"""Heads of image models: distances in pixels whose answers are known, and what is not defined of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.execution.batching import Chunks
from jaxheads.measure.patterns import Example, scoring

from ..models.specs import SPECS
from ..models.specs.spec import small


def uniform(side: int, patch: int, kind: str) -> jh.Model:
    """A model whose heads look at everything alike."""
    given = {
        "model_type": kind,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
        **({} if "dinov2" in kind else {"intermediate_size": 4}),
    }
    model = jh.init(given)
    attention = model.network.encoder.blocks.attention
    attention.W_Q = nnx.Param(jnp.zeros_like(attention.W_Q[...]))
    return model


@pytest.mark.parametrize(
    ("side", "patch", "pixels"),
    [(224, 16, 116.49), (224, 14, 116.57), (224, 32, 115.50), (8, 2, 4.016), (8, 1, 4.137)],
)
@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2_with_registers"])
def test_distance_of_uniform_attention_in_pixels(side: int, patch: int, pixels: float, kind: str):
    """Special tokens have no place: they are left out, and the rest renormalised (Dosovitskiy et al. 2021)."""
    model = uniform(side, patch, kind)
    batch = jh.Batch(pixels=np.random.default_rng(0).random((2, side, side, 3), np.float32))
    table = jh.measure(model, batch, ("distance", "entropy", "self_token"))
    T = (side // patch) ** 2 + {"vit": 1, "deit": 2, "dinov2_with_registers": 5}[kind]
    np.testing.assert_allclose(table.frame["distance"], pixels, rtol=2e-4)
    np.testing.assert_allclose(table.frame["entropy"], np.log(T), rtol=1e-5)
    np.testing.assert_allclose(table.frame["self_token"], 1 / T, rtol=1e-5)


def test_distances_by_hand_on_a_grid_that_is_not_square():
    model, batch = small("vit").ours, SPECS["vit"].batch(None)
    pattern = np.asarray(jh.run(model, batch, "pattern").seen["pattern"])[..., 1:, 1:]
    places = 4.0 * np.stack(np.indices((2, 3)), axis=-1).reshape(-1, 2)  # type: ignore
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    expected = ((pattern * apart).sum(axis=-1) / pattern.sum(axis=-1)).mean(axis=-1)
    found = jh.measure(model, batch, "distance").per_example
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, 0), rtol=1e-5)  # type: ignore


def test_each_patch_weighs_the_same_in_the_distance_however_much_it_attends_to_special_tokens():
    """Three patches in a row, one pixel apart, after [CLS]; the last patch attends to [CLS] alone."""
    pattern = jnp.asarray([[1, 0, 0, 0], [0.8, 0, 0, 0.2], [0, 0.5, 0.5, 0], [1, 0, 0, 0]], jnp.float32)
    pixels = jnp.asarray([[0, 0], [0, 0], [0, 1], [0, 2]], jnp.float32)
    example = Example(None, jnp.ones(4, bool), None, pixels, jnp.arange(4) >= 1)
    value, counts = jh.METRICS["distance"](pattern, example)
    assert counts
    assert float(value) == pytest.approx((2 + 0.5) / 2)
    value, counts = jh.METRICS["distance"](jnp.eye(4)[jnp.zeros(4, int)], example)
    assert not counts
    assert float(value) == 0


def test_what_is_measured_unless_told_otherwise():
    table = jh.measure(small("vit").ours, SPECS["vit"].batch(None))
    assert {"entropy", "confidence", "distance", "self_token", "first_token"} <= set(table.frame.columns)
    assert not {"previous_token", "induction", "positional_share"} & set(table.frame.columns)


@pytest.mark.parametrize("metric", ["previous_token", "next_token", "induction", "duplicate_token", "positional_share"])
def test_patches_have_no_order_and_no_ids(metric: str):
    with pytest.raises(ValueError, match=f"{metric}: not defined where, as in the encoder .* patches look at patches"):
        jh.measure(small("vit").ours, SPECS["vit"].batch(None), ("entropy", metric))


def test_batches_are_cut_and_joined_alike(monkeypatch: pytest.MonkeyPatch):
    model = small("vit").ours
    batch = jh.Batch(pixels=np.random.default_rng(0).standard_normal((5, 8, 12, 3), np.float32))
    whole = jh.measure(model, batch, "distance").per_example
    monkeypatch.setattr(scoring, "choose_chunks", lambda *_, **__: Chunks(2))
    np.testing.assert_allclose(jh.measure(model, batch, "distance").per_example, whole, rtol=1e-5)  # type: ignore
    assert jax.tree.leaves(batch.take([3, 1]))[0].shape == (2, 8, 12, 3)
