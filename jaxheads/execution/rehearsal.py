"""Rehearsals: a question's programs, compiled for a machine that need not be there, and never run.

XLA's compilers for accelerators work without the accelerator (`jax.experimental.topologies`), and say what a program
will take: memory, collectives, cycles. A rehearsal asks the question as it is, so that the programs are those of a real
run, of the chunks that a real run would choose.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from ..programs import DEVICE, REHEARSAL, Compiled

LARGEST_ZEROS = 1 << 26
"""Bytes up to which a program's result is made up of zeros, for the host to read; larger ones stay shapes."""


@dataclass(frozen=True, eq=False)
class Program:
    """One program of a question, compiled for another machine.

    Attributes:
        name: the name of the function.
        arguments, keywords: shapes in place of the arrays that it was called with.
        calls: how often the question called it.
        executable: what was compiled, `jax.stages.Compiled`: `memory_analysis()`, `as_text()`.
        traced: what was traced, `jax.stages.Traced`: `jaxpr`, `out_info`.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    calls: int
    executable: Any
    traced: Any


def rehearse(question: Callable[..., Any], *arguments: Any, on: Sequence[Any], **keywords: Any) -> tuple[Program, ...]:
    """Compile every program of a question for other devices, without running any, and return them as they came.

    The question gets zeros for what programs return, so its answer means nothing and is dropped. Programs whose number
    depends on results (a search) are those of such an answer.

    Args:
        question: any function of jaxheads, such as `jaxheads.ablate`, or one that calls several.
        arguments, keywords: the question's own. The model may have shapes for parameters (`jaxheads.init` with
            `shapes_only=True`). A mesh in `devices=` is made of devices that are here (of a CPU, by
            `--xla_force_host_platform_device_count`); each stands for the one of `on` with its number.
        on: the devices to compile for, such as `jax.experimental.topologies.get_topology_desc("v5e:2x4",
            platform="tpu").devices`; without a mesh the first.

    Raises:
        ValueError: for no devices, or fewer than the mesh has.
    """
    if not on:
        raise ValueError("on: expected at least one device to compile for, got none")
    stage = _Stage(tuple(on), {}, {})
    with stage.set():
        question(*arguments, **keywords)
    return tuple(stage.programs.values())


@dataclass(frozen=True)
class _Stage:
    """What stands in place of programs while a question is rehearsed.

    Attributes:
        devices: those to compile for.
        programs: what was compiled, by function and shapes.
        local: by mesh of devices to compile for, the user's mesh that it stands for.
    """

    devices: tuple[Any, ...]
    programs: dict[Any, Program]
    local: dict[Any, Mesh]

    @contextmanager
    def set(self) -> Iterator[None]:
        """Have every program of this block compiled and not run."""
        tokens = REHEARSAL.set(self.call), DEVICE.set(self.devices[0])
        try:
            yield
        finally:
            REHEARSAL.reset(tokens[0])
            DEVICE.reset(tokens[1])

    def call(self, function: Compiled, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Compile a function for shapes and places of these arguments, once, and return zeros or shapes."""
        arguments, keywords = jax.tree.map(self._shape, (arguments, keywords))
        leaves, structure = jax.tree.flatten((arguments, keywords))
        # Numbers are traced: one program serves all values.
        key = function, structure, tuple(type(leaf) if isinstance(leaf, int | float) else leaf for leaf in leaves)
        program = self.programs.get(key) or self._compile(function, arguments, keywords)
        self.programs[key] = replace(program, calls=program.calls + 1)
        return jax.tree.map(self._nothing, program.traced.out_info, program.executable.output_shardings)

    def _compile(self, function: Compiled, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Program:
        # Options of the compiler are those of the platform that JAX runs on.
        options = {name: value for name, value in function.options.items() if name != "compiler_options"}
        traced = jax.jit(function.function, **options).trace(*arguments, **keywords)
        executable = traced.lower(lowering_platforms=(self.devices[0].platform,)).compile()
        return Program(function.function.__name__, arguments, keywords, 0, executable, traced)

    def _shape(self, leaf: Any) -> Any:
        """Return the shape of an array, on the device to compile for; anything else as it is."""
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding(getattr(leaf, "sharding", None)))

    def _sharding(self, sharding: Any) -> Any:
        if not isinstance(sharding, NamedSharding):
            return SingleDeviceSharding(self.devices[0])
        local: Any = sharding.mesh
        if local.size > len(self.devices):
            raise ValueError(f"on: expected the mesh's {local.size} devices at least, got {len(self.devices)}")
        devices = np.array(self.devices[: local.size], object).reshape(local.devices.shape)
        mesh = Mesh(devices, local.axis_names)
        self.local[mesh] = local
        return NamedSharding(mesh, sharding.spec)

    def _nothing(self, info: Any, sharding: Any) -> Any:
        """Return zeros, or the shape of what is too large to be made, on the devices that are here."""
        local = self.local.get(sharding.mesh) if isinstance(sharding, NamedSharding) else None
        here = None if local is None else NamedSharding(local, sharding.spec)
        if info.size * info.dtype.itemsize > LARGEST_ZEROS:
            return jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=here)
        return jax.device_put(np.zeros(info.shape, info.dtype), here)
