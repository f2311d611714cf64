"""Each side of `experiments.speed` in a process of its own: what it is asked, and how.

Thread pools of two libraries in one process hold each other up, and only a process of its own has a peak memory of its
own. The parent asks over a pipe, one line of JSON for a question and one for the answer, and nobody works meanwhile.
"""

import importlib
import json
import os
import resource
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

from experiments.speed_works import WORKS, Inputs, Work

Way = Callable[[], np.ndarray]

ALIKE = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "HF_HUB_OFFLINE": "1"}
"""Settings of every process: the same device for all, and first calls that are first."""


class Side(Protocol):
    """A library, with the model loaded into it; built from the directory of the model's weights."""

    def ways(self, work: Work, inputs: Inputs) -> Mapping[str, Way]:
        """Every way of doing the work that is worth trying; each gives the table, examples first."""
        ...

    def about(self, work: Work, inputs: Inputs) -> Mapping[str, Any]:
        """What else is known of the work before it is done, as plain JSON values."""
        ...

    def matmul(self) -> float:
        """Floating point operations a second that the library's float32 matrix product reaches here."""
        ...


def fastest_product(multiply: Callable[[np.ndarray, np.ndarray], Callable[[], object]], repeats: int = 20) -> float:
    """The best rate, in FLOP/s, over products of the shapes that GPT-2 small's layers have, 1,024 rows each."""
    rng, rates = np.random.default_rng(0), []
    for inner, outer in ((768, 2304), (768, 3072), (3072, 768)):
        product = multiply(*(rng.standard_normal(size, dtype=np.float32) for size in ((1024, inner), (inner, outer))))
        product()
        start = time.perf_counter()
        for _ in range(repeats):
            product()
        rates.append(2 * 1024 * inner * outer * repeats / (time.perf_counter() - start))
    return max(rates)


class WorkerError(RuntimeError):
    """A side that could not do what it was asked."""


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
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **ALIKE, **(settings or {})},
            start_new_session=True,
        )

    def load(self, weights: Path, work: str, inputs: Path) -> dict[str, Any]:
        """Make it ready for a work: the names of its `ways`, what it says `about` it, and `memory` so far in bytes."""
        return self._ask({"do": "load", "weights": str(weights), "work": work, "inputs": str(inputs)})

    def run(self, way: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Do the work in one way: the table, and `seconds`, `cpu_seconds` and peak `memory` in bytes."""
        with tempfile.TemporaryDirectory() as directory:
            table = Path(directory) / "table.npy"
            measured = self._ask({"do": "run", "way": way, "table": str(table)})
            return np.load(table), measured

    def matmul(self) -> float:
        """See `Side.matmul`."""
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
            raise WorkerError(f"the process of {self.side} ended with {self._process.wait()}:\n{self._tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.side} failed with {answer['error']}:\n{self._tail()}")
        return answer

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


class _Server:
    """The other end of the pipe."""

    def __init__(self, side: str):
        module, _, name = side.partition(":")
        self.make: Any = getattr(importlib.import_module(module), name)
        self.side: Any = None
        self.ways: Mapping[str, Way] = {}

    def load(self, weights: str, work: str, inputs: str) -> dict[str, Any]:
        asked = WORKS[work], Inputs.load(Path(inputs))
        self.side = self.make(Path(weights))
        self.ways = self.side.ways(*asked)
        return {"ways": list(self.ways), "about": dict(self.side.about(*asked)), "memory": peak_memory()}

    def run(self, way: str, table: str) -> dict[str, Any]:
        start, busy = time.perf_counter(), time.process_time()
        found = self.ways[way]()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
        np.save(table, found)
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory": peak_memory()}

    def matmul(self) -> dict[str, Any]:
        return {"rate": self.side.matmul()}


def peak_memory() -> int:
    """The most bytes this process has held at once."""
    # Not ru_maxrss where there is a choice: on Linux it starts from the parent's.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _listen(requests: SimpleQueue[str]) -> None:
    """Take what comes in; end the process, whatever it is doing, when the parent is gone."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def serve(side: str) -> NoReturn:
    """Answer what comes in, for ever."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come among the answers
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
