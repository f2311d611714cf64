"""Subject–verb agreement across attractors: a syntactic head against its positional shortcut.

Dimension key: `T` query positions, `S` key positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import at_least, checked
from .configs import bert, gpt2
from .task import Drawn, Independent, require

PAD, BOS, EOS, MASK, DET = range(5)


@checked(nouns=at_least(1), prepositions=at_least(1), verbs=at_least(1))
@dataclass(frozen=True)
class Agreement(Independent):
    """`[BOS, Det N (P Det N)^m V, EOS]`: the verb's number is the first noun's.

    The model must find the subject; the nouns between, of either number, are attractors (Linzen et al. 2016; Abnar &
    Zuidema 2020 train on such sentences). A head is expected that attends from the predicting position to the subject.
    Only the verb is scored. Its number is determined and its lemma is any of `verbs`, so the optimum is ln `verbs`.

    Marks: "subject", "attractor", "verb" `[B,T]`, each word's role, the masked verb's too; "predicts" `[B,T]`, the
    position that is scored, and "agreement" `[B,T,S]`, from it to the subject.

    One more phrase follows with probability `more`, up to `most` phrases. So the nearest noun is the subject in
    1 − more of the sentences, which no fixed offset exceeds, and its number is right in 1 − more / 2.

    The control draws the verb's number independently. `Agreement(most=0)` has no attractors: a head that attends to
    the previous token is enough for it.

    Attributes:
        masked: a masked language model, whose verb is masked; otherwise a decoder, which predicts it at the last noun.
        nouns, prepositions, verbs: their numbers; nouns and verbs have two forms each, singular first.
        agrees: whether the verb's number is the subject's.
    """

    masked: bool = False
    most: int = 3
    more: float = 0.5
    nouns: int = 21
    prepositions: int = 5
    verbs: int = 1
    agrees: bool = True

    def __post_init__(self):
        require(self.most >= 0 and 0 <= self.more <= 1, "most >= 0 and a probability more", self)

    @property
    def name(self) -> str:
        return "agreement" + ("-masked" if self.masked else "") + ("" if self.agrees else "-control")

    @property
    def kind(self) -> str:
        return "encoder" if self.masked else "decoder"

    @property
    def vocabulary(self) -> int:
        """Number of ids: PAD, BOS, EOS, MASK, the determiner; then prepositions, nouns and verbs."""
        return 5 + self.prepositions + 2 * self.nouns + 2 * self.verbs

    @property
    def length(self) -> int:
        return 3 * self.most + 5

    @property
    def optimum(self) -> float:
        """The loss ln `verbs`; for the control ln 2 more."""
        return math.log(self.verbs * (1 if self.agrees else 2))

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors.

        "uniform" over the vocabulary; "unigram", any verb, the best constant; "nearest", which uses only the nearest
        noun's number and the probability that it is the subject's.
        """
        right = self.nearest_noun
        doubt = sum(-p * math.log(p) for p in (right, 1 - right) if p > 0)
        lemma, any_number = math.log(self.verbs), math.log(2 * self.verbs)
        nearest = lemma + doubt if self.agrees else any_number
        return {"uniform": math.log(self.vocabulary), "unigram": any_number, "nearest": nearest}

    @property
    def fixed_offset(self) -> float:
        """Share of sentences whose subject is at the best fixed offset: P(m = 0), or 1 without attractors."""
        return 1 - self.more if self.most else 1.0

    @property
    def nearest_noun(self) -> float:
        """Share of sentences whose nearest noun has the subject's number: it is the subject, or agrees by chance."""
        return (1 + self.fixed_offset) / 2

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        most, nouns = self.most, 5 + self.prepositions
        more_key, noun_key, number_key, between_key, verb_key, control_key = jax.random.split(key, 6)
        phrases = jnp.cumprod(jax.random.bernoulli(more_key, self.more, (most,)).astype(jnp.int32)).sum()
        number = jax.random.bernoulli(number_key, shape=(most + 1,)).astype(jnp.int32)
        noun = nouns + 2 * jax.random.randint(noun_key, (most + 1,), 0, self.nouns) + number
        # Phrase 0 has no preposition: its slot, position 0, holds BOS.
        between = jax.random.randint(between_key, (most + 1,), 5, nouns).at[0].set(BOS)
        verb_number = number[0] if self.agrees else jax.random.bernoulli(control_key).astype(jnp.int32)
        verb = nouns + 2 * (self.nouns + jax.random.randint(verb_key, (), 0, self.verbs)) + verb_number

        words = jnp.stack([between, jnp.full(most + 1, DET), noun], axis=1).reshape(-1)
        at, verb_at = jnp.arange(self.length), 3 * (phrases + 1)
        sentence = jnp.where(at < verb_at, jnp.pad(words, (0, 2)), PAD)
        sentence = jnp.where(at == verb_at, verb, jnp.where(at == verb_at + 1, EOS, sentence))
        predicts = at == (verb_at if self.masked else verb_at - 1)
        subject = at == 2
        marks = {
            "subject": subject,
            "attractor": (at % 3 == 2) & (at > 2) & (at < verb_at),
            "verb": at == verb_at,
            "predicts": predicts,
            "agreement": predicts[:, None] & subject[None, :],
        }
        tokens = jnp.where(predicts, MASK, sentence) if self.masked else sentence
        targets = sentence if self.masked else jnp.roll(sentence, -1)
        return Drawn({"tokens": tokens, "mask": at <= verb_at + 1, "marks": marks}, targets, predicts)

    def control(self) -> "Agreement":
        """Return the control: verbs of any number."""
        return replace(self, agrees=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model of three layers."""
        return (bert if self.masked else gpt2)(self.vocabulary, self.length, changes)
