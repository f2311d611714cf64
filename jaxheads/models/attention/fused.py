"""Attention in one kernel, on TPUs, where nothing reads or edits scores and patterns: Pallas' splash attention.

No score leaves the chip, and blocks of keys after a query are left out.

Dimension key: B batch, T query positions, S key positions, N query heads, K key/value heads, H head dimension.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .row_edits import RowEdit
from .scoring import Scoring, readable

BLOCK = 512
"""Queries and keys of a block; long sequences are padded to a multiple."""


def can_fuse(scoring: Scoring) -> bool:
    """Return whether the kernel computes what this scoring does: no biases, windows, sinks, packed texts or edits."""
    mask, edit = scoring.mask, scoring.edit
    plain = isinstance(edit, RowEdit) and not edit.of_queries and not edit.readers
    described = mask.real is not None and mask.texts is None and mask.near is None and mask.edges is None
    consecutive = mask.columns is None or mask.first is not None
    one_scale = not isinstance(scoring.scale, Array) or scoring.scale.ndim == 0
    return plain and described and consecutive and one_scale and scoring.bias is None and scoring.sinks is None


def fused(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, scoring: Scoring, *, interpret: bool = False) -> Array:
    """Return z `[B,T,N,H]` before its edit, of a scoring that `can_fuse`.

    Products have the precision that is set around it (`jax.default_matmul_precision`).

    Args:
        interpret: run the kernel's steps one by one, on any platform.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

    (B, T, _, _), mask, values = q_BTNH.shape, scoring.mask, readable(v_BSKH)
    assert mask.real is not None, "`can_fuse` has looked"
    q_BTNH = q_BTNH * jnp.asarray(scoring.scale, q_BTNH.dtype)
    q_BNTH, k_BKSH, v_BKSH = (jnp.moveaxis(_padded(x, BLOCK), 2, 1) for x in (q_BTNH, k_BSKH, values.finite))
    kernel = _kernel(q_BNTH.shape, k_BKSH.shape[2], mask.first, scoring.cap, interpret)
    real_BS = _padded(jnp.broadcast_to(mask.real, k_BSKH.shape[:2]), BLOCK).astype(jnp.int32)
    # Padding is a text of its own, and queries are all of the real one: those at padding count for nothing.
    ids = kernels.SegmentIds(jnp.ones((B, q_BNTH.shape[2]), jnp.int32), real_BS)
    z_BTNH = jnp.moveaxis(jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, ids), 1, 2)[:, :T]
    return jnp.where(_reads_broken(values.broken != 0, scoring, T, q_BTNH.shape[2])[..., None], jnp.nan, z_BTNH)


def _kernel(shape: tuple[int, ...], keys: int, first: int | None, cap: float | None, interpret: bool) -> Any:
    """Return the kernel of one example, for queries of this shape `[B,N,T,H]`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, N, T, _ = shape
    of_head = masks.FullMask((T, keys)) if first is None else _causal_mask()((T, keys), offset=first)
    size = min(BLOCK, T, keys)
    backward: dict[str, Any] = {f"block_{axis}_{of}": size for of in ("dq", "dkv") for axis in ("q", "kv")}
    sizes = kernels.BlockSizes(size, size, size, block_kv_dkv_compute=size, **backward)
    return kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([of_head] * N), block_sizes=sizes, attn_logits_soft_cap=cap, interpret=interpret
    )


@cache
def _causal_mask() -> Any:
    """Return the class of causal masks; a function, because Pallas is slow to import."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    class Causal(masks.CausalMask):
        """A causal mask whose blocks off the diagonal are one value: of long sequences all pairs take minutes."""

        def __getitem__(self, idx: Any) -> np.ndarray:
            queries, columns = idx
            if columns.start >= queries.stop + self.offset:
                return np.zeros((1, 1), bool)
            if columns.stop - 1 <= queries.start + self.offset:
                return np.ones((1, 1), bool)
            return super().__getitem__(idx)

    return Causal


def _padded(x: Array, multiple: int) -> Array:
    """Return `x` with zeros on its second axis, up to a multiple."""
    missing = -x.shape[1] % multiple
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0) for _ in x.shape[2:]))) if missing else x


def _reads_broken(broken_BSK: Array, scoring: Scoring, queries: int, heads: int) -> Array:
    """Return whether a query sees a value that is not finite, bool `[B,T,N]`, whatever its weight is."""
    mask = scoring.mask
    assert mask.real is not None, "`can_fuse` has looked"
    seen_BSK = (broken_BSK & mask.real[:, :, None]).astype(jnp.int32)
    if mask.first is None:
        count_BTK = jnp.broadcast_to(seen_BSK.sum(axis=1, keepdims=True), (len(seen_BSK), queries, seen_BSK.shape[2]))
    else:
        count_BTK = jnp.cumsum(seen_BSK, axis=1)[:, mask.first : mask.first + queries]
    return jnp.repeat(count_BTK > 0, heads // broken_BSK.shape[2], axis=2)
