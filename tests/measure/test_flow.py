"""Rollout, flow and Chefer's products: closed forms of uniform attention, and one solver against another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxheads.measure.relevance.chefer import accumulate, accumulate_across
from jaxheads.measure.relevance.flow import batched_flows, flows, networkx_flows
from jaxheads.measure.relevance.rollout import rolled_out, with_residual


def uniform(layers: int, n: int) -> np.ndarray:
    return np.full((layers, n, n), 1 / n, np.float32)


def patterns(layers: int, n: int, *, seed: int, causal: bool, sparse: bool) -> np.ndarray:
    """Rows that sum to 1."""
    rng = np.random.default_rng(seed)
    drawn = rng.exponential(size=(layers, n, n)) ** 3
    drawn *= rng.random(drawn.shape) < (0.4 if sparse else 1)
    drawn = np.tril(drawn) if causal else drawn
    drawn[:, np.arange(n), np.arange(n)] += 1e-3
    return drawn / drawn.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_rollout_of_uniform_attention(layers: int):
    n = 5
    expected = 2.0**-layers * np.eye(n) + (1 - 2.0**-layers) / n
    found = jax.vmap(rolled_out, (None, 0))(jnp.asarray(uniform(layers, n)), jnp.eye(n))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rollout_is_the_product_of_layers():
    attention = patterns(3, 6, seed=0, causal=True, sparse=False).astype(np.float32)
    mixed = (attention + np.eye(6)) / 2
    found = jax.vmap(rolled_out, (None, 0))(jnp.asarray(attention), jnp.eye(6))
    np.testing.assert_allclose(found, mixed[2] @ mixed[1] @ mixed[0], atol=1e-6)


@pytest.mark.parametrize("solver", ["batched", "networkx"])
def test_flow_of_uniform_attention(solver):
    n = 5
    found = flows(np.asarray(with_residual(jnp.asarray(uniform(2, n)))), 2, solver)
    expected = np.full(n, 1 / (n + 1))
    expected[2] = 2 / (n + 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(
    layers=st.integers(1, 4),
    n=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    causal=st.booleans(),
    sparse=st.booleans(),
    residual=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_both_solvers_find_the_maximum(layers: int, n: int, seed: int, causal: bool, sparse: bool, residual: bool):
    capacity = patterns(layers, n, seed=seed, causal=causal, sparse=sparse)
    capacity = (capacity + np.eye(n)) / 2 if residual else capacity
    source = seed % n
    np.testing.assert_allclose(batched_flows(capacity, source), networkx_flows(capacity, source), atol=1e-9)


def test_flow_needs_residual_edges():
    """The greedy path down is a dead end for the second unit: it fits only after pushing the first one back."""
    capacity = np.zeros((3, 3, 3))
    capacity[2, 0, [0, 1]] = 1
    capacity[1, 0, [0, 1]] = 1
    capacity[1, 1, 0] = 1
    capacity[0, [0, 1], 2] = 1
    np.testing.assert_allclose(batched_flows(capacity, 0), networkx_flows(capacity, 0))
    assert batched_flows(capacity, 0)[2] == pytest.approx(2)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="solver must be one of batched, networkx; got 'simplex'"):
        flows(uniform(1, 2), 0, "simplex")  # type: ignore


def test_chefer_of_uniform_attention():
    n = 4
    found = np.stack([accumulate(uniform(2, n), row) for row in np.eye(n)])
    np.testing.assert_allclose(found, np.eye(n) + 3 / n, atol=1e-6)


def test_chefer_without_gradients_is_the_identity():
    np.testing.assert_array_equal(accumulate(np.zeros((3, 4, 4)), np.eye(4)[1]), np.eye(4)[1])


def test_chefer_across_streams():
    """One layer of cross-attention alone passes through unchanged; rows of R − I are divided by their sums."""
    rng = np.random.default_rng(0)
    cross, no_attention = rng.random((1, 3, 4)), np.zeros((1, 3, 3))
    tokens, targets = accumulate_across(np.zeros((1, 4, 4)), no_attention, cross, np.eye(3)[2])
    np.testing.assert_allclose(tokens, cross[0, 2])
    np.testing.assert_array_equal(targets, np.eye(3)[2])
    encoder = rng.random((1, 4, 4))
    tokens, _ = accumulate_across(encoder, no_attention, cross, np.eye(3)[2])
    normal = np.eye(4) + encoder[0] / encoder[0].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tokens, cross[0, 2] @ normal)
