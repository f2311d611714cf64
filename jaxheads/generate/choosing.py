"""The next token: the likeliest, or one drawn from the likeliest.

Dimension key: B examples, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import at_least, between, checked


@checked(temperature=between(1e-6), top_k=at_least(1), top_p=between(1e-6, 1.0))
@dataclass(frozen=True)
class Sampling:
    """Tokens drawn from the model's distribution, for `generate(…, sample=…)`.

    Filters apply in the order of the arguments. Every example has its own random numbers, by its number in the stream
    and the seed: neither its neighbours nor the devices matter.

    Attributes:
        temperature: logits are divided by it.
        top_k: only this many likeliest tokens may be drawn; all when left out.
        top_p: only the likeliest tokens whose probabilities sum to at least this share may be drawn (nucleus sampling,
            Holtzman et al. 2020); all when left out.

    Raises:
        ValueError: for a temperature or share of 0 or less, or a `top_k` below 1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def drawn(self, logits_BV: Array, keys_B: Array) -> Array:
        """Return one token for each example, `[B]`."""
        scaled_BV = logits_BV / self.temperature
        lowest = jnp.finfo(scaled_BV.dtype).min
        if self.top_k is not None and self.top_k < scaled_BV.shape[1]:
            least_B1 = jax.lax.top_k(scaled_BV, self.top_k)[0][:, -1:]
            scaled_BV = jnp.where(scaled_BV < least_B1, lowest, scaled_BV)
        if self.top_p is not None and self.top_p < 1:
            scaled_BV = jnp.where(scaled_BV < self._least(scaled_BV), lowest, scaled_BV)
        return jax.vmap(jax.random.categorical)(keys_B, scaled_BV)

    def _least(self, scaled_BV: Array) -> Array:
        """Return the logit of the last token that is needed for the share, `[B,1]`."""
        ordered_BV = -jnp.sort(-scaled_BV, axis=1)
        shares_BV = jax.nn.softmax(ordered_BV, axis=1)
        before_BV = jnp.cumsum(shares_BV, axis=1) - shares_BV
        share = 1.0 if self.top_p is None else self.top_p
        return jnp.min(jnp.where(before_BV < share, ordered_BV, jnp.inf), axis=1, keepdims=True)


def next_tokens(logits_BV: Array, sampling: Sampling | None, key: Array, numbers_B: Array, step: Array) -> Array:
    """Return the next token of each example, `[B]`: the likeliest, or with `sampling` one drawn for this step.

    Args:
        numbers_B: the examples' numbers in their stream.
    """
    if sampling is None:
        return jnp.argmax(logits_BV, axis=1)
    keys_B = jax.vmap(lambda number: jax.random.fold_in(jax.random.fold_in(key, number), step))(numbers_B)
    return sampling.drawn(logits_BV, keys_B)
