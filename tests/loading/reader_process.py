"""Reading of hostile files in a process of its own, which memory, time or a crash may end without ending the tests.

The process may take a gigabyte beyond what its imports took, and five seconds of processor time for each file.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SECONDS, WAITING, BYTES = 5, 120, 2**30


@dataclass(frozen=True)
class Answer:
    """What became of a file: "read", or the kind and the message of the error."""

    kind: str
    message: str = ""
    trace: str = ""


class ReaderProcess:
    """A child that reads files, started anew after it has died."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        # No pipe: full, it would stop the child.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)

    def ask(self, container: str, path: Path, seconds: float = SECONDS) -> Answer:
        """Return what became of a file; "died" is an answer too."""
        if self._child is None:
            root = Path(__file__).parents[2]
            command = [sys.executable, "-m", "tests.loading.reader_process"]
            environment = {**os.environ, "PYTHONPATH": str(root)}
            self._child = subprocess.Popen(
                command,
                cwd=root,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps([container, str(path), seconds]) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return Answer(**json.loads(answer))
        child.communicate()
        self._child = None
        self._errors.seek(0)
        return Answer("died", f"exit status {child.returncode}", self._errors.read()[-2000:])

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.communicate()
        self._errors.close()


def _readers() -> dict[str, Callable[[Path], Any]]:
    import torch  # noqa: F401 (transformers imports it for some tokenizers: not on account of a file)
    import transformers  # noqa: F401

    from jaxheads.models.load import build
    from jaxheads.models.loading.glassllm import glassllm_checkpoint
    from jaxheads.models.loading.onnx_file import onnx_checkpoint
    from jaxheads.models.loading.pickles import pickle_tensors
    from jaxheads.models.loading.safetensors_file import safetensors_tensors
    from jaxheads.models.loading.sources import open_checkpoint

    def values(tensors: Any) -> None:
        for tensor in tensors.values():
            assert tensor.read().shape == tensor.shape

    def model(checkpoint: Any) -> None:
        build(checkpoint)
        values(checkpoint.tensors)

    def slow(path: Path) -> None:
        while path.exists():
            pass

    return {
        "greedy": lambda path: bytearray(2 * BYTES),
        "slow": slow,
        "pickle": lambda path: values(pickle_tensors(path)),
        "safetensors": lambda path: values(safetensors_tensors(path)),
        "orbax": lambda path: model(open_checkpoint(path)),
        "source": lambda path: model(open_checkpoint(path)),
        "onnx": lambda path: model(onnx_checkpoint(path, name=str(path))),
        "npz": lambda path: model(glassllm_checkpoint(path / "x.npz", path / "x.json", name=str(path))),
    }


@cache
def _start_threads() -> None:
    """Start orbax's threads, whose stacks would count as memory of the first file."""
    import numpy as np
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder, ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(Path(folder, "warm"), {"a": np.zeros(2)})
        checkpointer.restore(Path(folder, "warm"))


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _answer(read: Callable[[Path], Any], path: Path) -> Answer:
    try:
        read(path)
    except BaseException as error:
        causes, cause = [], error
        while cause is not None:
            causes.append(type(cause).__name__)
            cause = cause.__cause__
        kind = "MemoryError" if "MemoryError" in causes else type(error).__name__
        return Answer(kind, str(error), "".join(traceback.format_exception(error))[-3000:])
    return Answer("read")


def _main() -> None:
    readers, answers = _readers(), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        container, path, seconds = json.loads(line)
        if container == "orbax":
            _start_threads()
        resource.setrlimit(resource.RLIMIT_AS, (_memory() + BYTES, resource.RLIM_INFINITY))
        # Their signals end the process, whatever it does: the second, if it waits for a pipe.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        answer = _answer(readers[container], Path(path))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer.__dict__), file=answers, flush=True)


if __name__ == "__main__":
    _main()
