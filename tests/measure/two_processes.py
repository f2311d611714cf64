"""Measures in two processes of two devices each: `test_execution` starts both.

python -m tests.measure.two_processes PORT NUMBER DIRECTORY
"""

import sys

import jax
import numpy as np
from jax.sharding import Mesh

import jaxheads as jh

from ..models.networks import assert_same, batch_of, random_model
from .same_table import assert_same_table


def check() -> None:
    """Ask the same of both processes; each gets all that one device gives, the second time from the first's disk."""
    mesh = Mesh(np.array(jax.devices()).reshape(4), ("data",))
    assert len(jax.local_devices()) == 2
    model, batch = random_model("llama"), batch_of((8, 6, 7, 8, 5))
    expected, pairs = jh.measure(model, batch), jh.compare_heads(model, batch, "outputs")
    for _ in range(2):
        table = jh.measure(model, batch, devices=mesh, resume=sys.argv[3])
        assert_same_table(table, expected)
        split = jh.compare_heads(model, batch, "outputs", devices=mesh, resume=sys.argv[3])
        assert_same((split.values, split.high), (pairs.values, pairs.high))


if __name__ == "__main__":
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    check()
