import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from jaxheads.statistics import (
    false_discovery,
    mean_interval,
    paired_p_values,
    split_halves,
)

from .laws import LAWS, noise


class TestFalseDiscovery:
    def test_known_answer(self):
        # Benjamini & Hochberg by hand: p * m / rank, made monotone from the largest down
        np.testing.assert_allclose(false_discovery([[0.01, 0.04], [0.03, 0.5]]), [[0.04, 0.16 / 3], [0.16 / 3, 0.5]])

    @given(hnp.arrays(np.float64, st.integers(0, 12), elements=st.floats(0, 1) | st.just(np.nan)))
    @settings(deadline=None)
    def test_laws(self, p):
        q = false_discovery(p)
        np.testing.assert_array_equal(np.isnan(q), np.isnan(p))
        known = ~np.isnan(p)
        assert np.all((q >= p)[known])
        assert np.all((q <= 1)[known])
        assert np.all(np.diff(q[known][np.argsort(p[known])]) >= 0)
        np.testing.assert_array_equal(q[known], false_discovery(p[known]))  # NaN was not counted

    @pytest.mark.parametrize("wrong", [-0.1, 1.5, np.inf])
    def test_refuses_what_is_no_probability(self, wrong):
        with pytest.raises(ValueError, match=f"from 0 to 1 or NaN, got {wrong}"):
            false_discovery([0.5, np.nan, wrong])


class TestPairedPValues:
    def test_agrees_with_scipy(self):
        scores, null = noise(12, 2, 3) + 0.5, noise(12, 2, 3, seed=1)
        scores[4:7, 1, 2] = np.nan
        null[6:8, 1, 2] = np.nan
        students = stats.ttest_rel(scores, null, alternative="greater", nan_policy="omit").pvalue
        p = paired_p_values(scores, null)
        # differences with a tail to the left are tested more strictly, those with one to the right as by Student
        skew = stats.skew(scores - null, nan_policy="omit")
        np.testing.assert_allclose(p[skew > 0.2], students[skew > 0.2], rtol=1e-10)
        assert np.all(p >= students - 1e-12)

    def test_agrees_with_the_interval_of_the_differences(self):
        scores, null = np.random.default_rng(0).exponential(size=(9, 300)) + 0.6, noise(9, 300, seed=1)
        labels = np.arange(9) // 2
        for clusters in (None, labels):
            interval = mean_interval(scores - null, clusters=clusters)
            p = paired_p_values(scores, null, clusters=clusters)
            np.testing.assert_array_equal(p < 0.025, interval.low > 0)

    @pytest.mark.parametrize("law", LAWS)
    def test_false_positives_are_as_rare_as_it_says_on_both_sides(self, law):
        draw, mean = LAWS[law]
        values = draw(np.random.default_rng(0), (16, 4000)) - mean
        for sign in (1, -1):
            assert np.mean(paired_p_values(sign * values, np.zeros_like(values)) < 0.025) < 0.08

    def test_is_uniform_under_the_null(self):
        p = paired_p_values(noise(10, 2000), noise(10, 2000, seed=1))
        assert stats.kstest(p, "uniform").pvalue > 0.01

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_differences_all_alike_are_tested_by_their_signs(self, dtype):
        null = noise(6, 4).astype(dtype)
        scores = null + np.array([0.3, 0.0, -0.3, 0.3], dtype=dtype)  # alike up to rounding only
        scores[2:, 3] = np.nan
        np.testing.assert_array_equal(paired_p_values(scores, null), [2.0**-6, 1.0, 1.0, 2.0**-2])

    def test_many_examples_alike_give_a_positive_p(self):
        assert 0 < paired_p_values(np.ones(2000), np.zeros(2000)) < 1e-300

    def test_a_small_real_spread_is_not_taken_for_rounding(self):
        scores = 1 + np.array([1, 2, 3, 4], np.float32) * np.float32(1e-5)
        assert paired_p_values(scores, np.zeros(4, np.float32)) < 1e-12

    def test_cells_with_fewer_than_two_pairs_are_not_tested(self):
        scores = np.array([[1.0, 1.0], [np.nan, 2.0], [np.nan, 3.5]])
        p = paired_p_values(scores, np.zeros((3, 2)))
        np.testing.assert_array_equal(np.isnan(p), [True, False])

    def test_refuses(self):
        with pytest.raises(ValueError, match="at least 2 examples"):
            paired_p_values(np.zeros((1, 3)), np.zeros((1, 3)))
        with pytest.raises(ValueError, match=r"got \[3, 2\] and \[3, 1\]"):
            paired_p_values(np.zeros((3, 2)), np.zeros((3, 1)))


class TestSplitHalves:
    @given(st.integers(4, 60), st.integers(0, 2**32 - 1))
    @settings(deadline=None)
    def test_halves_are_disjoint_and_complete(self, count, seed):
        selection, confirmation = split_halves(count, seed)
        assert sorted([*selection, *confirmation]) == list(range(count))
        assert len(selection) == count // 2
        np.testing.assert_array_equal(selection, split_halves(count, seed)[0])

    def test_seeds_split_differently(self):
        assert any(not np.array_equal(split_halves(20, 0)[0], split_halves(20, seed)[0]) for seed in (1, 2))

    def test_refuses_fewer_than_four(self):
        with pytest.raises(ValueError, match="at least 4 examples, two for each half, got 3"):
            split_halves(3, 0)


class TestManyHeads:
    def test_false_discoveries_among_those_called_stay_under_the_level(self):
        """144 heads, 24 of them special: over many draws the mean false share is below 5 %, and most are found."""
        rng, shares, intervals = np.random.default_rng(0), [], []
        for _ in range(200):
            scores, null = rng.standard_normal((2, 20, 144))
            scores[:, :24] += 1.5
            called = false_discovery(paired_p_values(scores, null)) <= 0.05
            shares.append(called[24:].sum() / max(called.sum(), 1))
            intervals.append(called[:24].mean())
        assert np.mean(shares) <= 0.055
        assert np.mean(intervals) > 0.9
