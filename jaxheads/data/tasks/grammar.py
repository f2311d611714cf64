"""A probabilistic grammar with parts of speech, names and sentiment: what probes of a small encoder look for.

    S  → NP VP                    NP → N' | N' PP          N' → Det Noun | Det Adj Noun | Person
    VP → Verb NP | Copula Adj | Copula "not" Adj           PP → Prep Place | Prep Det Noun | Prep Det Adj Noun

Dimension key: `T` positions, `C` slots of a sentence, of which some are empty; `W` words of a part of speech.
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

from .configs import bert
from .task import Drawn, Independent, require

PAD, CLS, SEP, MASK, BAD, GOOD = range(6)
SPECIALS = 6
TAGS = ("special", "det", "adjective", "noun", "verb", "copula", "not", "preposition", "person", "place")
"""Parts of speech; names are persons, which do things, and places, which things are near."""
_DET, _ADJ, _NOUN, _VERB, _COPULA, _NOT, _PREP, _PERSON, _PLACE = range(1, 10)

_BARE, _ADJECTIVE, _NAME = range(3)
_SHAPES = {_BARE: (_DET, _NOUN), _ADJECTIVE: (_DET, _ADJ, _NOUN), _NAME: (_PERSON,)}


@dataclass(frozen=True)
class Grammar(Independent):
    """`[CLS, sentence, SEP]` with one word masked, any with equal chances; it is what is scored.

    To be learned: the part of speech that belongs there, which the rest always determines (all sentences have one verb
    or copula, nouns a determiner), so that the optimum is the mean of ln W over the parts of speech of masked words, in
    closed form. Heads that attend by part of speech, and linear probes of it and of names, are expected (Vig & Belinkov
    2019; Clark et al. 2019; Tenney et al. 2019). Some words are nouns as well as verbs: these take a look around.

    Marks `[B,T]`, of the masked word too: one by the name of each part of speech; "tag", its index in TAGS; "entity", 1
    at persons and 2 at places; "polarity" of adjectives, ±1; "masked", what is scored.

    The control's words come one by one, by chance, as often as they are masked in the task: there is no grammar left,
    and the optimum is the entropy of that distribution.

    Attributes:
        determiners, adjectives (of each polarity), nouns, verbs, copulas, prepositions, persons, places: how many.
        both: how many words are nouns and verbs.
        named: with what chance N' is a person's name, and PP's a place's.
        adjective: that another N' has an adjective.
        phrase: that an NP has a PP.
        copular, negated, positive: of a copula instead of a verb; of "not" after it; of an adjective that is positive.
        grammatical: whether sentences are.
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
        chances = (self.named, self.adjective, self.phrase, self.copular, self.negated, self.positive)
        require(all(0 <= chance <= 1 for chance in chances), "chances from 0 to 1", chances)

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
        """By part of speech the id of its first word. Negative adjectives come before positive ones; the last nouns
        are the first verbs."""
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
        """All sentences, as parts of speech, and their probabilities."""
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
        """ "uniform" over the vocabulary; "unigram", as often as words are masked, which no constant beats."""
        words = np.zeros(self.vocabulary)
        for tag, share in enumerate(_shares(self)):
            words[self.first_words[tag] : self.first_words[tag] + len(self._words(tag))] += share * self._words(tag)
        words = words[words > 0]
        return {"uniform": math.log(self.vocabulary), "unigram": float(-(words * np.log(words)).sum())}

    def _words(self, tag: int) -> np.ndarray:
        """How likely the words of a part of speech are, `[W]`; they are alike, but for adjectives' polarity."""
        size = self._sizes.get(tag, 0)
        if tag == _ADJ:
            return np.repeat([1 - self.positive, self.positive], self.adjectives) / self.adjectives
        return np.full(size, 1 / size) if size else np.zeros(0)

    def draw(self, key: Array) -> Drawn:
        """One example."""
        tag_key, word_key, mask_key = jax.random.split(key, 3)
        tags_T, count = self.tagged(tag_key)
        words_T, polarity_T = self._spoken(word_key, tags_T)
        at = jnp.arange(self.length)
        masked_T = at == self.lead + jax.random.randint(mask_key, (), 0, count)
        sentence_T = jnp.where(at == self.lead + count, SEP, words_T.at[0].set(CLS))
        marks = self._marks(tags_T, polarity_T) | {"masked": masked_T}
        inputs = {"tokens": jnp.where(masked_T, MASK, sentence_T), "mask": at <= self.lead + count, "marks": marks}
        return Drawn(inputs, sentence_T, masked_T)

    def tagged(self, key: Array) -> tuple[Array, Array]:
        """The parts of speech of a sentence, 0 before and after it, `[T]`; and how many there are."""
        subject_key, end_key, object_key, not_key, own_key = jax.random.split(key, 5)
        copular = jax.random.bernoulli(end_key, self.copular)
        negated = jax.random.bernoulli(not_key, self.negated)
        ending = jnp.stack([jnp.asarray(_COPULA), jnp.where(negated, _NOT, 0), jnp.asarray(_ADJ)])
        acting = jnp.concatenate([jnp.full(1, _VERB), self._noun_phrase(object_key)])
        rest = jnp.where(copular, jnp.pad(ending, (0, len(acting) - 3)), acting)
        slots_C = jnp.concatenate([self._noun_phrase(subject_key), rest])
        # Empty slots go last; the sentence stays in order.
        said_C = slots_C[jnp.argsort(slots_C == 0, stable=True)]
        count = (slots_C > 0).sum()
        if not self.grammatical:
            said_C = jax.random.choice(own_key, len(TAGS), (len(said_C),), p=jnp.asarray(_shares(self), jnp.float32))
            said_C = jnp.where(jnp.arange(len(said_C)) < count, said_C, 0)
        tags_T = jnp.pad(said_C, (self.lead, self.length))[: self.length]
        return tags_T, count

    def _noun_phrase(self, key: Array) -> Array:
        """Slots Det, Adj, Noun, Person; Prep, Det, Adj, Noun, Place: their parts of speech, or 0 where empty."""
        keys = jax.random.split(key, 5)
        named, with_adjective = (
            jax.random.bernoulli(keys[at], chance, (2,)) for at, chance in ((0, self.named), (1, self.adjective))
        )
        phrase = jax.random.bernoulli(keys[2], self.phrase)
        parts = []
        for which, name in ((0, _PERSON), (1, _PLACE)):
            plain = jnp.stack([jnp.asarray(_DET), jnp.where(with_adjective[which], _ADJ, 0), jnp.asarray(_NOUN)])
            parts.append(jnp.append(jnp.where(named[which], 0, plain), jnp.where(named[which], name, 0)))
        after = jnp.concatenate([jnp.full(1, _PREP), parts[1]])
        return jnp.concatenate([parts[0], jnp.where(phrase, after, 0)])

    def _spoken(self, key: Array, tags_T: Array) -> tuple[Array, Array]:
        """A word for each part of speech, PAD where there is none, and adjectives' polarity."""
        word_key, polarity_key = jax.random.split(key)
        chance_T = jax.random.uniform(word_key, tags_T.shape)
        positive_T = jax.random.bernoulli(polarity_key, self.positive, tags_T.shape)
        sizes = jnp.asarray([1, *(self.adjectives if t == _ADJ else n for t, n in self._sizes.items())], jnp.float32)
        # A uniform number below 1 may round up to the size.
        which_T = jnp.minimum(chance_T * sizes[tags_T], sizes[tags_T] - 1).astype(jnp.int32)
        adjective_T = tags_T == _ADJ
        words_T = jnp.asarray(self.first_words)[tags_T] + which_T
        words_T = words_T + jnp.where(adjective_T & positive_T, self.adjectives, 0)
        return jnp.where(tags_T > 0, words_T, PAD), jnp.where(adjective_T, jnp.where(positive_T, 1.0, -1.0), 0.0)

    def _marks(self, tags_T: Array, polarity_T: Array) -> dict[str, Array]:
        entity_T = jnp.where(tags_T == _PERSON, 1.0, jnp.where(tags_T == _PLACE, 2.0, 0.0))
        by_name = {name: tags_T == tag for tag, name in enumerate(TAGS) if tag}
        return by_name | {"tag": tags_T.astype(jnp.float32), "entity": entity_T, "polarity": polarity_T}

    def control(self) -> "Grammar":
        """Words by chance."""
        return replace(self, grammatical=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Three layers."""
        return bert(self.vocabulary, self.length, changes)


@dataclass(frozen=True)
class Sentiment(Grammar):
    """`[CLS, MASK, sentence, SEP]`, where MASK stands for the sentence's sentiment, one of two tokens, and is scored.

    The sentence always ends in a copula: its sentiment is its last adjective's, turned round by "not". Other adjectives
    mean nothing. To be learned: that; expected is a head that looks from MASK to the last adjective, and one to "not"
    or to where both meet. All is determined: the optimum is 0. The majority is what the chances make it.

    Marks as the grammar's, and "predicate" `[B,T]`, the adjective that counts.

    The control's sentiments are drawn by themselves, as often good: the optimum is their entropy.
    """

    copular: float = 1.0
    lead = 2
    title = "sentiment"

    def __post_init__(self):
        super().__post_init__()
        require(self.copular == 1, "sentences that end in a copula, copular=1", self.copular)

    @property
    def majority(self) -> float:
        """How often the sentiment is the more frequent one."""
        good = self.positive * (1 - self.negated) + (1 - self.positive) * self.negated
        return max(good, 1 - good)

    @property
    def optimum(self) -> float:
        return 0.0 if self.grammatical else self.anchors["unigram"]

    @property
    def anchors(self) -> Mapping[str, float]:
        """ "uniform" over both sentiments; "unigram", as often as they are."""
        shares = (self.majority, 1 - self.majority)
        return {"uniform": math.log(2), "unigram": sum(-share * math.log(share) for share in shares if share > 0)}

    def draw(self, key: Array) -> Drawn:
        """One example."""
        tag_key, word_key, own_key = jax.random.split(key, 3)
        # The sentence is grammatical in the control as well; its sentiment is not its own.
        tags_T, count = replace(self, grammatical=True).tagged(tag_key)
        words_T, polarity_T = self._spoken(word_key, tags_T)
        at = jnp.arange(self.length)
        predicate_T = at == self.lead + count - 1
        good = (jnp.where(predicate_T, polarity_T, 0.0).sum() > 0) != (tags_T == _NOT).any()
        if not self.grammatical:
            share = self.positive * (1 - self.negated) + (1 - self.positive) * self.negated
            good = jax.random.bernoulli(own_key, share)
        asks_T = at == 1
        tokens = jnp.where(at == self.lead + count, SEP, words_T.at[0].set(CLS))
        marks = self._marks(tags_T, polarity_T) | {"masked": asks_T, "predicate": predicate_T}
        inputs = {"tokens": jnp.where(asks_T, MASK, tokens), "mask": at <= self.lead + count, "marks": marks}
        return Drawn(inputs, jnp.where(asks_T, jnp.where(good, GOOD, BAD), tokens), asks_T)


@cache
def _shares(task: Grammar) -> np.ndarray:
    """How often a masked word is of each part of speech; a sentence's words share its probability."""
    shares = np.zeros(len(TAGS))
    for tags, chance in replace(task, grammatical=True).sentences():
        shares += chance * np.bincount(tags, minlength=len(TAGS)) / len(tags)
    return shares / shares.sum()


def _mean_entropy(task: Grammar) -> float:
    return float(sum(share * -(p := task._words(tag)) @ np.log(p) for tag, share in enumerate(_shares(task)) if share))
