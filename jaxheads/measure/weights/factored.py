"""QK and OV circuits of all heads as products of two thin matrices, which are never multiplied out.

Dimension key: L layers, N query heads, K key/value heads, D model dimension, H head dimension.

Vectors are rows: a head adds `x W_V W_O` of the position it attends to, and its score is `(x W_Q)(y W_K)ᵀ`. In a
grouped-query model query head n uses key/value head `n // (N // K)`: factors are repeated so that all N have their own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...arguments import checked
from ...models.folding import fold_stack
from ...models.model import Model
from ...models.norms import centred, scale_and_bias, unit_stream
from ...models.stack import HeadWeights, Stack
from ...programs import compiled


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factored:
    """Matrices `left @ right` of low rank, `[…,D,H]` times `[…,H,D]`, with norms and eigenvalues from small products.

    Indexing selects heads (`circuit[layer, head]`); `left @ right` of one head is a matrix `[D,D]`.
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
        """The transposed matrices, factored."""
        return Factored(jnp.swapaxes(self.right, -2, -1), jnp.swapaxes(self.left, -2, -1))

    @checked()
    def eigenvalues(self, between: Array | None = None) -> np.ndarray:
        """Return the H eigenvalues `[…,H]`, complex, that can differ from 0, computed in float64.

        They are those of `right @ left`, `[H,H]`, or of `right @ between @ left` for a map `between`, `[D,D]`.
        """
        right = self.right if between is None else self.right @ between
        return np.linalg.eigvals(np.asarray(right, np.float64) @ np.asarray(self.left, np.float64))


@checked()
def qk_circuit(model: Model, *, offset: int = 0, norms: bool = True, stack: str | None = None) -> Factored:
    """Return `W_Q W_Kᵀ` of every head, `[L,N]` of `[D,H]` times `[H,D]` (Elhage et al. 2021).

    A score is `x (W_Q W_Kᵀ) yᵀ` times the attention's scale, which is left out, as are biases and the clipping of
    queries and keys (OLMo).

    Args:
        offset: how many positions the key is before the query. With rotary positions the circuit depends on it:
            `W_Q R(offset) W_Kᵀ`. Without them it changes nothing.
        norms: include the scales of norms: of the layer's, between the stream and the projections (see
            `jh.fold_norms`; LayerNorm's mean subtraction is folded as well), and of a norm of each head's queries and
            keys. Such a norm also divides each query and key by its own size, which no weight determines: the circuit
            is then exact up to a positive factor for every query and every key.
        stack: whose heads; the only stack when left out. In cross-attention the right side reads the memory.

    Raises:
        ValueError: for an unknown stack.
    """
    return _qk_circuit(model.stack(stack), offset, norms)


@checked()
def ov_circuit(model: Model, *, norms: bool = True, stack: str | None = None) -> Factored:
    """Return `W_V W_O` of every head, `[L,N]` of `[D,H]` times `[H,D]` (Elhage et al. 2021), without biases.

    Args:
        norms: include the scales of norms, as in `qk_circuit`: before W_V, and where the heads' output is normed
            (Gemma 2) after W_O, there up to that norm's positive divisor.
        stack: whose heads; the only stack when left out. In cross-attention the left side reads the memory.

    Raises:
        ValueError: for an unknown stack.
    """
    return _ov_circuit(model.stack(stack), norms)


@partial(compiled, static_argnames=("offset", "norms"))
def _qk_circuit(stack: Stack, offset: int, norms: bool) -> Factored:
    chosen, _ = _head_weights(stack, norms=norms)
    blocks: Any = chosen.blocks
    rotated = jax.vmap(lambda attention: _query_key_weights(attention, offset, norms))(blocks.attention)
    W_Q, W_K = (jnp.moveaxis(_per_layer(chosen, weight), 2, 1) for weight in rotated)
    return Factored(W_Q, jnp.swapaxes(_per_query_head(W_K, chosen.heads), -2, -1))


@partial(compiled, static_argnames="norms")
def _ov_circuit(stack: Stack, norms: bool) -> Factored:
    chosen, weights = _head_weights(stack, norms=norms)
    return Factored(_per_query_head(weights.W_V, chosen.heads), weights.W_O)


def _head_weights(chosen: Stack, *, norms: bool) -> tuple[Stack, HeadWeights]:
    """Return a stack and its heads' weights in float32; with `norms`, scaled as the layers' norms scale them."""
    if norms and chosen.blocks.residual:
        chosen = nnx.clone(chosen)
        fold_stack(chosen)
    weights = chosen.weights
    wide = {name: getattr(weights, name).astype(jnp.float32) for name in ("W_Q", "W_K", "W_V", "W_O")}
    if norms:

        def contribution(layer_and_weight: tuple[Array, Array]) -> Array:
            layer, W_O = layer_and_weight
            return chosen.block(layer).head_contribution(W_O, unit_stream(W_O))

        wide["W_O"] = jax.lax.map(contribution, (jnp.arange(chosen.layers), wide["W_O"]))
    return chosen, HeadWeights(**wide, b_Q=weights.b_Q, b_K=weights.b_K, b_V=weights.b_V, b_O=weights.b_O)


def triangle(left: Array) -> Array:
    """Return R `[…,H',H]` of the thin QR decomposition of `[…,D,H]`, which has the norms of `left` in fewer rows."""
    return jnp.linalg.qr(left, mode="r")


def _query_key_weights(attention: Any, offset: int, norms: bool) -> tuple[Array, Array]:
    """Return one layer's W_Q `[D,N,H]` and W_K `[D,K,H]`, scaled and rotated, so that their product is a score."""

    def rotated(weight_DNH: Array, norm: Any, position: int) -> Array:
        weight_DNH = weight_DNH.astype(jnp.float32)
        if norms and norm is not None:
            weight_DNH = weight_DNH - jnp.where(centred(norm)[..., None], weight_DNH.mean(axis=-1, keepdims=True), 0)
            # one scale for all heads, or one for each
            weight_DNH = weight_DNH * scale_and_bias(norm)[0].astype(jnp.float32).reshape(1, -1, weight_DNH.shape[-1])
        # rows of the weight take the axis of positions: all are rotated as the vector of one position would be
        return attention.rotate(weight_DNH[None], jnp.full((1, len(weight_DNH)), position))[0]

    queries_DNH = rotated(attention.W_Q[...], attention.q_norm, offset)
    return queries_DNH, rotated(attention.by_reader(attention.W_K[...], 1), attention.k_norm, 0)


def _per_layer(stack: Stack, per_block: Array) -> Array:
    """Repeat blocks that several layers share, `[L,…]`."""
    return per_block if stack.sharing is None else per_block[np.asarray(stack.sharing)]


def _per_query_head(weight_LKDH: Array, heads: int) -> Array:
    """Repeat each key/value head for the query heads that use it, `[L,N,D,H]`."""
    return jnp.repeat(weight_LKDH, heads // weight_LKDH.shape[1], axis=1)
