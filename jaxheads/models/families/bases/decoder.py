"""Base of decoder-only language models, for any kind of block."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...layers import Embed
from ...network import Network
from ...norms import with_frozen_statistics
from ...stack import Stack
from ...unembedding import Unembedding


class Decoder(Network):
    """A causal stack between an embedding and a final norm; the unembedding is separate or tied to the embedding.

    A family's `__init__` sets `config` (with `head`: "lm" or "none", and `tie_word_embeddings`), `embed`, `decoder`,
    `final_norm`, and `unembed` by `own_unembedding`; where logits have a bias, `logits_bias` by `own_logits_bias`.
    """

    config: Any
    embed: Embed
    decoder: Stack
    final_norm: nnx.Module
    unembed: Embed | None
    logits_bias: nnx.Param | None = None
    logits_factor: float = 1.0
    """Factor on the logits, which their head's features include."""

    def own_unembedding(self, vocabulary: int, model: int, rngs: nnx.Rngs) -> Embed | None:
        """Build a separate unembedding `[V,D]`; None if the config has none or ties it."""
        untied = self.config.head == "lm" and not self.config.tie_word_embeddings
        return Embed(vocabulary, model, rngs=rngs) if untied else None

    def own_logits_bias(self, vocabulary: int) -> nnx.Param | None:
        """Build a bias `[V]` of the logits; None for a bare model."""
        return nnx.Param(jnp.zeros((vocabulary,))) if self.config.head == "lm" else None

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.decoder,)

    @property
    def unembedding(self) -> Unembedding | None:
        """The separate unembedding, or the embedding it is tied to, with its bias; None for a bare model."""
        if self.config.head != "lm":
            return None
        bias = None if self.logits_bias is None else self.logits_bias[...]
        return Unembedding((self.embed if self.unembed is None else self.unembed).embedding[...], bias)

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream, times the factor on the logits if there is a head."""
        return self._scaled(self.final_norm(x_BTD))

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return self._scaled(with_frozen_statistics(self.final_norm, x, whole))

    def _scaled(self, features: Array) -> Array:
        plain = self.logits_factor == 1 or self.config.head != "lm"
        return features if plain else features * jnp.asarray(self.logits_factor, features.dtype)

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed(ids)


def unused_head(head: str) -> dict[str, str]:
    """Return the entry of `Table.passed_over` for the unembedding, which a bare model does not use."""
    return {} if head == "lm" else {r"lm_head\..*": "a bare model has no head"}
