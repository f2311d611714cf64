"""Errors of effects by arithmetic: what they count, and a quick run on a real model."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import precision
from jaxheads import precision as arithmetic


def test_errors_are_relative_and_signs_are_of_effects_that_count():
    exact = np.array([[[1.0, -2.0], [1e-4, 4.0]]])
    own = exact * np.array([[[1.1, -1.0], [-1.0, 1.0]]])
    errors = precision.errors(own, exact)
    assert errors["median error"] == pytest.approx(np.median([0.1, 2.0, 2.0, 0.0]))
    assert errors["wrong signs"] == pytest.approx(1 / 3)
    assert errors["rank agreement"] == pytest.approx(1)


@pytest.mark.weights
def test_a_quick_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arithmetic, "_multiplies_bfloat16", lambda: True)  # on any CPU
    with jax.numpy_dtype_promotion("standard"):  # norms in float32 of weights in bfloat16
        precision.main(["--quick", "--out", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "errors.csv").to_dict("records")
    error = {(row["weights"], row["arithmetic"]): float(row["median error"]) for row in rows}
    assert error["float32", "full"] < error["float32", "differences"] < 0.01
    assert error["float32", "emulated bfloat16"] > 2 * error["float32", "differences"]
    assert error["bfloat16", "fine differences"] < 1e-4 < error["bfloat16", "differences"] < error["bfloat16", "full"]
    assert "What to choose" in (tmp_path / "summary.md").read_text()
