"""Comparisons of two heads, each a function of one example's sites in all layers.

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

from ...statistics.base import Floats
from ..patterns.positions import TINY

Function = Callable[[Mapping[str, Array], Array, Array, int], Array]
"""Function of one example's sites (layers first), masks of its queries `[T]` and keys `[S]`, and N; returns `[M,M]`."""


@dataclass(frozen=True)
class Comparison:
    """A way to compare two heads.

    Attributes:
        function: compares all heads of one example.
        sites: the sites it reads.
        needs_output: whether it reads W_O as well, `[L,N,H,D]`.
        is_distance: whether 0 means alike.
        most: the largest number.
        ratio: whether the table's number is the mean over examples divided by the root of its diagonals.
        summed: whether it is the sum over examples, not the mean.
        least: the number of real positions that an example needs.
        lowest: the least similarity.
    """

    function: Function
    sites: tuple[str, ...]
    needs_output: bool = False
    is_distance: bool = False
    most: float = 1.0
    ratio: bool = False
    summed: bool = False
    least: int = 1
    lowest: float = 0.0

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest number of the table, infinite where there is none."""
        if self.ratio or self.summed:
            return (-np.inf if self.ratio else 0.0), np.inf
        return self.lowest, self.most

    def of_mean(self, mean_MM: Floats, examples: int) -> Floats:
        """Return the table's numbers from the mean over examples."""
        if self.summed:
            return mean_MM * examples
        if not self.ratio:
            return mean_MM
        root_M = np.sqrt(np.maximum(np.diagonal(mean_MM), 0))
        scale_MM = root_M[:, None] * root_M[None, :]
        return np.where(scale_MM > 0, mean_MM / np.where(scale_MM > 0, scale_MM, 1), np.nan)

    def similarity(self, values_MM: Floats) -> Floats:
        """Return the table's numbers as similarities from 0 to 1."""
        if not self.is_distance:
            root_M = np.sqrt(np.maximum(np.diagonal(values_MM), TINY))
            return np.clip(values_MM / root_M[:, None] / root_M[None, :], 0, 1)
        return 1 - np.clip(values_MM / (values_MM.max() if self.summed else self.most), 0, 1)


def _divergence(smoothing: float, per_token: bool) -> Function:
    def divergence(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
        del heads
        n = jnp.maximum(keys_S.sum(dtype=jnp.float32), 1.0)
        p_LNTS = sites["pattern"].astype(jnp.float32)
        p_LNTS = jnp.where(keys_S[None, None, None, :], (1 - smoothing) * p_LNTS + smoothing / n, 0.0)
        if (to_sink_LNT := sites.get("to_sink")) is not None:
            # A learnt sink is one more key: else rows with little attention to keys would look alike.
            to_sink_LNT1 = (1 - smoothing) * to_sink_LNT[..., None]
            p_LNTS = jnp.concatenate([p_LNTS, to_sink_LNT1], axis=-1)
        p_MTS = jnp.where(queries_T[None, None, :, None], p_LNTS, 0.0).reshape(-1, *p_LNTS.shape[2:])
        entropy_M = _entropy(p_MTS)

        def entropy_of_mixtures(p_TS: Array) -> Array:
            return _entropy((p_TS[None] + p_MTS) / 2)

        # One head against all others at a time: all pairs of patterns at once would be [M,M,T,S].
        total_MM = jax.lax.map(entropy_of_mixtures, p_MTS) - (entropy_M[:, None] + entropy_M[None, :]) / 2
        total_MM = jnp.maximum(total_MM, 0.0)
        return total_MM / jnp.maximum(queries_T.sum(dtype=jnp.float32), 1.0) if per_token else total_MM

    return divergence


def _entropy(p_MTS: Array) -> Array:
    return -(p_MTS * jnp.log(jnp.maximum(p_MTS, TINY))).sum(axis=(1, 2))


def _cosine(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
    del heads
    unit_MF = _unit(_real(sites["pattern"], queries_T, keys_S).reshape(-1, queries_T.size * keys_S.size))
    return unit_MF @ unit_MF.T


def _overlap(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
    del heads
    A_MF = _real(sites["pattern"], queries_T, keys_S).reshape(-1, queries_T.size * keys_S.size)
    return A_MF @ A_MF.T / jnp.maximum(queries_T.sum(dtype=jnp.float32), 1.0)


def _real(pattern_LNTS: Array, queries_T: Array, keys_S: Array) -> Array:
    real_TS = queries_T[:, None] & keys_S[None, :]
    return jnp.where(real_TS[None, None], pattern_LNTS.astype(jnp.float32), 0.0)


def _values(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
    del queries_T
    v_LSKH = sites["v"]
    return _mean_cosine(jnp.repeat(v_LSKH, heads // v_LSKH.shape[2], axis=2), keys_S)


def _outputs(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
    del keys_S, heads
    return _mean_cosine(sites["z"], queries_T)


def _mean_cosine(x_LTNH: Array, real_T: Array) -> Array:
    """Return the cosines of all heads' vectors, averaged over real positions, `[M,M]`."""
    x_TMH = jnp.moveaxis(x_LTNH.astype(jnp.float32), 1, 0).reshape(x_LTNH.shape[1], -1, x_LTNH.shape[3])
    unit_TMH = jnp.where(real_T[:, None, None], _unit(x_TMH), 0.0)
    return jnp.einsum("tah,tbh->ab", unit_TMH, unit_TMH) / jnp.maximum(real_T.sum(dtype=jnp.float32), 1.0)


def _unit(x: Array) -> Array:
    norm = jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True))
    return x / jnp.where(norm > 0, norm, 1.0)


def _kernel_independence(sites: Mapping[str, Array], queries_T: Array, keys_S: Array, heads: int) -> Array:
    """Return the unbiased estimate of HSIC between the outputs of every two heads, with linear kernels, `[M,M]`."""
    del keys_S, heads
    z_LTNH, W_O_LNHD = sites["z"].astype(jnp.float32), sites["W_O"].astype(jnp.float32)
    # z times the root of W_O W_Oᵀ has the norms and distances of z W_O, in H numbers instead of D.
    gram_LNHH = jnp.einsum("lnhd,lngd->lnhg", W_O_LNHD, W_O_LNHD)
    values_LNH, vectors_LNHH = jnp.linalg.eigh(gram_LNHH)
    roots_LNHH = vectors_LNHH * jnp.sqrt(jnp.maximum(values_LNH, 0.0))[:, :, None, :]
    x_LNTH = jnp.einsum("ltnh,lnhg->lntg", z_LTNH, roots_LNHH)
    x_MTH = x_LNTH.reshape(-1, *x_LNTH.shape[2:])
    n = queries_T.sum(dtype=jnp.float32)
    real_1T1 = queries_T[None, :, None]
    mean_M1H = jnp.where(real_1T1, x_MTH, 0.0).sum(axis=1, keepdims=True) / jnp.maximum(n, 1.0)
    return _unbiased_hsic(jnp.where(real_1T1, x_MTH - mean_M1H, 0.0), n)


def _unbiased_hsic(x_MTH: Array, n: Array) -> Array:
    """Return the estimate of Song et al. 2012 (equation 5) for every two heads, without a T × T kernel, `[M,M]`.

    (tr KL + 1ᵀK1 1ᵀL1 / (n−1)(n−2) − 2 / (n−2) 1ᵀKL1) / n(n−3), with K = X Xᵀ less its diagonal.
    """
    diagonal_MT = jnp.square(x_MTH).sum(axis=-1)
    sums_MT = jnp.einsum("mth,mh->mt", x_MTH, x_MTH.sum(axis=1)) - diagonal_MT  # K 1
    totals_M = sums_MT.sum(axis=1)

    def trace_with_all(x_TH: Array) -> Array:
        return jnp.square(jnp.einsum("th,mtg->mhg", x_TH, x_MTH)).sum(axis=(1, 2))

    traces_MM = jax.lax.map(trace_with_all, x_MTH) - diagonal_MT @ diagonal_MT.T
    products_MM = sums_MT @ sums_MT.T
    cross_MM = totals_M[:, None] * totals_M[None, :] / ((n - 1) * (n - 2))
    return (traces_MM + cross_MM - 2 / (n - 2) * products_MM) / (n * (n - 3))


COMPARISONS: Mapping[str, Comparison] = MappingProxyType(
    {
        "js": Comparison(_divergence(0.0, True), ("pattern",), is_distance=True, most=float(np.log(2))),
        "js_sum": Comparison(_divergence(1e-3, False), ("pattern",), is_distance=True, summed=True),
        "cosine": Comparison(_cosine, ("pattern",)),
        "overlap": Comparison(_overlap, ("pattern",)),
        "values": Comparison(_values, ("v",), lowest=-1.0),
        "outputs": Comparison(_outputs, ("z",), lowest=-1.0),
        "cka": Comparison(_kernel_independence, ("z",), needs_output=True, ratio=True, least=4),
    }
)
"""The comparisons that `compare_heads` makes, by name:

- "js": Jensen–Shannon divergence of the patterns' rows, in nats, mean over queries, from 0 to log 2. A learnt sink is
  one more key of the rows, here and in "js_sum".
- "js_sum": Jensen–Shannon divergence as in Clark et al. 2019 (section 6): rows smoothed by 0.001 / n, summed over
  queries and examples.
- "cosine": of the patterns, flattened, from 0 to 1 (Kovaleva et al. 2019; Bian et al. 2021).
- "overlap": Σ_k A_i A_j, mean over queries, from 0 to 1: D_pos of Li et al. 2018, whose paper leaves its normalisation
  over positions open.
- "values", "outputs": cosine of v, of z, at each position, mean over positions, from −1 to 1: D_sub and D_out of Li et
  al. 2018. Query heads that share a value head have 1.
- "cka": centred kernel alignment of the heads' outputs z W_O, with a linear kernel, debiased: 1 under rotation and
  scale (Kornblith et al. 2019), 0 on average where independent. Estimated example by example and averaged before the
  ratio is taken (Nguyen et al. 2021, section 3.1), so an example needs 4 tokens; it may fall below 0.
"""
