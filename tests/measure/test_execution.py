"""The options that measures share with sweeps: memory, devices, and runs that go on where they were stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from jaxheads.execution.devices import Devices

from ..kept import assert_equal_parts, example_count, files
from ..models.huggingface import assert_close, random_batch, small_model
from . import long_run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
ENVIRONMENT |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles faster

BATCH = random_batch((6, 5, 4, 6, 5))

QUESTIONS: dict[str, Callable[..., Any]] = {
    "measure": jh.measure,
    "compare_heads": jh.compare_heads,
    "variability": partial(jh.variability, positions=4),
    "icl_score": partial(jh.icl_score, early=2, late=4),
}
questions = pytest.mark.parametrize("name", QUESTIONS)


def numbers(answer: Any) -> np.ndarray:
    """The numbers of an answer, NaN as 0."""
    return np.nan_to_num(answer.losses if isinstance(answer, jh.ContextScore) else answer.values)


@questions
def test_little_memory_gives_the_same_numbers(name: str):
    model, ask = small_model("llama"), QUESTIONS[name]
    assert_close(numbers(ask(model, BATCH, memory=1)), numbers(ask(model, BATCH)))
    with pytest.raises(ValueError, match="memory must be a positive number of bytes, got 0"):
        ask(model, BATCH, memory=0)


class Fetched(list[int]):
    """Sizes of the chunks that were computed so far, and what stops them."""

    stop_at: int | None = None
    """The number of chunks after which the user presses Ctrl-C."""
    most: float = np.inf
    """Examples that fit the device's memory."""


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    sizes, fetch = Fetched(), Devices.fetch

    def watched(devices: Devices, array: jax.Array) -> np.ndarray:
        if len(sizes) == sizes.stop_at:
            raise KeyboardInterrupt
        sizes.append(len(array))
        if len(array) > sizes.most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating bytes")
        return fetch(devices, array)

    monkeypatch.setattr(Devices, "fetch", watched)
    return sizes


@questions
def test_where_memory_ends_chunks_are_halved(name: str, fetched: Fetched):
    model, ask = small_model("llama"), QUESTIONS[name]
    whole = numbers(ask(model, BATCH))
    assert fetched == [5]
    fetched.most = 2
    assert_close(numbers(ask(model, BATCH)), whole)
    assert fetched == [5, 5, 3, 2, 1, 2]
    fetched.most = 0
    with pytest.raises(MemoryError, match="one example"):
        ask(model, BATCH)


@questions
def test_a_stopped_question_goes_on(name: str, fetched: Fetched, tmp_path: Path):
    model, ask = small_model("llama"), partial(QUESTIONS[name], memory=1)
    whole = numbers(ask(model, BATCH))
    fetched.clear()
    fetched.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        ask(model, BATCH, resume=tmp_path)
    fetched.stop_at = None
    for computed in (5, 5):
        assert numbers(ask(model, BATCH, resume=tmp_path)).tobytes() == whole.tobytes()
        assert len(fetched) == computed
    ask(model, random_batch((6, 5, 4, 6, 5), seed=1), resume=tmp_path)
    assert len(fetched) == 10


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ("entropy", "induction")},
        {"metrics": [jh.METRICS["entropy"].variant("entropy", smoothing=1e-3)]},
        {"metrics": [jh.Metric("entropy", lambda A, example: (A[-1, 0], True))]},
        {"metrics": [jh.Metric("entropy", lambda A, example: (A[-1, 1], True))]},
        {"of": "norms"},
        {"edits": "zero"},
        {"scored_as": random_batch((6, 5, 4, 6, 5), seed=1)},
    ],
)
def test_another_measurement_takes_none_of_its_parts(options: dict[str, Any], fetched: Fetched, tmp_path: Path):
    model = small_model("llama")
    if "edits" in options:
        options = {"edits": jh.zero_heads(model, [(0, 1)])}
    jh.measure(model, BATCH, ["entropy"], resume=tmp_path)
    jh.measure(model, BATCH, [jh.Metric("entropy", lambda A, example: (A[-1, 2], True))], resume=tmp_path)
    fetched.clear()
    ask = partial(jh.measure, model, BATCH, **{"metrics": ["entropy"], **options})
    table = ask(resume=tmp_path)
    assert fetched == [5]
    assert_close(numbers(table), numbers(ask()))


def test_parts_are_tables_that_anyone_can_read(tmp_path: Path):
    table = jh.measure(small_model("llama"), BATCH, ("entropy", "positional_share"), resume=tmp_path)
    found: Any = pd.concat([pd.read_parquet(path) for path in tmp_path.rglob("*.parquet")])
    assert list(found) == ["example", "layer", "head", "metric", "entry", "value"]
    entropy = found[found["metric"] == "entropy"].set_index(["example", "layer", "head"])["value"].sort_index()
    assert table.per_example is not None
    assert_close(table.per_example[0].reshape(-1), entropy.to_numpy())
    assert sorted(set(found[found["metric"] == "positional_share"]["entry"])) == list(range(-5, 6))


def test_on_eight_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "eight_devices.py"]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_two_processes(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.measure.two_processes", port]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "2", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path / str(number))],  # each has a disk of its own
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "tests.measure.long_run", str(killed), "10000"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while len(files(killed / "parts")) < 5 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    kept = example_count(killed / "parts", "values")
    assert 5 <= kept < 10_000
    for directory in (killed, whole):
        long_run.measured(directory, kept + 10)
    for name in ("measure.parquet", "measure.csv", "measure.per_example.parquet"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert_equal_parts(killed / "parts", whole / "parts", "values")
