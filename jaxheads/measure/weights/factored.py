"""QK and OV circuits of all heads as products of two thin matrices, which are never multiplied out.

Dimension key: L layers, N query heads, K key/value heads, D model dimension, H head dimension.

Vectors are rows: a head moves `x W_V W_O` from the position it looks at, and its score is `(x W_Q)(y W_K)ᵀ`. In a
grouped-query model query head n takes key/value head `n // (N // K)`: factors are given for all N, by index.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...models.folding import fold_stack
from ...models.model import Model
from ...models.norms import scale_and_bias, unit_stream
from ...models.stack import HeadWeights, Stack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factored:
    """Matrices `left @ right`, `[…,D,H]` times `[…,H,D]`, held apart: every number below is of small products.

    Indexing takes heads (`circuit[layer, head]`); `left @ right` of one head is a matrix `[D,D]`.
    """

    left: Array
    right: Array

    def __getitem__(self, index: Any) -> "Factored":
        return Factored(self.left[index], self.right[index])

    @property
    def norm(self) -> Array:
        """Frobenius norm `[…]`, by the R of a thin QR decomposition."""
        return jnp.linalg.norm(triangle(self.left) @ self.right, axis=(-2, -1))

    @property
    def trace(self) -> Array:
        """Trace `[…]`."""
        return jnp.einsum("...dh,...hd->...", self.left, self.right)

    @property
    def transpose(self) -> "Factored":
        """The same matrices with their sides exchanged."""
        return Factored(jnp.swapaxes(self.right, -2, -1), jnp.swapaxes(self.left, -2, -1))

    def eigenvalues(self, between: Array | None = None) -> np.ndarray:
        """The H eigenvalues `[…,H]`, complex, that need not be 0: those of `right @ between @ left` `[H,H]`, in
        float64. `between` `[D,D]` is passed on the way from the right side back to the left, if anything is."""
        across = self.right if between is None else self.right @ between
        return np.linalg.eigvals(np.asarray(across, np.float64) @ np.asarray(self.left, np.float64))


def qk_circuit(model: Model, *, offset: int = 0, norms: bool = True, stack: str | None = None) -> Factored:
    """`W_Q W_Kᵀ` of every head, `[L,N]` of `[D,H]` times `[H,D]` (Elhage et al. 2021): a score is `x (W_Q W_Kᵀ) yᵀ`
    times the scale, which is left out, as are biases.

    Args:
        offset: how many positions the key lies before the query. Where positions are rotary the circuit depends on it:
            `W_Q R(offset) W_Kᵀ`, the query's side turned. Elsewhere it changes nothing.
        norms: take the scales of norms in: of the layer's, between the stream and the projections (see
            `jh.fold_norms`; LayerNorm's mean goes as well), and of a norm of each head's queries and keys. Such a norm
            also divides each query and key by its own size, which no weight tells: the circuit is then exact up to a
            positive factor for every query and every key.
        stack: the only one when left out. In cross-attention the right side reads the memory.

    Raises:
        ValueError: for a stack that is not there.
    """
    part, _ = head_weights(model, stack, norms=norms)
    blocks: Any = part.blocks
    turned = jax.vmap(lambda attention: _as_met(attention, offset, norms))(blocks.attention)
    W_Q, W_K = (jnp.moveaxis(_unshared(part, weight), 2, 1) for weight in turned)
    return Factored(W_Q, jnp.swapaxes(_expanded(W_K, part.heads), -2, -1))


def ov_circuit(model: Model, *, norms: bool = True, stack: str | None = None) -> Factored:
    """`W_V W_O` of every head, `[L,N]` of `[D,H]` times `[H,D]` (Elhage et al. 2021); biases are left out.

    Args:
        norms: take the scales of norms in, as in `qk_circuit`: before W_V, and where what heads write is normed
            (Gemma 2) after W_O, there up to that norm's positive divisor.
        stack: the only one when left out. In cross-attention the left side reads the memory.

    Raises:
        ValueError: for a stack that is not there.
    """
    part, weights = head_weights(model, stack, norms=norms)
    return Factored(_expanded(weights.W_V, part.heads), weights.W_O)


def head_weights(model: Model, stack: str | None, *, norms: bool) -> tuple[Stack, HeadWeights]:
    """A stack and its heads' weights, in float32; with `norms` as the layers' norms scale them."""
    part = model.stack(stack)
    if norms and part.blocks.residual:
        part = nnx.clone(part)
        fold_stack(part)
    weights = part.weights
    wide = {name: getattr(weights, name).astype(jnp.float32) for name in ("W_Q", "W_K", "W_V", "W_O")}
    if norms:

        def written(at: tuple[Array, Array]) -> Array:
            return part.block(at[0]).head_contribution(at[1], unit_stream(at[1]))

        wide["W_O"] = jax.lax.map(written, (jnp.arange(part.layers), wide["W_O"]))
    return part, HeadWeights(**wide, b_Q=weights.b_Q, b_K=weights.b_K, b_V=weights.b_V, b_O=weights.b_O)


def triangle(left: Array) -> Array:
    """R `[…,H',H]` of the thin QR decomposition of `[…,D,H]`: the same lengths in fewer numbers."""
    return jnp.linalg.qr(left, mode="r")


def _as_met(attention: Any, offset: int, norms: bool) -> tuple[Array, Array]:
    """One layer's W_Q `[D,N,H]` and W_K `[D,K,H]` as they meet in a score."""

    def met(weight_DNH: Array, norm: Any, position: int) -> Array:
        weight_DNH = weight_DNH.astype(jnp.float32)
        if norms and norm is not None:
            weight_DNH = weight_DNH * scale_and_bias(norm)[0].astype(jnp.float32)[None, None]
        return attention.rotate(weight_DNH[None], jnp.full((1, len(weight_DNH)), position))[0]

    queries_DNH = met(attention.W_Q[...], attention.q_norm, offset)
    return queries_DNH, met(attention.W_K[...], attention.k_norm, 0)


def _unshared(stack: Stack, per_block: Array) -> Array:
    """Layers first, where layers share blocks."""
    return per_block if stack.sharing is None else per_block[np.asarray(stack.sharing)]


def _expanded(weight_LKDH: Array, heads: int) -> Array:
    """Of each query head the key/value head that it takes."""
    return jnp.repeat(weight_LKDH, heads // weight_LKDH.shape[1], axis=1)
