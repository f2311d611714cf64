"""A probabilistic grammar with parts of speech, names and sentiment, for heads and probes of a small encoder.

    S  → NP VP                    NP → N' | N' PP          N' → Det Noun | Det Adj Noun | Person
    VP → Verb NP | Copula Adj | Copula "not" Adj           PP → Prep Place | Prep Det Noun | Prep Det Adj Noun

Dimension key: `T` positions, `C` slots of a sentence, filled or empty; `W` words of a part of speech.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import between, checked
from .configs import bert
from .task import Drawn, Independent, require

PAD, CLS, SEP, MASK, BAD, GOOD = range(6)
SPECIALS = 6
TAGS = ("special", "det", "adjective", "noun", "verb", "copula", "not", "preposition", "person", "place")
"""Parts of speech; persons and places are names."""
_DET, _ADJ, _NOUN, _VERB, _COPULA, _NOT, _PREP, _PERSON, _PLACE = range(1, 10)

_BARE, _ADJECTIVE, _NAME = range(3)
_SHAPES = {_BARE: (_DET, _NOUN), _ADJECTIVE: (_DET, _ADJ, _NOUN), _NAME: (_PERSON,)}


CHANCES = ("named", "adjective", "phrase", "copular", "negated", "positive")
"""The task's probabilities."""


@checked(**dict.fromkeys(CHANCES, between(0, 1)))
@dataclass(frozen=True)
class Grammar(Independent):
    """`[CLS, sentence, SEP]` with one word masked, uniformly chosen; the masked word is scored.

    The model must infer the masked word's part of speech, which the other words determine (every sentence has one verb
    or copula, every noun a determiner). So the optimum is the mean of ln W over the parts of speech of masked words, in
    closed form. Heads that attend by part of speech are expected, and linear probes should find it and names (Vig &
    Belinkov 2019; Clark et al. 2019; Tenney et al. 2019). The part of speech of a word that is noun and verb depends on
    its context.

    Marks `[B,T]`, at the masked word too: each part of speech by its name; "tag", its index in TAGS; "entity", 1 at
    persons and 2 at places; "polarity" of adjectives, ±1; "masked", the scored position.

    The control draws words independently, with the frequencies of masked words in the task. It has no grammar; the
    optimum is the entropy of that distribution.

    Attributes:
        determiners, adjectives (of each polarity), nouns, verbs, copulas, prepositions, persons, places: their numbers.
        both: the number of words that are noun and verb.
        named: the probability that N' is a person's name, and the PP's object a place's.
        adjective: the probability that another N' has an adjective.
        phrase: the probability that an NP has a PP.
        copular, negated, positive: the probabilities of a copula instead of a verb, of "not" after it, and of a
            positive adjective.
        grammatical: whether sentences follow the grammar.
    """

    determiners: int = 3
    adjectives: int = 6
    nouns: int = 16
    verbs: int = 10
    both: int = 4
    copulas: int = 2
    prepositions: int = 4
    persons: int = 10
    places: int = 8
    named: float = 0.3
    adjective: float = 0.4
    phrase: float = 0.4
    copular: float = 0.4
    negated: float = 0.3
    positive: float = 0.6
    grammatical: bool = True
    kind = "encoder"
    lead = 1
    title = "grammar"

    def __post_init__(self):
        require(min(self._sizes.values()) >= 1, "at least one word of each part of speech", self)
        require(0 <= self.both < min(self.nouns, self.verbs), "a noun and a verb that is not both", self)

    @property
    def name(self) -> str:
        return self.title + ("" if self.grammatical else "-control")

    @property
    def _sizes(self) -> dict[int, int]:
        return {
            _DET: self.determiners,
            _ADJ: 2 * self.adjectives,
            _NOUN: self.nouns,
            _VERB: self.verbs,
            _COPULA: self.copulas,
            _NOT: 1,
            _PREP: self.prepositions,
            _PERSON: self.persons,
            _PLACE: self.places,
        }

    @property
    def first_words(self) -> tuple[int, ...]:
        """The id of the first word of each part of speech.

        Negative adjectives come before positive ones; the last nouns are the first verbs.
        """
        starts, at = [0], SPECIALS
        for tag, size in self._sizes.items():
            starts.append(at - self.both if tag == _VERB else at)
            at = starts[-1] + size
        return tuple(starts)

    @property
    def vocabulary(self) -> int:
        return self.first_words[-1] + self.places

    @property
    def length(self) -> int:
        return self.lead + 1 + max(len(tags) for tags, _ in self.sentences())

    def sentences(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield every sentence, as parts of speech, with its probability."""
        phrases = list(self._noun_phrases())
        endings = [((_VERB, *tags), (1 - self.copular) * chance) for tags, chance in phrases]
        endings.append(((_COPULA, _ADJ), self.copular * (1 - self.negated)))
        endings.append(((_COPULA, _NOT, _ADJ), self.copular * self.negated))
        for (subject, first), (rest, second) in product(phrases, endings):
            if first * second > 0:
                yield (*subject, *rest), first * second

    def _noun_phrases(self) -> Iterator[tuple[tuple[int, ...], float]]:
        inner = {
            _NAME: self.named,
            _ADJECTIVE: (1 - self.named) * self.adjective,
            _BARE: (1 - self.named) * (1 - self.adjective),
        }
        for head, chance in inner.items():
            yield _SHAPES[head], chance * (1 - self.phrase)
            for other, second in inner.items():
                after = (_PLACE,) if other == _NAME else _SHAPES[other]
                yield (*_SHAPES[head], _PREP, *after), chance * self.phrase * second

    @property
    def optimum(self) -> float:
        return _mean_entropy(self) if self.grammatical else self.anchors["unigram"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over the vocabulary; "unigram", the frequencies of masked words."""
        words = np.zeros(self.vocabulary)
        for tag, share in enumerate(_shares(self)):
            words[self.first_words[tag] : self.first_words[tag] + len(self._words(tag))] += share * self._words(tag)
        words = words[words > 0]
        return {"uniform": math.log(self.vocabulary), "unigram": float(-(words * np.log(words)).sum())}

    def _words(self, tag: int) -> np.ndarray:
        """Return the probabilities of the words of a part of speech, `[W]`: uniform except for adjectives."""
        size = self._sizes.get(tag, 0)
        if tag == _ADJ:
            return np.repeat([1 - self.positive, self.positive], self.adjectives) / self.adjectives
        return np.full(size, 1 / size) if size else np.zeros(0)

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        tag_key, word_key, mask_key = jax.random.split(key, 3)
        tags_T, count = self.tagged(tag_key)
        words_T, polarity_T = self._draw_words(word_key, tags_T)
        at = jnp.arange(self.length)
        masked_T = at == self.lead + jax.random.randint(mask_key, (), 0, count)
        sentence_T = jnp.where(at == self.lead + count, SEP, words_T.at[0].set(CLS))
        marks = self._marks(tags_T, polarity_T) | {"masked": masked_T}
        inputs = {"tokens": jnp.where(masked_T, MASK, sentence_T), "mask": at <= self.lead + count, "marks": marks}
        return Drawn(inputs, sentence_T, masked_T)

    def tagged(self, key: Array) -> tuple[Array, Array]:
        """Draw the parts of speech of a sentence, 0 before and after it, `[T]`, and the number of its words."""
        subject_key, end_key, object_key, not_key, control_key = jax.random.split(key, 5)
        copular = jax.random.bernoulli(end_key, self.copular)
        negated = jax.random.bernoulli(not_key, self.negated)
        ending = jnp.stack([jnp.asarray(_COPULA), jnp.where(negated, _NOT, 0), jnp.asarray(_ADJ)])
        acting = jnp.concatenate([jnp.full(1, _VERB), self._noun_phrase(object_key)])
        rest = jnp.where(copular, jnp.pad(ending, (0, len(acting) - 3)), acting)
        slots_C = jnp.concatenate([self._noun_phrase(subject_key), rest])
        # A stable sort moves empty slots to the end and keeps the words in order.
        tags_C = slots_C[jnp.argsort(slots_C == 0, stable=True)]
        count = (slots_C > 0).sum()
        if not self.grammatical:
            shares = jnp.asarray(_shares(self), jnp.float32)
            tags_C = jax.random.choice(control_key, len(TAGS), (len(tags_C),), p=shares)
            tags_C = jnp.where(jnp.arange(len(tags_C)) < count, tags_C, 0)
        tags_T = jnp.pad(tags_C, (self.lead, self.length))[: self.length]
        return tags_T, count

    def _noun_phrase(self, key: Array) -> Array:
        """Draw the slots Det, Adj, Noun, Person; Prep, Det, Adj, Noun, Place: a part of speech, or 0 if empty."""
        keys = jax.random.split(key, 5)
        named, with_adjective = (
            jax.random.bernoulli(keys[at], chance, (2,)) for at, chance in ((0, self.named), (1, self.adjective))
        )
        phrase = jax.random.bernoulli(keys[2], self.phrase)
        inner = []
        for index, name in enumerate((_PERSON, _PLACE)):
            plain = jnp.stack([jnp.asarray(_DET), jnp.where(with_adjective[index], _ADJ, 0), jnp.asarray(_NOUN)])
            inner.append(jnp.append(jnp.where(named[index], 0, plain), jnp.where(named[index], name, 0)))
        after = jnp.concatenate([jnp.full(1, _PREP), inner[1]])
        return jnp.concatenate([inner[0], jnp.where(phrase, after, 0)])

    def _draw_words(self, key: Array, tags_T: Array) -> tuple[Array, Array]:
        """Draw a word for each part of speech, PAD for 0, and adjectives' polarity."""
        word_key, polarity_key = jax.random.split(key)
        chance_T = jax.random.uniform(word_key, tags_T.shape)
        positive_T = jax.random.bernoulli(polarity_key, self.positive, tags_T.shape)
        sizes = jnp.asarray([1, *(self.adjectives if t == _ADJ else n for t, n in self._sizes.items())], jnp.float32)
        # A uniform number below 1, times the size, may round up to the size.
        index_T = jnp.minimum(chance_T * sizes[tags_T], sizes[tags_T] - 1).astype(jnp.int32)
        adjective_T = tags_T == _ADJ
        words_T = jnp.asarray(self.first_words)[tags_T] + index_T
        words_T = words_T + jnp.where(adjective_T & positive_T, self.adjectives, 0)
        return jnp.where(tags_T > 0, words_T, PAD), jnp.where(adjective_T, jnp.where(positive_T, 1.0, -1.0), 0.0)

    def _marks(self, tags_T: Array, polarity_T: Array) -> dict[str, Array]:
        entity_T = jnp.where(tags_T == _PERSON, 1.0, jnp.where(tags_T == _PLACE, 2.0, 0.0))
        by_name = {name: tags_T == tag for tag, name in enumerate(TAGS) if tag}
        return by_name | {"tag": tags_T.astype(jnp.float32), "entity": entity_T, "polarity": polarity_T}

    def control(self) -> "Grammar":
        """Return the control: independent words."""
        return replace(self, grammatical=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model of three layers."""
        return bert(self.vocabulary, self.length, changes)


@checked(**dict.fromkeys(CHANCES, between(0, 1)))
@dataclass(frozen=True)
class Sentiment(Grammar):
    """`[CLS, MASK, sentence, SEP]`; the model predicts the sentence's sentiment, one of two tokens, at MASK.

    Every sentence has a copula. Its sentiment is its last adjective's polarity, reversed by "not"; other adjectives do
    not count. A head is expected that attends from MASK to the last adjective, and one that attends to "not" or to a
    position that has combined both. All is determined: the optimum is 0.

    Marks are the grammar's and "predicate" `[B,T]`, the adjective that counts.

    The control draws sentiments independently, with the same frequencies: the optimum is their entropy.
    """

    copular: float = 1.0
    lead = 2
    title = "sentiment"

    def __post_init__(self):
        super().__post_init__()
        require(self.copular == 1, "sentences that end in a copula, copular=1", self.copular)

    @property
    def majority(self) -> float:
        """Share of the more frequent sentiment."""
        good = self.positive * (1 - self.negated) + (1 - self.positive) * self.negated
        return max(good, 1 - good)

    @property
    def optimum(self) -> float:
        return 0.0 if self.grammatical else self.anchors["unigram"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over both sentiments; "unigram", by their frequencies."""
        shares = (self.majority, 1 - self.majority)
        return {"uniform": math.log(2), "unigram": sum(-share * math.log(share) for share in shares if share > 0)}

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        tag_key, word_key, control_key = jax.random.split(key, 3)
        # The control keeps grammatical sentences: only their sentiment is drawn at random.
        tags_T, count = replace(self, grammatical=True).tagged(tag_key)
        words_T, polarity_T = self._draw_words(word_key, tags_T)
        at = jnp.arange(self.length)
        predicate_T = at == self.lead + count - 1
        good = (jnp.where(predicate_T, polarity_T, 0.0).sum() > 0) != (tags_T == _NOT).any()
        if not self.grammatical:
            share = self.positive * (1 - self.negated) + (1 - self.positive) * self.negated
            good = jax.random.bernoulli(control_key, share)
        asks_T = at == 1
        tokens = jnp.where(at == self.lead + count, SEP, words_T.at[0].set(CLS))
        marks = self._marks(tags_T, polarity_T) | {"masked": asks_T, "predicate": predicate_T}
        inputs = {"tokens": jnp.where(asks_T, MASK, tokens), "mask": at <= self.lead + count, "marks": marks}
        return Drawn(inputs, jnp.where(asks_T, jnp.where(good, GOOD, BAD), tokens), asks_T)


@cache
def _shares(task: Grammar) -> np.ndarray:
    """Return the probability that a masked word is of each part of speech."""
    shares = np.zeros(len(TAGS))
    # A sentence's words share its probability, as each is masked equally often.
    for tags, chance in replace(task, grammatical=True).sentences():
        shares += chance * np.bincount(tags, minlength=len(TAGS)) / len(tags)
    return shares / shares.sum()


def _mean_entropy(task: Grammar) -> float:
    return float(sum(share * -(p := task._words(tag)) @ np.log(p) for tag, share in enumerate(_shares(task)) if share))
