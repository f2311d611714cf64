import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxheads.statistics import (
    GroupedRows,
    mean_interval,
    wilson,
)

from .laws import covered, noise


class TestGroupedRows:
    def test_equals_the_plain_interval_up_to_the_limit(self):
        values = noise(16, 2, 3)
        values[3:9, 1, 1] = np.nan
        rows = GroupedRows(limit=16)
        rows.add(values)
        np.testing.assert_array_equal(rows.per_example, values)
        np.testing.assert_array_equal(rows.interval(level=0.8), mean_interval(values, level=0.8))
        rows.add(values[:1])
        assert rows.per_example is None

    @given(st.integers(2, 9), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def test_batches_cut_anywhere_give_the_same_to_the_bit(self, limit, sizes, seed):
        total = sum(sizes) + 1
        values = noise(total, 3, seed=seed)
        values[np.random.default_rng(seed).random(values.shape) < 0.3] = np.nan
        labels = np.random.default_rng(seed).integers(12, size=total)
        for clusters in (None, labels):
            whole, pieces = GroupedRows(limit), GroupedRows(limit)
            whole.add(values, clusters)
            for piece in np.split(np.arange(total), np.cumsum(sizes)):
                pieces.add(values[piece], None if clusters is None else clusters[piece])
            assert pieces.examples == whole.examples == total
            assert pieces.rows == whole.rows <= max(limit, 2)
            np.testing.assert_array_equal(pieces.interval(), whole.interval())
            np.testing.assert_array_equal(whole.mean(), whole.interval().mean)
        for cell in range(3):
            known = values[~np.isnan(values[:, cell]), cell]
            exact = math.fsum(known) / len(known) if len(known) else np.nan
            assert whole.mean()[cell] == pytest.approx(exact, rel=1e-9, abs=1e-14, nan_ok=True)

    def test_the_interval_of_groups_is_that_of_examples(self):
        values = noise(3000, 20) ** 2  # skewed
        rows = GroupedRows(limit=500)
        rows.add(values)
        assert rows.rows == 375  # groups of 8
        _, low, high, n = rows.interval()
        assert np.all(n == 3000)
        error = values.std(axis=0, ddof=1) / math.sqrt(3000)
        ratio = (high - low) / (2 * stats.norm.ppf(0.975) * error)
        # a standard deviation from 375 groups is good to 1 / sqrt(748) = 0.037, over 20 cells 0.008
        assert ratio.mean() == pytest.approx(1, abs=0.04)
        assert np.all(np.abs(ratio - 1) < 0.15)

    def test_covers_the_true_mean_as_often_as_it_says(self):
        # 3000 experiments: the standard error of the share covered is 0.005
        values = np.random.default_rng(0).exponential(size=(500, 3000))
        rows = GroupedRows(limit=64)
        rows.add(values)
        assert covered(rows.interval(level=0.9), 1.0) == pytest.approx(0.91, abs=0.02)

    def test_clusters_in_a_long_stream_stay_whole_however_often_they_come_back(self):
        # 200 documents, each in every batch: half of the variance lies between them
        rng, hits = np.random.default_rng(0), []
        for _ in range(40):
            rows, centres = GroupedRows(limit=64), rng.standard_normal((200, 20))
            for _ in range(3):
                rows.add(centres + rng.standard_normal((200, 20)), np.arange(200))
            assert rows.per_example is None
            assert rows.clusters is None
            assert rows.rows <= 64
            assert np.all(rows.n == 200)
            hits.append(covered(rows.interval(), 0.0))
        assert np.mean(hits) == pytest.approx(0.95, abs=0.03)

    def test_a_stream_of_shares_has_wilsons_interval(self):
        values, rows = (np.random.default_rng(0).random(300) < 0.97).astype(float), GroupedRows(limit=16)
        rows.add(values)
        np.testing.assert_allclose(rows.interval(), wilson(values), rtol=1e-12)

    def test_refuses_clusters_in_some_batches_only(self):
        rows = GroupedRows()
        rows.add([1.0, 2.0])
        with pytest.raises(ValueError, match="with every batch or with none"):
            rows.add([1.0], [3])
        with pytest.raises(ValueError, match="an integer for each of 2 examples"):
            GroupedRows().add([1.0, 2.0], ["a", "b"])

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
