"""One machine's programs, compiled in a process of its own: libtpu reads its environment once."""

import inspect
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

import jaxheads as jh

from .accelerators_cycles import Program, ideal_cycles, ideal_step, layer_cycles
from .accelerators_machines import MACHINES, MODELS, TINY, Machine, environment

WORKS = ("ablate z", "patch z", "patch resid", "knock out", "measure", "relevance")
"""Works, by the name in tables."""

CHIPS = 8

ARITHMETICS: Mapping[str, tuple[str, str | None]] = {
    "bfloat16": ("bfloat16", None),
    "differences": ("float32", "differences"),
    "full": ("float32", "full"),
    "fast": ("float32", "fast"),
}
"""Dtype of the weights and arithmetic of a question, by the name in tables."""

WITHOUT_COPIES = ("measure", "relevance")
"""Works that run no edited copies, of which there are no differences."""


@dataclass(frozen=True)
class Asked:
    """What is compiled: names of machine, models, works and arithmetics, sizes of the inputs, bytes for activations."""

    machine: str
    models: tuple[str, ...]
    works: tuple[str, ...]
    examples: int
    tokens: int
    memory: int
    arithmetics: tuple[str, ...]
    tiny: bool


def compiled_rows(asked: Asked) -> Iterator[dict[str, Any]]:
    """Yield a row for each model and work, as another process compiles them.

    Raises:
        ValueError: if that process fails, such as one without libtpu.
    """
    call = [sys.executable, "-m", __name__, json.dumps(asdict(asked))]
    with subprocess.Popen(call, env=environment(CHIPS), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise ValueError(
            f"nothing was compiled for {asked.machine} (words of the process are above). Is libtpu there? It belongs "
            "into a folder of its own: pip install --no-deps --target tpu libtpu, then PYTHONPATH=tpu"
        )


def question(work: str, model: jh.Model, asked: Asked) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return a work's question, its arguments and its options."""
    shape = asked.examples, asked.tokens
    ids = np.arange(np.prod(shape)).reshape(shape) % 500
    batch, other = jh.Batch(ids), jh.Batch((ids + 7) % 500)
    objective = jh.logit_difference(right=np.full(asked.examples, 1), wrong=np.full(asked.examples, 2))
    by_position = {"site": "resid_pre", "by": ("layer", "position")}
    return {
        "ablate z": (jh.ablate, (model, batch, objective), {"method": "zero"}),
        "patch z": (jh.patch, (model, batch, other, objective), {}),
        "patch resid": (jh.patch, (model, batch, other, objective), by_position),
        "knock out": (jh.knock_out, (model, batch, objective), {"queries": asked.tokens - 1, "keys": 0}),
        "measure": (jh.measure, (model, batch), {}),
        "relevance": (jh.relevance, (model, batch, objective), {}),
    }[work]


def rows(asked: Asked) -> Iterator[dict[str, Any]]:
    """Yield a row for each model, work and arithmetic."""
    from jax.experimental import topologies

    machine = MACHINES[asked.machine]
    chips = topologies.get_topology_desc(machine.topology, platform="tpu").devices
    for title, work, arithmetic in itertools.product(asked.models, asked.works, asked.arithmetics):
        if work in WITHOUT_COPIES and arithmetic == "differences":
            continue
        start = time.perf_counter()
        row = {"machine": asked.machine, "model": title, "work": work, "arithmetic": arithmetic}
        try:
            row |= _row(machine, chips, row, asked)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:  # what does not fit a machine is a finding
            row["failed"] = str(error).splitlines()[0][:120]
        yield {**row, "compile_seconds": time.perf_counter() - start}


def _row(machine: Machine, chips: Sequence[Any], named: Mapping[str, str], asked: Asked) -> dict[str, Any]:
    config, work = TINY if asked.tiny else MODELS[named["model"]], named["work"]
    dtype, arithmetic = ARITHMETICS[named["arithmetic"]]
    model = jh.init(config, dtype=dtype, shapes_only=True)
    ask, arguments, options = question(work, model, asked)
    options |= {"memory": asked.memory, "progress": False}
    if arithmetic is not None:
        options["arithmetic"] = arithmetic
    used = 1
    if "devices" in inspect.signature(ask).parameters:
        # Weights that a chip can't hold rest in shares on all of them, and are gathered layer by layer.
        options["devices"], used = jax.sharding.Mesh(np.array(jax.devices()[:CHIPS]), ("data",)), CHIPS
    programs = jh.rehearse(ask, *arguments, on=chips, **options)
    layers = model.network.streams[-1].layers
    # A sweep loops over the layers between the first edited one and the last, half of all on average; others over all.
    steps = float(layers) if work in WITHOUT_COPIES else max(1.0, (layers - 2) / 2)
    numbers = _numbers(programs, machine, steps, used)
    if work not in WITHOUT_COPIES:
        flops = jh.plan(ask, *arguments, **options).cost().flops
        numbers["share"] = flops / used / machine.products / (numbers["seconds"] * machine.clock)
        numbers |= _loop(programs, machine, config, used)
    return {"chips": used, **numbers}


def _numbers(programs: Sequence[Any], machine: Machine, steps: float, chips: int) -> dict[str, Any]:
    """Return memory, cycles and collectives of a question's programs, all of one chip.

    Args:
        steps: of loops whose number of steps the compiler does not know.
    """
    texts = [Program(program.executable.as_text()) for program in programs]
    jaxprs = [program.traced.jaxpr.jaxpr for program in programs]
    totals = [text.cycles(text.entry, steps) for text in texts]
    ideals = [ideal_cycles(jaxpr, machine.products, steps) / chips for jaxpr in jaxprs]
    loop, ideal_loop = max(
        (text.layer_loop(), ideal_step(jaxpr, machine.products) / chips)
        for text, jaxpr in zip(texts, jaxprs, strict=True)
    )
    memory = [program.executable.memory_analysis() for program in programs]
    collectives = sum((text.collectives() for text in texts), Counter())
    calls = [program.calls for program in programs]
    return {
        "programs": len(programs),
        "gigabytes": max(use.argument_size_in_bytes + use.temp_size_in_bytes for use in memory) / 1e9,
        "loop_cycles": loop,
        "loop_share": ideal_loop / loop if loop else float("nan"),
        "share": float(np.dot(calls, ideals) / max(np.dot(calls, totals), 1)),
        "seconds": float(np.dot(calls, totals)) / machine.clock,
        "collectives": ", ".join(f"{count} {kind}" for kind, count in sorted(collectives.items())),
    }


def _loop(programs: Sequence[Any], machine: Machine, config: Mapping[str, Any], chips: int) -> dict[str, float]:
    """Return tokens, cycles and share of the ideal of one layer of a sweep's edited copies, of one chip.

    The ideal has each product of a copy once, in bfloat16: neither the unedited run's, nor zeros that fill tiles.
    """
    edited = [program for program in programs if program.name == "edited"]
    cycles, program = max(
        ((Program(own.executable.as_text()).layer_loop(), own) for own in edited), key=lambda pair: pair[0]
    )
    batch, copies = program.arguments[1], program.arguments[5]
    examples, length = batch.tokens.shape
    tokens = len(copies.heads) * examples * (length - program.keywords["site"].first) / chips
    ideal = layer_cycles(config, tokens, length, machine.products)
    return {"loop_tokens": tokens, "loop_cycles": cycles, "loop_share": ideal / cycles if cycles else float("nan")}


def main(words: str) -> None:
    """Print each row as a line of JSON."""
    told: dict[str, Any] = json.loads(words)
    lists: dict[str, Any] = {name: tuple(told[name]) for name in ("models", "works", "arithmetics")}
    asked = Asked(**{**told, **lists})
    for row in rows(asked):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
