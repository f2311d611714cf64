"""Position embeddings: rotary ones, sinusoids, and biases of the scores by distance."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .affine import heads_of_lanes
from .inputs.query_rows import Take, block_rows


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding in the rotate-half layout (Su et al. 2021; the Llama convention).

    Args:
        base: the wavelength base θ.
        dimensions: number of the head's dimensions that rotate (even); the first ones do.
        kind: "default", "linear", "llama3", "yarn" or "longrope", as `rope_type` of a Hugging Face config names them.
        parameters: the parameters of that kind, as (name, value) pairs.

    Raises:
        ValueError: for an odd number of dimensions.
    """

    base: float
    dimensions: int
    kind: str = "default"
    parameters: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.dimensions % 2:
            raise ValueError(f"rotary positions need an even number of dimensions, got {self.dimensions}")

    def frequencies(self) -> np.ndarray:
        """Return radians per position for each pair of dimensions, float32 `[dimensions // 2]`."""
        exponents = np.arange(0, self.dimensions, 2, dtype=np.float32) / np.float32(self.dimensions)
        plain = np.float32(1.0) / np.float32(self.base) ** exponents
        parameters = dict(self.parameters)
        if self.kind == "longrope":
            return plain / np.array(parameters["short_factor"], np.float32)
        if self.kind == "linear":
            return plain / np.float32(parameters["factor"])
        if self.kind == "llama3":
            return _llama3(plain, parameters)
        if self.kind == "yarn":
            return _yarn(plain, parameters, self.base, self.dimensions)
        return plain

    def amplitude(self) -> float:
        """Return the factor on cosine and sine: 1 but for "longrope" and "yarn" (Peng et al. 2023, section 3.4)."""
        parameters = dict(self.parameters)
        if self.kind == "longrope":
            return parameters["attention_factor"]
        if self.kind != "yarn":
            return 1.0
        factor = parameters["factor"]
        return parameters.get("attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)

    def __call__(
        self,
        x_BTNH: Array,
        positions_BT: Array,
        frequencies_F: Array | None = None,
        amplitude: Array | None = None,
    ) -> Array:
        """Rotate the first `dimensions` of `x` by each position's angles; shape and dtype stay.

        Args:
            frequencies_F: radians per position, instead of `frequencies()`, for stacks whose layers differ.
            amplitude: factor on cosine and sine, instead of `amplitude()`, for these.
        """
        radians_F = jnp.asarray(self.frequencies() if frequencies_F is None else frequencies_F)
        factor = self.amplitude() if amplitude is None else amplitude
        arrays = x_BTNH, positions_BT, radians_F, jnp.asarray(factor, jnp.float32)
        # A float16 overflows in networks that are sound; products with zeros would spread that to other heads.
        if x_BTNH.dtype == jnp.float16:
            return _rotated(*arrays)
        return jax.lax.platform_dependent(*arrays, tpu=_rotated_by_tile, default=_rotated)


def _rotated(x_BTNH: Array, positions_BT: Array, radians_F: Array, factor: Array) -> Array:
    """Return the heads with their first dimensions rotated, by halves."""
    half = radians_F.shape[0]
    angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * radians_F[None, None, None]
    cosine, sine = ((of(angles_BT1F) * factor).astype(x_BTNH.dtype) for of in (jnp.cos, jnp.sin))
    first, second, rest = jnp.split(x_BTNH, (half, 2 * half), axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


def _rotated_by_tile(x_BTNH: Array, positions_BT: Array, radians_F: Array, factor: Array) -> Array:
    """Return what `_rotated` does, with the halves swapped by a product with zeros and ones.

    Half a head is less than a tile of a TPU: to cut heads in two and join them takes longer than the projections.
    """
    B, T, N, H = x_BTNH.shape
    half = radians_F.shape[0]
    p = heads_of_lanes(N, H)
    head = np.arange(H)
    other = np.where(head < half, head + half, np.where(head < 2 * half, head - half, head))
    sign_H = np.where(head < half, -1.0, np.where(head < 2 * half, 1.0, 0.0)).astype(np.float32)
    radians_l = jnp.tile(jnp.concatenate([radians_F, radians_F, jnp.zeros(H - 2 * half, radians_F.dtype)]), p)
    factor_l = jnp.where(np.tile(head < 2 * half, p), factor, 1.0)
    angles_BT1l = positions_BT[..., None, None].astype(jnp.float32) * radians_l[None, None, None]
    cosine_BT1l = (jnp.cos(angles_BT1l) * factor_l[None, None, None]).astype(x_BTNH.dtype)
    sine_BT1l = (jnp.sin(angles_BT1l) * (factor_l * np.tile(sign_H, p))[None, None, None]).astype(x_BTNH.dtype)
    swap_ll = jnp.asarray(np.kron(np.eye(p), np.eye(H)[other].T), x_BTNH.dtype)
    x_BTnl = x_BTNH.reshape(B, T, -1, p * H)
    swapped_BTnl = jnp.einsum("btnl,lm->btnm", x_BTnl, swap_ll, precision=jax.lax.Precision.HIGHEST)
    return (x_BTnl * cosine_BT1l + swapped_BTnl * sine_BT1l).reshape(B, T, N, H)


def _llama3(plain: np.ndarray, parameters: dict[str, float]) -> np.ndarray:
    """Return Llama 3.1's frequencies: low ones divided by `factor`, high ones unchanged, a blend between."""
    wavelength = 2 * np.pi / plain
    names = ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    context, low, high = (parameters[name] for name in names)
    blend = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return ((1 - blend) * plain / parameters["factor"] + blend * plain).astype(np.float32)


def _yarn(plain: np.ndarray, parameters: dict[str, float], base: float, dimensions: int) -> np.ndarray:
    """Return YaRN's frequencies: low ones divided by `factor`, high ones unchanged, a linear ramp between.

    Source: Peng et al. 2023, section 3.2.
    """

    def pair_of(rotations: float) -> float:
        context = parameters["original_max_position_embeddings"]
        return dimensions * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(parameters.get("beta_fast", 32.0)), pair_of(parameters.get("beta_slow", 1.0))
    if parameters.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dimensions - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / max(high - low, 0.001), 0, 1)
    return (plain / parameters["factor"] * ramp + plain * (1 - ramp)).astype(np.float32)


def sinusoids(count: int, dimensions: int) -> np.ndarray:
    """Return sinusoidal position embeddings, float32 `[count, dimensions]`, first all sines, then all cosines.

    Source: Vaswani et al. 2017, section 3.5.

    Raises:
        ValueError: for a table of more than 2^25 values, which no config means.
    """
    if count * dimensions > 2**25:
        raise ValueError(f"a table of {count:,} sinusoidal positions of {dimensions:,} dimensions is too large")
    exponents = 2 * (np.arange(dimensions) // 2) / dimensions
    angles = np.arange(count)[:, None] / np.power(10000.0, exponents)[None]
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def spread_sinusoids(count: int, dimensions: int) -> np.ndarray:
    """Return the sinusoids of tensor2tensor and fairseq, float32 `[count, dimensions]`.

    Wavelengths are spread so that the last one is 10000 · 2π itself, and an odd last dimension is 0.

    Raises:
        ValueError: as `sinusoids` does, and for fewer than four dimensions.
    """
    if count * dimensions > 2**25:
        raise ValueError(f"a table of {count:,} sinusoidal positions of {dimensions:,} dimensions is too large")
    if dimensions < 4:
        raise ValueError(f"sinusoids with spread wavelengths need at least 4 dimensions, got {dimensions}")
    half = dimensions // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = np.arange(count, dtype=np.float32)[:, None] * frequencies[None]
    rest = np.zeros((count, dimensions % 2), np.float32)
    return np.concatenate([np.sin(angles), np.cos(angles), rest], axis=1).astype(np.float32)


def alibi_slopes(heads: int) -> np.ndarray:
    """Return ALiBi's slope of each head, float32 `[N]` (Press et al. 2022, section 3, and their code).

    `2^(-8n/N)` for n = 1 … N where N is a power of two. Otherwise the slopes of the next smaller power of two, then
    every second slope of the next larger one.
    """

    def of_power(power: int, exponents: np.ndarray) -> np.ndarray:
        return np.power(np.float32(2.0 ** (-8.0 / power)), exponents.astype(np.float32))

    below = 1 << (heads.bit_length() - 1)
    odd = np.arange(1, 2 * (heads - below), 2)
    return np.concatenate([of_power(below, np.arange(1, below + 1)), of_power(2 * below, odd)])


def alibi_bias(heads: int, positions_BS: Array) -> Array:
    """Return ALiBi's bias of the scores, `[B,N,1,S]`: slope times the key's position.

    Softmax gives this and slope times the distance from the query equal rows: one row serves all queries.
    """
    slopes_N = jnp.asarray(alibi_slopes(heads))
    return slopes_N[None, :, None, None] * positions_BS[:, None, None].astype(slopes_N.dtype)


def relative_buckets(offsets_TS: Array, *, buckets: int, furthest: int, both_ways: bool) -> Array:
    """Return T5's bucket of each offset, key position minus query position (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `furthest`. With `both_ways` the
    buckets are divided between earlier and later keys. MPNet uses them too.
    """
    offsets_TS = offsets_TS.astype(jnp.int32)
    side_TS = jnp.zeros_like(offsets_TS)
    if both_ways:
        buckets //= 2
        side_TS = jnp.where(offsets_TS > 0, buckets, 0)
        away_TS = jnp.abs(offsets_TS)
    else:
        away_TS = jnp.maximum(-offsets_TS, 0)
    exact = buckets // 2
    # Logarithms are computed as transformers does: their quotient is truncated to integers, where rounding shows.
    scale = jnp.log(jnp.maximum(away_TS, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far_TS = exact + (scale * (buckets - exact)).astype(jnp.int32)
    return side_TS + jnp.where(away_TS < exact, away_TS, jnp.minimum(far_TS, buckets - 1))


class RelativeBias(nnx.Module):
    """A learnt bias of the scores by head and bucket of distances, `[buckets, N]`, shared by all layers."""

    def __init__(self, buckets: int, furthest: int, heads: int, *, both_ways: bool, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (buckets, heads)))
        self.buckets, self.furthest, self.both_ways = buckets, furthest, both_ways

    def __call__(self, positions_BT: Array) -> "Array | BucketBias":
        """Return the bias `[B,N,T,T]`; of long inputs as a function of query rows."""
        embedding, (B, T) = self.embedding[...], positions_BT.shape
        bias = BucketBias(embedding, positions_BT, positions_BT, self.buckets, self.furthest, self.both_ways)
        # One array serves all layers, where attention runs whole.
        return bias if block_rows(B, embedding.shape[1], T, T) < T else bias.array()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BucketBias:
    """The bias of the scores by head and bucket of distances, for any query rows.

    Attributes:
        embedding: `[buckets,N]`.
        queries, keys: positions, `[B,T]` and `[B,S]`.
    """

    embedding: Array
    queries: Array
    keys: Array
    buckets: int = field(metadata={"static": True})
    furthest: int = field(metadata={"static": True})
    both_ways: bool = field(metadata={"static": True})

    def __call__(self, q_BTNH: Array, k_BSKH: Array) -> Array:
        """Return the bias `[B,N,T,S]`, whatever the queries and keys are."""
        del q_BTNH, k_BSKH
        return self.array()

    def array(self) -> Array:
        """Return the bias `[B,N,T,S]`."""
        offsets_BTS = self.keys[:, None, :] - self.queries[:, :, None]
        bucket_BTS = relative_buckets(
            offsets_BTS, buckets=self.buckets, furthest=self.furthest, both_ways=self.both_ways
        )
        return jnp.moveaxis(jnp.take(self.embedding, bucket_BTS, axis=0), 3, 1)

    def rows(self, take: Take) -> "BucketBias":
        """Return the bias of the chosen query rows."""
        return replace(self, queries=take(self.queries, 1))
