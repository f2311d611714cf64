"""What two heads can be compared by, each a function of one example's sites in all layers.

Dimension key: L layers, N heads a layer, K key/value heads, M = L N heads, T query positions, S key positions, H head
dimension, D model dimension, F features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from ..patterns.positions import TINY

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """One way to compare.

    Attributes:
        function: from one example's sites (layers first), the real queries `[T]` and keys `[S]`, and N, to `[M,M]`.
        sites: what it reads.
        needs_output: whether it reads W_O as well, `[L,N,H,D]`.
        is_distance: whether 0 means alike.
        most: the largest distance.
        ratio: whether the table's number is the mean row divided by the root of its diagonals.
        summed: whether it is the sum over examples, not the mean.
        least: how many real positions an example needs.
    """

    function: Callable[[Mapping[str, Array], Array, Array, int], Array]
    sites: tuple[str, ...]
    needs_output: bool = False
    is_distance: bool = False
    most: float = 1.0
    ratio: bool = False
    summed: bool = False
    least: int = 1

    def of_mean(self, row: Floats, examples: int) -> Floats:
        """The table's number from the mean of rows."""
        if self.summed:
            return row * examples
        if not self.ratio:
            return row
        own = np.sqrt(np.maximum(np.diagonal(row), 0))
        scale = own[:, None] * own[None, :]
        return np.where(scale > 0, row / np.where(scale > 0, scale, 1), np.nan)

    def similarity(self, values: Floats) -> Floats:
        """From 0 to 1."""
        if not self.is_distance:
            own = np.sqrt(np.maximum(np.diagonal(values), TINY))
            return np.clip(values / own[:, None] / own[None, :], 0, 1)
        return 1 - np.clip(values / (values.max() if self.summed else self.most), 0, 1)


def _divergence(smoothing: float, per_token: bool) -> Callable[[Mapping[str, Array], Array, Array, int], Array]:
    def function(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
        del heads
        n = jnp.maximum(keys.sum(dtype=jnp.float32), 1.0)
        p_LNTS = seen["pattern"].astype(jnp.float32)
        p_LNTS = jnp.where(keys[None, None, None, :], (1 - smoothing) * p_LNTS + smoothing / n, 0.0)
        p_MTS = jnp.where(queries[None, None, :, None], p_LNTS, 0.0).reshape(-1, *p_LNTS.shape[2:])
        own_M = _entropy(p_MTS)

        def with_all(p_TS: Array) -> Array:
            return _entropy((p_TS[None] + p_MTS) / 2)

        total_MM = jax.lax.map(with_all, p_MTS) - (own_M[:, None] + own_M[None, :]) / 2
        total_MM = jnp.maximum(total_MM, 0.0)
        return total_MM / jnp.maximum(queries.sum(dtype=jnp.float32), 1.0) if per_token else total_MM

    return function


def _entropy(p_MTS: Array) -> Array:
    return -(p_MTS * jnp.log(jnp.maximum(p_MTS, TINY))).sum(axis=(1, 2))


def _cosine(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
    del heads
    unit_MF = _unit(_real(seen["pattern"], queries, keys).reshape(-1, queries.size * keys.size))
    return unit_MF @ unit_MF.T


def _overlap(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
    del heads
    A_MF = _real(seen["pattern"], queries, keys).reshape(-1, queries.size * keys.size)
    return A_MF @ A_MF.T / jnp.maximum(queries.sum(dtype=jnp.float32), 1.0)


def _real(pattern_LNTS: Array, queries: Array, keys: Array) -> Array:
    real_TS = queries[:, None] & keys[None, :]
    return jnp.where(real_TS[None, None], pattern_LNTS.astype(jnp.float32), 0.0)


def _values(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
    del queries
    v_LSKH = seen["v"]
    return _along(jnp.repeat(v_LSKH, heads // v_LSKH.shape[2], axis=2), keys)


def _outputs(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
    del keys, heads
    return _along(seen["z"], queries)


def _along(x_LTNH: Array, real_T: Array) -> Array:
    """Cosines at each real position, averaged over these."""
    x_TMH = jnp.moveaxis(x_LTNH.astype(jnp.float32), 1, 0).reshape(x_LTNH.shape[1], -1, x_LTNH.shape[3])
    unit_TMH = jnp.where(real_T[:, None, None], _unit(x_TMH), 0.0)
    return jnp.einsum("tah,tbh->ab", unit_TMH, unit_TMH) / jnp.maximum(real_T.sum(dtype=jnp.float32), 1.0)


def _unit(x: Array) -> Array:
    size = jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True))
    return x / jnp.where(size > 0, size, 1.0)


def _kernel_independence(seen: Mapping[str, Array], queries: Array, keys: Array, heads: int) -> Array:
    """The unbiased estimate of HSIC of what every two heads write, with linear kernels: `[M,M]`."""
    del keys, heads
    z_LTNH, W_O_LNHD = seen["z"].astype(jnp.float32), seen["W_O"].astype(jnp.float32)
    gram_LNHH = jnp.einsum("lnhd,lngd->lnhg", W_O_LNHD, W_O_LNHD)
    values_LNH, vectors_LNHH = jnp.linalg.eigh(gram_LNHH)
    roots_LNHH = vectors_LNHH * jnp.sqrt(jnp.maximum(values_LNH, 0.0))[:, :, None, :]
    x_LNTH = jnp.einsum("ltnh,lnhg->lntg", z_LTNH, roots_LNHH)  # as long and as far apart as z W_O, in H numbers
    x_MTH = x_LNTH.reshape(-1, *x_LNTH.shape[2:])
    n = queries.sum(dtype=jnp.float32)
    real_1T1 = queries[None, :, None]
    mean_M1H = jnp.where(real_1T1, x_MTH, 0.0).sum(axis=1, keepdims=True) / jnp.maximum(n, 1.0)
    return _unbiased_hsic(jnp.where(real_1T1, x_MTH - mean_M1H, 0.0), n)


def _unbiased_hsic(x_MTH: Array, n: Array) -> Array:
    """Song et al. 2012 (equation 5), without a T × T kernel: with K = X Xᵀ less its diagonal,
    (tr KL + 1ᵀK1 1ᵀL1 / (n−1)(n−2) − 2 / (n−2) 1ᵀKL1) / n(n−3)."""
    own_MT = jnp.square(x_MTH).sum(axis=-1)  # the diagonals
    sums_MT = jnp.einsum("mth,mh->mt", x_MTH, x_MTH.sum(axis=1)) - own_MT  # K 1
    totals_M = sums_MT.sum(axis=1)

    def with_all(x_TH: Array) -> Array:
        return jnp.square(jnp.einsum("th,mtg->mhg", x_TH, x_MTH)).sum(axis=(1, 2))

    traces_MM = jax.lax.map(with_all, x_MTH) - own_MT @ own_MT.T
    products_MM = sums_MT @ sums_MT.T
    cross_MM = totals_M[:, None] * totals_M[None, :] / ((n - 1) * (n - 2))
    return (traces_MM + cross_MM - 2 / (n - 2) * products_MM) / (n * (n - 3))


PAIRS: Mapping[str, Pairs] = MappingProxyType(
    {
        "js": Pairs(_divergence(0.0, True), ("pattern",), is_distance=True, most=float(np.log(2))),
        "js_sum": Pairs(_divergence(1e-3, False), ("pattern",), is_distance=True, summed=True),
        "cosine": Pairs(_cosine, ("pattern",)),
        "overlap": Pairs(_overlap, ("pattern",)),
        "values": Pairs(_values, ("v",)),
        "outputs": Pairs(_outputs, ("z",)),
        "cka": Pairs(_kernel_independence, ("z",), needs_output=True, ratio=True, least=4),
    }
)
"""What `compare_heads` compares by:

- "js": Jensen–Shannon divergence of the patterns' rows, in nats, mean over queries, from 0 to log 2.
- "js_sum": as Clark et al. 2019 (section 6) have it: rows smoothed by 0.001 / n, summed over queries and examples.
- "cosine": of the patterns, flattened, from 0 to 1 (Kovaleva et al. 2019; Bian et al. 2021).
- "overlap": Σ_k A_i A_j, mean over queries, from 0 to 1: D_pos of Li et al. 2018, whose paper does not say how it is
  normalised over positions.
- "values", "outputs": cosine of v, of z, at each position, mean over these, from −1 to 1: D_sub and D_out of Li et al.
  2018. Query heads that share a value head have 1.
- "cka": centred kernel alignment of what heads write, z W_O, with a linear kernel, debiased: 1 under rotation and scale
  (Kornblith et al. 2019), 0 on average where independent. Estimated example by example and averaged before the ratio
  is taken (Nguyen et al. 2021, section 3.1), so an example needs 4 tokens; it may fall below 0.
"""
