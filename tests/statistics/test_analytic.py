import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxheads.statistics import (
    Moments,
    seed_effect,
    t_mean,
    wilson,
)

from .laws import covered, noise, tables


class TestAnalyticIntervals:
    def test_student_s_is_scipy_s(self):
        x = noise(9, 3)
        expected = stats.t.interval(0.9, 8, x.mean(axis=0), stats.sem(x, axis=0))
        interval = t_mean(x, level=0.9)
        np.testing.assert_allclose([interval.low, interval.high], expected)
        np.testing.assert_allclose(interval.mean, x.mean(axis=0))

    def test_student_s_covers_as_often_as_it_says_with_few_examples(self):
        assert covered(t_mean(noise(5, 4000)), 0.0) == pytest.approx(0.95, abs=0.015)

    def test_wilson_s_is_scipy_s(self):
        x = (noise(11, 6) > 0.5).astype(float)
        for cell in range(6):
            expected = stats.binomtest(int(x[:, cell].sum()), 11).proportion_ci(0.95, "wilson")
            interval = wilson(x[:, cell])
            np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high], atol=1e-12)

    @pytest.mark.parametrize("share", [0.03, 0.3])
    def test_wilson_s_covers_where_a_bootstrap_sees_nothing(self, share):
        x = (np.random.default_rng(1).random((60, 3000)) < share).astype(float)
        assert covered(wilson(x), share) == pytest.approx(0.95, abs=0.04)
        assert wilson(np.zeros(60)).high == pytest.approx(0.0602, abs=1e-3)

    def test_what_says_nothing_is_left_out(self):
        x = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
        assert wilson(x).mean[0] == 0.5
        assert np.isnan([*t_mean(x).mean[1:], *wilson(x).low[1:]]).all()
        with pytest.raises(ValueError, match="expected 0 or 1"):
            wilson([0.5])


class TestMoments:
    @settings(deadline=None)
    @given(tables, st.integers(0, 12))
    def test_any_cut_merges_to_the_whole(self, x, cut):
        whole, first, second = Moments(), Moments(), Moments()
        whole.add(x)
        first.add(x[:cut])
        second.add(x[cut:])
        first.merge(second)
        for name in ("mean", "variance", "least", "most"):
            np.testing.assert_allclose(getattr(first, name), getattr(whole, name), rtol=1e-6, atol=1e-3)
        assert (first.count == whole.count).all()

    def test_moments_are_those_of_numpy_far_from_zero(self):
        x, moments = 1e8 + noise(1000, 2), Moments()
        for piece in np.array_split(x, 7):
            moments.add(piece)
        np.testing.assert_allclose(moments.variance, x.var(axis=0, ddof=1), rtol=1e-6)
        np.testing.assert_allclose(moments.most, x.max(axis=0))


class TestSeedEffect:
    def test_finds_the_parts_of_the_spread(self):
        rng = np.random.default_rng(0)
        x = 1.5 * rng.standard_normal((40, 1, 300)) + rng.standard_normal((40, 30, 300))
        effect = seed_effect(x)
        assert effect.between.mean() == pytest.approx(2.25, rel=0.05)
        assert effect.within.mean() == pytest.approx(1, rel=0.02)
        assert effect.share.mean() == pytest.approx(2.25 / 3.25, abs=0.03)

    def test_seeds_are_what_was_drawn(self):
        """With 5 seeds of 400 examples the interval covers; one over the 2,000 examples would not."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((5, 1, 2000)) + rng.standard_normal((5, 400, 2000))
        assert covered(seed_effect(x), 0.0) == pytest.approx(0.95, abs=0.02)
        assert covered(t_mean(x.reshape(-1, 2000)), 0.0) < 0.3

    def test_seeds_that_are_alike_are_rarely_called_different(self):
        p = seed_effect(noise(4, 20, 4000)).p
        assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.012)
        assert seed_effect(np.ones((2, 3))).p == 1
        with pytest.raises(ValueError, match="at least 2 of each"):
            seed_effect(np.ones((1, 3)))
