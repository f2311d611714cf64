"""Values that are not finite: what is replaced is gone, and what is not read reaches nothing."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.models.inputs.batch import Positions
from jaxheads.models.sites import SITES, SiteEdit
from jaxheads.sweep.exact.mean_groups import MeanGroups, Means, leave_own_out, sum_groups
from jaxheads.train import remove_heads

from .networks import batch_of, random_model


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Flax's norms mix float16 with float32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def finite() -> jh.Model:
    """A model in float16."""
    model = random_model("llama", num_key_value_heads=4)
    graph, state, rest = nnx.split(model.network, nnx.Param, ...)
    network = nnx.merge(graph, jax.tree.map(lambda x: (0.5 * x).astype(jnp.float16), state), rest)
    return jh.Model(network, name="half")


@pytest.fixture(scope="module")
def overflowing(finite: jh.Model) -> jh.Model:
    """The same model with a key/value head whose values overflow: query heads 2 and 3 of layer 1 read them."""
    network = nnx.clone(finite.network)
    attention = network.stack("decoder").blocks.attention
    attention.W_V = nnx.Param(attention.W_V[...].at[1, :, 1].set(60_000.0))
    return replace(finite, network=network)


BATCH = batch_of((5, 8))
HEADS = [(1, 2), (1, 3)]


def logits(model: jh.Model, edits: Any = ()) -> np.ndarray:
    return np.asarray(jh.run(model, BATCH, edits=edits).output, np.float32)


def test_a_head_that_overflows_is_gone_where_it_is_replaced(finite: jh.Model, overflowing: jh.Model):
    assert not np.isfinite(logits(overflowing)).all()
    values = jnp.full((1, 1, 1, 1, 1), 0.5)
    gates = np.ones((2, 8), np.float32)
    gates[1, 2:4] = 0
    for edits in (
        lambda model: jh.zero_heads(model, HEADS),
        lambda model: jh.replace_heads(model, HEADS, values),
        lambda model: jh.gate(model, gates),
        lambda model: jh.patch_heads(model, HEADS, {"z": jh.run(finite, BATCH, capture="z").seen["z"]}),
        lambda model: jh.freeze(model, "z", jh.run(finite, BATCH, capture="z").seen["z"]),
        lambda model: jh.mix(model, "v", values[0], layers=1, heads=1),
        lambda model: jh.mix(model, "pattern", 0 * values[0, ..., 0:1], layers=1, heads=[2, 3]),
        lambda model: [jh.steer(model, "v", values[0], layers=1, heads=1), jh.zero_heads(model, HEADS)],
    ):
        ours, expected = logits(overflowing, edits(overflowing)), logits(finite, edits(finite))
        assert np.isfinite(ours).all()
        np.testing.assert_array_equal(ours, expected)
    half = jh.zero_heads(overflowing, HEADS, amount=0.5)
    assert not np.isfinite(logits(overflowing, half)).all()  # half of infinity is infinity


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("site", list(SITES))
def test_a_replacement_replaces_at_every_site(finite: jh.Model, site: str, value: float):
    ones, values = (jnp.full((1,) * (1 + len(SITES[site])), number) for number in (1.0, value))
    broken = SiteEdit(jnp.array([0]), ones, values, site, "decoder")
    mended = jh.mix(finite, site, np.full((1,) * len(SITES[site]), 0.25, np.float32), layers=0)
    np.testing.assert_array_equal(logits(finite, [broken, mended]), logits(finite, [mended]))
    # An edit of another layer, or one of amount 0, brings nothing of its source in.
    nothing = replace(broken, weight=jnp.zeros_like(broken.weight))
    for operation in ("mix", "add"):
        np.testing.assert_array_equal(logits(finite, replace(nothing, operation=operation)), logits(finite))


def test_derivatives_of_a_run_without_the_broken_head_are_finite(finite: jh.Model, overflowing: jh.Model):
    open_LN = jnp.ones((2, 8)).at[1, 2:4].set(0.0)

    def size(gates_LN: jax.Array, model: jh.Model) -> jax.Array:
        return (jh.run(model, BATCH, edits=jh.gate(model, gates_LN)).output.astype(jnp.float32) ** 2).mean()

    slope_LN = jax.grad(size)(open_LN, finite)
    ours_LN = jax.grad(size)(open_LN, overflowing)
    # By its own gate the derivative is not finite; what is left is that of the select.
    assert np.isfinite(np.asarray(ours_LN)).all()
    others = np.asarray(open_LN) == 1
    np.testing.assert_array_equal(np.asarray(ours_LN)[others], np.asarray(slope_LN)[others])
    assert (np.asarray(slope_LN)[~others] != 0).all()  # that of a closed gate that is finite is kept


def test_what_overflows_at_a_key_does_not_reach_queries_that_do_not_see_it(finite: jh.Model):
    weight = jnp.zeros((1, 2, BATCH.tokens.shape[1], 1, 1)).at[0, :, 5].set(1.0)
    broken = SiteEdit(jnp.array([0]), weight, jnp.full((1, 1, 1, 1, 1), jnp.inf), "v", "decoder")
    ours, expected = logits(finite, broken), logits(finite)
    np.testing.assert_array_equal(ours[0, :5], expected[0, :5])  # of the first example, position 5 is padding
    np.testing.assert_array_equal(ours[1, :5], expected[1, :5])
    assert np.isnan(ours[1, 5:]).all()
    hidden = jh.mix(finite, "pattern", np.zeros((1, 1, 1, 1)), layers=0)
    np.testing.assert_array_equal(logits(finite, [broken, hidden]), logits(finite, hidden))


def test_removal_equals_gates_of_heads_that_overflow(finite: jh.Model, overflowing: jh.Model):
    gates = np.ones((2, 8), np.float32)
    gates[:, 2:4] = 0
    np.testing.assert_array_equal(logits(remove_heads(overflowing, gates)), logits(remove_heads(finite, gates)))
    remove_heads(overflowing, gates, BATCH)


def test_a_broken_value_counts_in_the_means_of_others_and_not_in_its_own():
    """Example 0 breaks feature 0 at its first position; all else is finite."""
    values_XBTF = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    values_XBTF[:, 0, 0, 0], values_XBTF[:, 2, 3] = np.inf, np.nan
    real_BT = np.arange(4) < np.array([[4], [4], [3]])  # the NaN is padding
    groups = MeanGroups.of(Positions(jnp.asarray(real_BT)), None, "pooled", needed=1, own=True)
    sums = np.asarray(sum_groups(jnp.asarray(values_XBTF), jnp.asarray(groups.groups), jnp.asarray(real_BT), 1))
    means = Means(jnp.asarray(sums[0] / groups.tokens[0]), jnp.asarray(sums[1]))
    assert np.isnan(np.asarray(means.values)).tolist() == [[[True, False, False, False, False]]] * 2
    inputs = jnp.asarray(groups.groups), jnp.asarray(real_BT), jnp.asarray(groups.tokens)
    others_XBTF = np.asarray(leave_own_out(means, jnp.asarray(values_XBTF), *inputs))
    for example in range(3):
        rest = real_BT & (np.arange(3) != example)[:, None]
        expected = values_XBTF[:, rest].mean(axis=1)
        expected = np.where(np.isfinite(expected), expected, np.nan)
        found = others_XBTF[:, example, 0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.isfinite(others_XBTF[:, 0]).all()
