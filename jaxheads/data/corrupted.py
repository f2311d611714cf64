"""Sentences that are changed while their labels stay right: lower case, typing errors, another order, other words."""

import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from ..arguments import between, checked
from ..checks import one_of
from ..models.inputs.sentences import Link, Sentence, Sentences

Kind = Literal["lower", "typos", "shuffled", "nonce"]

KINDS: tuple[Kind, ...] = ("lower", "typos", "shuffled", "nonce")

OPEN = ("ADJ", "ADV", "NOUN", "PROPN", "VERB")
"""Tags of words that "nonce" replaces: all others make the grammar."""

LETTERS = 4
"""Least number of letters of a word that is mistyped: its first and its last one stay."""

Tag = tuple[str | None, str | None]


@checked(share=between(0, 1))
def corrupted(sentences: Sentences, kind: Kind, *, share: float = 0.2, seed: int = 0) -> Sentences:
    """Return the sentences changed in one way, each with its labels, links, properties and document.

        jh.relations(model, jh.data.corrupted(sentences, "shuffled"))

    The number of words stays, so that heads can be compared sentence by sentence. What a sentence becomes depends on
    the seed, its words and its place, and not on the other sentences (but for the words that "nonce" draws from).

    Args:
        kind: "lower": lower case. "typos": slips in a share of the words of four letters and more; two neighbours
            within the word change places, or one letter is left out or typed twice. "shuffled": the words of each
            sentence in another order, with a space after each; labels and links move along. "nonce": for each noun,
            name, verb, adjective and adverb one is drawn of the corpus's with the same tags ("upos" and, where there is
            one, "xpos"), which by chance may be the same: grammar without meaning (Gulordava et al. 2018, arXiv
            1803.11138, section 3).
        share: share of the words that "typos" mistypes, 0 to 1.

    Raises:
        ValueError: for another kind, a share out of range, or "nonce" of sentences without the label "upos".
    """
    one_of("kind", kind, KINDS)
    pool = _words_by_tag(sentences) if kind == "nonce" else {}
    made = []
    for number, one in enumerate(sentences):
        # A string's own hash differs from process to process.
        rng = random.Random(zlib.crc32(f"{seed} {number} {kind} {one.words}".encode()))
        if kind == "shuffled":
            made.append(_shuffled(one, rng))
            continue
        if kind == "lower":
            words = [word.lower() for word in one.words]
        elif kind == "typos":
            words = [mistyped(word, rng) if rng.random() < share else word for word in one.words]
        else:
            words = [_drawn(word, pool.get(tag, []), rng) for word, tag in zip(one.words, _tags(one), strict=True)]
        made.append(replace(one, words=tuple(words)))
    return Sentences(tuple(made), sentences.files, sentences.label_names)


def mistyped(word: str, rng: random.Random) -> str:
    """Return a word with one slip between its first and its last letter; shorter ones, and numbers, as they are."""
    if len(word) < LETTERS or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    pairs = [own for own in range(1, len(word) - 2) if word[own] != word[own + 1]]
    slips = ["left out", "twice", *(["swapped"] if pairs else [])]
    slip = rng.choice(slips)
    if slip == "swapped":
        at = rng.choice(pairs)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if slip == "left out" else word[: at + 1] + word[at:]


def _shuffled(one: Sentence, rng: random.Random) -> Sentence:
    order = list(range(len(one.words)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    links = {
        name: tuple(sorted(Link(place[link.dependent], place[link.head], link.label) for link in own))
        for name, own in one.links.items()
    }
    labels = {name: tuple(values[old] for old in order) for name, values in one.labels.items()}
    return replace(one, words=tuple(one.words[old] for old in order), spaces=None, labels=labels, links=links)


def _tags(one: Sentence) -> list[Tag]:
    nothing = (None,) * len(one.words)
    return list(zip(one.labels.get("upos", nothing), one.labels.get("xpos", nothing), strict=True))


def _words_by_tag(sentences: Iterable[Sentence]) -> Mapping[Tag, list[str]]:
    """Return the words of each open tag, as often as they occur."""
    found: dict[Tag, list[str]] = {}
    tagged = False
    for one in sentences:
        tagged |= "upos" in one.labels
        for word, tag in zip(one.words, _tags(one), strict=True):
            if tag[0] in OPEN:
                found.setdefault(tag, []).append(word)
    if not tagged:
        raise ValueError('kind="nonce" draws words by their tags: the sentences have no label "upos"')
    return found


def _drawn(word: str, others: list[str], rng: random.Random) -> str:
    """Return one of the other words, with a capital where the word has one; the word itself without others."""
    if not others:
        return word
    drawn = rng.choice(others)
    return drawn[0].upper() + drawn[1:] if word[0].isupper() else drawn
