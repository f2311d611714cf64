"""Analysis of variance: known answers, and what SciPy says of one factor."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from jaxheads.statistics import analysis_of_variance


def test_one_factor_is_scipys():
    x = np.random.default_rng(0).normal(size=(3, 7)) + np.array([0, 0.5, 1])[:, None]
    table: Any = analysis_of_variance(x, ["a"])
    F, p = stats.f_oneway(*x)
    assert table.loc["a", "F"] == pytest.approx(F)
    assert table.loc["a", "p"] == pytest.approx(p)
    assert table["share"].sum() == pytest.approx(1)


def test_a_textbook_example():
    """Montgomery, Design and Analysis of Experiments, table 5.1: battery life by material and temperature."""
    life = np.array(
        [
            [[130, 155, 74, 180], [34, 40, 80, 75], [20, 70, 82, 58]],
            [[150, 188, 159, 126], [136, 122, 106, 115], [25, 70, 58, 45]],
            [[138, 110, 168, 160], [174, 120, 150, 139], [96, 104, 82, 60]],
        ]
    )
    table = analysis_of_variance(life, ["material", "temperature"])
    assert table["squares"].to_numpy() == pytest.approx([10683.72, 39118.72, 9613.78, 18230.75], abs=0.01)
    assert table["df"].tolist() == [2, 2, 4, 27]
    assert table["F"].to_numpy()[:3] == pytest.approx([7.91, 28.97, 3.56], abs=0.005)
    assert list(table.index) == ["material", "temperature", "material × temperature", "residual"]


def test_what_was_put_in_comes_out():
    """Sums of effects without noise: each has its own squares, what is above the order goes to the residual."""
    a, b, c = np.array([-1.0, 1]), np.array([-2.0, 0, 2]), np.array([-3.0, 3])
    x = a[:, None, None] + b[None, :, None] + a[:, None, None] * c[None, None, :]
    x = np.repeat(x[..., None], 2, axis=-1)
    table = analysis_of_variance(x, ["a", "b", "c"])
    expected = {"a": 24, "b": 24 * 8 / 3, "c": 0, "a × b": 0, "a × c": 24 * 9, "b × c": 0, "residual": 0}
    assert table["squares"].to_dict() == pytest.approx(expected, abs=1e-9)
    first = analysis_of_variance(x, ["a", "b", "c"], order=1)
    assert first.loc["residual", "squares"] == pytest.approx(24 * 9)
    assert first["df"].tolist() == [1, 2, 1, 19]


def test_no_factor_is_found_in_noise():
    rng = np.random.default_rng(1)
    p = [analysis_of_variance(rng.normal(size=(3, 2, 4)), ["a", "b"])["p"].to_numpy()[:3] for _ in range(400)]
    assert (np.array(p) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones((2, 3)), {"factors": ["a", "b"]}, "with an axis for each"),
        (np.full((2, 3), np.nan), {"factors": ["a"]}, "with NaN"),
        (np.ones((1, 3)), {"factors": ["a"]}, "two or more"),
        (np.ones((2, 3)), {"factors": ["a"], "order": 0}, "order: expected at least 1, got 0"),
    ],
)
def test_what_is_no_grid_is_refused(values: np.ndarray, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        analysis_of_variance(values, **options)


def test_equal_values_have_no_ratio():
    table = analysis_of_variance(np.ones((2, 3)), ["a"])
    assert np.isnan(table[["F", "share"]].to_numpy(float)).all()
