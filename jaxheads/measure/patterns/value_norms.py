"""Norms of what attention carries: ‖α f(x)‖ in place of α (Kobayashi et al. 2020, section 3).

Dimension key: B batch, T query positions, S key positions, K key/value heads, R query heads a key/value head, N = K R
query heads, H head dimension, D model dimension, L layers.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array

from ...checks import one_of
from ...models.stack import Sites, Stack

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


def pattern_read(of: Of, sites: Sites, gram_LNHH: Array | None, *, sinks: bool = False) -> Array:
    """Return the numbers that metrics read as a pattern, `[B,N,T,S]`.

    "weights" is the pattern α. "raw_norms" is ‖α f(x)‖, with f(x) = (x W_V + b_V) W_O of the head: the size of what a
    query receives from a key (the output's own bias comes from no key). "norms" divides each query's norms by their
    sum, so that metrics keep the scale of α: where all ‖f(x)‖ are equal it is α, and a key whose f(x) is 0 gets 0
    whatever its α. A row of zeros stays 0. With learnt sinks rows sum to less than 1, and "norms" keeps their sums.
    """
    if gram_LNHH is None:
        return sites["pattern"]
    value_norms_BNS = _value_norms(sites["v"], gram_LNHH[sites["layer"]])
    norms_BNTS = sites["pattern"].astype(jnp.float32) * value_norms_BNS[:, :, None, :]
    if of == "raw_norms":
        return norms_BNTS
    total_BNT1 = norms_BNTS.sum(axis=-1, keepdims=True)
    shares_BNTS = norms_BNTS / jnp.where(total_BNT1 > 0, total_BNT1, 1.0)
    return shares_BNTS if not sinks else shares_BNTS * sites["pattern"].astype(jnp.float32).sum(axis=-1, keepdims=True)


def _value_norms(v_BSKH: Array, gram_NHH: Array) -> Array:
    """Return ‖f(x)‖ of every key, `[B,N,S]`."""
    v_BSKH = v_BSKH.astype(jnp.float32)
    B, S, K, H = v_BSKH.shape
    product_BKRSH = jnp.einsum("bskh,krhg->bkrsg", v_BSKH, gram_NHH.reshape(K, -1, H, H))
    squared_BKRS = jnp.einsum("bkrsg,bskg->bkrs", product_BKRSH, v_BSKH)
    return jnp.sqrt(jnp.maximum(squared_BKRS, 0.0)).reshape(B, -1, S)
