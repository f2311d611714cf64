"""The experiments on syntax and coreference: their parts on planted heads, and from the command to the page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import entity_heads, head_parsers, syntax_heads
from experiments.support import own_sentences
from experiments.support.entity_heads_probes import of_kind
from experiments.support.relation_choice import Asked, above, beside_nulls, chosen
from jaxheads.data import Sentences

from ..measure import planted


@pytest.fixture(autouse=True)
def planted_model(monkeypatch: pytest.MonkeyPatch):
    """Have the commands load the planted model, and read its sentences where they would read their own."""
    monkeypatch.setattr(jh, "load", lambda _: planted.model())
    monkeypatch.setattr(own_sentences, "trees", lambda: planted.sentences(48))


def test_the_planted_head_is_chosen_on_one_half_and_right_on_the_other(tmp_path: Path):
    model, gold = planted.model(), planted.sentences(80)
    asked = Asked("deprel", 1, 0, tmp_path)
    heads: Any = chosen(model, gold, asked)
    own = heads[heads["direction"] == "to head"][["head", "share", "chosen_by"]].to_numpy()
    np.testing.assert_array_equal(own, np.tile([0, 1, 1], (len(own), 1)))
    null = chosen(model, jh.shuffled_links(gold, 0), asked)
    table = beside_nulls(heads, {"shuffled": null}).set_index(["relation", "direction"])
    assert table.loc[("nsubj", "to head"), "share_shuffled"] < 0.6
    assert above(heads, 0.1) >= 4


def test_syntax_heads_from_the_command_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    syntax_heads.main(["--quick", "--out", str(tmp_path)])
    assert "In " in capsys.readouterr().out
    heads = pd.read_csv(tmp_path / "heads.csv")
    assert {"share_random", "gain_shuffled", "gain_low", "base"} <= set(heads)
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "nsubj" in page
    assert "No causal effect is reported" in page


def test_a_causal_model_is_put_to_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jh, "load", lambda _: planted.model(causal=True))
    syntax_heads.main(["--quick", "--out", str(tmp_path)])
    proof = pd.read_csv(tmp_path / "proof.csv")
    assert {"ablated", "edge", "other_edge", "relation", "gold"} <= set(proof)
    # The planted heads write nothing.
    np.testing.assert_allclose(proof[["ablated", "edge", "other_edge"]], 0, atol=1e-5)
    assert "none of them differs from its controls" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_head_parsers_from_the_command_to_the_page(tmp_path: Path):
    head_parsers.main(["--quick", "--out", str(tmp_path)])
    parsers = pd.read_csv(tmp_path / "parsers.csv").set_index(["weights", "parser", "method"])
    assert parsers.loc[("trained", "best head", "max"), ["uas", "head"]].tolist() == [1, "L0H0"]
    assert parsers.loc[("trained", "all heads (probe)", "mst"), "uas"] == 1
    assert parsers.loc[("trained", "all heads, other trees", "max"), "uas"] < 0.6
    assert "with random weights (one draw)" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_rules_and_other_mentions_of_a_passage():
    passages = own_sentences.passages()
    rules = entity_heads.rules(passages, 0).set_index("relation")
    # A name or noun that comes again is found by its word, a pronoun is not.
    assert rules.loc[["proper", "nominal"], "same word"].tolist() == [1, 1]
    assert rules.loc["pronoun", "same word"] == 0
    rng = np.random.default_rng(0)
    for passage in passages:
        gold = entity_heads.antecedents(passage)
        for link in entity_heads.other_mentions(passage, rng):
            assert link.head < link.dependent
            assert link.head not in gold[link.dependent]


def reader_of_passages() -> jh.Model:
    """Return a model of random weights that knows the words of the package's own passages."""
    words = sorted({word for one in own_sentences.passages() for word in one.words})
    vocabulary = [*planted.VOCABULARY[:4], *words]
    config = {"model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    return replace(jh.init(config), tokenizer=planted.tokenizer(vocabulary))


def test_entity_heads_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jh, "load", lambda _: reader_of_passages())
    entity_heads.main(["--quick", "--out", str(tmp_path)])
    heads = pd.read_csv(tmp_path / "heads.csv")
    assert set(heads["relation"]) == {"pronoun", "proper", "nominal", "all"}
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "Clark et al. 2019, table 2" in page
    assert "What kind of entity" in page
    probes = pd.read_csv(tmp_path / "probes.csv").set_index("mention")
    # Names are of persons alone, nouns of objects: there is nothing to tell apart.
    assert probes.index.tolist() == ["pronoun"]
    assert probes.loc["pronoun", ["types", "lexical"]].tolist() == [2, 1]  # "it" is an object, always
    assert probes.loc["pronoun", "gain"] <= 0


def test_types_are_asked_of_words_of_one_kind():
    passage = own_sentences.passages()[0]
    for kind, tag in (("pronoun", "PRON"), ("proper", "PROPN"), ("nominal", "NOUN")):
        [own] = of_kind(Sentences((passage,)), kind)
        tags = passage.labels["upos"], passage.labels["entity"]
        for word, upos, entity in zip(own.labels["type"], *tags, strict=True):
            assert word == (entity if upos == tag else None)


@pytest.mark.parametrize("experiment", [syntax_heads, head_parsers, entity_heads])
def test_without_a_treebank_only_a_quick_run_is_allowed(experiment, tmp_path: Path):
    with pytest.raises(SystemExit, match="--treebank: expected a file in CoNLL-U"):
        experiment.main(["--out", str(tmp_path)])
