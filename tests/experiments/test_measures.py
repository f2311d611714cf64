"""The experiments on measures: the comparison's numbers, and one command from model to page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import attribution_agreement, head_measures
from jaxheads.statistics import mean_interval
from jaxheads.tables import Column

from .test_ioi import small


def test_agreement_is_of_sizes_example_by_example():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((6, 3, 4))
    values = {"one": one, "turned": -2 * one, "other": rng.standard_normal((6, 3, 4))}
    pairs = attribution_agreement.agreement(values, None).set_index(["first", "second"])
    assert pairs.loc[("one", "turned"), "rank_correlation"] == pytest.approx(1)
    assert pairs.loc[("one", "turned"), "of_means"] == pytest.approx(1)
    low, high = pairs.loc[("one", "other"), ["rank_correlation_low", "rank_correlation_high"]]
    assert low < 0 < high or abs(low) < 0.4
    square = attribution_agreement.matrix(pairs.reset_index(), "rank_correlation")
    assert (square.to_numpy() == square.to_numpy().T).all()


def test_agreement_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(jh, "load", lambda _: small())
    attribution_agreement.main(["--model", "small", "--quick", "--out", str(tmp_path)])
    assert "Tokens: faithfulness" in capsys.readouterr().out
    heads: Any = pd.read_csv(tmp_path / "heads.csv")
    assert {*heads["first"].tolist(), *heads["second"].tolist()} == {
        *("ablation (mean)", "patching", "atp", "importance", "direct effect", "relevance (attnlrp)")
    }
    assert np.abs(heads["rank_correlation"].to_numpy()).max() <= 1
    exact = float(heads.query("first == 'patching' and second == 'atp'")["of_means"].to_numpy()[0])
    assert exact > 0.5
    assert pd.read_csv(tmp_path / "cost.csv")["forward passes"].to_numpy().min() > 0
    assert (heads["rank_correlation_low"] <= heads["rank_correlation"]).all()
    assert (heads["n"] == 4).all()
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    missed = pd.read_csv(tmp_path / "missed.csv")
    assert {"method", "head", "what", "n", "exact_low", "difference_high"} <= set(missed)
    assert "by position" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_heads_that_a_gradient_misses_are_named_the_worst_first():
    shape = (8, 1, 3)
    noise = np.random.default_rng(0).standard_normal(shape) * 0.01
    said = {"weights": "w", "objective": "o"}

    def table(means: list[float]) -> jh.HeadTable:
        values = np.asarray(means) + noise
        column = Column(*mean_interval(values), per_example=values)
        return jh.HeadTable.from_columns("t", "decoder", {"effect": column}, said)

    tables = {"patching": table([1, 3, -2]), "atp": table([0.1, 2.9, 2])}
    missed = attribution_agreement.missed_heads(tables)
    assert missed["head"].tolist() == ["0.2", "0.0"]
    assert missed["what"].tolist() == ["wrong sign", "missed"]
    assert missed["n"].tolist() == [8, 8]


@pytest.mark.weights
def test_head_measures_from_the_command_to_the_page(tmp_path: Path, capsys):
    head_measures.main(["--models", "glassllm-en", "--quick", "--out", str(tmp_path)])
    assert "Functions, and the heads specialised in them" in capsys.readouterr().out
    folder = tmp_path / "glassllm-en"
    for name in ("patterns", "norms", "patterns-null", "repeats", "variability", "specialisation", "share", "copying"):
        table = jh.HeadTable.load(folder / name)
        assert np.isfinite(table.frame.select_dtypes("number").to_numpy()).any()
    effective = pd.read_csv(folder / "effective-heads.csv")
    assert effective[["js", "outputs", "cka"]].to_numpy().min() >= 0.99
    assert effective[["js", "outputs", "cka"]].to_numpy().max() <= 4.01
