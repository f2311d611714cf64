"""Who does what and nothing else, best heads without their luck, patterns that depend on what is said."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxheads as jh
from jaxheads.evidence.specialisation import _breadth, _selectivity
from jaxheads.statistics import mean_interval
from jaxheads.tables import Column, HeadTable

from ..models.huggingface import assert_close
from ..models.specs.spec import small

FUNCTIONS = ("previous", "induction", "duplicate", "copy")
L, N, E = 4, 6, 40


def planted(seed: int = 0, noise: float = 0.05) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Head 0.f does function f alone; 3.5 does all alike; the rest do nothing."""
    rng = np.random.default_rng(seed)
    scores = {name: noise * rng.random((E, L, N)) for name in FUNCTIONS}
    nulls = {name: noise * rng.random((E, L, N)) for name in FUNCTIONS}
    for head, name in enumerate(FUNCTIONS):
        scores[name][:, 0, head] += 0.8
        scores[name][:, 3, 5] += 0.8
    return scores, nulls


def test_planted_specialists_and_generalists_are_told_apart():
    found = jh.specialisation(*planted())
    heads: Any = found.heads.frame.loc["decoder"]
    for head, name in enumerate(FUNCTIONS):
        assert heads.loc[(0, head), "selectivity"] > 0.9
        assert heads.loc[(0, head), "function"] == name
    assert heads.loc[(3, 5), "selectivity"] < 0.02
    assert heads.loc[(3, 5), "selectivity_high"] < 0.1
    assert heads.loc[(3, 5), "p"] > 0.9
    assert np.abs(found.functions["breadth"].to_numpy() - 2).max() < 0.2
    assert found.matrix.shape == (L * N, len(FUNCTIONS))
    assert found.matrix.max().to_list() == [1.0] * 4


def test_a_specialist_is_surprising_only_among_heads_that_do_much():
    scores, nulls = planted()
    alone: Any = jh.specialisation(scores, nulls).heads.frame.loc["decoder"]
    assert alone.loc[(0, 0), "p"] > 0.2  # shuffled, functions that few heads do fall on different heads
    for name in FUNCTIONS:
        scores[name][:, 1:] += 0.8  # three layers of heads that do everything
    among: Any = jh.specialisation(scores, nulls).heads.frame.loc["decoder"]
    assert among.loc[(0, 0), "p"] < 0.05
    assert among.loc[(2, 2), "p"] > 0.2


def test_where_there_is_nothing_nothing_is_said():
    rng = np.random.default_rng(0)
    scores = {name: 0.05 * rng.random((E, L, N)) for name in FUNCTIONS}
    nulls = {name: 0.05 * rng.random((E, L, N)) + 0.1 for name in FUNCTIONS}
    found = jh.specialisation(scores, nulls)
    assert np.isnan(found.heads.values).all()
    assert np.isnan(found.functions["breadth"].to_numpy()).all()
    assert set(found.heads.frame["function"]) == {""}


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 100))
def test_the_indices_keep_their_ranges_and_ends(functions: int, heads: int, seed: int):
    c = np.random.default_rng(seed).random((heads, functions))
    assert ((_selectivity(c) >= -1e-9) & (_selectivity(c) <= 1)).all()
    assert ((_breadth(c) >= 1 - 1e-9) & (_breadth(c) <= heads + 1e-9)).all()
    np.testing.assert_allclose(_selectivity(np.eye(functions)), 1)
    np.testing.assert_allclose(_selectivity(np.ones((heads, functions))), 0, atol=1e-12)
    np.testing.assert_allclose(_breadth(np.ones((heads, functions))), heads)
    np.testing.assert_allclose(_selectivity(c[::-1]), _selectivity(c)[::-1])


def test_units_do_not_matter():
    scores, nulls = planted()
    scores["copy"], nulls["copy"] = 17 * scores["copy"] + 3, 17 * nulls["copy"] + 3
    plain, scaled = jh.specialisation(*planted()), jh.specialisation(scores, nulls)
    np.testing.assert_allclose(scaled.heads.values, plain.heads.values, atol=1e-9)


def test_functions_must_fit_each_other():
    scores, nulls = planted()
    with pytest.raises(ValueError, match="each with its null"):
        jh.specialisation(scores, {"copy": nulls["copy"]})
    with pytest.raises(ValueError, match="the same layers and heads"):
        jh.specialisation({**scores, "copy": scores["copy"][:, :2]}, nulls)


def table(values: np.ndarray) -> HeadTable:
    column = Column(*mean_interval(values), values)
    return HeadTable.from_columns("noise", "decoder", {"score": column}, squeeze=True)


def test_the_best_of_noise_is_luck_and_says_so():
    optimism, reported = [], []
    for seed in range(60):
        values = np.random.default_rng(seed).standard_normal((20, 6, 8))
        row = jh.held_out(table(values), n=1, seed=seed).iloc[0]
        optimism.append(row["optimism"])
        reported.append(row["score"])
        assert row["optimism"] == pytest.approx(row["chosen_by"] - row["score"])
    assert np.mean(optimism) == pytest.approx(2.2 / np.sqrt(10), rel=0.15)  # the largest of 48, of means of 10
    assert abs(np.mean(reported)) < 0.1


def test_a_real_head_is_found_with_its_own_value():
    values = np.random.default_rng(0).standard_normal((200, 3, 4))
    values[:, 1, 2] -= 2
    best = jh.held_out(table(values), n=2, absolute=True)
    assert best.index[0] == ("decoder", 1, 2)
    assert best.iloc[0]["score"] == pytest.approx(-2, abs=0.3)
    assert jh.held_out(table(values), n=1, largest=False).index[0] == ("decoder", 1, 2)
    with pytest.raises(ValueError, match="'entropy' with its examples kept"):
        jh.held_out(table(values), "entropy")


def test_intervals_of_another_kind():
    values = (np.random.default_rng(0).random((30, 2, 3)) < 0.1).astype(float)
    plain = table(values)
    shares, student = jh.with_intervals(plain, "wilson"), jh.with_intervals(plain, "t")
    np.testing.assert_array_equal(shares.values, plain.values)
    assert shares.grid("score_low").min() >= 0
    assert shares.grid("score_high").min() > 0.05
    assert (student.grid("score_low") < shares.grid("score_low")).any()
    assert student.provenance["interval"] == "t"
    again = jh.with_intervals(student, "skew-corrected")
    np.testing.assert_allclose(again.frame["score_low"], plain.frame["score_low"])
    with pytest.raises(ValueError, match="expected 0 or 1"):
        jh.with_intervals(table(values + 0.5), "wilson")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("exclude_first", [True, False])
def test_variability_by_hand(side: str, exclude_first: bool):
    model, rng = small("llama").ours, np.random.default_rng(0)
    tokens, lengths = rng.integers(4, 37, (5, 9)), np.array([9, 7, 3, 8, 6])
    mask = np.arange(9)[None] < lengths[:, None]
    if side == "left":
        mask = mask[:, ::-1]
    batch = jh.Batch(tokens, mask)
    found = jh.variability(model, batch, 6, exclude_first)
    A = np.asarray(jh.run(model, batch, "pattern").seen["pattern"], np.float64)
    corners = np.stack([A[:, b][:, :, mask[b]][..., mask[b]][:, :, :6, :6] for b in (0, 1, 3, 4)])
    corners = corners[..., 1:] if exclude_first else corners
    away = np.abs(corners - corners.mean(axis=0)).sum(axis=(-2, -1))
    assert_close(found.values, away.sum(axis=0) / (2 * corners.sum(axis=(0, -2, -1))))
    assert found.examples == 4
    assert found.provenance["exclude_first"] == exclude_first
    assert (found.grid("variability_low") <= found.values).all()
    with pytest.raises(ValueError, match="at least two examples of 10 tokens, got 0; the longest has 9"):
        jh.variability(model, batch)
    with pytest.raises(ValueError, match="at least 2 positions without the first token, got 1"):
        jh.variability(model, batch, positions=1)


def test_attention_to_the_first_token_does_not_hide_variability():
    """Vig & Belinkov 2019 leave it out."""
    model, batch = small("llama").ours, jh.Batch(np.random.default_rng(0).integers(4, 37, (5, 9)))
    A = np.moveaxis(np.asarray(jh.run(model, batch, "pattern").seen["pattern"], np.float64), 1, 0)[..., :6, 1:6]
    by_hand = np.abs(A - A.mean(axis=0)).sum(axis=(0, -2, -1)) / (2 * A.sum(axis=(0, -2, -1)))
    assert_close(jh.variability(model, batch, 6).values, by_hand)


def test_what_is_always_the_same_does_not_vary():
    model = small("bloom").ours
    batch = jh.Batch(np.repeat(np.arange(8)[None], 3, axis=0))
    assert np.abs(jh.variability(model, batch, positions=8).values).max() < 1e-6
