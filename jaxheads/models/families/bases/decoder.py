"""Base of decoder-only language models, for any kind of block."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...inputs.batch import Batch
from ...layers import Embed
from ...norms import with_frozen_statistics
from ...stack import Stack
from ...unembedding import Unembedding
from .class_heads import Classifies


class Decoder(Classifies):
    """A causal stack between an embedding and a final norm; the unembedding is separate or tied to the embedding.

    A family's `__init__` sets `config` (with `head`: "lm", "none" or a head of classes, and `tie_word_embeddings`),
    `embed`, `decoder`, `final_norm`, and `unembed` by `own_unembedding`, which sets `classifier` too; where logits have
    a bias, `logits_bias` by `own_logits_bias`.
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
        """Build a separate unembedding `[V,D]`, or None if the config has none or ties it; set `classifier`."""
        self.classifier = self.own_classifier(model, rngs)
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
        """The classifier, or the separate or tied unembedding with its bias; None for a bare model."""
        if self.classifier is not None:
            return self.classifier.unembedding
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

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of each example's last real token; for a classifier, the last that isn't padding's.

        A text may end with padding's token itself, where that is the end-of-text token: transformers passes it over.
        """
        last_B = super().readout_positions(batch)
        padding = self.config.pad_token_id if self.classes_of == "example" else None
        if padding is None:
            return last_B
        tokens = self.streams[-1].queries.of(batch)
        read_BT = tokens.mask & (self.streams[-1].queries.ids(batch) != padding)
        T = read_BT.shape[1]
        return jnp.where(read_BT.any(axis=1), T - 1 - jnp.argmax(read_BT[:, ::-1], axis=1), last_B)


def unused_head(head: str) -> dict[str, str]:
    """Return the entry of `Table.passed_over` for the unembedding, which other heads do not use."""
    return {} if head == "lm" else {r"lm_head\..*": "an unembedding, which this architecture has not"}
