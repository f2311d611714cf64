"""Sets in circuits are chosen on one half of the examples and reported on the other."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.statistics import split_halves
from jaxheads.sweep.circuits.circuit import circuit
from jaxheads.sweep.circuits.search import search_circuits

from ..models.huggingface import random_batch, small_model
from . import naive
from .test_circuit import KEPT, of

LENGTHS = (5, 4, 3, 5, 5, 4, 5, 3)
CLEAN, CORRUPT = random_batch(LENGTHS), random_batch(LENGTHS, seed=1)
RIGHT, WRONG = np.arange(3, 11), np.arange(13, 21)
OBJECTIVE = naive.logit_difference(RIGHT, WRONG, np.array(LENGTHS) - 1).objective
SEARCH: Any = {"thresholds": [0.05, 0.3], "parts": "heads", "reference": CORRUPT}


@pytest.mark.parametrize("labels", [None, np.arange(8) // 2], ids=["examples", "clusters"])
def test_a_search_decides_on_one_half_and_reports_the_other(labels: np.ndarray | None):
    model = small_model("llama")
    choose, report = split_halves(8, 0, labels)
    found = search_circuits(model, CLEAN, OBJECTIVE, **SEARCH, clusters=labels)
    # Deciding on that half alone gives the same circuits.
    half, other = CLEAN.take(choose), CORRUPT.take(choose)
    judge = naive.logit_difference(RIGHT[choose], WRONG[choose], np.array(LENGTHS)[choose] - 1).objective
    twins = jh.Batch(*(np.concatenate([x, x[:1]])[: len(choose)] for x in (half.tokens, half.mask)))
    alone = search_circuits(model, twins, judge, **SEARCH | {"reference": other}, clusters=np.zeros(len(choose), int))
    np.testing.assert_array_equal(found.kept, alone.kept)
    assert not alone.table.provenance["held_out"]
    about = found.table.provenance
    assert (about["held_out"], about["chosen_on"], about["reported_on"]) == (True, 4, 4)
    for row, kept in enumerate(found.kept):
        heads: Any = [tuple(map(int, head)) for head in np.argwhere(kept)]
        if not heads:
            continue
        whole = circuit(model, CLEAN, OBJECTIVE, heads, "patching", reference=CORRUPT).faithfulness
        np.testing.assert_allclose(of(found.table, "circuit")[:, row], of(whole, "circuit")[report, 0], atol=1e-5)
    assert (found.table.grid("faithfulness_n") == (4 if labels is None else 2)).all()


def test_optimism_is_what_the_choosing_half_had_more():
    found = circuit(small_model("gpt2"), CLEAN, OBJECTIVE, KEPT, "zero")
    choose, report = split_halves(8, 0)
    table = found.completeness(random=2, greedy=2, iterations=2)
    everything = found.completeness({"all": KEPT[:2]}, random=2, greedy=0)
    assert len(of(everything, "incompleteness")) == 8, "nothing was chosen"
    assert len(of(table, "incompleteness")) == 4
    assert table.provenance["held_out"]
    named = {name: row for row, name in enumerate(table.frame["name"])}
    for name, row in named.items():
        if name == "nothing":
            continue
        removed: Any = [tuple(map(int, head.split("."))) for head in table.frame["removed"].iloc[row].split()]
        by_hand = of(found.completeness({"K": removed}, random=0, greedy=0), "incompleteness")[:, 1]
        np.testing.assert_allclose(table.grid("incompleteness")[row], abs(by_hand[report].mean()), atol=1e-5)
        optimism = abs(by_hand[choose].mean()) - abs(by_hand[report].mean())
        expected = optimism if name.startswith("greedy") else np.nan
        np.testing.assert_allclose(table.grid("optimism")[row], expected, atol=1e-5)


def test_minimality_is_held_out_where_a_set_was_chosen():
    model = small_model("gpt2")
    chosen = circuit(model, CLEAN, OBJECTIVE, {"one": KEPT[:2], "two": KEPT[1:]}, "zero").minimality()
    assert chosen.provenance["held_out"]
    assert chosen.examples == 4
    assert np.isfinite(chosen.grid("optimism")[tuple(np.array(KEPT).T)]).all()
    given = circuit(model, CLEAN, OBJECTIVE, KEPT, "zero").minimality(dict.fromkeys(KEPT, KEPT))
    assert "held_out" not in given.provenance
    assert given.examples == 8
    assert np.isnan(given.grid("optimism")).all()
