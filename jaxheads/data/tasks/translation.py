"""Translation by a lexicon, in another order: the alignment is known.

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

from .configs import bart
from .task import Drawn, Independent, require

ORDERS = ("copy", "reverse", "swap")
PAD, BOS, EOS = 0, 1, 2
SPECIALS = 3


@dataclass(frozen=True)
class Translation(Independent):
    """Source words, then EOS; each target word is the lexicon's of a source word, and their order is a rule's.

    To be learned: the lexicon, and which source word comes next. Expected is a head of the cross-attention that aligns
    (Vaswani et al. 2017; Ghader & Monz 2017; Kobayashi et al. 2020). The decoder reads BOS and the target words, and
    all it gives is scored: the words, then EOS. All is determined, so the optimum is 0.

    Marks of the cross-attention, `[B,U,S]`: "alignment" is True at the source word of the word that position U *gives*
    (AWO in Kobayashi et al.), "alignment_input" at that of the word it *reads* (AWI). A head that aligns in one
    setting is wrong in the other, but for the words that are repeated.

    The control's target words have nothing to do with the source; only their number has.

    Attributes:
        order: "copy", "reverse", or "swap", which exchanges the words of each pair, and leaves a last one alone.
        words: V, of each language. The source's ids come after the three special ones, then the target's.
        shortest, longest: n, the number of words, is uniform between them, ends included.
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
        """Of the source with its EOS; of the decoder's input with its BOS."""
        return self.longest + 1

    @property
    def optimum(self) -> float:
        """0; of the control the anchor "unaligned"."""
        return 0.0 if self.aligned else self.anchors["unaligned"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """ "uniform" over target words and EOS; "unigram", as often as they occur; "unaligned", who knows when the
        sentence ends but not the words: n̄ ln V / (n̄ + 1)."""
        mean = (self.shortest + self.longest) / 2
        ended = 1 / (mean + 1)
        unaligned = (1 - ended) * math.log(self.words)
        binary = -ended * math.log(ended) - (1 - ended) * math.log(1 - ended)
        return {"uniform": math.log(self.words + 1), "unigram": unaligned + binary, "unaligned": unaligned}

    @property
    def lexicon(self) -> np.ndarray:
        """The target word of each source word, both counted from 0, `[V]`."""
        return np.random.default_rng(self.seed).permutation(self.words)

    def draw(self, key: Array) -> Drawn:
        """One example."""
        count_key, word_key, other_key = jax.random.split(key, 3)
        count = jax.random.randint(count_key, (), self.shortest, self.longest + 1)
        words_S = jax.random.randint(word_key, (self.length,), 0, self.words)
        others_U = jax.random.randint(other_key, (self.length,), 0, self.words)
        at, comes_from = jnp.arange(self.length), self._source(count)
        spoken, real = at < count, at <= count
        translated_U = jnp.asarray(self.lexicon, jnp.int32)[words_S[comes_from] if self.aligned else others_U]

        def ended(ids: Array) -> Array:
            return jnp.where(spoken, ids, jnp.where(real, EOS, PAD))

        targets_U = ended(SPECIALS + self.words + translated_U)
        alignment_US = spoken[:, None] & (at[None, :] == comes_from[:, None])
        inputs = {
            "tokens": ended(SPECIALS + words_S),
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
        """Which source word each target word comes from, `[U]`; of no meaning after the last."""
        at = jnp.arange(self.length)
        if self.order == "reverse":
            return jnp.maximum(count - 1 - at, 0)
        if self.order == "copy":
            return at
        return jnp.where((at ^ 1) < count, at ^ 1, at)

    def control(self) -> "Translation":
        """Target words drawn for themselves."""
        return replace(self, aligned=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Encoder and decoder of two layers each."""
        return bart(self.vocabulary, self.length, changes)
