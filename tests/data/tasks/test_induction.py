import math

import jax
import numpy as np
import pytest

from jaxheads.data.tasks import Induction

from .laws import constant_loss, drawn, right

TASK = Induction()


def period_of(row: np.ndarray) -> int:
    """From BOS on: how far the first token that was seen before lies from where it was."""
    seen: dict[int, int] = {}
    for position, token in enumerate(row):
        if token in seen:
            return position - seen[token]
        seen[token] = position
    raise AssertionError("no token twice")


def copying(row: np.ndarray, position: int) -> int:
    """What followed this token when it was last seen."""
    [*_, last] = np.flatnonzero(row[:position] == row[position])
    return row[last + 1]


def test_copying_is_right_wherever_the_answer_is_known():
    sample = drawn(TASK)
    tokens = sample.batch["tokens"]
    right(sample, lambda example, position: copying(tokens[example], position))
    for row, weights in zip(tokens, sample.weights, strict=True):
        period = period_of(row)
        assert 8 <= period <= 24
        assert row[0] == 64
        assert (row[1 + period :] == row[1:-period]).all()
        assert len(set(row[1 : 1 + period])) == period
        assert (weights > 0).tolist() == [position > period for position in range(64)]


def test_lengths_are_uniform():
    periods = [period_of(row) for row in drawn(TASK, 1700).batch["tokens"]]
    counts = np.bincount(periods, minlength=25)[8:]
    assert counts.sum() == 1700
    # Each is 100 ± 9.7.
    assert np.abs(counts - 100).max() < 45


def test_the_target_is_after_an_earlier_copy():
    sample = drawn(TASK, 8)
    for row, mark in zip(sample.batch["tokens"], sample.marks["target"], strict=True):
        for query in range(64):
            copies = [key for key in range(query) if row[key] == row[query]]
            assert np.flatnonzero(mark[query]).tolist() == [key + 1 for key in copies]


def test_anchors():
    assert TASK.optimum == 0
    assert TASK.anchors["uniform"] == pytest.approx(4.159, abs=5e-4)
    assert TASK.control().anchors["seen"] == pytest.approx(math.log(16))
    assert math.log(16) == pytest.approx(2.773, abs=5e-4)
    sample = drawn(TASK, 4000)
    assert constant_loss(sample) == pytest.approx(TASK.anchors["uniform"], abs=0.003)
    seen = [math.log(period_of(row)) for row in sample.batch["tokens"]]
    scored = sample.weights.sum(axis=1)
    assert (seen * scored).sum() / scored.sum() == pytest.approx(TASK.anchors["seen"], abs=0.02)


def share_at_fixed_offset(task: Induction) -> float:
    """The best a head can do that looks back by the same distance always."""
    sample = drawn(task, 400)
    tokens, scored = sample.batch["tokens"], sample.weights[:, 30:] > 0
    hits = [(np.roll(tokens, back, axis=1)[:, 30:] == sample.targets[:, 30:])[scored].mean() for back in range(30)]
    return max(hits)


def test_position_alone_solves_the_control_and_not_the_task():
    assert share_at_fixed_offset(TASK.control()) == 1
    assert share_at_fixed_offset(TASK) < 0.2


@pytest.mark.parametrize(
    "options", [{"shortest": 1}, {"shortest": 9, "longest": 8}, {"longest": 65}, {"longest": 20, "length": 21}]
)
def test_wrong_options_are_refused(options: dict):
    with pytest.raises(ValueError, match="segments need"):
        Induction(**options)


def test_a_sample_has_examples():
    with pytest.raises(ValueError, match="at least one example, got 0"):
        TASK.sample(jax.random.key(0), 0)
