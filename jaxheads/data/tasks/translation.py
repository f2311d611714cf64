"""Translation by a lexicon, with reordering: the alignment is known.

Dimension key: `U` target positions, `S` source positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from .configs import bart
from .task import Drawn, Independent, require

ORDERS = ("copy", "reverse", "swap")
PAD, BOS, EOS = 0, 1, 2
SPECIALS = 3


@checked()
@dataclass(frozen=True)
class Translation(Independent):
    """Source words, then EOS; the lexicon translates each source word, and a rule orders the target words.

    The model must learn the lexicon and the order. A cross-attention head that aligns is expected (Vaswani et al. 2017;
    Ghader & Monz 2017; Kobayashi et al. 2020). The decoder reads BOS and the target words, and all its outputs are
    scored: the words, then EOS. All is determined, so the optimum is 0.

    Marks of the cross-attention, `[B,U,S]`: "alignment" is True at the source word of the word that position U
    *predicts* (AWO in Kobayashi et al.), "alignment_input" at the source word of the word it *reads* (AWI). A head that
    aligns in one setting does not in the other, except at repeated words.

    The control draws the target words independently of the source; only their number is the source's.

    Attributes:
        order: "copy", "reverse", or "swap", which exchanges the words of each pair and leaves an odd last word alone.
        words: V, of each language. The source's ids come after the three special ones, then the target's.
        shortest, longest: bounds of n, the number of words, which is uniform between them, both included.
        seed: of the lexicon.
        aligned: whether targets come from the source.
    """

    order: str = "reverse"
    words: int = 32
    shortest: int = 5
    longest: int = 12
    seed: int = 0
    aligned: bool = True
    kind = "encoder-decoder"

    def __post_init__(self):
        require(self.order in ORDERS, f"order is one of {', '.join(ORDERS)}", repr(self.order))
        require(1 <= self.shortest <= self.longest and self.words >= 2, "1 <= shortest <= longest and two words", self)

    @property
    def name(self) -> str:
        return f"translation-{self.order}" + ("" if self.aligned else "-control")

    @property
    def vocabulary(self) -> int:
        return SPECIALS + 2 * self.words

    @property
    def length(self) -> int:
        """Number of positions of the source with its EOS, and of the decoder's input with its BOS."""
        return self.longest + 1

    @property
    def optimum(self) -> float:
        """The loss 0; for the control the anchor "unaligned"."""
        return 0.0 if self.aligned else self.anchors["unaligned"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors.

        "uniform" over target words and EOS; "unigram", by their frequencies; "unaligned", which predicts the sentence's
        end but not its words: n̄ ln V / (n̄ + 1).
        """
        mean = (self.shortest + self.longest) / 2
        eos_share = 1 / (mean + 1)
        unaligned = (1 - eos_share) * math.log(self.words)
        binary = -eos_share * math.log(eos_share) - (1 - eos_share) * math.log(1 - eos_share)
        return {"uniform": math.log(self.words + 1), "unigram": unaligned + binary, "unaligned": unaligned}

    @property
    def lexicon(self) -> np.ndarray:
        """The target word of each source word, both counted from 0, `[V]`."""
        return np.random.default_rng(self.seed).permutation(self.words)

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        count_key, word_key, other_key = jax.random.split(key, 3)
        count = jax.random.randint(count_key, (), self.shortest, self.longest + 1)
        words_S = jax.random.randint(word_key, (self.length,), 0, self.words)
        others_U = jax.random.randint(other_key, (self.length,), 0, self.words)
        at, source_U = jnp.arange(self.length), self._source(count)
        is_word, real = at < count, at <= count
        translated_U = jnp.asarray(self.lexicon, jnp.int32)[words_S[source_U] if self.aligned else others_U]

        def with_eos(ids: Array) -> Array:
            return jnp.where(is_word, ids, jnp.where(real, EOS, PAD))

        targets_U = with_eos(SPECIALS + self.words + translated_U)
        alignment_US = is_word[:, None] & (at[None, :] == source_U[:, None])
        inputs = {
            "tokens": with_eos(SPECIALS + words_S),
            "mask": real,
            "targets": jnp.where(real, jnp.roll(targets_U, 1).at[0].set(BOS), PAD),
            "target_mask": real,
            "marks": {
                "alignment": alignment_US,
                "alignment_input": jnp.roll(alignment_US, 1, axis=0).at[0].set(False) & real[:, None],
            },
        }
        return Drawn(inputs, targets_U, real)

    def _source(self, count: Array) -> Array:
        """Return the source position of each target word, `[U]`; meaningless after the last word."""
        at = jnp.arange(self.length)
        if self.order == "reverse":
            return jnp.maximum(count - 1 - at, 0)
        if self.order == "copy":
            return at
        # at ^ 1 is the other position of the pair.
        return jnp.where((at ^ 1) < count, at ^ 1, at)

    def control(self) -> "Translation":
        """Return the control: target words that are independent of the source."""
        return replace(self, aligned=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of an encoder and a decoder of two layers each."""
        return bart(self.vocabulary, self.length, changes)
