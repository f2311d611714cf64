"""The experiments of the training lab, in short: that they run and say what they measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import induction_phase_change, markov_phases
from jaxheads.train.monitor import Trace


def test_induction_from_the_command_to_the_page(tmp_path: Path, capsys):
    induction_phase_change.main(["--steps", "6", "--seeds", "2", "--batch", "4", "--out", str(tmp_path)])
    assert "one layer never forms induction" in capsys.readouterr().out
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert runs.groupby("condition").size().to_dict() == {"one layer": 2, "two layers": 2, "two layers, one length": 2}
    assert runs["loss"].between(2, 6).all()
    assert (tmp_path / "two-layers.png").read_bytes().startswith(b"\x89PNG")


def test_markov_from_the_command_to_the_page(tmp_path: Path, capsys):
    markov_phases.main(["--quick", "--steps", "4", "--states", "2", "--out", str(tmp_path)])
    assert "Beside the published losses" in capsys.readouterr().out
    runs: Any = pd.read_csv(tmp_path / "runs.csv")
    assert list(runs["condition"].unique()) == ["K = 2", "K = 2, one layer", "K = 2, doubly stochastic"]
    assert (runs["KL from Bayes at the end"] > 0).all()


def test_phases_are_read_off_the_curves():
    steps = np.array([0, 10, 100, 1000])
    uni, bi = np.array([[0.2], [0.01], [0.05], [0.08]]), np.array([[0.3], [0.09], [0.04], [0.01]])
    values = {"KL from unigram": uni, "KL from bigram": bi, "KL from bayes": bi, "loss": bi}
    [found] = markov_phases.phases(Trace(steps, values)).to_dict("records")
    assert (found["nearest unigram at"], found["nearer bigram from"]) == (10, 100)
    assert found["KL from unigram then"] == 0.01
    never = {**values, "KL from bigram": uni + 0.1}
    assert np.isnan(markov_phases.phases(Trace(steps, never))["nearer bigram from"][0])
