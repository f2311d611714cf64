"""Spearman's correlation beyond controls: known answers, and the slow way by regressions of ranks."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from jaxheads.statistics import partial_rank_correlation

RNG = np.random.default_rng(0)


def slowly(x: np.ndarray, y: np.ndarray, beyond: np.ndarray) -> float:
    """Return Pearson's correlation of the residuals of two regressions of ranks."""
    known = np.column_stack([np.ones(len(x)), *map(rankdata, beyond)])
    left = []
    for values in (rankdata(x), rankdata(y)):
        weights, *_ = np.linalg.lstsq(known, values, rcond=None)
        left.append(values - known @ weights)
    return float(np.corrcoef(*left)[0, 1])


def test_without_controls_it_is_spearman_s_and_ties_share_their_rank():
    x, y = RNG.integers(0, 5, (3, 4, 12)).astype(float), RNG.integers(0, 4, 12).astype(float)
    answer = partial_rank_correlation(x, y)
    for at in np.ndindex(3, 4):
        assert answer[at] == pytest.approx(spearmanr(x[at], y)[0])
    assert partial_rank_correlation(y, y) == pytest.approx(1)
    assert partial_rank_correlation(-y, y) == pytest.approx(-1)


def test_with_controls_it_is_the_correlation_of_what_regressions_leave():
    x, y, beyond = RNG.random((5, 20)), RNG.random(20), RNG.random((3, 20))
    answer = partial_rank_correlation(x, y, beyond)
    np.testing.assert_allclose(answer, [slowly(own, y, beyond) for own in x])
    # Constant controls, and doubled ones, change nothing.
    again = partial_rank_correlation(x, y, np.concatenate([beyond, np.ones((1, 20)), beyond[:1]]))
    np.testing.assert_allclose(again, answer)


def test_out_of_itself_nothing_is_left():
    y = RNG.random(15)
    assert partial_rank_correlation(RNG.random(15), y, [y]) == 0
    assert partial_rank_correlation(y, RNG.random(15), [y**3]) == 0


def test_a_common_cause_is_taken_out():
    cause = RNG.random(4000)
    x, y = cause + 0.1 * RNG.random(4000), cause + 0.1 * RNG.random(4000)
    assert partial_rank_correlation(x, y) > 0.9
    assert abs(partial_rank_correlation(x, y, [cause])) < 0.1


def test_what_has_no_rank_or_no_degree_of_freedom_is_nan():
    assert np.isnan(partial_rank_correlation(np.ones(6), np.arange(6.0)))
    assert np.isnan(partial_rank_correlation(np.arange(4.0), RNG.random(4), RNG.random((2, 4))))


@pytest.mark.parametrize(
    ("second", "beyond"), [(np.ones(4), None), (np.full(5, np.nan), None), (np.ones(5), np.ones((1, 4)))]
)
def test_lengths_and_missing_numbers_are_refused(second: np.ndarray, beyond: np.ndarray | None):
    with pytest.raises(ValueError, match="second"):
        partial_rank_correlation(np.arange(5.0), second, beyond)
