"""Circuits in factors against what heads do, and against products multiplied out."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.measure.weights.factored import Factored
from jaxheads.measure.weights.head_composition import random_composition

from ...models.huggingface import assert_close, random_batch, small_model
from ...models.specs.spec import small

RNG = np.random.default_rng(0)


def heads(**weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return one layer of one head, `[D,H]` and `[H,D]`; weights that are not named are identities."""
    eye = np.eye(next(iter(weights.values())).shape[-1])
    return {name: weights.get(name, eye)[None] for name in ("W_Q", "W_K", "W_V", "W_O")}


def two_layers(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> jh.Model:
    embed = np.eye(first["W_Q"].shape[1])
    return jh.by_hand(embed, [first, second], embed)


def changed(model: jh.Model, change) -> jh.Model:
    """Return the model after `change(attention)` on a copy of its weights, `[L,D,N,H]`."""
    network = nnx.clone(model.network)
    change(network.stacks[0].blocks.attention)
    return replace(model, network=network)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_circuits_give_the_heads_own_scores_and_outputs(family: str):
    """Circuits give scores and outputs of a folded model without biases, from its normed stream."""
    both = small(family)
    model = jh.fold_norms(both.ours)
    model = changed(model, lambda attention: [setattr(attention, f"b_{letter}", None) for letter in "QKVO"])
    batch = random_batch((5,))
    run = jh.run(model, batch, ["resid_pre", "scores", "v", "z"])
    stack = model.stack()
    for offset in (0, 2):
        qk, ov = (make(both.ours) for make in (lambda m, o=offset: jh.qk_circuit(m, offset=o), jh.ov_circuit))
        for layer in range(stack.layers):
            block = stack.block(layer)
            normed_TD = block.normed(run.seen["resid_pre"][layer])[0]
            expected_N = jnp.einsum(
                "d,ndh,nhe,e->n", normed_TD[4], qk.left[layer], qk.right[layer], normed_TD[4 - offset]
            )
            score_N = expected_N * block.attention.scale
            if block.attention.cap is not None:
                score_N = block.attention.cap * jnp.tanh(score_N / block.attention.cap)
            if family != "bloom":  # whose scores have a bias by distance as well
                assert_close(run.seen["scores"][layer, 0, :, 4, 4 - offset], score_N)
            moved_ND = jnp.einsum("d,ndh,nhe->ne", normed_TD[3], ov.left[layer], ov.right[layer])
            group = np.arange(stack.heads) // (stack.heads // stack.kv_heads)
            v_NH = run.seen["v"][layer, 0, 3][group]
            whole = jnp.ones((1, stack.width)) * jnp.asarray(RNG.standard_normal((1, stack.width)), jnp.float32)
            plain_ND = jnp.einsum("nh,nhd->nd", v_NH, stack.weights.W_O[layer])
            written_ND = block.head_contribution(plain_ND, jnp.broadcast_to(whole, plain_ND.shape))
            cosine_N = (
                (written_ND * moved_ND).sum(-1)
                / jnp.linalg.norm(written_ND, axis=-1)
                / jnp.linalg.norm(moved_ND, axis=-1)
            )
            assert_close(cosine_N, np.ones(stack.heads))
            if family != "gemma2":
                assert_close(plain_ND, moved_ND)


def without_biases(attention: Any) -> None:
    for letter in "QKVO":
        setattr(attention, f"b_{letter}", None)
    for norm in (attention.q_norm, attention.k_norm):
        if getattr(norm, "bias", None) is not None:
            norm.bias = nnx.Param(jnp.zeros_like(norm.bias[...]))


@pytest.mark.parametrize(("family", "axes"), [("qwen3", (-1,)), ("olmo2", (-2, -1)), ("phi", (-1,))])
def test_a_norm_of_queries_and_keys_counts_up_to_a_factor(family: str, axes: tuple[int, ...]):
    model = changed(jh.fold_norms(small(family).ours), without_biases)
    run = jh.run(model, random_batch((5,)), ["resid_pre", "q", "k"])
    qk = jh.qk_circuit(model, offset=2)
    block: Any = model.stack().block(1)
    normed_TD = block.normed(run.seen["resid_pre"][1])[0]
    score_N = jnp.einsum("d,ndh,nhe,e->n", normed_TD[4], qk.left[1], qk.right[1], normed_TD[2])
    plain = [jnp.einsum("td,dnh->tnh", normed_TD, getattr(block.attention, name)[...]) for name in ("W_Q", "W_K")]
    if family == "phi":  # LayerNorm
        plain = [x - x.mean(axis=-1, keepdims=True) for x in plain]
    epsilon = getattr(block.attention.q_norm, "norm", block.attention.q_norm).epsilon
    sizes = [jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + epsilon)[..., 0] for x in plain]
    sizes = [jnp.broadcast_to(size, x.shape[:-1]) for size, x in zip(sizes, plain, strict=True)]
    group = np.arange(4) // (4 // model.stack().kv_heads)
    q_NH, k_NH = run.seen["q"][1, 0, 4], run.seen["k"][1, 0, 2][group]
    assert_close((q_NH * k_NH).sum(-1), score_N / sizes[0][4] / sizes[1][2][group])


def test_numbers_of_factors_are_those_of_the_product():
    circuit = jh.ov_circuit(small_model("llama"))
    product = np.asarray(circuit.left, np.float64) @ np.asarray(circuit.right, np.float64)
    assert_close(circuit.norm, np.linalg.norm(product, axis=(-2, -1)))
    assert_close(circuit.trace, np.trace(product, axis1=-2, axis2=-1))
    assert_close(circuit.transpose.norm, circuit.norm)
    one = circuit[1, 2]
    assert one.left.shape == (24, 6)
    roots = np.sort(np.abs(one.eigenvalues()))
    np.testing.assert_allclose(np.sort(np.abs(np.linalg.eigvals(product[1, 2])))[-6:], roots, atol=1e-5)


def test_composition_has_its_closed_forms():
    D = 6
    eye, first, second = np.eye(D), np.zeros((D, D)), np.zeros((D, D))
    first[0, 0], second[1, 1] = 1, 1
    same = jh.composition(two_layers(heads(W_V=eye), heads(W_V=eye)))
    for kind in "qkv":
        assert same.values[kind][0, 0, 1, 0] == pytest.approx(D**-0.5)
    assert same.analytic == pytest.approx(D**-0.5)
    aligned = jh.composition(two_layers(heads(W_V=first), heads(W_Q=first, W_K=first, W_V=first, W_O=first)))
    apart = jh.composition(two_layers(heads(W_V=first, W_O=first), heads(W_Q=second, W_K=second, W_V=second)))
    for kind in "qkv":
        assert aligned.values[kind][0, 0, 1, 0] == pytest.approx(1)
        assert apart.values[kind][0, 0, 1, 0] == 0
    # q and k differ where only the keys' side reads the first head's output
    other = np.roll(second, -1, axis=1)  # into the dimension that `first` reads into
    keys = jh.composition(two_layers(heads(W_V=first, W_O=first), heads(W_Q=other, W_K=first, W_V=second)))
    assert [round(float(keys.values[kind][0, 0, 1, 0]), 6) for kind in "qkv"] == [0, 1, 0]


def test_random_heads_compose_by_one_over_the_root_of_the_width():
    for width, size, published in ((64, 16, 0.1268), (768, 64, 0.0363)):
        mean, deviation = random_composition(width, size, draws=48 if width == 64 else 3)
        assert mean == pytest.approx(published, rel=0.04)
        assert mean == pytest.approx(width**-0.5, rel=0.03)
        assert 0 < deviation < 0.1 * mean
    assert random_composition(64, 4, 64)[0] == pytest.approx(1 / 8, rel=0.05)
    assert (
        random_composition(64, 16, seed=1) == random_composition(64, 16, seed=1) != random_composition(64, 16, seed=2)
    )


@pytest.mark.parametrize(("family", "offset"), [("gpt2", 0), ("llama", 1), ("gemma2", 1)])
def test_composition_is_that_of_matrices_multiplied_out(family: str, offset: int):
    model = small(family).ours
    found = jh.composition(model, offset=offset)
    ov, qk = jh.ov_circuit(model), jh.qk_circuit(model, offset=offset)
    OV, QK = (np.asarray(one.left @ one.right, np.float64) for one in (ov, qk))
    L, N = OV.shape[:2]
    norm = np.linalg.norm
    for first, head, later, other in np.ndindex(L, N, L, N):
        A, qk_, v = OV[first, head], QK[later, other], OV[later, other]
        for kind, B in (("q", qk_), ("k", qk_.T), ("v", v)):
            expected = norm(A @ B) / norm(A) / norm(B) if first < later else np.nan
            assert found.values[kind][first, head, later, other] == pytest.approx(expected, abs=1e-5, nan_ok=True)
    pairs = L * (L - 1) // 2 * N * N
    assert found.frame.shape == (pairs, 7)
    row = found.frame.loc[("decoder", 0, 1, 1, 3)]
    assert row["k"] == found.values["k"][0, 1, 1, 3]
    assert row["random"] == found.random[0]


def rebase(attention) -> None:
    """Change the basis of every head's queries and keys, and of its values and output."""
    shape = attention.W_Q.shape
    M = jnp.asarray(
        np.eye(shape[-1]) + 0.3 * RNG.standard_normal((shape[0], shape[2], shape[-1], shape[-1])), jnp.float32
    )
    inverse = jnp.linalg.inv(M)
    attention.W_Q = nnx.Param(jnp.einsum("ldnh,lnhg->ldng", attention.W_Q[...], M))
    attention.W_K = nnx.Param(jnp.einsum("ldnh,lngh->ldng", attention.W_K[...], inverse))
    attention.W_V = nnx.Param(jnp.einsum("ldnh,lnhg->ldng", attention.W_V[...], M))
    attention.W_O = nnx.Param(jnp.einsum("lnhg,lngd->lnhd", inverse, attention.W_O[...]))


ORDER = np.array([2, 0, 3, 1])


def permute(attention) -> None:
    for name in ("W_Q", "W_K", "W_V"):
        setattr(attention, name, nnx.Param(getattr(attention, name)[...][:, :, ORDER]))
    attention.W_O = nnx.Param(attention.W_O[...][:, ORDER])
    for name in ("b_Q", "b_K", "b_V"):
        setattr(attention, name, nnx.Param(getattr(attention, name)[...][:, ORDER]))


def test_a_heads_basis_does_not_matter():
    model = small_model("gpt2")
    other = changed(model, rebase)
    for kind in "qkv":
        assert_close(
            np.nan_to_num(jh.composition(other).values[kind]), np.nan_to_num(jh.composition(model).values[kind])
        )
    for embedding in ("raw", "effective"):
        one, same = (jh.eigenvalue_copying(each, embedding=embedding).values for each in (other, model))  # type: ignore
        np.testing.assert_allclose(one, same, atol=1e-4)


def test_permuting_heads_permutes_everything():
    model = small_model("gpt2")
    other = changed(model, permute)
    assert_close(jh.eigenvalue_copying(other).values, jh.eigenvalue_copying(model).values[:, ORDER])
    for name in ("attention", "kernel"):
        assert_close(jh.positional_kernel(other).grid(name), jh.positional_kernel(model).grid(name)[:, ORDER])
    values = jh.composition(model).values["k"][:, ORDER][..., ORDER]
    assert_close(np.nan_to_num(jh.composition(other).values["k"]), np.nan_to_num(values))


def test_shared_keys_and_values_are_as_good_as_copies():
    """A grouped-query model equals one whose query heads each have a copy of their keys and values."""
    model = small_model("llama")
    assert model.stack().kv_heads < model.stack().heads

    def copied(attention) -> None:
        for name in ("W_K", "W_V"):
            setattr(attention, name, nnx.Param(jnp.repeat(getattr(attention, name)[...], 2, axis=2)))

    other = changed(model, copied)
    assert_close(jh.eigenvalue_copying(other).values, jh.eigenvalue_copying(model).values)
    for kind in "qkv":
        one, same = (np.nan_to_num(jh.composition(each, kind).values[kind]) for each in (other, model))
        assert_close(one, same)
    one, same = (jh.token_pairs(each, "qk", 1, 3).frame["value"].to_numpy() for each in (other, model))
    assert_close(one, same)


@pytest.mark.parametrize("family", ["gpt_neox", "clip", "t5", "albert", "modernbert"])
def test_every_stack_has_circuits(family: str):
    for name, stack in small(family).ours.stacks.items():
        shape = (stack.layers, stack.heads)
        for circuit in (jh.qk_circuit(small(family).ours, stack=name), jh.ov_circuit(small(family).ours, stack=name)):
            assert isinstance(circuit, Factored)
            assert circuit.norm.shape == shape
            assert np.isfinite(circuit.norm).all()


def test_kinds_of_composition_that_a_stack_lacks_are_refused():
    model = small("t5").ours
    assert set(jh.composition(model, stack="cross").values) == {"q"}
    assert set(jh.composition(model, stack="encoder").values) == {"q", "k", "v"}
    with pytest.raises(ValueError, match="kinds of composition in the cross are q; got k"):
        jh.composition(model, "k", stack="cross")
    one_layer = jh.by_hand(np.eye(3), [heads(W_V=np.eye(3))], np.eye(3))
    with pytest.raises(ValueError, match="composition is between layers"):
        jh.composition(one_layer)
    with pytest.raises(ValueError, match="at least 2 draws"):
        jh.composition(small_model("gpt2"), draws=1)
