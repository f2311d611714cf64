"""Projection kernels and single components of composition against closed forms and random subspaces."""

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.weights.projections import kernel_moments

from ...models.huggingface import assert_close, small_model
from ...models.specs.spec import small
from .test_factored import changed, heads, rebase, two_layers

RNG = np.random.default_rng(3)


def basis(width: int, rank: int) -> np.ndarray:
    return np.linalg.qr(RNG.standard_normal((width, rank)))[0]


def test_the_null_s_moments_are_those_of_random_subspaces():
    mean, variance = kernel_moments(np.array(16.0), np.array(16.0), 64)
    assert mean == 4
    assert variance == pytest.approx(0.0693, abs=1e-4)
    drawn = [np.square(basis(24, 6).T @ basis(24, 9)).sum() for _ in range(2000)]
    mean, variance = kernel_moments(np.array(6.0), np.array(9.0), 24)
    assert np.mean(drawn) == pytest.approx(mean, abs=4 * float(np.sqrt(variance / 2000)))
    assert np.var(drawn) == pytest.approx(variance, rel=0.15)


def narrow(writes: np.ndarray, reads: np.ndarray) -> jh.Model:
    """Return a model whose first head writes into `writes`, `[H,D]`, and whose second reads from `reads`, `[D,H]`."""
    D = writes.shape[1]
    first = {"W_Q": basis(D, 2), "W_K": basis(D, 2), "W_V": basis(D, 2), "W_O": writes}
    second = {"W_Q": reads, "W_K": reads, "W_V": reads, "W_O": basis(D, 2).T}
    layers = [{name: weight[None] for name, weight in layer.items()} for layer in (first, second)]
    return jh.by_hand(np.eye(D), layers, np.eye(D))


def test_kernels_have_their_closed_forms():
    axes = np.eye(6)
    same = jh.projection_kernel(narrow(axes[:2] * [[3.0], [0.1]], axes[:, :2]))
    half = jh.projection_kernel(narrow(axes[:2], axes[:, 1:3]))
    apart = jh.projection_kernel(narrow(axes[:2], axes[:, 2:4]))
    thin = jh.projection_kernel(narrow(np.stack([axes[0], 2 * axes[0]]), axes[:, :2]))
    for kind in "qkv":
        values = [found.values[kind][0, 0, 1, 0] for found in (same, half, apart, thin)]
        np.testing.assert_allclose(values, [2, 1, 0, 1], atol=1e-6)
        assert same.null_mean[kind][0, 0, 1, 0] == pytest.approx(4 / 6)
        assert thin.null_mean[kind][0, 0, 1, 0] == pytest.approx(2 / 6)  # of rank 1 by rank 2
        assert np.isnan(same.values[kind][1, 0, 0, 0])
    row = half.frame.loc[("decoder", 0, 0, 1, 0)]
    assert row["q_excess"] == pytest.approx((1 - 4 / 6) / half.null_deviation["q"][0, 0, 1, 0])
    nothing = jh.projection_kernel(narrow(np.zeros((2, 6)), axes[:, :2]))
    assert np.isnan(nothing.values["q"]).all()


def test_kernels_ask_for_spaces_and_composition_for_weights():
    model = small_model("gpt2")
    stretched = changed(model, rebase)
    one, same = jh.projection_kernel(model), jh.projection_kernel(stretched)
    assert_close(np.nan_to_num(one.values["q"]), np.nan_to_num(same.values["q"]))
    assert one.frame.index.equals(jh.composition(model).frame.index)
    writes = RNG.standard_normal((2, 6))
    reads = RNG.standard_normal((6, 2))
    both = [narrow(rows, reads) for rows in (writes, np.array([[5.0, 0], [1, 0.1]]) @ writes)]
    kernel, other = (jh.projection_kernel(each).values["v"] for each in both)
    np.testing.assert_allclose(kernel[0, 0, 1, 0], other[0, 0, 1, 0], rtol=1e-4)
    weighed = [jh.composition(each).values["v"][0, 0, 1, 0] for each in both]
    assert abs(weighed[0] - weighed[1]) > 1e-2


def test_one_layer_is_refused():
    eye = np.eye(4)
    with pytest.raises(ValueError, match="between layers"):
        jh.projection_kernel(jh.by_hand(eye, [heads(W_V=eye)], eye))
    with pytest.raises(ValueError, match="got x"):
        jh.projection_kernel(small_model("gpt2"), "x")
    with pytest.raises(ValueError, match=r"layers 1\.\.1"):
        jh.component_composition(small_model("gpt2"), 0, 0)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "q"), ("llama", "k"), ("gemma2", "v")])
def test_components_add_up_to_the_composition(family: str, kind):
    model = small(family).ours
    found = jh.component_composition(model, 1, 2, kind, offset=1)
    whole = jh.composition(model, kind, offset=1).values[kind][:, :, 1, 2]
    score, share = found.grid("score"), found.grid("share")
    assert_close((np.square(score) * share).sum(axis=-1)[0], np.square(whole)[0])
    assert np.isnan(score[1]).all()
    np.testing.assert_allclose(share[0].sum(axis=-1), 1, atol=1e-5)
    assert (np.diff(share[0], axis=-1) <= 1e-6).all()


def test_a_component_that_is_read_alone_scores_one():
    D = 6
    first, second = np.zeros((D, D)), np.zeros((D, D))
    first[0, 0], first[1, 1], second[1, 1] = 3, 1, 1
    table = jh.component_composition(two_layers(heads(W_V=first), heads(W_Q=second, W_K=second)), 1, 0, "q")
    np.testing.assert_allclose(table.grid("score")[0, 0, :2], [0, 1], atol=1e-6)
    np.testing.assert_allclose(table.grid("share")[0, 0, :2], [0.9, 0.1], atol=1e-6)
    assert np.isnan(table.grid("score")[0, 0, 2:]).all()  # the circuit has two components
    drawn = RNG.standard_normal((4000, D))
    squares = np.square(drawn[:, 1]) / np.square(drawn).sum(axis=1)
    excess = (1 - 1 / D) / table.grid("excess")[0, 0, 1]
    assert squares.mean() == pytest.approx(1 / D, abs=0.01)
    assert squares.std() == pytest.approx(excess, rel=0.05)


def test_pairs_show_themselves():
    model = small_model("gpt2")
    for answer in (jh.composition(model), jh.projection_kernel(model)):
        assert answer.view().payload["kind"] == "graph"
        assert answer.view("q", layout="matrix").payload["kind"] == "matrix"
    with pytest.raises(ValueError, match="kind"):
        jh.projection_kernel(model, "q").view("v")
