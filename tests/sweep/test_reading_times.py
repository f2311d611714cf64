"""Reading times: regressions of other documents, and heads ablated against whole forward passes."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import jaxheads as jh
from jaxheads.measure.people.readings import controls_of
from jaxheads.measure.people.regression import TimeRegression, held_out_likelihood
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


def test_the_likelihood_is_that_of_the_fit_of_the_other_folds():
    rng = np.random.default_rng(0)
    x, y, fold = rng.random((90, 3)), rng.random(90), np.arange(90) % 3
    ours = held_out_likelihood(x, y, fold)
    for part in range(3):
        inside = fold != part
        weights = np.linalg.solve(x[inside].T @ x[inside], x[inside].T @ y[inside])
        sigma = (y[inside] - x[inside] @ weights).std() ** 2 + (y[inside] - x[inside] @ weights).mean() ** 2
        np.testing.assert_allclose(ours[~inside], norm.logpdf(y[~inside], x[~inside] @ weights, sigma**0.5))


def test_surprisal_of_the_word_before_is_a_predictor():
    rng = np.random.default_rng(0)
    surprisal = [rng.random(50) for _ in range(8)]
    times = [np.concatenate([[np.nan], 300 + 100 * own[:-1] + rng.standard_normal(49)]) for own in surprisal]
    controls = [{"length": rng.random(50)} for _ in range(8)]
    gains = []
    for spill_over in (0, 1):
        regression = TimeRegression.of(times, controls, surprisal, list(range(8)), spill_over)
        sums, counts = regression.gains([own[None] for own in surprisal])
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
    cells = [np.stack(pair) for pair in zip(unedited, expected, strict=True)]
    sums, counts = regression.gains(cells)
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
