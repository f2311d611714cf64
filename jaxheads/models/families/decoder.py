"""What decoder-only language models have in common, whatever their blocks."""

from typing import Any

from flax import nnx
from jax import Array

from ..layers import Embed, unembed
from ..stack import Stack


class Decoder(nnx.Module):
    """A causal stack between an embedding and a final norm; the unembedding is its own or the embedding's.

    A family's `__init__` sets `config` (with `head`: "lm" or "none", and `tie_word_embeddings`), `embed`, `decoder`,
    `final_norm`, and `unembed` by `own_unembedding`.
    """

    config: Any
    embed: Embed
    decoder: Stack
    final_norm: nnx.Module
    unembed: Embed | None

    def own_unembedding(self, vocabulary: int, model: int, rngs: nnx.Rngs) -> Embed | None:
        """A separate unembedding `[V,D]` where the config says there is one."""
        untied = self.config.head == "lm" and not self.config.tie_word_embeddings
        return Embed(vocabulary, model, rngs=rngs) if untied else None

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (self.decoder,)

    @property
    def has_logits(self) -> bool:
        return self.config.head == "lm"

    def output(self, x_BTD: Array, columns_BC: Array | None = None) -> Array:
        """Logits `[B,T,V]` or `[B,T,C]`; of a bare model the normed stream `[B,T,D]`."""
        x_BTD = self.final_norm(x_BTD)
        if not self.has_logits:
            return x_BTD
        table = self.embed if self.unembed is None else self.unembed
        return unembed(x_BTD, table.embedding[...], columns_BC=columns_BC)
