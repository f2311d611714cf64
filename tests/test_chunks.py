"""Chunks run one step behind the devices, in their order, whichever of them memory ends in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jaxheads.execution.batching import Chunks, OutOfMemory, in_turn, run_chunks
from jaxheads.execution.journal import Journal


class Log:
    """Chunks of steps that write down when each was sent and when its result was used."""

    def __init__(self, steps: int = 1, *, large_when_sent: int = 99, large_when_used: int = 99):
        self.steps, self.large = steps, (large_when_sent, large_when_used)
        self.sent: list[tuple[int, ...]] = []
        self.used: list[tuple[int, ...]] = []
        self.order: list[str] = []

    def run(self, examples: np.ndarray) -> Iterator[Any]:
        for number in range(self.steps):
            name = (*np.unique(examples).tolist(), *([number] if self.steps > 1 else []))
            self.order.append(f"send {name}")
            self._check(0, examples)
            self.sent.append(name)
            yield lambda name=name: self._use(name, examples)

    def _use(self, name: tuple[int, ...], examples: np.ndarray) -> None:
        self.order.append(f"use {name}")
        self._check(1, examples)
        self.used.append(name)

    def _check(self, when: int, examples: np.ndarray) -> None:
        if self.large[when] in examples and len(np.unique(examples)) > 1:
            raise OutOfMemory


def test_a_result_is_used_after_the_next_work_was_sent():
    log = Log()
    run_chunks(Chunks(2), 6, log.run)
    expected = ["send (0, 1)", "send (2, 3)", "use (0, 1)", "send (4, 5)", "use (2, 3)", "use (4, 5)"]
    assert log.order == expected


@pytest.mark.parametrize("when", ["large_when_sent", "large_when_used"])
@pytest.mark.parametrize("example", range(6))
def test_the_chunk_that_does_not_fit_is_halved_and_results_keep_their_order(when: str, example: int):
    log, first = Log(**{when: example}), example // 2 * 2
    run_chunks(Chunks(2), 6, log.run)
    whole = [(number, number + 1) for number in (0, 2, 4)]
    halves = [(first,), (first + 1,)]
    assert log.used == [name for chunk in whole for name in (halves if chunk[0] == first else [chunk])]
    # Only what was sent after the chunk that failed is sent twice.
    assert len(log.sent) <= 4 + 2 * (when == "large_when_used")


@pytest.mark.parametrize("when", ["large_when_sent", "large_when_used"])
def test_chunks_of_several_steps(when: str):
    log = Log(steps=2, **{when: 3})
    run_chunks(Chunks(4), 8, log.run)
    assert [name for name in log.used if len(name) < 5] == [(*half, n) for half in ((0, 1), (2,), (3,)) for n in (0, 1)]
    assert log.used[-2:] == [(4, 5, 6, 7, 0), (4, 5, 6, 7, 1)]


def test_one_example_that_does_not_fit():
    def run(examples: np.ndarray) -> Iterator[Any]:
        del examples
        raise OutOfMemory
        yield

    with pytest.raises(MemoryError, match="one example does not fit"):
        run_chunks(Chunks(2), 3, run)


def test_what_was_sent_before_a_stop_counts():
    log = Log()

    def run(examples: np.ndarray) -> Iterator[Any]:
        if examples[0] == 4:
            raise KeyboardInterrupt
        yield from log.run(examples)

    with pytest.raises(KeyboardInterrupt):
        run_chunks(Chunks(2), 6, run)
    assert log.used == [(0, 1), (2, 3)]


def test_steps_in_turn():
    log = Log(steps=3)
    last = in_turn(log.run(np.array([7])))
    assert log.order == ["send (7, 0)", "send (7, 1)", "use (7, 0)", "send (7, 2)", "use (7, 1)"]
    last()
    assert log.order[-1] == "use (7, 2)"
    in_turn(iter(()))()


def test_without_a_directory_a_part_is_sent_and_awaited():
    order: list[str] = []

    def send() -> Any:
        order.append("sent")
        return lambda: order.append("awaited") or np.ones(2)

    result = Journal(None).later("a", send)
    assert order == ["sent"]
    np.testing.assert_array_equal(result(), np.ones(2))
    assert order == ["sent", "awaited"]
