"""Simulations of specialisation: truths in closed form, and the command from simulation to page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import specialisation_power


def test_truths_of_planted_heads():
    assert specialisation_power.true_selectivity((0.9,), 0.1) == pytest.approx(1)
    assert specialisation_power.true_selectivity((0.9, 0.9), 0.1) == pytest.approx(0.5)
    assert specialisation_power.true_selectivity((0.5,) * 4, 0.1) == pytest.approx(0)
    assert 7 < specialisation_power.true_breadth(0.1) < len(specialisation_power.PLANTED)


@pytest.mark.parametrize("law", specialisation_power.LAWS)
def test_laws_have_the_mean_that_truths_use(law: str):
    rng = np.random.default_rng(0)
    models = specialisation_power.simulate(law, 40, 8, 0.0, rng, (10, 10, 2))
    mean = np.mean([scores for model in models for scores in model.values()])
    assert mean == pytest.approx(specialisation_power.LAWS[law][1], rel=0.05)


def test_specialisation_power_from_the_command_to_the_page(tmp_path: Path, capsys):
    specialisation_power.main(["--quick", "--out", str(tmp_path)])
    assert "Size: random models as input" in capsys.readouterr().out
    coverage: Any = pd.read_csv(tmp_path / "coverage.csv")
    assert set(coverage["planted"]) == {*specialisation_power.PLANTED, "breadth of the first", "nothing"}
    even = coverage[coverage["planted"] == "generalist, 0.9"]
    assert (even["p < .05"].str.split().str[0].astype(float) == 0).all()
    power: Any = pd.read_csv(tmp_path / "power.csv")
    strong = power[(power["law"] == "normal") & (power["strength"] == 0.9) & (power["draws"] == 10)]
    assert (strong["q < .05"].str.split().str[0].astype(float) == 1).all()
    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")
