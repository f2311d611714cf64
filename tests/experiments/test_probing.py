"""The experiments of probes: from the command to the page, on a small random model."""

from pathlib import Path

import pandas as pd
import pytest

import jaxheads as jh
from experiments import head_probes
from experiments.support import own_sentences

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
