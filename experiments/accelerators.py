"""Accelerators: what share of a TPU's matrix units do sweeps and measures use, and what do they cost there?

    python -m experiments.accelerators [--quick] [--machines NAME …] [--models NAME …] [--works NAME …]
        [--arithmetics NAME …] [--examples N] [--tokens N] [--memory BYTES] [--device] [--out DIR]

No TPU is needed: XLA's compiler for it, libtpu, runs on any machine, and `jaxheads.rehearse` has it compile the very
programs of a question, of models whose parameters are shapes. It names the memory of each program, and estimates the
cycles of each fusion. "Ideal" are the cycles of the matrix products alone, at the chip's published peak. What a chip
waits for memory and for other chips is not in the estimates. libtpu belongs into a folder of its own, because where it
is installed JAX greets users of a CPU with errors: pip install --no-deps --target tpu libtpu, then PYTHONPATH=tpu.

With `--device` the questions run, twice, on the accelerators that are there, and the second time stands beside what is
predicted.

Found (results/accelerators, results/accelerators-chips): on a v5e, in bfloat16, a layer of an ablation runs at 52 % of
the ideal for GPT-2 small's shape, 46 % for SmolLM2's, 81 % for a Llama of 1.1B, 74 % for one of 8B, whose weights are
gathered; by differences at 51, 30, 62 and 56 %. A whole ablation by differences takes 1.04 times that in bfloat16 for
GPT-2 small, 1.4 times for the Llamas. SmolLM2's width of 576 is 4.5 tiles of a matrix unit, of which 5 are computed: no
product of it can pass 90 %. Cost: one to seven minutes a program on a busy core.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import pandas as pd

import jaxheads as jh

from . import lab
from .support.accelerators_machines import MACHINES, MODELS
from .support.accelerators_worker import ARITHMETICS, WORKS, Asked, compiled_rows, question
from .support.speed_machine import fastest_product, processor


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run compiles two programs of a tiny model for one machine.

    Attributes:
        machines: kinds of TPU, eight chips each.
        models: sizes of models.
        works: questions.
        arithmetics: bfloat16 (all in it), differences, full or fast (weights in float32).
        examples, tokens: of the batch.
        memory: bytes for the activations of one chunk of work, on each chip.
        device: whether the questions run on JAX's own devices as well.
        cpu: whether a sweep is timed on this machine's CPU as well.
    """

    out: Path = Path("results/accelerators")
    machines: tuple[str, ...] = tuple(MACHINES)
    models: tuple[str, ...] = tuple(MODELS)
    works: tuple[str, ...] = WORKS
    arithmetics: tuple[str, ...] = ("bfloat16", "differences")
    examples: int = 512
    tokens: int = 64
    memory: int = 1 << 30
    device: bool = False
    cpu: bool = True

    def check(self) -> None:
        """Raise ValueError for an unknown machine, model or work, or for options that can't be meant."""
        super().check()
        for name, known in (
            ("machines", MACHINES),
            ("models", MODELS),
            ("works", WORKS),
            ("arithmetics", ARITHMETICS),
        ):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(f"--{name} may be {', '.join(known)}; got {', '.join(unknown)}")

    def asked(self, machine: str) -> Asked:
        """Return what is compiled for one machine."""
        quick = {
            "models": self.models[:1],
            "works": self.works[:1],
            "arithmetics": self.arithmetics[:1],
            "examples": 16,
        }
        options = replace(self, **quick) if self.quick else self
        names = "models", "works", "arithmetics", "examples", "tokens", "memory"
        return Asked(machine=machine, tiny=self.quick, **{name: getattr(options, name) for name in names})


def million_questions(seconds: float, cells: int, examples: int) -> float:
    """Return the seconds of a million effects, each of one cell on one example."""
    return seconds / (cells * examples) * 1e6


def cells(model: str, work: str, tokens: int) -> int:
    """Return how many numbers a work gives of one example: effects of heads or streams, scores of heads."""
    config = MODELS[model]
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    return layers * (tokens if work == "patch resid" else config.get("num_attention_heads", config.get("n_head")))


def predicted(options: Options) -> pd.DataFrame:
    """Return a row for each machine, model and work."""
    machines = options.machines[:1] if options.quick else options.machines
    rows: list[dict[str, Any]] = []
    for machine in machines:
        asked = options.asked(machine)
        for model, work, arithmetic in itertools.product(asked.models, asked.works, asked.arithmetics):
            one = replace(asked, models=(model,), works=(work,), arithmetics=(arithmetic,))
            for row in options.keep(_rows, one):
                row["seconds a million"] = million_questions(
                    row.get("seconds", float("nan")), cells(model, row["work"], asked.tokens), asked.examples
                )
                rows.append(row)
    return pd.DataFrame(rows)


def _rows(asked: Asked) -> Iterator[dict[str, Any]]:
    for row in compiled_rows(asked):
        print(row, flush=True)
        yield row


def timed(options: Options) -> pd.DataFrame:
    """Return the seconds of the questions on JAX's own devices: of the second call."""
    rows = []
    for title in options.asked("v5e-8").models:
        model = jh.init(MODELS[title], dtype="bfloat16")
        for work in options.works:
            ask, arguments, named = question(work, model, options.asked("v5e-8"))
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                ask(*arguments, **named, memory=options.memory)
                seconds.append(time.perf_counter() - start)
            rows.append({"model": title, "work": work, "seconds": seconds[1]})
    return pd.DataFrame(rows)


def cpu_share(options: Options) -> float:
    """Return the share of this CPU's best rate of float32 products at which an ablation of GPT-2's shape runs."""
    asked = replace(options.asked("v5e-8"), examples=2, models=("GPT-2 small",))
    model = jh.init({**MODELS["GPT-2 small"], **({"n_layer": 2} if options.quick else {})})
    _, arguments, named = question("ablate z", model, asked)
    flops = jh.plan(jh.ablate, *arguments, **named).cost().flops
    jh.ablate(*arguments, **named)
    start = time.perf_counter()
    jh.ablate(*arguments, **named)
    rate = flops / (time.perf_counter() - start)

    def multiply(left: Any, right: Any) -> Any:
        product = jax.jit(jax.numpy.matmul)
        left, right = jax.device_put(left), jax.device_put(right)
        return lambda: product(left, right).block_until_ready()

    return rate / fastest_product(multiply, 2 if options.quick else 20)


def page(table: pd.DataFrame, share: float | None, options: Options) -> str:
    """Return the page for readers."""
    beside = (
        ""
        if share is None
        else f" On this CPU\n({processor()}) a whole sweep runs at {100 * share:.0f} %, measured, in float32."
    )
    return f"""# Accelerators: compiled, not run

Questions of {options.examples} examples × {options.tokens} tokens, compiled by XLA for eight chips of each kind.
Examples are split over the chips; weights that a chip can't hold are gathered layer by layer. All numbers are XLA's
estimates for one chip. "bfloat16": weights and all products are in it. "differences": weights are in float32, and the
products of edited copies with them in bfloat16, of what an edit changes, beside kept ones of the unedited run.

Loop: one layer of a sweep's edited copies, of this many tokens on a chip. Its share of the ideal is that of the peak
of matrix products, where each product of a copy is counted once, in bfloat16: not the two that a difference of queries
and keys takes, nor zeros that fill tiles.{beside}
Share: of the whole question. GB: arguments and temporary memory of the largest program. Seconds a million: of a million
effects, one head (or stream and position) of one example each, without waits for memory and collectives.

{lab.markdown(table.astype(object).where(table.notna(), ""))}
"""


def run(options: Options) -> lab.Results:
    """Compile the works for each machine."""
    rows = predicted(options)
    shown = pd.DataFrame(
        {
            "machine": rows["machine"],
            "model": rows["model"],
            "work": rows["work"],
            "arithmetic": rows["arithmetic"],
            "GB": rows.get("gigabytes"),
            "loop, tokens": rows.get("loop_tokens"),
            "loop, cycles": rows.get("loop_cycles"),
            "loop, % of ideal": 100 * rows["loop_share"] if "loop_share" in rows else None,
            "% of ideal": 100 * rows["share"] if "share" in rows else None,
            "seconds a million": rows["seconds a million"],
            "collectives": rows.get("collectives"),
            "failed": rows["failed"].fillna("") if "failed" in rows else "",
        }
    )
    share = cpu_share(options) if options.cpu else None
    tables = {"predicted": rows}
    if options.device:
        tables["measured"] = timed(options)
    about = {"cpu_share": share, "processor": processor()}
    return lab.Results(page(shown, share, options), about, tables)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
