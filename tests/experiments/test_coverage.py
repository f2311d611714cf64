"""Coverage of intervals: candidates against SciPy, and the page of a quick run on tables of its own."""

import numpy as np
import pytest
from scipy import stats

import jaxheads as jh
from experiments import coverage
from experiments.support.coverage_intervals import CANDIDATES, cubic, student
from jaxheads.statistics import mean_interval
from jaxheads.tables import Column


def test_candidates_are_those_of_scipy():
    rng = np.random.default_rng(0)
    sample = rng.exponential(size=(30, 1))
    for name, method in (("percentile", "percentile"), ("BCa", "BCa")):
        low, high = CANDIDATES[name](sample, np.random.default_rng(1))
        theirs = stats.bootstrap((sample[:, 0],), np.mean, method=method, n_resamples=4000, rng=2).confidence_interval
        np.testing.assert_allclose([low[0], high[0]], theirs, rtol=0.06)
    expected = stats.t.interval(0.95, 29, sample.mean(), stats.sem(sample[:, 0]))
    np.testing.assert_allclose(np.ravel(student(sample, rng)), expected)


def test_ours_is_the_hull_of_student_and_the_cubic():
    samples = np.random.default_rng(0).exponential(size=(12, 50))
    both = [candidate(samples, np.random.default_rng(0)) for candidate in (student, cubic)]
    interval = mean_interval(samples)
    np.testing.assert_allclose(interval.low, np.minimum(both[0][0], both[1][0]))
    np.testing.assert_allclose(interval.high, np.maximum(both[0][1], both[1][1]))


def test_a_quick_run(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coverage, "SIZES", (8,))
    monkeypatch.setattr(coverage.Options, "samples", 200)
    values = np.random.default_rng(0).random((30, 2, 3))
    columns = {"score": Column(*mean_interval(values), values)}
    jh.HeadTable.from_columns("made", "decoder", columns, squeeze=True).save(tmp_path / "tables" / "model")
    out = tmp_path / "out"
    coverage.main(["--quick", "--tables", str(tmp_path / "tables"), "--out", str(out)])
    page = (out / "summary.md").read_text()
    assert "model/made: score" in page
    rates = coverage.pd.read_csv(out / "laws.csv").set_index("law")
    assert rates.loc["lognormal", "ours"] > rates.loc["lognormal", "percentile"] + 0.05
    selection = coverage.pd.read_csv(out / "selection.csv")
    assert (selection["covered, held out"] >= selection["covered, chosen and reported on all"]).to_numpy().all()
