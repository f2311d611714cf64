"""Sentences of the package's own with trees and coreference, by templates: for quick runs without a treebank."""

import numpy as np

from jaxheads.data import Link, Sentence, Sentences

NAMES = {"Mary": "She", "Anna": "She", "John": "He", "Peter": "He"}
NOUNS = ("teacher", "dog", "letter", "doctor", "house", "student", "garden", "king")
ADJECTIVES = ("old", "small", "young", "quiet")
VERBS = ("saw", "found", "liked", "followed", "painted")

Row = tuple[str, str, int, str]
"""A word, its tag, its head (-1: the root) and its relation."""


def trees(count: int = 64, documents: int = 16) -> Sentences:
    """Return sentences with trees, such as "The old teacher saw a small dog near the house ."."""
    rng = np.random.default_rng(0)
    return Sentences(tuple(_sentence(_clause(rng), f"document {number % documents}") for number in range(count)))


def passages(count: int = 48, documents: int = 16) -> Sentences:
    """Return pairs of sentences with coreference, such as "Mary saw the old dog . She liked it ."."""
    rng = np.random.default_rng(1)
    return Sentences(tuple(_passage(rng, f"document {number % documents}") for number in range(count)))


def _phrase(rng: np.random.Generator, noun: str, relation: str, head: int, first: int) -> list[Row]:
    """Return the rows of "the (old) NOUN", whose first word has the index `first`."""
    adjective = [str(rng.choice(ADJECTIVES))] if rng.random() < 0.5 else []
    own = first + 1 + len(adjective)
    return [
        ("the", "DET", own, "det"),
        *((word, "ADJ", own, "amod") for word in adjective),
        (noun, "NOUN", head, relation),
    ]


def _clause(rng: np.random.Generator) -> list[Row]:
    subject, item, place = rng.choice(NOUNS, 3, replace=False).tolist()
    rows = _phrase(rng, subject, "nsubj", -2, 0)
    verb = len(rows)
    rows = [(word, tag, verb if head == -2 else head, relation) for word, tag, head, relation in rows]
    rows.append((str(rng.choice(VERBS)), "VERB", -1, "root"))
    rows += _phrase(rng, item, "obj", verb, len(rows))
    if rng.random() < 0.5:
        near = len(rows)
        phrase = _phrase(rng, place, "obl", verb, near + 1)
        rows += [("near", "ADP", near + len(phrase), "case"), *phrase]
    return [*rows, (".", "PUNCT", verb, "punct")]


def _sentence(rows: list[Row], document: str) -> Sentence:
    words = [word for word, *_ in rows]
    words[0] = words[0].capitalize()
    return Sentence(
        tuple(words),
        (*[True] * (len(words) - 2), False, False),
        {"upos": tuple(tag for _, tag, _, _ in rows)},
        {"deprel": tuple(Link(index, head, relation) for index, (_, _, head, relation) in enumerate(rows))},
        document=document,
    )


def _passage(rng: np.random.Generator, document: str) -> Sentence:
    name, item = str(rng.choice(list(NAMES))), str(rng.choice(NOUNS))
    first, second = rng.choice(VERBS, 2, replace=False).tolist()
    again, thing = rng.random() < 0.5, rng.random() < 0.5
    who, what = name if again else NAMES[name], ["the", item] if thing else ["it"]
    words = (name, first, "the", item, ".", who, second, *what, ".")
    tags = ("PROPN", "VERB", "DET", "NOUN", "PUNCT", "PROPN" if again else "PRON", "VERB")
    tags += ("DET", "NOUN", "PUNCT") if thing else ("PRON", "PUNCT")
    links = (
        Link(5, 0, "proper" if again else "pronoun"),
        Link(len(words) - 2, 3, "nominal" if thing else "pronoun"),
    )
    entity = tuple("person" if word in (name, who) else "object" if word in (item, "it") else None for word in words)
    spaces = tuple(follows != "." for follows in (*words[1:], ""))
    return Sentence(words, spaces, {"upos": tags, "entity": entity}, {"coref": links}, document=document)
