"""The machine that speed is measured on: its processor, its rate of matrix products, a process's peak memory."""

import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Return the most bytes that this process has held at once."""
    # ru_maxrss is the second choice: on Linux it starts from the parent's.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fastest_product(multiply: Callable[[np.ndarray, np.ndarray], Callable[[], object]], repeats: int = 20) -> float:
    """Return the best rate, in FLOP/s, over products of the shapes of GPT-2 small's layers, 1,024 rows each."""
    rng, rates = np.random.default_rng(0), []
    for inner, outer in ((768, 2304), (768, 3072), (3072, 768)):
        product = multiply(*(rng.standard_normal(size, dtype=np.float32) for size in ((1024, inner), (inner, outer))))
        product()
        start = time.perf_counter()
        for _ in range(repeats):
            product()
        rates.append(2 * 1024 * inner * outer * repeats / (time.perf_counter() - start))
    return max(rates)
