"""A long run for `test_long_runs.py` to kill: a stream of batches, ablated, its parts kept; then the table saved.

python -m tests.sweep.long_run DIRECTORY BATCHES
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx

import jaxheads as jh
from jaxheads.execution import parts
from jaxheads.models.families.gpt2 import GPT2, GPT2Config


def model() -> jh.Model:
    """A tiny GPT-2 whose weights are the same in every process."""
    config = GPT2Config(11, 8, 8, 2, 2, 8, "gelu_new", 1e-5, True, False, True, "lm")
    return jh.Model(GPT2(config, rngs=nnx.Rngs(0)), name="tiny")


def batches(count: int) -> Iterator[jh.Batch]:
    """The same ones in every process."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield jh.Batch(rng.integers(0, 11, (4, 5)))


def main() -> None:
    """Ablate, and save."""
    parts.SECONDS = 0
    directory, count = Path(sys.argv[1]), int(sys.argv[2])
    table = jh.ablate(model(), batches(count), jh.loss(), "zero", resume=directory / "parts")
    table.save(directory)


if __name__ == "__main__":
    main()
