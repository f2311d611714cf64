"""What attention carries: ‖α f(x)‖ in place of α (Kobayashi et al. 2020, section 3).

Dimension key: B batch, T query positions, S key positions, K key/value heads, R query heads a key/value head, N = K R
query heads, H head dimension, D model dimension, L layers.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array

from ...models.stack import Sites, Stack

Of = Literal["weights", "norms", "raw_norms"]
"""What a metric reads as a head's pattern; see `reading`."""


def check_of(of: str) -> None:
    """Raise ValueError for what is not one of Of."""
    if of not in get_args(Of):
        raise ValueError(f"of must be one of {', '.join(get_args(Of))}; got {of!r}")


def gram(stack: Stack) -> Array:
    """W_O W_Oᵀ of every head, float32 `[L,N,H,H]`: ‖v W_O‖² is v W_O W_Oᵀ vᵀ, without a vector of D for each key."""
    W_O = stack.weights.W_O.astype(jnp.float32)
    return jnp.einsum("lnhd,lngd->lnhg", W_O, W_O)


def reading(of: Of, seen: Sites, gram_LNHH: Array | None) -> Array:
    """What stands for the pattern, `[B,N,T,S]`.

    "weights" is the pattern α. "raw_norms" is ‖α f(x)‖, with f(x) = (x W_V + b_V) W_O of the head: the size of what a
    query is sent from a key (the output's own bias is no key's). "norms" is the same, each query's divided by their
    sum, so that what is read of it is on α's scale: where all ‖f(x)‖ are equal it is α, and a key whose f(x) is 0 gets
    0 whatever its α. A row of nothing stays 0.
    """
    if gram_LNHH is None:
        return seen["pattern"]
    carried_BNTS = seen["pattern"].astype(jnp.float32) * _sizes(seen["v"], gram_LNHH[seen["layer"]])[:, :, None, :]
    if of == "raw_norms":
        return carried_BNTS
    total_BNT1 = carried_BNTS.sum(axis=-1, keepdims=True)
    return carried_BNTS / jnp.where(total_BNT1 > 0, total_BNT1, 1.0)


def _sizes(v_BSKH: Array, gram_NHH: Array) -> Array:
    """‖f(x)‖ of every key, `[B,N,S]`."""
    v_BSKH = v_BSKH.astype(jnp.float32)
    B, S, K, H = v_BSKH.shape
    turned = jnp.einsum("bskh,krhg->bkrsg", v_BSKH, gram_NHH.reshape(K, -1, H, H))
    squared = jnp.einsum("bkrsg,bskg->bkrs", turned, v_BSKH)
    return jnp.sqrt(jnp.maximum(squared, 0.0)).reshape(B, -1, S)
