"""Norms of what attention carries: ‖α f(x)‖ in place of α (Kobayashi et al. 2020, section 3).

Dimension key: B batch, T query positions, S key positions, K key/value heads, R query heads a key/value head, N = K R
query heads, H head dimension, D model dimension, L layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from ...checks import one_of
from ...models.attention.row_reader import RowReader
from ...models.stack import Stack

Of = Literal["weights", "norms", "raw_norms"]
"""The numbers that a metric reads as a head's pattern; see `pattern_read`."""


def check_of(of: str) -> None:
    """Raise ValueError unless `of` is one of Of."""
    one_of("of", of, get_args(Of))


def gram(stack: Stack) -> Array:
    """Return W_O W_Oᵀ of every head, float32 `[L,N,H,H]`."""
    # ‖v W_O‖² is v W_O W_Oᵀ vᵀ: no key needs a vector of D numbers.
    W_O = stack.weights.W_O.astype(jnp.float32)
    return jnp.einsum("lnhd,lngd->lnhg", W_O, W_O)


def pattern_read(of: Of, pattern_BNTS: Array, value_norms_BNS: Array | None, *, sinks: bool = False) -> Array:
    """Return the numbers that metrics read as a pattern, `[B,N,T,S]`, of all query rows or some.

    "weights" is the pattern α. "raw_norms" is ‖α f(x)‖, with f(x) = (x W_V + b_V) W_O of the head: the size of what a
    query receives from a key (the output's own bias comes from no key). "norms" divides each query's norms by their
    sum, so that metrics keep the scale of α: where all ‖f(x)‖ are equal it is α, and a key whose f(x) is 0 gets 0
    whatever its α. A row of zeros stays 0. With learnt sinks rows sum to less than 1, and "norms" keeps their sums.

    Args:
        value_norms_BNS: ‖f(x)‖ of every key; None for "weights".
    """
    if value_norms_BNS is None:
        return pattern_BNTS
    weights_BNTS = pattern_BNTS.astype(jnp.float32)
    norms_BNTS = weights_BNTS * value_norms_BNS[:, :, None, :]
    if of == "raw_norms":
        return norms_BNTS
    total_BNT1 = norms_BNTS.sum(axis=-1, keepdims=True)
    shares_BNTS = norms_BNTS / jnp.where(total_BNT1 > 0, total_BNT1, 1.0)
    return shares_BNTS * weights_BNTS.sum(axis=-1, keepdims=True) if sinks else shares_BNTS


def value_norms(v_BSKH: Array, gram_NHH: Array) -> Array:
    """Return ‖f(x)‖ of every key, `[B,N,S]`, by its layer's values and `gram`."""
    v_BSKH = v_BSKH.astype(jnp.float32)
    B, S, K, H = v_BSKH.shape
    product_BKRSH = jnp.einsum("bskh,krhg->bkrsg", v_BSKH, gram_NHH.reshape(K, -1, H, H))
    squared_BKRS = jnp.einsum("bkrsg,bskg->bkrs", product_BKRSH, v_BSKH)
    return jnp.sqrt(jnp.maximum(squared_BKRS, 0.0)).reshape(B, -1, S)


@dataclass(frozen=True)
class OfNorms:
    """A `RowReader` that hands norms to another one in place of weights.

    Attributes:
        reader: the other one.
        shape: examples, heads and keys, `[B,N,S]`.
        gram_LNHH: as `gram` gives it.
        sinks: whether heads have learnt sinks.
    """

    reader: RowReader
    of: Of
    shape: tuple[int, int, int]
    gram_LNHH: Array
    sinks: bool

    def start(self) -> tuple[Array, Any]:
        """Return the keys' norms, which the first rows compute, beside the other reader's sums."""
        return jnp.zeros(self.shape), self.reader.start()

    def add(self, sums: tuple[Array, Any], sites: Mapping[str, Array], first: Array | int) -> tuple[Array, Any]:
        """Return the sums with those of the query rows from `first` on."""
        known_BNS, own = sums

        def norms() -> Array:
            return value_norms(sites["v"], self.gram_LNHH[sites["layer"]])

        norms_BNS = norms() if isinstance(first, int) else jax.lax.cond(first == 0, norms, lambda: known_BNS)
        read = pattern_read(self.of, sites["pattern"], norms_BNS, sinks=self.sinks)
        return norms_BNS, self.reader.add(own, {**sites, "pattern": read}, first)

    def finish(self, sums: tuple[Array, Any]) -> Any:
        """Return what the other reader returns."""
        return self.reader.finish(sums[1])
