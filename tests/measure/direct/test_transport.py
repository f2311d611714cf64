"""The Jacobian lens: exact where later layers are linear, and the Jacobian of the model's own pass elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.network import forward
from jaxheads.models.sites import SiteEdit

from ...models.huggingface import assert_close, random_batch, small_model

RNG = np.random.default_rng(5)
D = 6


def linear_model(layers: int = 3) -> tuple[jh.Model, list[np.ndarray]]:
    """Return a model whose MLPs are linear and whose heads write nothing, and each layer's `I + A`."""
    weights, maps = [], []
    for _ in range(layers):
        W_in, W_out = RNG.standard_normal((2, D, D)) * 0.4
        zero = np.zeros((2, D, 3))
        heads = {"W_Q": zero, "W_K": zero, "W_V": zero, "W_O": RNG.standard_normal((2, 3, D))}
        weights.append({**heads, "W_in": W_in, "W_out": W_out})
        maps.append(np.eye(D) + W_in @ W_out)
    return jh.by_hand(np.eye(D), weights, np.eye(D), activation="linear"), maps


def test_of_linear_layers_it_is_the_product_of_their_maps():
    model, maps = linear_model()
    lens = jh.jacobian_lens(model, jh.Batch([[0, 1, 2, 3, 4], [5, 4, 3, 2, 1]]), skip=1)
    assert lens.positions == 6
    for layer in range(3):
        expected = np.linalg.multi_dot([np.eye(D), *maps[layer:], np.eye(D)]).T
        assert_close(lens.jacobians[layer], expected)
    vector = RNG.standard_normal(D)
    frame = lens.read(1, vector, count=2)
    moved = vector @ maps[1] @ maps[2]
    assert frame["token"].tolist() == [*np.argsort(-moved)[:2], *np.argsort(moved)[:2]]
    assert_close(frame["value"], (moved - moved.mean())[frame["token"]])
    assert_close(frame["direct"], (vector - vector.mean())[frame["token"]])


def test_it_is_the_mean_jacobian_of_the_model_s_pass():
    """By brute force: a shift at every single position, with padding on either side, in pieces and in a stream."""
    model = small_model("llama")
    batch = random_batch((7, 5))
    left = jh.Batch(np.asarray(batch.tokens)[:, ::-1].copy(), np.asarray(batch.mask)[:, ::-1].copy())
    for given in (batch, left):
        mask = np.asarray(given.mask)
        place = np.cumsum(mask, axis=1) - 1
        counted = mask & (place >= 2) & (place < mask.sum(axis=1, keepdims=True) - 1)

        def last(shift_BTD: jax.Array, layer: int, given: jh.Batch = given) -> jax.Array:
            edit = SiteEdit(jnp.array([layer]), jnp.ones((1, 1, 1, 1)), shift_BTD[None], "attn_out", "decoder", "add")
            return forward(model.network, given, (edit,))[0]

        lens = jh.jacobian_lens(model, given, skip=2)
        for layer in range(2):
            whole = jax.jacobian(last)(jnp.zeros((*mask.shape, 24)), layer)  # [B,T,D,B,S,D]
            expected = np.einsum("btdcse,bt,cs->de", whole, counted, counted) / counted.sum()
            assert_close(lens.jacobians[layer], expected)
    halves = jh.jacobian_lens(model, [batch.take([0]), batch.take([1])], skip=2)
    assert_close(halves.jacobians, jh.jacobian_lens(model, batch, skip=2, memory=1 << 20).jacobians)


def test_a_head_s_directions_and_its_gain():
    model, _ = linear_model()
    assert np.isnan(jh.jacobian_lens(model, jh.Batch([[0, 1, 2, 3]]), skip=0).table.grid("gain")).all()  # W_V is 0
    model = small_model("gpt2")
    lens = jh.jacobian_lens(model, random_batch((6,)), skip=1)
    circuit = jh.ov_circuit(model)
    whole = np.asarray(circuit.left @ circuit.right)[1, 2]
    moved = whole @ lens.jacobians[1].T
    row = lens.table.frame.loc[("decoder", 1, 2)]
    assert row["gain"] == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(whole), rel=1e-4)
    cosine = (moved * whole).sum() / np.linalg.norm(moved) / np.linalg.norm(whole)
    assert row["direct"] == pytest.approx(cosine, abs=1e-4)
    frame = lens.head(1, 2, components=2, count=3)
    assert frame.groupby("component").size().tolist() == [6, 6]
    direction = np.linalg.svd(whole)[2][0]
    own = lens.read(1, direction, count=3)
    assert {*own["token"]} == {*frame.loc[frame["component"] == 0, "token"]}
    with pytest.raises(ValueError, match="heads 0"):
        lens.head(0, 9)
    with pytest.raises(ValueError, match="no position counts"):
        jh.jacobian_lens(model, random_batch((6,)))
