"""Sweeps over a mesh: what is refused, in this process; eight devices, and two processes, in others."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxheads as jh
from jaxheads.execution.devices import Devices

from ..models.huggingface import random_batch, small_model

HERE = Path(__file__).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
ENVIRONMENT |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles faster


def test_on_eight_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "eight_devices.py"]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_two_processes(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.sweep.two_processes", port]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "2", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path / str(number))],  # each has a disk of its own
            cwd=HERE.parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


def test_without_a_mesh_nothing_is_moved():
    tree, devices = {"a": np.ones(3)}, Devices.of(None)
    assert devices.examples(tree) is devices.copies(tree) is devices.everywhere(tree) is devices.network(tree) is tree
    assert devices.multiples == (1, 1)
    np.testing.assert_array_equal(devices.fetch(jnp.arange(3)), [0, 1, 2])


class _Elsewhere:
    """A device of another kind."""

    platform = "tpu"


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (lambda: jax.devices(), "devices must be a jax.sharding.Mesh or None, got"),
        (lambda: jax.make_mesh((1, 1), ("batch", "data")), "axes may be data, questions, context, model; got batch"),
        (lambda: Mesh(np.array([_Elsewhere()]), ("data",)), "made of tpu devices, but JAX computes on cpu"),
    ],
)
def test_a_mesh_that_is_no_use_is_refused(mesh: Any, message: str):
    with pytest.raises(ValueError, match=message):
        jh.ablate(small_model("llama"), random_batch((4, 3)), jh.loss(), devices=mesh())
