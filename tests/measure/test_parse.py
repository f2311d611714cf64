"""Parsing by attention: planted trees, Chu–Liu–Edmonds beside all trees, baselines, Clark's probe."""

import itertools
from typing import Literal

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from jaxheads.measure.words.trees import heads_of
from tests import language

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


def test_the_probe_of_all_heads_finds_the_planted_ones():
    probe = jh.parsing_probe(planted.model(), planted.sentences(120))
    assert probe.uas == 1
    assert probe.weights is not None
    # Dependents' attention is in head 0, heads' own in head 1, and head 2 knows nothing.
    assert probe.weights[0, 0, 0] > 2
    assert abs(probe.weights[:, 0, 2]).max() < 1
    assert jh.parsing_probe(planted.model(), planted.sentences(120), "mst").uas == 1


def test_the_probe_learns_nothing_of_other_trees_and_little_of_random_weights():
    gold = planted.sentences(200, words="acfgh")
    shuffled = jh.parsing_probe(planted.model(), jh.shuffled_links(gold, 0))
    assert shuffled.uas < 0.5
    assert shuffled.frame.loc["model", "gain"] == 0


def test_the_probe_is_the_same_where_patterns_are_made_anew():
    gold = planted.sentences(80)
    kept, anew = (jh.parsing_probe(planted.model(), gold, steps=3, memory=memory) for memory in (1 << 30, 1))
    assert kept.weights is not None
    assert anew.weights is not None
    np.testing.assert_allclose(kept.weights, anew.weights, atol=1e-4)


def test_edges_join_all_pieces_of_related_words():
    gold = planted.sentences(3)
    batch = planted.model().encode(gold)
    edges = jh.relation_edges(batch, "nsubj", direction="to_dependent")
    words, ids = np.asarray(batch.words), np.asarray(batch.tokens)
    for example in range(3):
        verb, subject = (gold[example].words.index(word) for word in ("a", "bp"))
        expected = (words[example] == verb)[:, None] & (words[example] == subject)
        np.testing.assert_array_equal(edges[example], expected)
        assert expected.sum() == 2  # the subject has two pieces
    assert ids.shape == edges.shape[:2]
    np.testing.assert_array_equal(edges, jh.relation_edges(batch, "nsubj").swapaxes(1, 2))
    everything = jh.relation_edges(batch)
    assert everything.sum() == 3 * 10  # each of 7 words has a head; three edges have an end of two pieces
    tagged = jh.relation_edges(batch, "NOUN", labels="upos")
    assert tagged.sum() == 3 * 4


def test_edges_that_there_are_not_are_refused():
    batch = planted.model().encode(planted.sentences(3))
    with pytest.raises(ValueError, match="the batch has no labels"):
        jh.relation_edges(jh.Batch([[1, 2]]))
    with pytest.raises(ValueError, match="relation must be one of"):
        jh.relation_edges(batch, "iobj")
    with pytest.raises(ValueError, match="labels must be one of"):
        jh.relation_edges(batch, labels="coref")


def test_a_last_word_without_a_piece_of_its_own_gets_no_head():
    words = (*["dog"] * 7, "th", "e")  # "the" is one piece, more of it of "th"
    links = tuple(Link(index, index - 1, "root" if index == 0 else "dep") for index in range(9))
    spaces = (*[True] * 7, False, False)
    trees = Sentences(tuple(Sentence(words, spaces, links={"deprel": links}, document=f"{n}") for n in range(4)))
    model = language.model("gpt2")
    assert 8 not in np.asarray(model.encode(trees).words)
    parsed = jh.parse(model, trees, (1, 0))
    assert all(heads[8] == -1 for heads in parsed.heads.values())
