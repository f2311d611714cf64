import math
from functools import cache

import numpy as np
import pytest

from jaxheads.data.tasks import Grammar, Sentiment
from jaxheads.data.tasks.grammar import TAGS

from .laws import Host, constant_loss, drawn, loss, right

TASK = Grammar()
CLS, SEP, MASK, BAD, GOOD = range(1, 6)
DET, ADJ, NOUN, VERB, COPULA, NOT, PREP, PERSON, PLACE = range(1, 10)


@cache
def tags_of(word: int) -> frozenset[int]:
    """The parts of speech a word can be, by the sizes the task states."""
    ranges = {}
    start = 6
    for tag, size in (
        (DET, 3),
        (ADJ, 12),
        (NOUN, 16),
        (VERB, 6),
        (COPULA, 2),
        (NOT, 1),
        (PREP, 4),
        (PERSON, 10),
        (PLACE, 8),
    ):
        ranges[tag] = range(start, start + size)
        start += size
    # The last four nouns are verbs too.
    ranges[VERB] = range(ranges[NOUN].stop - 4, ranges[VERB].stop)
    return frozenset(tag for tag, words in ranges.items() if word in words)


def noun_phrases(words: tuple[int, ...], at: int, name: int, nested: bool = True):
    """Where a noun phrase that starts here may end, and its parts of speech."""

    def takes(place: int, tag: int) -> bool:
        return place < len(words) and tag in tags_of(words[place])

    ends = []
    if takes(at, name):
        ends.append((at + 1, (name,)))
    if takes(at, DET) and takes(at + 1, NOUN):
        ends.append((at + 2, (DET, NOUN)))
    if takes(at, DET) and takes(at + 1, ADJ) and takes(at + 2, NOUN):
        ends.append((at + 3, (DET, ADJ, NOUN)))
    yield from ends
    for end, tags in ends if nested else ():
        if takes(end, PREP):
            for last, more in noun_phrases(words, end + 1, PLACE, nested=False):
                yield last, (*tags, PREP, *more)


def parses(words: tuple[int, ...]) -> set[tuple[int, ...]]:
    """All ways to read a sentence, as parts of speech: a parser written for itself."""
    sentences = set()
    for end, subject in noun_phrases(words, 0, PERSON):
        rest = [tags_of(word) for word in words[end:]]
        for tags in ((COPULA, ADJ), (COPULA, NOT, ADJ)):
            if len(rest) == len(tags) and all(tag in word for tag, word in zip(tags, rest, strict=True)):
                sentences.add((*subject, *tags))
        if rest and VERB in rest[0]:
            for last, tags in noun_phrases(words, end + 1, PERSON):
                if last == len(words):
                    sentences.add((*subject, VERB, *tags))
    return sentences


def sentence(sample: Host, example: int, lead: int = 1) -> tuple[int, ...]:
    whole = np.where(sample.marks["masked"][example], sample.targets[example], sample.batch["tokens"][example])
    row = whole[sample.batch["mask"][example]]
    assert (row[0], row[-1]) == (CLS, SEP)
    return tuple(row[lead:-1].tolist())


def test_sentences_have_one_reading_and_the_marks_are_it():
    sample = drawn(TASK, 300)
    for example in range(300):
        words = sentence(sample, example)
        [tags] = parses(words)
        marked = sample.marks["tag"][example]
        assert marked[1 : 1 + len(words)].tolist() == list(tags)
        assert not marked[1 + len(words) :].any()
        for tag, name in enumerate(TAGS[1:], start=1):
            assert (sample.marks[name][example] == (marked == tag)).all()
        assert (sample.marks["entity"][example] == (marked == PERSON) + 2 * (marked == PLACE)).all()
        polarity = [0 if tag != ADJ else -1 if word < 15 else 1 for word, tag in zip(words, tags, strict=True)]
        assert sample.marks["polarity"][example, 1 : 1 + len(words)].tolist() == polarity
        [masked] = np.flatnonzero(sample.weights[example])
        assert sample.batch["tokens"][example, masked] == MASK
        assert 1 <= masked <= len(words)
    # Some words are nouns here and verbs there.
    assert any(len(tags_of(word)) > 1 for word in sentence(sample, 0) + sentence(sample, 1) + sentence(sample, 2))


def bayes(sample: Host, example: int) -> np.ndarray:
    """Of the masked word, over the vocabulary: each candidate by how likely its part of speech makes it there."""
    words = list(sentence(sample, example))
    place = int(np.flatnonzero(sample.weights[example])[0]) - 1
    chances = np.zeros(TASK.vocabulary)
    by_tags = dict(TASK.sentences())
    for word in range(6, TASK.vocabulary):
        words[place] = word
        for tags in parses(tuple(words)):
            size = {DET: 3, NOUN: 16, VERB: 10, COPULA: 2, NOT: 1, PREP: 4, PERSON: 10, PLACE: 8}.get(tags[place])
            spoken = (0.4 if word < 15 else 0.6) / 6 if size is None else 1 / size
            others = [tag for at, tag in enumerate(tags) if at != place]
            chances[word] += by_tags[tags] * spoken * _others(others)
    return chances / chances.sum()


def _others(tags: list[int]) -> float:
    # Up to what all readings have in common: whether a homograph is said as a noun or a verb.
    return (1 / 16) ** tags.count(NOUN) * (1 / 10) ** tags.count(VERB)


def test_the_exact_predictor_reaches_the_optimum():
    sample = drawn(TASK, 400)
    p_BV = np.stack([bayes(sample, example) for example in range(400)])
    entropies = -np.where(p_BV > 0, p_BV * np.log(np.where(p_BV > 0, p_BV, 1)), 0).sum(axis=1)
    # Its loss in expectation over the masked word; its spread between sentences is 0.9.
    assert entropies.mean() == pytest.approx(TASK.optimum, abs=0.13)
    # The rest determines the part of speech: what is open is the word.
    by_tag = {tag: math.log(n) for tag, n in {DET: 3, NOUN: 16, VERB: 10, COPULA: 2, NOT: 1, PREP: 4}.items()}
    by_tag |= {PERSON: math.log(10), PLACE: math.log(8), ADJ: math.log(6) - 0.4 * math.log(0.4) - 0.6 * math.log(0.6)}
    tags = sample.marks["tag"][sample.weights > 0]
    assert entropies == pytest.approx([by_tag[int(tag)] for tag in tags], abs=1e-6)
    p_BTV = np.broadcast_to(p_BV[:, None, :], (*sample.targets.shape, TASK.vocabulary))
    assert loss(p_BTV, sample) == pytest.approx(TASK.optimum, abs=0.15)
    # Closed form and sampling: the mean of the same numbers over many more.
    many = drawn(TASK, 20_000)
    tags = many.marks["tag"][many.weights > 0]
    assert np.mean([by_tag[int(tag)] for tag in tags]) == pytest.approx(TASK.optimum, abs=0.02)
    assert constant_loss(many) == pytest.approx(TASK.anchors["unigram"], abs=0.02)


def test_the_chances_are_those_stated():
    assert sum(chance for _, chance in TASK.sentences()) == pytest.approx(1)
    sample = drawn(TASK, 20_000)
    counts: dict[tuple, int] = {}
    for row in sample.marks["tag"].astype(int):
        tags = tuple(row[row > 0].tolist())
        counts[tags] = counts.get(tags, 0) + 1
    stated = dict(TASK.sentences())
    assert set(counts) <= set(stated)
    for tags, chance in stated.items():
        assert counts.get(tags, 0) / 20_000 == pytest.approx(chance, abs=5 * math.sqrt(chance / 20_000))


def test_the_controls_words_are_as_frequent_but_no_sentences():
    control = TASK.control()
    sample = drawn(control, 20_000)
    assert constant_loss(sample) == pytest.approx(control.optimum, abs=0.02)
    assert control.optimum == TASK.anchors["unigram"] > TASK.optimum + 0.5
    assert sum(bool(parses(sentence(sample, example))) for example in range(200)) < 20
    # A word says nothing of its neighbour: after a determiner a noun is as likely as anywhere.
    tags = sample.marks["tag"]
    after = tags[:, 2:][(tags[:, 1:-1] == DET) & (tags[:, 2:] > 0)]
    assert (after == NOUN).mean() == pytest.approx((tags == NOUN).sum() / (tags > 0).sum(), abs=0.02)


def test_sentiment_is_the_last_adjectives_turned_by_not():
    task = Sentiment()
    sample = drawn(task, 300)
    seen = set()

    def predict(example: int, position: int) -> int:
        assert position == 1
        words = sentence(sample, example, lead=2)
        [tags] = parses(words)
        assert tags[-1] == ADJ
        assert np.flatnonzero(sample.marks["predicate"][example]).tolist() == [1 + len(words)]
        good = (words[-1] >= 15) != (NOT in tags)
        seen.add((good, NOT in tags))
        return GOOD if good else BAD

    right(sample, predict)
    assert len(seen) == 4
    assert (sample.batch["tokens"][:, 1] == MASK).all()
    assert task.majority == pytest.approx(0.6 * 0.7 + 0.4 * 0.3)
    many = drawn(task, 4000)
    assert (many.targets[:, 1] == GOOD).mean() == pytest.approx(task.majority, abs=0.03)
    assert task.anchors["unigram"] == pytest.approx(constant_loss(many), abs=0.01)


def test_the_controls_sentiment_is_anyones():
    task = Sentiment().control()
    sample = drawn(task, 4000)
    good = sample.targets[:, 1] == GOOD
    assert good.mean() == pytest.approx(0.54, abs=0.03)
    last = (sample.marks["polarity"] * sample.marks["predicate"]).sum(axis=1) > 0
    by_grammar = last != sample.marks["not"].any(axis=1)
    assert good[by_grammar].mean() == pytest.approx(good[~by_grammar].mean(), abs=0.06)
    assert constant_loss(sample) == pytest.approx(task.optimum, abs=0.01)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="at least one word"):
        Grammar(places=0)
    with pytest.raises(ValueError, match="not both"):
        Grammar(both=10)
    with pytest.raises(ValueError, match=r"phrase must be a finite number from 0 to 1, got 1\.5"):
        Grammar(phrase=1.5)
    with pytest.raises(ValueError, match=r"copular=1; got 0\.5"):
        Sentiment(copular=0.5)
