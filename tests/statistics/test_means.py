import math

import numpy as np
import pytest
from hypothesis import given, settings

from jaxheads.statistics import (
    jackknife_interval,
    mean_interval,
    ratio_interval,
    rows_of,
    t_mean,
    wilson,
)

from .laws import LAWS, covered, noise, tables


class TestMeanInterval:
    @given(tables)
    @settings(max_examples=100, deadline=None)
    def test_the_interval_holds_the_mean_wherever_two_examples_speak(self, values):
        mean, low, high, n = mean_interval(values, within=(-np.inf, np.inf))
        np.testing.assert_array_equal(n, (~np.isnan(values)).sum(axis=0))
        np.testing.assert_array_equal(np.isnan(mean), n == 0)
        np.testing.assert_array_equal(np.isnan(low), n < 2)
        np.testing.assert_array_equal(np.isnan(high), n < 2)
        assert np.all((low <= mean)[n >= 2])
        assert np.all((mean <= high)[n >= 2])
        for cell in np.flatnonzero(n):
            known = values[~np.isnan(values[:, cell]), cell]
            assert mean[cell] == pytest.approx(math.fsum(known) / len(known), rel=1e-12, abs=1e-9)

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize(("n", "least"), [(8, 0.9), (16, 0.92), (32, 0.93)])
    def test_covers_at_few_and_skewed_examples(self, law, n, least):
        # 4000 cells are 4000 experiments: the standard error of the share covered is under 0.005
        draw, mean = LAWS[law]
        assert covered(mean_interval(draw(np.random.default_rng(0), (n, 4000))), mean) >= least - 0.01

    def test_is_students_for_symmetric_examples(self):
        half = noise(10, 4)
        values = np.concatenate([half, -half]) + 3
        ours, students = mean_interval(values, level=0.9), t_mean(values, level=0.9)
        np.testing.assert_allclose(ours.low, students.low, rtol=1e-6)
        np.testing.assert_allclose(ours.high, students.high, rtol=1e-6)

    def test_is_never_shorter_than_students_and_leans_to_the_tail(self):
        values = np.random.default_rng(0).exponential(size=(12, 300))
        ours, students = mean_interval(values), t_mean(values)
        assert np.all((ours.low <= students.low + 1e-12) & (ours.high >= students.high - 1e-12))
        assert np.mean(ours.high - ours.mean) > 1.2 * np.mean(ours.mean - ours.low)

    def test_a_share_has_wilsons_interval_by_itself(self):
        rng = np.random.default_rng(0)
        values = (rng.random((32, 4000)) < 0.97).astype(float)
        np.testing.assert_array_equal(mean_interval(values), wilson(values))
        assert covered(mean_interval(values), 0.97) > 0.9
        # effects of 0 and 1 are no shares: their range says so
        assert np.ptp(mean_interval(np.zeros(8), within=(-1, 1))[1:3]) == 0

    @pytest.mark.parametrize("groups", [15, 8, 4])
    def test_clusters_are_what_is_independent(self, groups):
        # 32 prompts of a few templates, half of the variance between them
        rng, hits, alone = np.random.default_rng(0), [], []
        for _ in range(1000):
            labels = np.concatenate([np.arange(groups), rng.integers(groups, size=32 - groups)])
            values = rng.standard_normal(groups)[labels] + rng.standard_normal(32)
            interval = mean_interval(values, clusters=[f"template {label}" for label in labels])
            assert interval.n == groups
            hits.append(covered(interval, 0.0))
            alone.append(covered(mean_interval(values), 0.0))
        assert np.mean(hits) > 0.93
        assert np.mean(alone) < 0.88

    def test_clusters_of_one_example_change_nothing_and_one_cluster_has_no_interval(self):
        values = noise(9, 3)
        np.testing.assert_array_equal(mean_interval(values, clusters=np.arange(9)[::-1]), mean_interval(values))
        assert np.isnan(mean_interval(values, clusters=np.zeros(9)).low).all()

    def test_equal_shares_of_clusters_have_wilsons_interval_of_the_clusters(self):
        values, labels = np.ones(12), np.repeat(np.arange(6), 2)
        assert mean_interval(values, clusters=labels).low == pytest.approx(float(wilson(np.ones(6)).low))

    def test_stays_within_its_range(self):
        values = np.random.default_rng(0).beta(0.2, 3, (6, 500))
        interval = mean_interval(values, within=(0, 1))
        assert interval.low.min() == 0
        assert mean_interval(values).low.min() < 0

    def test_a_weighted_mean_may_have_a_range_that_rows_leave(self):
        # variability of patterns: a row with little attention may vary by more than all of it
        interval = mean_interval([0.2, 0.3, 1.1], counts=[5, 5, 0.1], within=(0, 1))
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1

    def test_a_cell_does_not_depend_on_its_neighbours(self):
        values = noise(20, 3, 4)
        values[5:, 1, 2] = np.nan
        values[:, 2, 2] = np.nan
        whole = mean_interval(values)
        for cell in np.ndindex(3, 4):
            alone = mean_interval(values[:, *cell])
            np.testing.assert_allclose([field[cell] for field in whole], alone, rtol=1e-12)

    def test_missing_examples_leave_the_others(self):
        values = noise(60)
        values[::2] = np.nan
        np.testing.assert_allclose(mean_interval(values), mean_interval(values[1::2]), rtol=1e-12)

    def test_counts_weigh_rows(self):
        values, counts = noise(10, 3), np.arange(10)
        mean = mean_interval(values, counts=counts).mean
        np.testing.assert_allclose(mean, np.average(values, axis=0, weights=counts), rtol=1e-12)
        per_cell = np.broadcast_to(counts[:, None], (10, 3))
        np.testing.assert_array_equal(mean_interval(values, counts=per_cell), mean_interval(values, counts=counts))
        silent = np.where(counts[:, None] == 0, np.nan, values)
        np.testing.assert_array_equal(mean_interval(silent, counts=counts), mean_interval(values, counts=counts))
        # a cluster is a row whose count is its size
        labels = np.repeat(np.arange(4), [1, 2, 3, 4])
        sums = [values[labels == label].mean(axis=0) for label in range(4)]
        by_hand = mean_interval(np.array(sums), counts=[1, 2, 3, 4])
        np.testing.assert_allclose(mean_interval(values, clusters=labels), by_hand, rtol=1e-9)

    def test_a_single_number_an_example(self):
        mean, low, high, n = mean_interval([1.0, 2.0, 3.0])
        assert mean.shape == low.shape == high.shape == n.shape == ()
        assert mean == 2.0

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            (np.zeros((0, 3)), {}, "at least one example"),
            (1.0, {}, "at least one example"),
            ([1.0, np.inf], {}, "got infinity"),
            ([1.0, 2.0], {"level": 95}, "between 0 and 1, got 95"),
            ([1.0, 2.0], {"counts": [1, -1]}, "least -1"),
            ([1.0, 2.0], {"counts": [1, 1, 1]}, r"shape \[2\] or \[2\], got shape \[3\]"),
            ([1.0, 2.0], {"clusters": [1, 1, 1]}, r"one label for each of 2 examples, got shape \[3\]"),
            ([1.0, 2.0], {"clusters": [1, np.nan]}, r"a label for every example, got none for \[1\]"),
            ([1.0, 2.0], {"clusters": ["a", None]}, r"a label for every example, got none for \[1\]"),
            ([1.0, 2.0], {"within": (0, 1)}, "values from 0 to 1, got 2"),
        ],
    )
    def test_refuses(self, values, options, message):
        with pytest.raises(ValueError, match=message):
            mean_interval(values, **options)


class TestRatioInterval:
    @pytest.mark.parametrize("n", [8, 16])
    def test_covers(self, n):
        rng, hits = np.random.default_rng(0), []
        for _ in range(300):
            whole = rng.normal(3, 1, n)
            hits.append(covered(ratio_interval(0.4 * whole[:, None] + rng.standard_normal((n, 10)), whole), 0.4))
        assert np.mean(hits) > 0.93

    def test_knows_that_numerator_and_denominator_belong_together(self):
        whole = np.random.default_rng(0).normal(3, 1, 20)
        mean, low, high, n = ratio_interval(0.4 * whole, whole)
        np.testing.assert_allclose([mean, low, high], 0.4, rtol=1e-6)
        assert n == 20

    def test_has_no_ends_where_the_whole_may_be_zero(self):
        interval = ratio_interval(noise(8) + 1, noise(8, seed=1))
        assert np.isfinite(interval.mean)
        assert np.isnan([interval.low, interval.high]).all()

    def test_clusters_widen_it(self):
        labels = np.repeat(np.arange(6), 4)
        whole, kin = noise(24, seed=1) + 5, np.repeat(noise(6), 4)
        alone, together = ratio_interval(kin, whole), ratio_interval(kin, whole, clusters=labels)
        assert alone.mean == pytest.approx(float(together.mean))
        assert together.high - together.low > 1.5 * (alone.high - alone.low)


class TestJackknifeInterval:
    def test_of_the_mean_is_the_mean_interval(self):
        values, labels = noise(17, 4) ** 2, np.arange(17) % 7
        rows = rows_of(values, clusters=labels)
        np.testing.assert_allclose(
            jackknife_interval(lambda mean: mean, rows), mean_interval(values, clusters=labels), rtol=1e-9
        )

    def test_covers_a_ratio_of_means(self):
        rng, hits = np.random.default_rng(0), []
        for _ in range(500):
            values = np.stack([rng.exponential(1, 20), rng.normal(2, 0.5, 20)], axis=1)
            hits.append(covered(jackknife_interval(lambda mean: mean[0] / mean[1], rows_of(values)), 0.5))
        assert np.mean(hits) > 0.91
