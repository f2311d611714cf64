"""Parsing by attention: planted trees, Chu–Liu–Edmonds beside all trees, baselines, Clark's probe."""

import itertools
from typing import Literal

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.words.trees import heads_of

from . import planted
from .test_relations import always


def all_trees(count: int, root: int) -> list[tuple[int, ...]]:
    """Return all trees of some words with a root, as heads."""
    trees = []
    for heads in itertools.product(range(count), repeat=count):
        chain = list(heads)
        chain[root] = -1
        ends = []
        for word in range(count):
            for _ in range(count):
                word = chain[word] if word >= 0 else word
            ends.append(word)
        if all(end < 0 for end in ends) and heads[root] == root:
            trees.append(tuple(chain))
    return trees


@pytest.mark.parametrize("seed", range(6))
def test_the_best_tree_is_the_best_of_all_trees(seed: int):
    scores = np.random.default_rng(seed).random((5, 5))
    if seed == 5:
        scores[:, 2] = 0  # columns without any attention are edges, too
    best = max(all_trees(5, 1), key=lambda tree: sum(scores[word, head] for word, head in enumerate(tree) if head >= 0))
    assert tuple(heads_of(scores, 1, "mst").tolist()) == best


@pytest.mark.parametrize("method", ["max", "mst"])
def test_a_planted_tree_is_parsed_whole(method: Literal["max", "mst"]):
    gold = planted.sentences()
    to_head = jh.parse(planted.model(), gold, (0, 0), method)
    assert [to_head.uas, to_head.uas_low, to_head.words] == [1, 1, 7 * len(gold)]
    assert to_head.heads[3].tolist() == list(gold[3].heads or ())
    to_dependent = jh.parse(planted.model(), gold, (0, 1), method, direction="to_dependent")
    assert to_dependent.uas == 1


def test_a_shift_parses_as_its_offset_does():
    gold = planted.sentences(words="acfgh")
    parse = jh.parse(planted.model(offset=-1), gold, (0, 2))
    assert parse.uas == pytest.approx(parse.frame.loc["left_branching", "uas"])
    rising = jh.parse(planted.model(offset=1), gold, (0, 2))
    assert rising.uas == pytest.approx(rising.frame.loc["right_branching", "uas"])
    chain = jh.parse(planted.model(offset=-1), always("dep"), (0, 2))
    assert chain.uas == 1
    assert chain.frame.loc["offset", ["uas", "gain", "gain_low"]].tolist() == [1, 0, 0]
    assert chain.provenance["offsets"] == {"half 0": -1, "half 1": -1}


def test_halves_make_up_the_whole():
    gold = planted.sentences()
    whole, *halves = (jh.parse(planted.model(), gold, (0, 2), half=half) for half in (None, 0, 1))
    assert whole.words == sum(half.words for half in halves)
    assert whole.uas * whole.words == pytest.approx(sum(half.uas * half.words for half in halves))
    assert not set(halves[0].heads) & set(halves[1].heads)


def test_what_can_not_be_parsed_is_refused():
    model, gold = planted.model(), planted.sentences()
    with pytest.raises(ValueError, match=r"head must be \(layer, head\) within 1 × 3"):
        jh.parse(model, gold, (0, 3))
    with pytest.raises(ValueError, match="method must be one of"):
        jh.parse(model, gold, (0, 0), "best")  # type: ignore[arg-type]
    two = jh.data.Sentence(("a", "c"), links={"deprel": (jh.data.Link(0, -1, "root"), jh.data.Link(1, -1, "root"))})
    with pytest.raises(ValueError, match="a tree has one root, got 2: give single sentences"):
        jh.parse(model, jh.data.Sentences((*gold, two)), (0, 0))
    with pytest.raises(ValueError, match="has no tree"):
        jh.parse(model, jh.data.Sentences((*gold, jh.data.Sentence(("a",)))), (0, 0))
