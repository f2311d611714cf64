"""Models whose attention between words is planted, and sentences with trees, in random order."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences

HEADS = {"a": None, "bp": "a", "c": "a", "d": "bp", "e": "bp", "f": "c", "g": "f", "h": "a"}
"""The tree of every sentence: each word's head. "bp" has two pieces."""
RELATIONS = {"a": "root", "bp": "nsubj", "c": "obj", "d": "det", "e": "amod", "f": "amod", "g": "det", "h": "obj"}
"""The word "a" has two objects, "c" and "h"."""

VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "##p", "c", "d", "e", "f", "g", "h"]
NUMBER = {piece: number for number, piece in enumerate(VOCABULARY)}
PIECES = {word: ["b", "##p"] if word == "bp" else [word] for word in HEADS}
CONTEXT = 16


def tokenizer(vocabulary: Sequence[str] = tuple(VOCABULARY)) -> PreTrainedTokenizerFast:
    """Return a tokenizer into pieces of a vocabulary, which begins as `VOCABULARY` does."""
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    inner = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", NUMBER["[CLS]"]), ("[SEP]", NUMBER["[SEP]"])]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def sentences(count: int = 40, *, seed: int = 0, documents: int = 8, words: str = "abcdefgh") -> Sentences:
    """Return sentences of these words in random order, with their tree, tags and documents."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        chosen = [word for word in HEADS if word[0] in words]
        order = [chosen[index] for index in rng.permutation(len(chosen))]
        place = {word: index for index, word in enumerate(order)}
        links = [Link(place[word], place.get(HEADS[word] or "", -1), RELATIONS[word]) for word in order]
        tags = tuple("VERB" if word == "a" else "NOUN" if word in ("bp", "c", "h") else "X" for word in order)
        made.append(
            Sentence(
                tuple(order),
                labels={"upos": tags},
                links={"deprel": tuple(links)},
                document=f"document {number % documents}",
            )
        )
    return Sentences(tuple(made))


def looks(of: dict[str, list[str]]) -> np.ndarray:
    """Return what each piece looks for, `[V,V]`: the pieces of other words, or [CLS] where there are none."""
    wanted = np.zeros((len(VOCABULARY), len(VOCABULARY)))
    wanted[:, NUMBER["[CLS]"]] = 1
    for word, others in of.items():
        for piece in PIECES[word] if others else ():
            wanted[NUMBER[piece]] = 0
            for other in others:
                wanted[NUMBER[piece], [NUMBER[each] for each in PIECES[other]]] = 1
    return wanted


def model(*, causal: bool = False, offset: int = -1, sharp: float = 300.0) -> jh.Model:
    """Return a model of one layer: heads 0 to 2 look at a word's head, at its dependents, and at a fixed offset."""
    V, D = len(VOCABULARY), len(VOCABULARY) + CONTEXT
    queries, keys = np.zeros((3, D, D)), np.zeros((3, D, D))
    queries[0, :V, :V] = looks({word: [head] if head else [] for word, head in HEADS.items()})
    queries[1, :V, :V] = looks({word: [low for low, head in HEADS.items() if head == word] for word in HEADS})
    queries[2, V:, V:] = np.eye(CONTEXT, k=offset)
    keys[:2, :V, :V], keys[2, V:, V:] = np.eye(V), np.eye(CONTEXT)
    layer = {"W_Q": sharp * queries, "W_K": keys, "W_V": np.zeros((3, D, D)), "W_O": np.zeros((3, D, D))}
    embed, positions = np.eye(V, D), np.concatenate([np.zeros((CONTEXT, V)), np.eye(CONTEXT)], axis=1)
    made = jh.by_hand(embed, [layer], np.eye(V, D), positions=positions, causal=causal, name="planted")
    return replace(made, tokenizer=tokenizer())
