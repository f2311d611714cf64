"""A training that kills itself: `python -m tests.train.killed DIRECTORY [STEP]`."""

import os
import signal
import sys
from typing import Any

import numpy as np

from jaxheads.train.loop import train
from jaxheads.train.runs import grid

from .toy import CONFIG, Counting


def main(directory: str, step: str = "-1") -> None:
    def monitor(parameters: Any, at: int) -> None:
        del parameters
        if at == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    done = train(
        CONFIG,
        Counting(),
        12,
        runs=grid([0, 1], rate=[1e-2]),
        batch=4,
        checkpoints=(0, 3, 7, 12),
        directory=directory,
        monitor=monitor,
    )
    import jax

    leaves = [np.asarray(leaf) for kept in done.kept for leaf in jax.tree.leaves(kept)]
    np.savez(f"{directory}.npz", *leaves, loss=done.curve["loss"].to_numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
