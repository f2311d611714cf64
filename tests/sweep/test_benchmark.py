"""MIB's curve: what is kept at each share, its areas in closed form; how well a ranking finds a known circuit."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import jaxheads as jh
from jaxheads.sweep.circuits.attribution import edge_attribution
from jaxheads.sweep.circuits.benchmark import SHARES, _areas, auroc, faithfulness_curve
from jaxheads.sweep.circuits.circuit import circuit
from jaxheads.tables import Column

from ..models.huggingface import assert_close, small_model
from . import naive
from .test_circuit import CLEAN, CORRUPT, EVERY, LIVE, QUESTION, of, only_live_heads, slowly


def table_of(values: np.ndarray) -> jh.HeadTable:
    return jh.HeadTable.from_columns("made", "decoder", {"score": Column(values)}, squeeze=True)


RANKING = table_of(np.array([[0.3, -0.9, 0.1, 0.0], [0.2, -0.1, 0.8, -0.4]]))


@pytest.mark.parametrize(
    ("order", "first"), [("signed", (1, 2)), ("negated", (0, 1)), ("absolute", (0, 1))], ids=lambda given: str(given)
)
def test_what_is_kept_at_each_share(order: str, first: tuple[int, int]):
    model, shares = small_model("gpt2"), (0.1, 0.125, 0.4, 0.75, 1)
    curve = faithfulness_curve(model, CLEAN, QUESTION.objective, RANKING, "zero", order=order, shares=shares)
    assert list(curve.table.frame["size"]) == [0, 1, 3, 6, 8]
    np.testing.assert_array_equal(curve.table.frame["share"], shares)
    turned = {"signed": 1, "negated": -1}.get(order, 0)
    ranked = sorted(EVERY, key=lambda head: -(turned * RANKING.values[head] if turned else abs(RANKING.values[head])))
    assert ranked[0] == first
    values = [slowly(model, ranked[:size], naive.zeros(model)) for size in (0, 1, 3, 6, 8)]
    assert_close(of(curve.table, "circuit"), np.stack(values, axis=1))
    means = np.array([value.mean() for value in values])
    faithful = (means - means[0]) / (means[-1] - means[0])
    assert_close(curve.table.grid("faithfulness"), faithful, 1e-4)
    assert_close(float(curve.cpr.mean), float(np.trapezoid(faithful, shares)), 1e-4)
    assert_close(float(curve.cmd.mean), float(np.trapezoid(abs(1 - faithful), shares)), 1e-4)
    said = curve.table.provenance
    assert (said["ranking"], said["column"], said["order"], said["ablation"]) == ("made", "score", order, "zero")
    assert said["cpr"] == [float(number) for number in curve.cpr]


def test_the_true_ranking_beats_its_reverse():
    truth = np.zeros((2, 4))
    truth[tuple(np.array(LIVE).T)] = 1

    def asked(ranking: np.ndarray) -> Any:
        return faithfulness_curve(
            only_live_heads(), CLEAN, QUESTION.objective, table_of(ranking), "zero", shares=(0.25, 0.5, 0.75, 1)
        )

    best, worst = asked(truth), asked(-truth)
    assert_close(best.table.grid("faithfulness"), np.ones(4))
    assert_close([float(best.cpr.mean), float(best.cmd.mean)], [0.75, 0])
    assert_close(worst.table.grid("faithfulness"), [0, 0, 0, 1])
    assert_close([float(worst.cpr.mean), float(worst.cmd.mean)], [0.125, 0.625])


def test_a_ranking_of_edges():
    model = small_model("llama")
    ranking = edge_attribution(model, CLEAN, CORRUPT, QUESTION.objective)
    ways = {"reference": CORRUPT, "shares": (0.2, 0.5, 1)}
    curve = faithfulness_curve(model, CLEAN, QUESTION.objective, ranking, order="absolute", **ways)
    sizes = np.abs(np.nan_to_num(ranking.grid("effect"), nan=0.0))
    for row, size in enumerate((16, 41)):
        least = np.sort(sizes, axis=None)[-size]
        kept = circuit(model, CLEAN, QUESTION.objective, sizes >= least, "patching", reference=CORRUPT)
        assert len(kept) == curve.table.frame["size"].iloc[row] == size
        assert_close(of(curve.table, "circuit")[:, row], of(kept.faithfulness, "circuit")[:, 0])
    assert curve.table.grid("faithfulness")[-1] == 1
    assert curve.table.provenance["column"] == "effect"


def test_areas_in_closed_form():
    rng, shares = np.random.default_rng(0), np.array(SHARES)
    whole_E = rng.normal(2, 1, 40)
    for level, gains in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.5)):
        cpr, cmd = _areas(gains * np.repeat(whole_E[:, None], 10, axis=1), whole_E, shares, None, 0.95)
        np.testing.assert_allclose(cpr[:3], 0.999 * level, atol=1e-12)
        np.testing.assert_allclose(cmd[:3], 0.999 * (1 - level), atol=1e-12)
        assert cpr.n == 40
    gains_ES = rng.normal(1, 1, (40, 10))
    gains_ES[3, 2] = np.nan  # an example that isn't finite at one share counts at none
    cpr, cmd = _areas(gains_ES, whole_E, shares, None, 0.95)
    told = np.arange(40) != 3
    faithful = gains_ES[told].mean(axis=0) / whole_E[told].mean()
    np.testing.assert_allclose(cpr.mean, np.trapezoid(faithful, shares))
    np.testing.assert_allclose(cmd.mean, np.trapezoid(abs(1 - faithful), shares))
    for area in (cpr, cmd):
        assert area.low < area.mean < area.high
        narrow = _areas(gains_ES, whole_E, shares, None, 0.5)[0 if area is cpr else 1]
        assert area.low < narrow.low < narrow.high < area.high
    assert np.isnan([*_areas(gains_ES[:1], whole_E[:1], shares, None, 0.95)[0][1:3]]).all()
    assert np.isnan(_areas(gains_ES, 0 * whole_E, shares, None, 0.95)[0][:3]).all()


def test_the_interval_of_an_area_covers_as_often_as_it_says():
    rng, shares, held = np.random.default_rng(1), np.array([0.25, 0.5, 1]), []
    truth = np.trapezoid([0.2, 0.6, 1.0], shares)
    for _ in range(200):
        whole_E = rng.normal(3, 1, 50)
        gains_ES = whole_E[:, None] * [0.2, 0.6, 1.0] + rng.normal(0, 0.5, (50, 3)) * [1, 1, 0]
        cpr, _ = _areas(gains_ES, whole_E, shares, None, 0.9)
        held.append(cpr.low <= truth <= cpr.high)
    assert 0.83 < np.mean(held) < 0.96


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=8, max_size=8), st.sampled_from([1, -1, 0]))
def test_auroc_is_the_share_of_pairs_in_order(cells: list[tuple[int, bool]], sign: int):
    numbers, inside = (np.array(column).reshape(2, 4) for column in zip(*cells, strict=True))
    order = {1: "signed", -1: "negated", 0: "absolute"}[sign]
    if inside.all() or not inside.any():
        with pytest.raises(ValueError, match="must hold some, and not all, of what made ranks"):
            auroc(table_of(numbers), inside, order=order)
        return
    turned = sign * numbers if sign else abs(numbers)
    pairs = [(a > b) + 0.5 * (a == b) for a in turned[inside] for b in turned[~inside]]
    assert auroc(table_of(numbers), inside, order=order) == pytest.approx(np.mean(pairs))
    heads = [(layer, head) for layer, head in np.argwhere(inside)]
    assert auroc(table_of(numbers), heads, order=order) == pytest.approx(np.mean(pairs))


def test_auroc_of_edges():
    ranking = edge_attribution(small_model("llama"), CLEAN, CORRUPT, QUESTION.objective)
    frame = ranking.frame.dropna(subset=["effect"])
    best = frame.nlargest(5, "effect")
    known = list(zip(best["sender_node"], best["receiver_node"], strict=True))
    assert auroc(ranking, known) == 1
    assert auroc(ranking, known, order="negated") == 0
    with pytest.raises(ValueError, match=r"the ranking has no \[\('embed', 'q 9\.0'\)\]"):
        auroc(ranking, [("embed", "q 9.0")])
    with pytest.raises(ValueError, match="and 1 that are not ranked"):
        auroc(ranking, [*known, ("mlp 1", "q 0.0")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": (0.5, 0.1)}, "ascending, above 0 and up to 1; got"),
        ({"shares": (0.0, 1.0)}, "ascending, above 0 and up to 1; got"),
        ({"shares": (1.0,)}, "at least two"),
        ({"order": "best"}, "order must be one of signed, negated, absolute; got 'best'"),
        ({"column": "effect"}, "column: expected one of"),
        (
            {"ranking": table_of(np.zeros((2, 3)))},
            r"over the 2 × 4 heads of .*; got 2 × 3 over layer, head",
        ),
        ({"ranking": table_of(np.full((2, 4), np.nan))}, r"it has none for 8, such as 0\.0"),
        ({"ablation": "patching"}, "give its inputs as reference="),
    ],
)
def test_wrong_questions_are_refused(arguments: dict[str, Any], message: str):
    asked = {"ranking": RANKING, "ablation": "zero", **arguments}
    with pytest.raises(ValueError, match=message):
        faithfulness_curve(small_model("gpt2"), CLEAN, QUESTION.objective, **asked)
