"""Who does what and nothing else, best heads without their luck, patterns that depend on what is said."""

from typing import Any

import numpy as np
import pandas as pd
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
L, N, E, DRAWS = 4, 6, 24, 5

Scores = dict[str, np.ndarray]


def random_models(
    count: int, rng: np.random.Generator, examples: int = E, differ: float = 0.3, heads: tuple[int, int] = (L, N)
) -> list[Scores]:
    """Return models whose heads do nothing: models, heads and examples differ."""
    return [
        {
            name: 0.1
            + 0.02 * differ * rng.standard_normal()
            + 0.02 * rng.standard_normal(heads)
            + 0.04 * rng.standard_normal((examples, *heads))
            for name in FUNCTIONS
        }
        for _ in range(count)
    ]


def by_function(models: list[Scores]) -> dict[str, list[np.ndarray]]:
    return {name: [model[name] for model in models] for name in FUNCTIONS}


def planted(seed: int = 0) -> tuple[Scores, dict[str, list[np.ndarray]]]:
    """Head 0.f does function f alone; 3.5 does all alike, 3.4 less evenly; the rest do nothing."""
    rng = np.random.default_rng(seed)
    scores, *nulls = random_models(1 + DRAWS, rng)
    for head, name in enumerate(FUNCTIONS):
        for layer, other, mean in ((0, head, 0.9), (3, 5, 0.9), (3, 4, 0.5 + 0.1 * head)):
            scores[name][:, layer, other] = mean + 0.1 * rng.standard_normal(E)
    return scores, by_function(nulls)


@pytest.mark.parametrize("seed", range(4))
def test_planted_specialists_generalists_and_idle_heads_are_told_apart(seed: int):
    found = jh.specialisation(*planted(seed))
    heads: Any = found.heads.frame.loc["decoder"]
    for head, name in enumerate(FUNCTIONS):
        row = heads.loc[(0, head)]
        assert row["selectivity"] > 0.8
        assert row["selectivity_high"] > 0.95
        assert row["function"] == name
        assert row["p"] < 0.005
        assert row["q"] < 0.05
        assert row["p"] >= 0.999 * found.heads.provenance["p_resolution"] ** 2
    for head in (4, 5):
        row = heads.loc[(3, head)]
        assert row["selectivity"] < 0.05
        assert row["selectivity_high"] < 0.1
        assert row["p"] > 0.05
    idle = heads[(found.matrix.to_numpy() == 0).all(axis=1)]
    assert len(idle) >= L * N - 7
    assert idle["selectivity"].isna().all()
    assert set(idle["function"]) == {""}
    assert np.abs(found.functions["breadth"].to_numpy() - 3).max() < 0.5
    assert (found.functions["heads"].to_numpy() >= 3).all()
    assert found.matrix.to_numpy().max(axis=0).tolist() == [1.0] * 4


def test_in_a_random_model_nothing_is_found_beyond_the_nominal_rate():
    rng = np.random.default_rng(0)
    called, corrected, with_breadth = [], [], []
    for seed in range(60):
        scores, *nulls = random_models(1 + DRAWS, rng, differ=0.5)
        found = jh.specialisation(scores, by_function(nulls), resamples=0, seed=seed)
        called.append((found.heads.frame["p"] < 0.05).mean())
        corrected.append((found.heads.frame["q"] < 0.05).any())
        with_breadth.append(found.functions["breadth"].notna().any())
    assert np.mean(called) < 0.07
    assert np.sum(corrected) <= 7  # 5 % of 60 and two standard errors
    assert np.sum(with_breadth) <= 7


def test_models_that_differ_are_no_evidence():
    """With one draw a shift of the whole model looks like its heads' work; several draws show how models differ."""
    rng = np.random.default_rng(0)
    rates = {1: [], 4: []}
    for seed in range(40):
        scores, *nulls = random_models(5, rng, differ=1.5)
        for draws, rate in rates.items():
            some = {name: np.stack(values[:draws]) for name, values in by_function(nulls).items()}
            if draws == 1:
                with pytest.warns(UserWarning, match="Give several draws"):
                    frame = jh.specialisation(scores, some, resamples=0, seed=seed).heads.frame
            else:
                frame = jh.specialisation(scores, some, resamples=0, seed=seed).heads.frame
            rate.append((frame["p"] < 0.05).mean())
    assert np.mean(rates[1]) > 0.1
    assert np.mean(rates[4]) < 0.07


@pytest.mark.parametrize("examples", [8, 16])
def test_intervals_hold_the_planted_selectivity(examples: int):
    truths = {(0, 0): 1.0, (0, 1): 0.5, (0, 2): 0.0}
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, *nulls = random_models(5, rng, examples)
        for head, count in enumerate((1, 2, 4)):
            for name in FUNCTIONS[:count]:
                scores[name][:, 0, head] = rng.beta(8, 2, examples)
        frame: Any = jh.specialisation(scores, by_function(nulls), seed=seed).heads.frame.loc["decoder"]
        for head, truth in truths.items():
            row = frame.loc[head]
            assert 0 <= row["selectivity_low"] <= row["selectivity"] <= row["selectivity_high"] <= 1
            covered.append(row["selectivity_low"] <= truth + 1e-6 and truth - 1e-6 <= row["selectivity_high"])
    assert np.mean(covered) > 0.93


def test_kin_examples_count_once():
    """Every example four times: without its clusters the noise looks half as large."""
    rng = np.random.default_rng(0)
    scores, *nulls = random_models(5, rng, 8)
    for name, mean in zip(FUNCTIONS, (0.5, 0.3, 0.1, 0.1), strict=True):
        scores[name][:, 0, 0] = mean + 0.15 * rng.standard_normal(8)
    four = {name: np.repeat(values, 4, axis=0) for name, values in scores.items()}
    four_nulls = {name: [np.repeat(draw, 4, axis=0) for draw in draws] for name, draws in by_function(nulls).items()}
    labels = np.repeat(np.arange(8), 4)
    once = jh.specialisation(scores, by_function(nulls)).heads.frame
    given: list[Any] = [labels, dict.fromkeys(FUNCTIONS, labels.astype(str))]
    for clusters in given:
        kin = jh.specialisation(four, four_nulls, clusters=clusters).heads.frame
        pd.testing.assert_frame_equal(kin, once)
    naive = jh.specialisation(four, four_nulls).heads.frame
    width = [frame["selectivity_high"].iloc[0] - frame["selectivity_low"].iloc[0] for frame in (once, naive)]
    assert width[1] < 0.8 * width[0]


def test_examples_may_differ_and_be_missing():
    scores, nulls = planted()
    scores["copy"] = scores["copy"][:10]
    nulls["copy"] = [draw[: 7 + number] for number, draw in enumerate(nulls["copy"])]
    scores["previous"][3, 0, 0] = np.nan
    scores["induction"][:, 1, 1] = np.nan
    nulls["previous"][0][:, 2, 2] = np.nan
    frame: Any = jh.specialisation(scores, nulls).heads.frame.loc["decoder"]
    assert [frame.loc[(0, head), "function"] for head in range(4)] == list(FUNCTIONS)
    assert frame.loc[(1, 1), "function"] == ""


def test_the_draws_may_have_other_heads_than_the_model():
    rng = np.random.default_rng(0)
    scores, _ = planted()
    nulls = [random_models(1, rng, heads=heads)[0] for heads in ((1, 1), (2, 8), (4, 4), (1, 16))]
    frame: Any = jh.specialisation(scores, by_function(nulls)).heads.frame.loc["decoder"]
    assert [frame.loc[(0, head), "function"] for head in range(4)] == list(FUNCTIONS)


def test_scores_without_any_spread_are_compared_exactly():
    scores = {name: np.full((5, 1, 4), 0.25) for name in FUNCTIONS}
    nulls = {name: np.full((3, 5, 1, 4), 0.25) for name in FUNCTIONS}
    assert np.isnan(jh.specialisation(scores, nulls).heads.values).all()
    scores["copy"][:, 0, 2] = 0.5
    found = jh.specialisation(scores, nulls)
    assert found.heads.frame["function"].to_list() == ["", "", "copy", ""]


def test_a_function_that_no_head_can_do_takes_nothing_from_the_others():
    """Attention to the next token is 0 in a causal model, and in its null."""
    scores, nulls = planted()
    scores["copy"], nulls["copy"] = 0 * scores["copy"], [0 * draw for draw in nulls["copy"]]
    found = jh.specialisation(scores, nulls)
    assert np.isnan(found.functions.loc["copy", "breadth"])
    assert (found.matrix["copy"].to_numpy() == 0).all()
    assert found.heads.frame["function"].to_list()[:3] == list(FUNCTIONS[:3])


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
    plain = jh.specialisation(scores, nulls)
    scores["copy"] = 17 * scores["copy"] + 3
    nulls["copy"] = [17 * draw + 3 for draw in nulls["copy"]]
    scaled = jh.specialisation(scores, nulls)
    np.testing.assert_allclose(scaled.heads.values, plain.heads.values, atol=1e-9)
    np.testing.assert_allclose(scaled.heads.frame["p"], plain.heads.frame["p"], atol=1e-9)


def test_functions_and_draws_must_fit_each_other():
    scores, nulls = planted()
    with pytest.raises(ValueError, match="each with its null"):
        jh.specialisation(scores, {"copy": nulls["copy"]})
    with pytest.raises(ValueError, match="the same layers and heads"):
        jh.specialisation({**scores, "copy": scores["copy"][:, :2]}, nulls)
    with pytest.raises(ValueError, match="the same draws, of the same heads"):
        jh.specialisation(scores, {**nulls, "copy": nulls["copy"][:3]})
    with pytest.raises(ValueError, match="at least two examples"):
        jh.specialisation({**scores, "copy": scores["copy"][:1]}, nulls)
    with pytest.raises(ValueError, match="at least two examples \\(or clusters\\), got 1"):
        jh.specialisation(scores, nulls, clusters={"copy": np.zeros(E)})
    with pytest.raises(ValueError, match=f"expected {E} labels"):
        jh.specialisation(scores, nulls, clusters=np.zeros(3))
    with pytest.raises(ValueError, match="a draw with two or more"):
        jh.specialisation(scores, {name: np.zeros((3, E, 1, 1)) for name in FUNCTIONS})


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
