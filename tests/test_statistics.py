import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from jaxheads.statistics import (
    GroupedRows,
    Moments,
    bootstrap,
    bootstrap_mean,
    false_discovery,
    paired_p_values,
    seed_effect,
    split_halves,
    t_mean,
    wilson,
)

numbers = st.floats(-1e6, 1e6, width=32)
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=numbers | st.just(np.nan))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class TestBootstrapMean:
    @given(tables)
    @settings(max_examples=100, deadline=None)
    def test_the_interval_holds_the_mean_wherever_two_examples_speak(self, values):
        mean, low, high = bootstrap_mean(values, resamples=50)
        speaks = (~np.isnan(values)).sum(axis=0)
        np.testing.assert_array_equal(np.isnan(mean), speaks == 0)
        np.testing.assert_array_equal(np.isnan(low), speaks < 2)
        np.testing.assert_array_equal(np.isnan(high), speaks < 2)
        inside = speaks >= 2
        assert np.all((low <= mean)[inside])
        assert np.all((mean <= high)[inside])
        for cell in np.flatnonzero(speaks):
            known = values[~np.isnan(values[:, cell]), cell]
            assert mean[cell] == pytest.approx(math.fsum(known) / len(known), rel=1e-12, abs=1e-9)

    def test_width_agrees_with_the_standard_error(self):
        values = noise(400, 5)
        _, low, high = bootstrap_mean(values, resamples=4000)
        error = values.std(axis=0, ddof=1) / math.sqrt(400)
        np.testing.assert_allclose(high - low, 2 * stats.norm.ppf(0.975) * error, rtol=0.06)

    def test_width_follows_the_level(self):
        values = noise(400, 5)
        widths = [np.ptp(bootstrap_mean(values, level=level, resamples=4000)[1:], axis=0) for level in (0.5, 0.9)]
        expected = stats.norm.ppf(0.75) / stats.norm.ppf(0.95)
        np.testing.assert_allclose(widths[0] / widths[1], expected, rtol=0.08)

    def test_covers_the_true_mean_as_often_as_it_says(self):
        # 3000 cells are 3000 experiments: the standard error of the share covered is 0.006
        _, low, high = bootstrap_mean(noise(60, 3000) + 3.0, level=0.9, resamples=400)
        assert 0.87 < np.mean((low <= 3.0) & (high >= 3.0)) < 0.91

    def test_a_cell_does_not_depend_on_its_neighbours(self):
        values = noise(20, 3, 4)
        values[5:, 1, 2] = np.nan
        values[:, 2, 2] = np.nan
        whole = bootstrap_mean(values)
        for cell in np.ndindex(3, 4):
            alone = bootstrap_mean(values[:, *cell])
            np.testing.assert_allclose([part[cell] for part in whole], alone, rtol=1e-12)

    def test_missing_examples_leave_what_the_others_say(self):
        # 300 of 600 missing: as wide as the interval of the 300 alone
        values = noise(600)
        values[::2] = np.nan
        with_gaps = np.ptp(bootstrap_mean(values, resamples=4000)[1:])
        alone = np.ptp(bootstrap_mean(values[1::2], resamples=4000)[1:])
        assert with_gaps == pytest.approx(alone, rel=0.1)

    def test_blocks_change_nothing(self, monkeypatch):
        values = noise(30, 7)
        values[3:20, 2] = np.nan
        whole = bootstrap_mean(values, resamples=100)
        monkeypatch.setattr(bootstrap, "_BLOCK", 200)  # two cells, six resamples at a time
        np.testing.assert_allclose(bootstrap_mean(values, resamples=100), whole, rtol=1e-12)

    def test_seed_decides(self):
        values = noise(20, 3)
        np.testing.assert_array_equal(bootstrap_mean(values, seed=1), bootstrap_mean(values, seed=1))
        assert np.all(bootstrap_mean(values, seed=1).low != bootstrap_mean(values, seed=2).low)

    def test_counts_weigh_rows(self):
        values, counts = noise(10, 3), np.arange(10)
        mean = bootstrap_mean(values, counts=counts).mean
        np.testing.assert_allclose(mean, np.average(values, axis=0, weights=counts), rtol=1e-12)
        per_cell = np.broadcast_to(counts[:, None], (10, 3))
        np.testing.assert_array_equal(bootstrap_mean(values, counts=per_cell), bootstrap_mean(values, counts=counts))
        silent = np.where(counts[:, None] == 0, np.nan, values)
        np.testing.assert_array_equal(bootstrap_mean(silent, counts=counts), bootstrap_mean(values, counts=counts))

        silent = np.where(counts[:, None] > 6, np.nan, values)
        np.testing.assert_allclose(
            bootstrap_mean(silent, counts=counts), bootstrap_mean(silent, counts=np.minimum(counts, 7))
        )
        first = np.average(values[:7], axis=0, weights=counts[:7])
        np.testing.assert_allclose(bootstrap_mean(silent, counts=counts).mean, first, rtol=1e-12)

    def test_a_narrow_interval_is_clipped_to_hold_the_mean(self):
        # at level 0 the percentiles meet in the median of the resamples, beside the mean
        mean, low, high = bootstrap_mean(noise(20, 30) ** 2, level=1e-9)
        assert np.all((low <= mean) & (mean <= high))
        assert np.any(low == mean)
        assert np.any(high == mean)

    def test_no_resample_may_speak_for_a_rare_cell(self):
        values = np.full((1000, 1), np.nan)
        values[:2] = 1.0
        low = [bootstrap_mean(values, resamples=1, seed=seed).low.item() for seed in range(30)]
        assert 0 < np.isnan(low).sum() < 15  # about 30 e^-2 = 4

    def test_a_single_number_an_example(self):
        mean, low, high = bootstrap_mean([1.0, 2.0, 3.0])
        assert mean.shape == low.shape == high.shape == ()
        assert mean == 2.0

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            (np.zeros((0, 3)), {}, "at least one example"),
            (1.0, {}, "at least one example"),
            ([1.0, np.inf], {}, "got infinity"),
            ([1.0, 2.0], {"level": 95}, "between 0 and 1, got 95"),
            ([1.0, 2.0], {"resamples": 0}, "at least 1, got 0"),
            ([1.0, 2.0], {"counts": [1, -1]}, "least -1"),
            ([1.0, 2.0], {"counts": [1, 1, 1]}, r"shape \[2\] or \[2\], got shape \[3\]"),
        ],
    )
    def test_refuses(self, values, options, message):
        with pytest.raises(ValueError, match=message):
            bootstrap_mean(values, **options)


class TestGroupedRows:
    def test_equals_the_plain_bootstrap_up_to_the_limit(self):
        values = noise(16, 2, 3)
        values[3:9, 1, 1] = np.nan
        rows = GroupedRows(limit=16)
        rows.add(values)
        np.testing.assert_array_equal(rows.per_example, values)
        np.testing.assert_array_equal(rows.interval(level=0.8, seed=3), bootstrap_mean(values, level=0.8, seed=3))
        rows.add(values[:1])
        assert rows.per_example is None

    @given(st.integers(2, 9), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def test_batches_cut_anywhere_give_the_same_to_the_bit(self, limit, sizes, seed):
        total = sum(sizes) + 1
        values = noise(total, 3, seed=seed)
        values[np.random.default_rng(seed).random(values.shape) < 0.3] = np.nan
        whole, pieces = GroupedRows(limit), GroupedRows(limit)
        whole.add(values)
        for piece in np.split(values, np.cumsum(sizes)):
            pieces.add(piece)
        assert pieces.examples == whole.examples == total
        assert pieces.rows == whole.rows
        assert math.ceil(min(total, limit) / 2) <= whole.rows <= limit
        np.testing.assert_array_equal(pieces.interval(resamples=20), whole.interval(resamples=20))
        np.testing.assert_array_equal(whole.mean(), whole.interval(resamples=1).mean)
        for cell in range(3):
            known = values[~np.isnan(values[:, cell]), cell]
            exact = math.fsum(known) / len(known) if len(known) else np.nan
            assert whole.mean()[cell] == pytest.approx(exact, rel=1e-12, abs=1e-14, nan_ok=True)

    def test_the_interval_of_groups_is_that_of_examples(self):
        values = noise(3000, 20) ** 2  # skewed
        rows = GroupedRows(limit=500)
        rows.add(values)
        assert rows.rows == 375  # groups of 8
        _, low, high = rows.interval(resamples=2000)
        error = values.std(axis=0, ddof=1) / math.sqrt(3000)
        ratio = (high - low) / (2 * stats.norm.ppf(0.975) * error)
        # a standard deviation from 375 groups is good to 1 / sqrt(748) = 0.037, over 20 cells 0.008
        assert ratio.mean() == pytest.approx(1, abs=0.03)
        assert np.all(np.abs(ratio - 1) < 0.15)

    def test_covers_the_true_mean_as_often_as_it_says(self):
        # 3000 experiments: the standard error of the share covered is 0.006
        values = np.random.default_rng(0).exponential(size=(500, 3000))
        rows = GroupedRows(limit=64)
        rows.add(values)
        _, low, high = rows.interval(level=0.9, resamples=400)
        assert 0.87 < np.mean((low <= 1.0) & (high >= 1.0)) < 0.91

    def test_an_unequal_last_group_weighs_by_its_examples(self):
        rows = GroupedRows(limit=2)
        rows.add([0.0, 0.0, 3.0])
        assert rows.rows == 2
        assert rows.mean() == 1.0

    def test_keeps_its_own_copy(self):
        values = np.ones((3, 2))
        rows = GroupedRows()
        rows.add(values)
        values[:] = 7.0
        np.testing.assert_array_equal(rows.mean(), [1.0, 1.0])

    def test_refuses(self):
        with pytest.raises(ValueError, match="at least 2 rows, got 1"):
            GroupedRows(limit=1)
        rows = GroupedRows()
        for ask in (rows.mean, rows.interval, lambda: rows.per_example):
            with pytest.raises(ValueError, match="call add first"):
                ask()
        rows.add(np.zeros((2, 3)))
        with pytest.raises(ValueError, match=r"shape \[3\], like those added before, got \[4\]"):
            rows.add(np.zeros((2, 4)))
        with pytest.raises(ValueError, match="infinity"):
            rows.add([[1.0, 2.0, -np.inf]])
        assert rows.examples == 2


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
        expected = stats.ttest_rel(scores, null, alternative="greater", nan_policy="omit").pvalue
        np.testing.assert_allclose(paired_p_values(scores, null), expected, rtol=1e-10)

    def test_is_uniform_under_the_null(self):
        p = paired_p_values(noise(10, 2000), noise(10, 2000, seed=1))
        assert stats.kstest(p, "uniform").pvalue > 0.01

    def test_the_other_side_is_the_complement(self):
        scores, null = noise(8, 5), noise(8, 5, seed=1)
        np.testing.assert_allclose(paired_p_values(scores, null) + paired_p_values(null, scores), 1.0)

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


def covered(interval, truth: float) -> float:
    return float(((interval.low <= truth) & (truth <= interval.high)).mean())


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
