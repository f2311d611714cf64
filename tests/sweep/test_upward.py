"""One pass for the copies of all layers gives what their groups give, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.sweep.exact import plan, upward, work

from ..good_values import CONFIG
from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

E, T, V = 3, 9, 37
OBJECTIVE = jh.logit_difference(1, 2)


@pytest.fixture(scope="module")
def model() -> jh.Model:
    return jh.init({**CONFIG, "n_layer": 6}, seed=2)


def batch(seed: int = 0) -> jh.Batch:
    rng = np.random.default_rng(seed)
    return jh.Batch(rng.integers(0, V, (E, T)), np.arange(T) >= np.array([0, 2, 1])[:, None])


def prefixed() -> tuple[jh.Batch, jh.Batch]:
    """A pair that differs from the fifth column on, so that copies start there."""
    ours, others = batch(), np.array(batch(1).tokens)
    others[:, :5] = np.asarray(ours.tokens)[:, :5]
    return ours, jh.Batch(others, ours.mask)


def both_ways(ask: Callable[[], jh.HeadTable], monkeypatch: pytest.MonkeyPatch) -> tuple[jh.HeadTable, jh.HeadTable]:
    """The answer in one pass, and group by group."""
    passes, own = [], work.edited_upward

    def counted(*arguments, **named):
        passes.append(named["joins"])
        return own(*arguments, **named)

    monkeypatch.setattr(work, "edited_upward", counted)
    monkeypatch.setattr(plan, "UPWARD", 10**6)
    monkeypatch.setitem(plan.COMPILATION_FLOPS, "cpu", 5e10)  # copies of all positions start at the first column
    together = ask()
    assert passes
    passes.clear()
    monkeypatch.setattr(plan, "UPWARD", 0)
    groups = ask()
    assert not passes
    return together, groups


QUESTIONS: dict[str, Callable[[jh.Model], jh.HeadTable]] = {
    "z": lambda model: jh.ablate(model, batch(), OBJECTIVE),
    "positions": lambda model: jh.ablate(model, batch(), jh.loss(), "zero", by=("layer", "head", "position")),
    "sets": lambda model: jh.ablate(
        model, batch(), OBJECTIVE, sets={"a": [(4, 1), (5, 0)], "b": [(0, 0), (3, 1)], "c": [(5, 1)]}
    ),
    "stream": lambda model: jh.patch(model, *prefixed(), OBJECTIVE, "resid_pre", ("layer",)),
    "keys": lambda model: jh.patch(model, *prefixed(), OBJECTIVE, "k", ("layer", "head")),
    "scores": lambda model: jh.knock_out(model, batch(), OBJECTIVE, T - 1, 5),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_one_pass_equals_the_groups(name: str, model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    together, groups = both_ways(lambda: QUESTIONS[name](model), monkeypatch)
    assert together.per_example is not None
    assert groups.per_example is not None
    assert np.isnan(together.per_example).tolist() == np.isnan(groups.per_example).tolist()
    assert_close(np.nan_to_num(together.grid("effect")), np.nan_to_num(groups.grid("effect")))


@pytest.mark.parametrize("stack", ["encoder", "decoder", "cross"])
def test_one_pass_in_every_stack(stack: str, monkeypatch: pytest.MonkeyPatch):
    both, spec = small("t5"), SPECS["t5"]
    texts = spec.batch(both.theirs)
    together, groups = both_ways(lambda: jh.ablate(both.ours, texts, OBJECTIVE, "zero", stack=stack), monkeypatch)
    assert_close(together.values, groups.values)


def test_the_plan_shows_the_pass_and_large_questions_go_group_by_group(
    model: jh.Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plan, "UPWARD", 1)
    small_plan: Any = jh.plan(jh.ablate, model, batch(), OBJECTIVE)
    assert small_plan.upward
    assert small_plan.chunks.copies == 12
    large_plan: Any = jh.plan(jh.ablate, model, jh.Batch(np.zeros((64, T), int)), OBJECTIVE)
    assert not large_plan.upward


def test_groups_go_on_where_one_pass_does_not_fit(model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    expected = jh.ablate(model, batch(), OBJECTIVE, "zero")

    def exhausted(*arguments, **named):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(plan, "UPWARD", 10**6)
    monkeypatch.setattr(work, "edited_upward", exhausted)
    assert_close(jh.ablate(model, batch(), OBJECTIVE, "zero").values, expected.values)


def test_joins_run_every_copy_from_its_own_layer():
    starts = np.repeat(np.arange(9), 3)
    joins = upward.joins(starts, 9)
    assert [join.layers for join in joins] == [(0, 2), (2, 4), (4, 7), (7, 9)]
    assert [join.copies for join in joins] == [6, 12, 21, 27]
    # Where the last layer is apart, the copies that start there join it alone.
    assert upward.joins(starts, 8)[-1].copies == 24
    assert upward.joins(np.array([8, 8]), 8) == ()
