"""Processes of `experiments.speed`: each side runs in a process of its own and answers questions over a pipe.

Thread pools of two libraries in one process slow each other down, and only a separate process has a peak memory of its
own. A question is a line of JSON, its answer another; while one side works, all other processes wait.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, Protocol

import numpy as np

from .speed_machine import peak_memory
from .speed_works import WORKS, Inputs, Work

Way = Callable[[], np.ndarray]
"""One way to do a work: a call that returns the table."""

SETTINGS = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "HF_HUB_OFFLINE": "1"}
"""Environment of every process: all on the CPU, and first calls that compile."""


class Side(Protocol):
    """A library with the model loaded into it, built from the folder of the model's weights."""

    def ways(self, work: Work, inputs: Inputs) -> Mapping[str, Way]:
        """Return every way to do the work that is worth trying; each returns the table, examples first."""
        ...

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """Return numbers of the work that are known before it is done, as plain JSON values."""
        ...

    def matmul(self) -> float:
        """Return the FLOP/s that the library's float32 matrix product reaches on this machine."""
        ...


class WorkerError(ChildProcessError):
    """A side that could not answer a question."""


class Worker:
    """A process that holds one side.

    Args:
        side: "module:Class".
        settings: environment variables, beside those of this process.
    """

    def __init__(self, side: str, settings: Mapping[str, str] | None = None):
        self.side = side
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own: Ctrl-C is for the parent, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, **SETTINGS, **(settings or {})},
            start_new_session=True,
        )

    def load(self, weights: Path, work: str, inputs: Path) -> dict[str, Any]:
        """Prepare a work; return the names of its `ways`, the numbers `about` it, and the `memory` so far in bytes."""
        return self._ask({"do": "load", "weights": str(weights), "work": work, "inputs": str(inputs)})

    def run(self, way: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Do the work in one way; return the table, and `seconds`, `cpu_seconds` and peak `memory` in bytes."""
        with tempfile.TemporaryDirectory() as directory:
            table = Path(directory) / "table.npy"
            measured = self._ask({"do": "run", "way": way, "table": str(table)})
            return np.load(table), measured

    def matmul(self) -> float:
        """Return the side's rate of matrix products; see `Side.matmul`."""
        return self._ask({"do": "matmul"})["rate"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process of {self.side} ended with {self._process.wait()}:\n{self._last_lines()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.side} failed with {answer['error']}:\n{self._last_lines()}")
        return answer

    def _last_lines(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


class _Server:
    """The side's end of the pipe: each method answers one kind of question."""

    def __init__(self, side: str):
        module, _, name = side.partition(":")
        self.make: Any = getattr(importlib.import_module(module), name)
        self.side: Any = None
        self.ways: Mapping[str, Way] = {}

    def load(self, weights: str, work: str, inputs: str) -> dict[str, Any]:
        question = WORKS[work], Inputs.load(Path(inputs))
        self.side = self.make(Path(weights))
        self.ways = self.side.ways(*question)
        return {"ways": list(self.ways), "about": dict(self.side.about(*question)), "memory": peak_memory()}

    def run(self, way: str, table: str) -> dict[str, Any]:
        start, cpu_start = time.perf_counter(), time.process_time()
        values = self.ways[way]()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        np.save(table, values)
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory": peak_memory()}

    def matmul(self) -> dict[str, Any]:
        return {"rate": self.side.matmul()}


def _listen(requests: SimpleQueue[str]) -> None:
    """Queue the requests; end the process, whatever it is doing, when the parent is gone."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def serve(side: str) -> NoReturn:
    """Answer requests for ever."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's prints must not mix with the answers
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    server = _Server(side)
    while True:
        request = json.loads(requests.get())
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
