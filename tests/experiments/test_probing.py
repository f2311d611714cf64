"""The experiments of probes and minimal pairs: from the command to the page, on a small random model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import jaxheads as jh
from experiments import agreement_heads, head_probes, sentiment_heads
from experiments.support import own_sentences
from jaxheads.data import MinimalPairs, Sentence, Sentences

from ..measure.probing import planted
from ..models.huggingface import small_model


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    """Commands load a small random model, whose tokenizer knows no word."""
    toy = jh.Model(small_model("gpt2").network, planted.tokenizer(35), name="toy")
    monkeypatch.setattr(jh, "load", lambda _: toy)


@pytest.mark.filterwarnings("ignore:.*unknown token")
def test_head_probes_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    every = own_sentences.trees()
    monkeypatch.setattr(own_sentences, "trees", lambda: every[:32])
    head_probes.main(["--quick", "--out", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "best-heads.csv").set_index(["label", "weights"])
    assert {("upos", "trained"), ("upos", "shuffled labels"), ("deprel", "random weights")} <= set(rows.index)
    assert (rows["lexical"] > 0.9).loc["upos"].all()
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "most frequent tag of each word" in page
    assert "no finding" in page


def test_a_full_run_needs_a_treebank(tmp_path: Path):
    with pytest.raises(SystemExit, match="--treebank"):
        head_probes.main(["--out", str(tmp_path)])


@pytest.mark.filterwarnings("ignore:.*unknown token")
def test_agreement_heads_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = Sentences(tuple(Sentence(("w1", "w2", f"w{number}", "w3")) for number in range(16)))
    other = Sentences(tuple(Sentence(("w1", "w2", f"w{number}", "w4")) for number in range(16)))
    about = [{"paradigm": "ab"[number % 2], "phenomenon": "agreement"} for number in range(16)]
    good, bad = (
        Sentences(tuple(replace(one, properties=own) for one, own in zip(kind, about, strict=True)))
        for kind in (words, other)
    )
    monkeypatch.setattr(agreement_heads, "own_pairs", lambda: MinimalPairs(good, bad))
    agreement_heads.main(["--quick", "--each", "8", "--heads", "2", "--out", str(tmp_path)])
    ablated: Any = pd.read_csv(tmp_path / "ablated.csv")
    assert ablated["ablated"].str.startswith("beside").tolist() == [False, False, True, True] * 2
    assert set(ablated["phenomenon"]) == {"all", "agreement"}
    assert pd.read_csv(tmp_path / "accuracy.csv")["pairs"].tolist() == [4, 4]
    assert "no finding" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_own_pairs_differ_in_their_verb():
    every = agreement_heads.own_pairs()
    assert len(every) == 16
    assert all(len(good) == len(bad) == 1 for good, bad in every.changed)


@pytest.mark.filterwarnings("ignore:.*unknown token")
def test_sentiment_heads_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = {
        name: [f"w{first} w{number}" for number in range(5, 21)] for name, first in (("positive", 1), ("negative", 2))
    }
    monkeypatch.setattr(sentiment_heads, "texts", lambda _: own)
    monkeypatch.setattr(sentiment_heads, "VERDICT", {"positive": ("w3", "w4"), "negative": ("w4", "w3")})
    monkeypatch.setattr(sentiment_heads, "THINGS", ("w1", "w2"))
    monkeypatch.setattr(sentiment_heads, "ADJECTIVES", ("w3", "w4"))
    sentiment_heads.main(["--quick", "--heads", "2", "--out", str(tmp_path)])
    ablated: Any = pd.read_csv(tmp_path / "ablated.csv")
    assert ablated["ablated"].str.startswith("beside").tolist() == [False, *[False, True] * 2]
    assert ablated["pairs"].tolist() == [16] * 5
    steered: Any = pd.read_csv(tmp_path / "steered.csv")
    assert steered["chosen"].sum() == 1
    assert set(pd.read_csv(tmp_path / "probes.csv")["weights"]) == {"trained", "random weights"}
    assert "no finding" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_sentences_of_sentiment_end_in_the_words_that_ask():
    every = sentiment_heads.read(sentiment_heads.Options(quick=True, sentences=16))
    assert all(one.words[-2:] == sentiment_heads.ASKS for one in every)
    assert sorted(one.properties["sentiment"] for one in every) == ["negative"] * 8 + ["positive"] * 8
