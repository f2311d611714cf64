"""Where tokens are: positions counted over real tokens, their rotary form, and biases by distance."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


def count_positions(mask_BT: Array) -> Array:
    """Positions `[B,T]` that count real tokens from 0, so that left padding equals no padding; padding gets 0."""
    return jnp.where(mask_BT, jnp.cumsum(mask_BT, axis=1, dtype=jnp.int32) - 1, 0)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding in the rotate-half layout (Su et al. 2021; the Llama convention).

    Args:
        base: the wavelength base θ.
        dimensions: how many of the head's dimensions turn (even).
        kind: "default", "linear", "llama3" or "yarn", as `rope_type` of a Hugging Face config names them.
        parameters: that kind's numbers, as (name, value) pairs.

    Raises:
        ValueError: for an odd number of dimensions.
    """

    base: float
    dimensions: int
    kind: str = "default"
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.dimensions % 2:
            raise ValueError(f"rotary positions need an even number of dimensions, got {self.dimensions}")

    def frequencies(self) -> np.ndarray:
        """Radians a position for each pair of dimensions, float32 `[dimensions // 2]`."""
        exponents = np.arange(0, self.dimensions, 2, dtype=np.float32) / np.float32(self.dimensions)
        plain = np.float32(1.0) / np.float32(self.base) ** exponents
        given = dict(self.parameters)
        if self.kind == "linear":
            return plain / np.float32(given["factor"])
        if self.kind == "llama3":
            return _llama3(plain, given)
        if self.kind == "yarn":
            return _yarn(plain, given, self.base, self.dimensions)
        return plain

    def amplitude(self) -> float:
        """The factor on cosine and sine: 1 but for "yarn" (Peng et al. 2023, section 3.4)."""
        given = dict(self.parameters)
        if self.kind != "yarn":
            return 1.0
        return given.get("attention_factor", 0.1 * math.log(given["factor"]) + 1.0 if given["factor"] > 1 else 1.0)

    def __call__(self, x_BTNH: Array, positions_BT: Array, frequencies_F: Array | None = None) -> Array:
        """`x` with its first `dimensions` turned by each position's angle; same shape and dtype.

        Args:
            frequencies_F: radians a position, instead of `frequencies()`: of stacks whose layers differ.
        """
        half = self.dimensions // 2
        turns_F = self.frequencies() if frequencies_F is None else frequencies_F
        angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * turns_F[None, None, None]
        cosine = (jnp.cos(angles_BT1F) * self.amplitude()).astype(x_BTNH.dtype)
        sine = (jnp.sin(angles_BT1F) * self.amplitude()).astype(x_BTNH.dtype)
        first, second, rest = jnp.split(x_BTNH, (half, self.dimensions), axis=-1)
        return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


def _llama3(plain: np.ndarray, given: dict[str, float]) -> np.ndarray:
    """Llama 3.1's: long wavelengths slowed by `factor`, short ones kept, those between blended."""
    wavelength = 2 * np.pi / plain
    context, low, high = (given[n] for n in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    blend = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return ((1 - blend) * plain / given["factor"] + blend * plain).astype(np.float32)


def _yarn(plain: np.ndarray, given: dict[str, float], base: float, dimensions: int) -> np.ndarray:
    """YaRN (Peng et al. 2023, section 3.2): interpolate the slow pairs, keep the fast ones, ramp between."""

    def pair_of(rotations: float) -> float:
        context = given["original_max_position_embeddings"]
        return dimensions * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(given.get("beta_fast", 32.0)), pair_of(given.get("beta_slow", 1.0))
    if given.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dimensions - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / max(high - low, 0.001), 0, 1)
    return (plain / given["factor"] * ramp + plain * (1 - ramp)).astype(np.float32)


def sinusoids(count: int, dimensions: int) -> np.ndarray:
    """The table of positions `[count, dimensions]` (Vaswani et al. 2017, section 3.5), float32: all sines, then all
    cosines."""
    exponents = 2 * (np.arange(dimensions) // 2) / dimensions
    angles = np.arange(count)[:, None] / np.power(10000.0, exponents)[None]
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def alibi_slopes(heads: int) -> np.ndarray:
    """ALiBi's slope of each head, float32 `[N]` (Press et al. 2022, section 3, and their code).

    `2^(-8n/N)` for n = 1 … N where N is a power of two; otherwise those of the power below, then every other one of
    the power above.
    """

    def of_power(power: int, exponents: np.ndarray) -> np.ndarray:
        return np.power(np.float32(2.0 ** (-8.0 / power)), exponents.astype(np.float32))

    below = 1 << (heads.bit_length() - 1)
    odd = np.arange(1, 2 * (heads - below), 2)
    return np.concatenate([of_power(below, np.arange(1, below + 1)), of_power(2 * below, odd)])


def relative_buckets(offsets_TS: Array, *, buckets: int, furthest: int, both_ways: bool) -> Array:
    """T5's buckets of key position minus query position (Raffel et al. 2020, section 2.1; MPNet's as well).

    Half of the buckets hold one distance each, the others grow logarithmically up to `furthest`. Where positions look
    both ways, the buckets are shared out between those before and those after.
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
    # Both logarithms are taken as transformers does: their quotient is cut to whole numbers, where a rounding shows.
    scale = jnp.log(jnp.maximum(away_TS, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far_TS = exact + (scale * (buckets - exact)).astype(jnp.int32)
    return side_TS + jnp.where(away_TS < exact, away_TS, jnp.minimum(far_TS, buckets - 1))


class RelativeBias(nnx.Module):
    """A learnt bias for each head and bucket of distances, `[buckets, N]`, the same in all layers."""

    def __init__(self, buckets: int, furthest: int, heads: int, *, both_ways: bool, rngs: nnx.Rngs):
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (buckets, heads)))
        self.buckets, self.furthest, self.both_ways = buckets, furthest, both_ways

    def __call__(self, positions_BT: Array) -> Array:
        """`[B,N,T,T]`."""
        offsets_BTS = positions_BT[:, None, :] - positions_BT[:, :, None]
        bucket_BTS = relative_buckets(
            offsets_BTS, buckets=self.buckets, furthest=self.furthest, both_ways=self.both_ways
        )
        return jnp.moveaxis(jnp.take(self.embedding[...], bucket_BTS, axis=0), 3, 1)
