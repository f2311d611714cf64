"""Attention by tiles, the way of a TPU, is attention head by head."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.models import layer_norm
from jaxheads.models.affine import affine
from jaxheads.models.attention import full_tiles
from jaxheads.models.attention.attend import attend
from jaxheads.models.attention.row_edits import RowEdit, unchanged
from jaxheads.models.attention.scoring import Scoring
from jaxheads.models.attention.tiled import attend_by_tile, can_tile, heads_of_tile
from jaxheads.models.blocks import PreNormBlock
from jaxheads.models.inputs.attention_inputs import AttentionInputs
from jaxheads.models.inputs.masks import Mask
from jaxheads.models.layer_norm import LayerNorm, standardised
from jaxheads.models.layers import Attention, GatedMLP, rms_norm
from jaxheads.models.positions import Rotary, _rotated, _rotated_by_tile
from jaxheads.models.stack import Stack, run_block

B, T = 2, 5


def inputs(N: int, K: int, H: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32) for heads in (N, K, K))
    return q, k, v, jnp.asarray(np.tril(np.ones((T, T), bool)) & (rng.random((B, T, T)) < 0.8) | np.eye(T, dtype=bool))


@pytest.mark.parametrize(
    ("N", "K", "H", "heads"),
    [
        (4, 4, 64, 2),
        (8, 2, 64, 2),
        (12, 6, 64, 2),
        (9, 3, 32, 1),
        (8, 1, 32, 4),
        (4, 4, 32, 4),
        (9, 3, 64, 1),
        (6, 6, 80, 1),
        (3, 3, 64, 1),
        (4, 2, 128, 1),
    ],
)
@pytest.mark.parametrize("cap", [None, 2.0])
def test_tiles_are_heads_side_by_side(N: int, K: int, H: int, heads: int, cap: float | None):
    q, k, v, mask = inputs(N, K, H)
    assert heads_of_tile(N, K, H) == heads
    expected, _ = attend(q, k, v, mask, scale=0.3, cap=cap)
    scoring = Scoring(Mask.of(mask), 0.3, None, cap, None, unchanged)
    assert jnp.allclose(attend_by_tile(q, k, v, scoring), expected, atol=1e-6)


@pytest.mark.parametrize(("N", "K", "biased"), [(9, 3, False), (6, 2, True), (5, 1, False)])
def test_full_tiles_hold_a_head_of_each_group(N: int, K: int, biased: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(full_tiles, "platform", lambda: "tpu")
    stack = Stack("decoder", 1, partial(layer, N, K, biased), rngs=nnx.Rngs(0), causal=True)
    block = jax.tree.map(lambda weight: 5 * weight[0], stack.blocks)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, 8)), jnp.float32)
    mask = np.arange(T) >= np.array([[0], [2]])
    context = AttentionInputs.over(jh.Batch(np.ones((B, T), int), mask), causal=True)
    assert full_tiles.fits(block.attention, context, x)
    edit = RowEdit(lambda _, value, __: value, ("z",))
    own, expected = (run_block(block, x, context, edit)[0] for edit in (unchanged, edit))
    assert np.abs(own - expected)[mask].max() < 1e-5 * np.abs(expected - x).max()
    monkeypatch.setattr(full_tiles, "platform", lambda: "cpu")
    assert not full_tiles.fits(block.attention, context, x)


def layer(N: int, K: int, biased: bool, rngs: nnx.Rngs) -> PreNormBlock:
    attention = Attention(8, N, 64, kv_heads=K, bias=biased, rotary=Rotary(10_000.0, 64), rngs=rngs)
    return PreNormBlock(rms_norm(8, 1e-5, rngs), attention, rms_norm(8, 1e-5, rngs), GatedMLP(8, 16, "silu", rngs=rngs))


def test_the_mean_square_of_bfloat16_by_product_is_the_sum():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, 96)), jnp.bfloat16)
    own, expected = (of(x) for of in (layer_norm._multiplied, layer_norm._summed))
    assert jnp.abs(own / expected - 1).max() < 2e-3
    assert own.dtype == expected.dtype == jnp.float32
    assert own.shape == (B, T, 1)


def test_a_tpu_attends_by_tile_and_a_cpu_by_head():
    q, k, v, mask = inputs(4, 4, 64)

    def z(edit, *arrays):
        return attend(*arrays, scale=0.3, edit=edit)[0]

    def texts(edit) -> list[str]:
        traced = jax.jit(partial(z, edit)).trace(q, k, v, mask)
        return [traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu")]

    tiles = f"{B}x{T}x2x2x128x"  # of keys: 2 tiles of 2 heads, each apart
    assert [tiles in text for text in texts(unchanged)] == [False, True]
    edited = RowEdit(lambda site, value, rows: value * 2, ("pattern",))
    assert [tiles in text for text in texts(edited)] == [False, False]


@pytest.mark.parametrize(
    ("N", "H", "rotated"), [(4, 64, 64), (3, 64, 64), (4, 64, 16), (2, 128, 128), (4, 80, 32), (8, 32, 32)]
)
def test_positions_rotate_tiles_as_they_rotate_heads(N: int, H: int, rotated: int):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(B, T, N, H)), jnp.float32)
    positions = jnp.asarray(rng.integers(0, 100, (B, T)))
    arrays = x, positions, jnp.asarray(Rotary(10_000.0, rotated).frequencies()), jnp.float32(1.3)
    expected, by_tile = _rotated(*arrays), _rotated_by_tile(*arrays)
    assert jnp.allclose(by_tile, expected, atol=1e-6)
    assert not jnp.allclose(expected, x, atol=0.1)


def test_a_head_that_dwarfs_its_neighbour_in_the_tile_leaves_it_as_it_is():
    q, k, v, mask = inputs(4, 4, 64)
    q = q.at[:, :, 0].multiply(1e3)  # scores differ by more than exponentials can
    expected, _ = attend(q, k, v, mask, scale=0.3)
    scoring = Scoring(Mask.of(mask), 0.3, None, None, None, unchanged)
    assert jnp.allclose(attend_by_tile(q, k, v, scoring), expected, atol=1e-5)


def test_what_reads_or_edits_scores_and_patterns_has_no_tiles():
    mask = Mask.of(inputs(4, 4, 64)[3])
    plain = Scoring(mask, 1.0, None, None, None, unchanged)
    assert can_tile(plain)
    assert not can_tile(plain._replace(bias=jnp.zeros((1, 4, 1, T))))
    assert not can_tile(plain._replace(sinks=jnp.zeros(4)))
    assert not can_tile(plain._replace(edit=lambda site, value: value))
    assert not can_tile(plain._replace(edit=RowEdit(lambda site, value, rows: value, ("scores",))))


@pytest.mark.parametrize(("N", "H"), [(4, 64), (3, 5), (2, 48)])
def test_projections_in_tiles_are_those_of_heads(N: int, H: int):
    rng = np.random.default_rng(1)
    x, z, W, b = (
        jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((B, T, 7), (B, T, N, H), (7, N, H), (N, H))
    )
    expected = jnp.einsum("btd,dnh->btnh", x, W) + b[None, None]
    assert jnp.allclose(affine("btd,dnh->btnh", x, W, b), expected, atol=1e-5)
    out = jnp.moveaxis(W, 0, 2)
    assert jnp.allclose(affine("btnh,nhd->btd", z, out, None), jnp.einsum("btnh,nhd->btd", z, out), atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
def test_one_pass_over_bfloat16_is_as_good_as_two(mean: float):
    x = jnp.asarray(mean + np.random.default_rng(2).normal(size=(64, 512)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    with jax.numpy_dtype_promotion("standard"):
        error = np.abs(np.asarray(standardised(x, 0.0), np.float64) - exact).max()
    assert error < 2**-8 * np.abs(exact).max()  # half a digit of bfloat16, in which the result is kept


def test_a_layer_norm_of_float32_is_two_passes():
    from flax import nnx

    norm = LayerNorm(16, 1e-5, nnx.Rngs(0))
    x = jnp.asarray(1e4 + np.random.default_rng(3).normal(size=(8, 16)), jnp.float32)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / np.sqrt(exact.var(axis=1, keepdims=True) + 1e-5)
    assert np.abs(np.asarray(norm(x)) - exact).max() < 1e-2
    with jax.numpy_dtype_promotion("standard"):
        assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
