"""Estimates beside exact effects: what a gradient can't see is named."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.statistics import mean_interval
from jaxheads.sweep.estimates import falls_short
from jaxheads.tables import Column

from ..models.huggingface import assert_close, random_batch, small_model

OBJECTIVE = jh.logit_difference(0, 1)
SATURATED = 600.0


def step_model() -> jh.Model:
    """Two heads of layer 0 matter: 0.1 writes to the output, 0.0 decides by a saturated softmax what 1.0 copies.

    Tokens 0 and 1 decide; tokens 2 and 4 stand for the answer 0 (once and twice), token 3 for the answer 1. The stream
    is [token, 5 | decision | out, 5].
    """
    V, D, H = 5, 11, 2
    embed, unembed = np.zeros((V, D)), np.zeros((V, D))
    embed[:, :V], unembed[:, V + 1 :] = np.eye(V), np.eye(V)
    first, second = ({name: np.zeros((2, D, H)) for name in ("W_Q", "W_K", "W_V")} for _ in range(2))
    first["W_O"], second["W_O"] = np.zeros((2, H, D)), np.zeros((2, H, D))
    # Both heads of layer 0 attend to all tokens alike and read which of 0 and 1 is among them.
    first["W_V"][:, 0, 0], first["W_V"][:, 1, 0] = 1, -1
    first["W_O"][0, 0, V] = 1
    first["W_O"][1, 0, V + 1] = 3
    # Head 1.0 attends to the tokens 2 and 4, or to the token 3, as the decision is positive or negative.
    second["W_Q"][0, V, 0] = SATURATED
    second["W_K"][0, [2, 4], 0], second["W_K"][0, 3, 0] = 1, -1
    second["W_V"][0, 2, 0], second["W_V"][0, 4, 0], second["W_V"][0, 3, 1] = 1, 2, 1
    second["W_O"][0, 0, V + 1], second["W_O"][0, 1, V + 2] = 1, 1
    return jh.by_hand(embed, [first, second], unembed)


ANSWERS = np.array([[2, 3], [3, 2], [4, 3], [3, 4]])
CLEAN, CORRUPT = (jh.Batch(np.concatenate([ANSWERS, np.full((4, 1), last)], axis=1)) for last in (0, 1))


def examples(table: jh.HeadTable, column: str) -> np.ndarray:
    assert table.per_example is not None
    return np.asarray(table.per_example[table.metrics.index(column)], np.float64)


def test_a_head_before_a_step_is_named():
    model = step_model()
    exact = jh.patch(model, CLEAN, CORRUPT, OBJECTIVE, direction="noising")
    estimates = jh.attribute(model, CLEAN, CORRUPT, OBJECTIVE, "atp", direction="noising")
    assert (examples(estimates, "effect")[:, 0, 0] == 0).all()
    np.testing.assert_allclose(examples(exact, "effect")[:, 0, 0], [-2, -2, -3, -3], atol=1e-5)
    table = jh.compare_estimates(exact, estimates)
    assert table.metrics == ("gap", "difference", "exact", "estimate")
    np.testing.assert_array_equal(table.grid("missed"), [[True, False], [False, False]])
    assert not table.grid("overstated").any()
    assert table.provenance["missed"] == {"count": 1, "worst": ["0.0"]}
    assert table.provenance["overstated"] == {"count": 0, "worst": []}
    assert table.top(n=1).index[0] == ("decoder", 0, 0)
    # The difference is paired, example by example, and so is its interval.
    difference = examples(estimates, "effect") - examples(exact, "effect")
    assert_close(examples(table, "difference"), difference)
    assert_close(table.grid("gap"), np.abs(difference.mean(axis=0)))
    paired = mean_interval(difference[:, 0, 0])
    assert_close([table.grid("gap_low")[0, 0], table.grid("gap_high")[0, 0]], [paired.low, paired.high])
    assert_close(table.grid("gap")[0, 1], 0)
    beside = jh.attribute(model, CLEAN, CORRUPT, OBJECTIVE, "atp", direction="noising", exact=True)
    assert (beside.provenance["missed"]["count"], beside.provenance["missed"]["worst"]) == (1, ["0.0"])
    assert beside.provenance["missed"]["share"] == 0.5


def test_an_edge_before_a_step_is_named():
    asked = step_model(), CLEAN, CORRUPT, OBJECTIVE
    table = jh.attribute(*asked, "eap", direction="noising", exact=True)
    before_the_step = {"embed > v 0.0", "head 0.0 > q 1.0"}
    assert set(table.provenance["missed"]["worst"]) == before_the_step
    estimates = jh.attribute(*asked, "eap", direction="noising")
    compared = jh.compare_estimates(jh.patch_edges(*asked, direction="noising"), estimates)
    assert set(compared.provenance["missed"]["worst"]) == before_the_step
    assert set(compared.top(n=2)["receiver_node"]) == {"v 0.0", "q 1.0"}


@pytest.mark.parametrize("count", [1, 4])
def test_importance_stands_for_zero_ablation_without_its_sign(count: int):
    model, batch = step_model(), CLEAN.take(np.arange(count))
    exact, estimates = jh.ablate(model, batch, OBJECTIVE, "zero"), jh.importance(model, batch, OBJECTIVE)
    table = jh.compare_estimates(exact, estimates)
    assert table.provenance["missed"] == {"count": 1, "worst": ["0.0"]}
    assert table.provenance["without_sign"]
    assert (table.grid("exact") >= 0).all()
    # Where the objective is linear in what the head writes, importance is the size of the effect.
    assert_close(table.grid("difference")[[0, 1], [1, 0]], [0, 0])
    assert np.isnan(table.grid("gap_low")).all() == (count == 1)


def test_what_is_named_of_a_model_without_steps():
    model, clean, corrupt = small_model("gpt2"), random_batch((5,) * 8), random_batch((5,) * 8, seed=1)
    table = jh.attribute(model, clean, corrupt, jh.logit_difference(3, 7), "atp", exact=True)
    exact = jh.patch(model, clean, corrupt, jh.logit_difference(3, 7))
    column = Column(*(exact.grid(f"effect{end}") for end in ("", "_low", "_high")))
    expected = falls_short(column, Column(table.grid("effect")))
    assert table.provenance["missed"]["count"] == expected.sum()
    names = {f"{layer}.{head}" for layer, head in np.argwhere(expected)}
    assert set(table.provenance["missed"]["worst"]) == names


def test_the_rule():
    nothing = (np.nan, np.nan, np.nan)
    rows = [(4, 1, 7)] * 3 + [(-4, -7, -1)] * 2 + [(4, -1, 9), (0.01, 0.005, 0.02), nothing, (4, np.nan, np.nan)]
    whole, part = Column(*np.array(rows).T), Column([1.9, 2.1, -4.0, -1.9, 4.0, 0.0, 0.0, 0.0, 0.0])
    assert falls_short(whole, part).tolist() == [True, False, True, True, True, False, False, False, True]
    assert falls_short(whole, part, share=0.4).tolist() == [False, False, True, False, True, False, False, False, True]
    assert falls_short(whole, part, least=0).tolist()[6]


ASKED = {"clean": CLEAN, "corrupt": CORRUPT, "objective": OBJECTIVE, "direction": "noising"}


@pytest.mark.parametrize(
    ("exact", "estimates", "options", "message"),
    [
        ({}, {"direction": "denoising"}, {}, "the same direction; got noising and denoising"),
        ({}, {"by": ("layer",)}, {}, "the same cells"),
        ({"clean": CLEAN.take([0]), "corrupt": CORRUPT.take([0])}, {}, {}, "number of examples; got 1 and 4"),
        ({"objective": jh.logit_difference(1, 0)}, {}, {}, "the same objective|the same unedited run"),
        ({"clean": CORRUPT, "corrupt": CLEAN}, {}, {}, "the same unedited run; .* give the same examples"),
        ({}, {}, {"share": 0.0}, "share must lie above 0"),
        ({}, {}, {"level": 2}, "level: expected a number between 0 and 1"),
    ],
)
def test_tables_that_do_not_belong_together(exact: Any, estimates: Any, options: Any, message: str):
    model = step_model()
    patched, attributed = jh.patch(model, **{**ASKED, **exact}), jh.attribute(model, **{**ASKED, **estimates})
    with pytest.raises(ValueError, match=message):
        jh.compare_estimates(patched, attributed, **options)


def test_a_scale_by_layer_is_no_estimate():
    model = step_model()
    with pytest.raises(ValueError, match="normalise=None"):
        jh.compare_estimates(
            jh.ablate(model, CLEAN, OBJECTIVE, "zero"), jh.importance(model, CLEAN, OBJECTIVE, normalise="layer")
        )
