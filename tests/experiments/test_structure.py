"""The experiment on what heads look at between words: from the command to the page, on planted heads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import structure
from experiments.support import own_sentences
from jaxheads.tables import Column

from ..measure import planted


@pytest.fixture(autouse=True)
def planted_model(monkeypatch: pytest.MonkeyPatch):
    """Have the command load the planted model, and read its sentences where it would read its own."""
    monkeypatch.setattr(jh, "load", lambda _: planted.model())
    monkeypatch.setattr(own_sentences, "trees", lambda: planted.sentences(48))


def test_structure_from_the_command_to_the_page(tmp_path: Path):
    structure.main(["--quick", "--out", str(tmp_path)])
    best = pd.read_csv(tmp_path / "best-heads.csv").set_index("measure")
    own = best.loc[structure.DEPENDENCIES]
    assert own["value"] == pytest.approx(1, abs=1e-4)
    assert own["head"] in (0, 1)
    assert own["other labels"] < 0.6
    assert own["random weights"] < 0.6
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert ", more than what the best head" in page
    assert "not clearly more" not in page


def test_other_labels_keep_the_words_and_the_tags_of_each_sentence():
    gold = planted.sentences(40)
    moved = structure.mislabelled(gold, 0)
    assert [one.words for one in moved] == [one.words for one in gold]
    assert [sorted(map(str, one.labels["upos"])) for one in moved] == [
        sorted(map(str, one.labels["upos"])) for one in gold
    ]
    assert any(one.labels["upos"] != other.labels["upos"] for one, other in zip(moved, gold, strict=True))


def test_a_correlation_over_heads_has_an_interval_over_documents():
    rng = np.random.default_rng(0)
    truth = np.arange(6.0)
    first = truth + 0.1 * rng.normal(size=(40, 6))
    rows = np.stack([first, -truth + 0.1 * rng.normal(size=(40, 6))]).reshape(2, 40, 2, 3)
    columns = {name: Column(own.mean(axis=0), per_example=own) for name, own in zip("ab", rows, strict=True)}
    table = jh.HeadTable.from_columns("t", "encoder", columns, clusters=np.arange(40) // 4)
    found = structure.correlation(table, "a", "b", 0)
    assert found["r_low"] <= found["r"] <= found["r_high"] < -0.99


def test_a_treebank_is_needed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="--treebank: expected a file in CoNLL-U"):
        structure.main([])
