"""Reading times: regressions of other documents, and heads ablated against whole forward passes."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import jaxheads as jh
from jaxheads.measure.people import regression as regressions
from jaxheads.measure.people.readings import controls_of
from jaxheads.measure.people.regression import SurprisalMoments, TimeRegression, lags
from tests import language
from tests.measure.test_people import slow_surprisal

pytest.importorskip("wordfreq")


def planted(noise: float = 5.0) -> tuple[jh.Model, jh.data.Sentences, list[np.ndarray]]:
    """Return times that are ten times the surprisal of a word, and noise."""
    model, sentences = language.model("gpt2"), language.drawn(60, longest=9)
    rng = np.random.default_rng(0)
    return (
        model,
        sentences,
        [
            300 + 10 * np.nan_to_num(own) + noise * rng.standard_normal(len(own))
            for own in jh.surprisal(model, sentences)
        ],
    )


def slow_likelihood(predictors_WP: np.ndarray, times_W: np.ndarray, fold_W: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of each time by the least squares fit of the other folds' words."""
    result_W = np.empty(len(times_W))
    for fold in np.unique(fold_W):
        out = fold_W == fold
        weights_P = np.linalg.lstsq(predictors_WP[~out], times_W[~out], rcond=None)[0]
        residual_W = times_W - predictors_WP @ weights_P
        result_W[out] = norm.logpdf(residual_W[out], 0, (residual_W[~out] ** 2).mean() ** 0.5)
    return result_W


@pytest.mark.parametrize("groups", [1 << 20, 10])
def test_moments_have_the_gains_of_regressions_of_all_words(groups: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(regressions, "GROUPS", groups)
    rng, documents = np.random.default_rng(0), 25
    lengths = rng.integers(8, 20, documents)
    # One control is the sum of two others, and one is large beside its deviation.
    controls = [{"length": rng.random(n), "place": 1e4 + rng.random(n), "constant": np.ones(n)} for n in lengths]
    controls = [{**own, "sum": own["length"] + own["place"]} for own in controls]
    surprisal = [rng.random((3, n)) for n in lengths]
    times = [300 + 50 * own[0] + 20 * rng.standard_normal(len(own[0])) for own in surprisal]
    times[3][2] = np.nan
    regression = TimeRegression.of(times, controls, [own[0] for own in surprisal], range(documents), 1)
    moments = SurprisalMoments(regression, 3)
    for number, own in enumerate(surprisal):
        moments.add(number, own)
    gains_GC, counts_G = moments.gains()
    known, moving, y, owner = [], [], [], []
    for number, (own, values) in enumerate(zip(surprisal, controls, strict=True)):
        matrix = np.stack([np.ones(lengths[number]), *values.values()], axis=1)
        rows = np.array([row for row in range(1, lengths[number]) if np.isfinite(times[number][row])])
        known.append(np.concatenate([matrix[rows], matrix[rows - 1, 1:]], axis=1))
        moving.append(np.stack([own[:, rows], own[:, rows - 1]], axis=-1))
        y.append(times[number][rows])
        owner += [number] * len(rows)
    known, moving, y, owner = np.concatenate(known), np.concatenate(moving, axis=1), np.concatenate(y), np.array(owner)
    assert counts_G.sum() == len(y)
    base = slow_likelihood(known, y, owner % 10)
    for cell in range(3):
        gain = slow_likelihood(np.concatenate([known, moving[cell]], axis=1), y, owner % 10) - base
        expected = np.bincount(owner % groups, weights=gain)
        np.testing.assert_allclose(gains_GC[:, cell], expected, atol=1e-6)


def test_surprisal_of_the_word_before_is_a_predictor():
    rng = np.random.default_rng(0)
    surprisal = [rng.random(50) for _ in range(8)]
    times = [np.concatenate([[np.nan], 300 + 100 * own[:-1] + rng.standard_normal(49)]) for own in surprisal]
    controls = [{"length": rng.random(50)} for _ in range(8)]
    gains = []
    for spill_over in (0, 1):
        regression = TimeRegression.of(times, controls, surprisal, list(range(8)), spill_over)
        sums, counts = SurprisalMoments.of(regression, surprisal).gains()
        gains.append(sums.sum() / counts.sum())
    assert gains[0] < 0.05
    assert gains[1] > 2


def test_times_that_are_surprisal_are_explained_by_it_and_shuffled_ones_are_not():
    model, sentences, times = planted()
    table = jh.reading_times(model, sentences, times, heads=())
    assert table.provenance["unedited"]["low"] > 1
    assert np.isnan(table.values).all()
    rng = np.random.default_rng(1)
    shuffled = jh.reading_times(model, sentences, [rng.permutation(own) for own in times], heads=())
    assert shuffled.provenance["unedited"]["mean"] < 0.2


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_effects_are_those_of_whole_forward_passes(memory: int):
    model, sentences, times = planted()
    table = jh.reading_times(model, sentences, times, "zero", memory=memory)
    head = (0, 2)
    edits = jh.zero_heads(model, [head])
    unedited, expected = (
        [slow_surprisal(model, sentences, number, own) for number in range(len(sentences))] for own in ((), edits)
    )
    owners = [int(one.document.split()[1]) for one in sentences if one.document]
    regression = TimeRegression.of(times, controls_of(sentences, None, "en"), unedited, owners, 1)
    moments = SurprisalMoments(regression, 2)
    for number, pair in enumerate(zip(unedited, expected, strict=True)):
        moments.add(number, np.stack(pair))
    sums, counts = moments.gains()
    base, edited = sums.sum(axis=0) / counts.sum()
    assert table.provenance["unedited"]["mean"] == pytest.approx(base, rel=1e-3)
    assert table.frame.loc[("decoder", *head), "effect"] == pytest.approx(edited - base, abs=2e-3)


def test_chosen_heads_have_the_effects_of_all_and_a_resumed_run_those_of_one(tmp_path: Path):
    model, sentences, times = planted()
    whole = jh.reading_times(model, sentences, times)
    for _ in range(2):
        some = jh.reading_times(model, sentences, times, heads=[(1, 2), (0, 1)], resume=tmp_path)
        known = ~np.isnan(some.values[0])
        assert np.argwhere(known).tolist() == [[0, 1], [1, 2]]
        np.testing.assert_allclose(some.values[0][known], whole.values[0][known], atol=1e-3)


def test_too_few_words_are_refused():
    model, sentences, times = planted()
    with pytest.raises(ValueError, match="times: a regression"):
        jh.reading_times(model, sentences[:5], times[:5])


def test_words_of_a_sentence_that_is_shorter_than_the_lag_have_no_earlier_ones():
    np.testing.assert_array_equal(lags(np.arange(3.0), 5)[:, 3:], np.full((3, 3), np.nan))
    np.testing.assert_array_equal(lags(np.arange(3.0), 5)[2, :3], [2, 1, 0])
