"""A random-weight model is the same model in everything but what its weights say."""

import jax
import numpy as np
import pytest

from jaxheads.evidence.nulls import shuffled_marks
from jaxheads.evidence.roles import Evidence, name_heads
from jaxheads.measure.patterns.scoring import measure
from jaxheads.models.inputs.batch import Batch
from jaxheads.models.model import Model
from jaxheads.models.random_weights import random_weights


def weights(model: Model) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_flatten_with_path(model.network)[0]
    return {jax.tree_util.keystr(path): np.asarray(weight) for path, weight in paths}


def test_shapes_and_sizes_stay_and_everything_else_goes(model: Model):
    before, after = weights(model), weights(random_weights(model, 0))
    assert list(before) == list(after)
    redrawn = set()
    for path, real in before.items():
        null = after[path]
        assert (null.shape, null.dtype) == (real.shape, real.dtype)
        name = path.split(".")[-2]
        if name in ("scale", "bias") or name.startswith("b_"):
            np.testing.assert_array_equal(null, real)
            continue
        redrawn.add(name)
        assert abs(np.corrcoef(real.ravel(), null.ravel())[0, 1]) < 0.35
        for a, b in zip(real, null, strict=True) if "blocks" in path else [(real, null)]:
            assert np.sqrt((b**2).mean()) == pytest.approx(np.sqrt((a**2).mean()), rel=5 / np.sqrt(2 * a.size))
    assert redrawn == {"W_Q", "W_K", "W_V", "W_O", "kernel", "embedding"}


def test_each_layer_has_its_own_size(decoder: Model):
    def grow(path, weight):
        larger = np.array([1, 10, 100], np.float32).reshape(3, 1, 1, 1)
        return weight * larger if "W_Q" in jax.tree_util.keystr(path) else weight

    grown = Model(jax.tree_util.tree_map_with_path(grow, decoder.network))
    drawn = weights(random_weights(grown, 0))[".decoder.blocks.attention.W_Q.value"]
    sizes = np.sqrt((drawn**2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], 10, rtol=0.6)


def test_the_seed_alone_decides(decoder: Model):
    first, again, other = (weights(random_weights(decoder, seed)) for seed in (3, 3, 4))
    path = ".decoder.blocks.attention.W_Q.value"
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, again[name])
    assert not np.allclose(first[path], other[path])


def test_the_rest_of_the_model_is_shared(decoder: Model):
    tokenizer = object()
    null = random_weights(Model(decoder.network, tokenizer, name="x", identity=lambda: "abc"), 7)
    assert null.tokenizer is tokenizer
    assert null.config is decoder.config
    assert null.name == "x with random weights"
    assert null.identity() == "random weights, seed 7, sizes of abc"


def test_of_two_random_models_neither_has_roles(decoder: Model):
    """Their heads differ, and surely so, but not by enough to be called anything."""
    batch = Batch(np.random.default_rng(0).integers(0, 13, (24, 16)))
    names = ("previous_token", "first_token", "duplicate_token")
    real, null = (measure(random_weights(decoder, seed), batch, names) for seed in (1, 2))
    evidence = [Evidence.from_tables(real, null, "random weights", metric=name) for name in names]
    assert (name_heads(evidence, least=0.3).grid("role") == "").all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_shuffled_marks_say_as_much_of_other_positions(decoder: Model, side: str):
    rng = np.random.default_rng(0)
    mask = np.arange(9)[None] < np.array([[9], [6], [8]])
    mask = mask[:, ::-1] if side == "left" else mask
    noun, head = rng.random((3, 9)) < 0.4, rng.random((3, 9, 9))
    batch = Batch(rng.integers(0, 13, (3, 9)), mask, marks={"noun": noun & mask, "head": head})
    null = shuffled_marks(batch, 1)
    assert batch.marks is not None
    assert null.marks is not None
    for name in ("noun", "head"):
        before, after = np.asarray(batch.marks[name]), np.asarray(null.marks[name])
        assert (before != after).any()
        for b, real in enumerate(mask):
            np.testing.assert_allclose(np.sort(after[b][..., real]), np.sort(before[b][..., real]))
            np.testing.assert_array_equal(after[b][..., ~real], before[b][..., ~real])
    np.testing.assert_array_equal(null.tokens, batch.tokens)
    np.testing.assert_array_equal(shuffled_marks(batch, 1).marks["noun"], null.marks["noun"])  # type: ignore[index]
    with pytest.raises(ValueError, match="no marks to shuffle"):
        shuffled_marks(Batch([[1, 2]]), 0)
