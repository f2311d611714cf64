import math
from dataclasses import replace

import numpy as np
import pytest

from jaxheads.data.tasks import InContext

from .laws import constant_loss, drawn, loss, right

TASK = InContext()


def test_one_example_says_which_function():
    sample = drawn(TASK)
    tokens = sample.batch["tokens"]
    assert (tokens[:, 0] == 32).all()
    assert (np.argwhere(sample.weights > 0)[:, 1].reshape(64, -1) == [3, 5, 7, 9, 11]).all()
    assert (np.argwhere(sample.marks["asks"])[:, 1].reshape(64, -1) == [1, 3, 5, 7, 9, 11]).all()
    assert (np.argwhere(sample.marks["answer"])[:, 1].reshape(64, -1) == [2, 4, 6, 8, 10]).all()
    shifts = (tokens[:, 2] - tokens[:, 1]) % 32
    assert set(shifts) == set(range(1, 9))
    right(sample, lambda example, position: (tokens[example, position] + shifts[example]) % 32)
    for row in tokens:
        assert len(set(row[1::2])) == 6  # nothing to copy from an earlier example


def test_losses():
    assert (TASK.optimum, TASK.anchors["uniform"]) == (0, math.log(32))
    assert constant_loss(drawn(TASK, 3000)) == pytest.approx(math.log(32), abs=0.01)


def any_function(tokens: np.ndarray) -> np.ndarray:
    p_BTV = np.zeros((*tokens.shape, 33))
    for shift in range(1, 9):
        np.put_along_axis(p_BTV, ((tokens + shift) % 32)[..., None], 1 / 8, axis=-1)
    return p_BTV


def test_without_examples_any_function_is_as_good():
    task = replace(TASK, shots=0)
    sample = drawn(task, 500)
    assert task.length == 2
    assert (sample.weights == [0, 1]).all()
    assert loss(any_function(sample.batch["tokens"]), sample) == pytest.approx(task.optimum) == math.log(8)


def test_the_controls_examples_say_nothing_of_the_query():
    task = TASK.control()
    sample = drawn(task, 4000)
    tokens = sample.batch["tokens"]
    assert loss(any_function(tokens), sample) == pytest.approx(task.optimum)
    first, last = (tokens[:, 2] - tokens[:, 1]) % 32, (sample.targets[:, -1] - tokens[:, -1]) % 32
    assert (first == last).mean() == pytest.approx(1 / 8, abs=0.03)
    counts = np.histogram2d(first, last, bins=np.arange(0.5, 9.5))[0]
    # χ² with 63 degrees of freedom is 63 ± 11.
    assert ((counts - 62.5) ** 2 / 62.5).sum() < 120


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="V − 1 shifts"):
        InContext(functions=32)
    with pytest.raises(ValueError, match="V − 1 shots"):
        InContext(shots=32)
