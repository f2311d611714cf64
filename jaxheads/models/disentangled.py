"""Disentangled attention (He et al. 2021): scores compare contents with relative positions too.

Dimension key: B batch, T query positions, S key positions, N heads, H head dimension, D model dimension, R rows of the
embedding of relative positions.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .attention.attend import attend
from .attention.row_edits import Edit
from .inputs.attention_inputs import AttentionInputs, RelativePositions
from .inputs.query_rows import Take
from .layers import Attention, affine

CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"


class DisentangledAttention(Attention):
    """Attention whose scores are (q·k + q·position + position·k) / sqrt(terms * H): equation 4 of the paper.

    The position terms are part of the scores. They are computed of the queries and keys as these are used, so that an
    edited query changes its term. Positions are projected by W_Q and W_K, or by P_Q and P_K `[D,N,H]`, with biases
    p_Q and p_K `[N,H]` or None.

    Args:
        kinds: terms of the scores, of "c2p" (queries and positions) and "p2c" (positions and keys).
        relative: whether the terms are computed; if not, they count in the scale alone.
        own: biases by the names of the positions' own projections ("P_K", "P_Q"); none where W_K and W_Q serve.
    """

    def __init__(
        self,
        model: int,
        heads: int,
        head: int,
        kinds: Collection[str],
        *,
        relative: bool,
        own: Mapping[str, bool],
        rngs: nnx.Rngs,
        **more: Any,
    ):
        super().__init__(model, heads, head, scale=(head * (1 + len(kinds))) ** -0.5, rngs=rngs, **more)
        self.kinds = tuple(kinds) if relative else ()
        self.own = tuple(own)

        def weight(name: str) -> nnx.Param | None:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (model, heads, head))) if name in own else None

        def bias(name: str) -> nnx.Param | None:
            return nnx.Param(jnp.zeros((heads, head))) if own.get(name) else None

        self.P_Q, self.P_K = weight("P_Q"), weight("P_K")
        self.p_Q, self.p_K = bias("P_Q"), bias("P_K")

    def attend(self, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, context: AttentionInputs, edit: Edit):
        """Call `attend` with the position terms as a bias."""
        bias = None
        if self.kinds:
            assert context.relative is not None, "a network with these layers gives them relative positions"
            bias = PositionTerms(self._position_terms, context.relative)
        return attend(q_BTNH, k_BSKH, v_BSKH, context.mask, scale=self.scale, bias=bias, edit=edit)

    def _position_terms(self, relative: RelativePositions, q_BTNH: Array, k_BSNH: Array) -> Array:
        """Return the scaled sum of the position terms, `[B,N,T,S]`."""
        terms, index_BTS = [], relative.index
        if CONTENT_TO_POSITION in self.kinds:
            terms_BNTR = jnp.einsum("btnh,rnh->bntr", q_BTNH, self._projected(relative.embedding, "K"))
            terms.append(jnp.take_along_axis(terms_BNTR, index_BTS[:, None], axis=3))
        if POSITION_TO_CONTENT in self.kinds:
            terms_BNSR = jnp.einsum("bsnh,rnh->bnsr", k_BSNH, self._projected(relative.embedding, "Q"))
            terms_BNST = jnp.take_along_axis(terms_BNSR, index_BTS.swapaxes(1, 2)[:, None], axis=3)
            terms.append(terms_BNST.swapaxes(2, 3))
        return sum(terms[1:], terms[0]) * jnp.asarray(self.scale, q_BTNH.dtype)

    def _projected(self, embedding_RD: Array, letter: str) -> Array:
        """Return the positions' keys or queries, `[R,N,H]`."""
        own = getattr(self, f"P_{letter}")
        weight, bias = (own, getattr(self, f"p_{letter}")) if own is not None else self._shared(letter)
        return affine("rd,dnh->rnh", embedding_RD, weight[...], None if bias is None else bias[...])

    def _shared(self, letter: str) -> tuple[Array, Array | None]:
        weight, bias = getattr(self, f"W_{letter}")[...], getattr(self, f"b_{letter}")
        if letter == "Q":
            return weight, bias
        return self.by_reader(weight, 1), None if bias is None else self.by_reader(bias[...], 0)


class PositionTerms(NamedTuple):
    """The position terms of the scores as a bias, of any query rows.

    Attributes:
        terms: function of relative positions, queries and keys.
    """

    terms: Callable[[RelativePositions, Array, Array], Array]
    relative: RelativePositions

    def __call__(self, q_BTNH: Array, k_BSNH: Array) -> Array:
        """Return the terms of these queries and all keys, `[B,N,T,S]`."""
        return self.terms(self.relative, q_BTNH, k_BSNH)

    def rows(self, take: Take) -> "PositionTerms":
        """Return the terms of the chosen query rows."""
        return self._replace(relative=self.relative.rows(take))


def distances(count: int, buckets: int, furthest: int) -> np.ndarray:
    """Return the row, relative to that of distance 0, of each distance from 0 to `count` - 1, int32.

    Without buckets (0 or less), distances are rows. Else those up to half of the buckets are, and longer ones share
    rows in equal steps of their logarithm: the code of the paper's version 2.
    """
    away = np.arange(count)
    middle = buckets // 2
    if buckets <= 0 or furthest <= 0:
        return away.astype(np.int32)
    # In float32, and rounded up, as transformers does: rounding decides at the edge of a bucket.
    far = np.maximum(away, middle - 1).astype(np.float32) / np.float32(middle)
    share = np.log(far) / np.log(np.float32((furthest - 1) / middle))
    shared = np.ceil(share * np.float32(middle - 1)) + middle
    return np.where(away <= middle, away, shared).astype(np.int32)
