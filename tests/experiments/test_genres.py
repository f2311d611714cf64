"""The experiment on roles in changed text and other genres: its readings, and from the command to the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import genres
from experiments.support import genres_readings as readings
from experiments.support import own_sentences
from experiments.support.genres_readings import Sums
from jaxheads.data import Sentences
from jaxheads.statistics import rank_correlation

from ..measure import planted


def in_genres(count: int = 48) -> Sentences:
    made = [
        replace(one, properties={"genre": "ab"[int(str(one.document).split()[-1]) % 2]})
        for one in planted.sentences(count)
    ]
    return Sentences(tuple(made))


@pytest.mark.parametrize("causal", [False, True])
def test_hits_by_document_are_those_counted_sentence_by_sentence(causal: bool):
    model, gold = planted.model(causal=causal), in_genres()
    table = jh.relations(model, gold, least=1)
    for relation, direction, head in (("nsubj", "to head", 0), ("obj", "to dependent", 1), ("det", "to head", 2)):
        fixed = readings.offsets(gold, relation, direction, causal=causal)
        own = readings.hits(table, f"{relation}_{direction.replace(' ', '_')}", fixed.counts)
        for place, document in enumerate(readings.names_of(gold)):
            alone = gold.where(lambda one, document=document: one.document == document)
            # Each sentence is a document: four are enough for a table.
            parts = Sentences(tuple(replace(one, document=None) for one in alone))
            single = jh.relations(model, parts, least=0).frame
            column = f"{relation}_{direction.replace(' ', '_')}"
            share, words = single.loc[("decoder", 0, head), [column, f"{column}_words"]]
            assert own.counts[place] == words
            assert own.sums[place, 0, head] == pytest.approx(share * words, abs=1e-6)


def test_offsets_count_words_that_have_a_right_one_there():
    gold = planted.sentences(20, words="ach")  # "a" has two objects
    fixed = readings.offsets(gold, "obj", "to dependent", causal=False)
    assert fixed.counts.sum() == 20
    right = [any(one.words.index("a") + 1 == one.words.index(word) for word in "ch") for one in gold]
    assert fixed.sums[:, readings.OFFSETS.index(1)].sum() == sum(right)
    assert readings.offsets(gold, "obj", "to head", causal=False).counts.sum() == 40


def test_words_without_a_token_are_not_asked_of():
    gold = planted.sentences(6, words="ac")
    read = readings.words_read(planted.model(), gold)
    assert read == [{0, 1}] * 6
    missing = [{0}, *read[1:]]
    assert readings.offsets(gold, "obj", "to head", causal=False, read=read).counts.sum() == 6
    assert readings.offsets(gold, "obj", "to head", causal=False, read=missing).counts.sum() == 5


def test_rows_have_the_ratio_as_their_mean_and_a_ratio_is_over_all_words():
    sums = Sums(np.array([1.0, 6, 0]), np.array([2.0, 8, 0]))
    every = np.full(3, True)
    assert sums.mean(every) == pytest.approx(0.7)
    assert sums.rows(every).mean() == pytest.approx(0.7)
    same = readings.change(sums, sums, every)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_genres_that_differ_are_told_from_documents_that_do():
    rng, labels = np.random.default_rng(0), [genre for genre in "abcde" for _ in range(6)]
    noise = rng.normal(size=30)
    apart = Sums(noise + 3 * np.array(["abcde".index(own) for own in labels]), np.ones(30))
    assert readings.spread_between(apart, labels, 0)["p"] < 0.001
    alike = [readings.spread_between(Sums(rng.normal(size=30), np.ones(30)), labels, 0, 199)["p"] for _ in range(60)]
    assert np.mean(np.array(alike) < 0.1) < 0.25
    assert np.mean(alike) == pytest.approx(0.5, abs=0.15)


def test_agreement_of_equal_readings_is_one_and_of_reversed_ones_minus_one():
    values = np.random.default_rng(1).normal(size=(1, 3, 4)) + np.zeros((8, 1, 1))
    halves = np.arange(8) < 4, np.arange(8) >= 4
    own, reverse = (Sums(sign * values, np.ones(8)) for sign in (1, -1))
    assert readings.agreement(own, own, halves)["agreement"] == pytest.approx(1)
    assert readings.agreement(own, reverse, halves)["agreement"] == pytest.approx(-1)


def test_the_interval_of_an_agreement_holds_the_correlation_of_endless_documents():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 30))
    other = 0.8 * truth + 0.6 * rng.normal(size=truth.shape)
    endless = rank_correlation(truth.ravel(), other.ravel())
    assert endless is not None
    halves = np.arange(24) < 12, np.arange(24) >= 12
    held = 0
    for _ in range(60):
        own, another = (Sums(mean + 0.3 * rng.normal(size=(24, *mean.shape)), np.ones(24)) for mean in (truth, other))
        read = readings.agreement(own, another, halves)
        assert read["agreement_low"] <= read["agreement"] <= read["agreement_high"]
        held += read["agreement_low"] <= endless <= read["agreement_high"]
    assert held >= 54


def test_a_head_that_writes_nothing_turns_no_vector():
    turned = readings.moved_vectors(planted.model(), in_genres(6), in_genres(6))
    np.testing.assert_allclose(turned, 0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_from_the_command_to_the_page(causal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jh, "load", lambda _: planted.model(causal=causal))
    monkeypatch.setattr(own_sentences, "trees", lambda: planted.sentences(48, words="abcdf"))
    genres.main(["--quick", "--out", str(tmp_path)])
    own = pd.read_csv(tmp_path / "survival.csv").set_index(["role", "text"])
    # The planted heads look for words, wherever they are.
    assert own.loc[("nsubj to head", "intact"), ["value", "rank"]].tolist() == [1, 1]
    assert own.loc[("nsubj to head", "shuffled"), "value"] == 1
    assert own.loc[("previous token", "intact"), "head"] == 2
    assert own.loc[("previous token", "shuffled"), "value"] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(own[own["kind"] == "effect"]["value"], 0, atol=1e-5)
    apart = pd.read_csv(tmp_path / "across-genres.csv").set_index("role")
    assert apart.loc["nsubj to head", "above 0"] == 2
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "another order" in page
    assert "lower case is the same text to it" in page


def test_a_treebank_is_needed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="--treebank: expected a file in CoNLL-U"):
        genres.main([])
