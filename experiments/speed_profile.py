"""Time of jaxheads' sweeps, operation by operation: where does it go?

    python -m experiments.speed_profile [--quick] [--works NAME …] [--prompts N] [--pairs N] [--out DIR]

jaxheads alone does the works of `experiments.speed`: once to compile, once timed, once under JAX's profiler, whose
events are looked up in the compiled programs. An operation is a matrix product if a matrix product is fused into it;
all others are named after the most expensive instruction in them. The rate of matrix products is the plan's FLOPs over
the time of matrix products alone; beside it the peak, the rate of products of 1,024 rows in the same process.

Found (results/speed-profile; 4 prompts, 2 pairs): matrix products run at the machine's rate (192 to 216 GFLOP/s; 210
were measured beside them), so the loss is the time without matrix products. In ablation that is 7 %. In patching with
prefix reuse, and of the stream by position, it is a quarter: a chunk has 128 to 512 tokens there, and for each chunk
every layer's weights are copied out of the stack (12 %: XLA does not read a slice in place) and norms are summed slowly
(8 %). The cost of first touches of fresh memory was measured separately, beside other work: of 16.1 CPU seconds for the
stream, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 saved 1.1, and glibc.malloc.mmap_max=0 (with larger trim_threshold and
top_pad, and 0.4 GB more memory) saved 1.7. Moving data takes a seventh of importance and a seventeenth of a forward
pass: the most that could be gained over PyTorch, whose products are as fast.

Cost: 2 minutes for all works. --quick takes a model whose times mean nothing.
"""

import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from . import lab
from .support.speed_jaxheads import JaxHeads
from .support.speed_machine import processor
from .support.speed_works import FULL, QUICK, WORKS, Inputs, Sizes, save_inputs, save_weights

KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("dot", "convolution", "custom-call"),
    "exponentials, tanh": ("exponential", "tanh", "erf", "logistic", "power", "exponential-minus-one"),
    "sums": ("reduce", "reduce-window"),
    "arithmetic": ("add", "subtract", "multiply", "divide", "maximum", "select", "compare", "rsqrt", "sqrt", "negate"),
}
"""Kinds of operations: the first kind of which an operation holds an instruction on floats (indices don't count).

An operation without such an instruction only moves data, such as one layer's weights out of the stack.
"""

CONTAINERS = ("while", "call", "conditional")
MOVING = "moving data"


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes a tiny model.

    Attributes:
        works: works of `experiments.speed`.
        prompts: number of ablated prompts.
        pairs: number of patched pairs.
        seed: seed of weights and inputs.
    """

    out: Path = Path("results/speed-profile")
    works: tuple[str, ...] = ("ablate", "patch_z", "patch_z_shared_prefix", "patch_resid_pre", "importance", "forward")
    prompts: int = 4
    pairs: int = 2
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        """Sizes of model and inputs."""
        return QUICK if self.quick else replace(FULL, prompts=self.prompts, pairs=self.pairs)

    def check(self) -> None:
        """Raise ValueError for an unknown work, or for options that can't be meant."""
        super().check()
        if unknown := sorted(set(self.works) - set(WORKS)):
            raise ValueError(f"works may be {', '.join(WORKS)}; got {', '.join(unknown)}")


def kinds_of_operations(program: str) -> dict[str, str]:
    """Return the kind of each instruction of a compiled program's text; those that only hold others are left out."""
    bodies: dict[str, set[str]] = {}
    instructions: dict[str, tuple[str, list[str]]] = {}
    body: set[str] = set()
    for line in program.splitlines():
        if opens := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            body = bodies.setdefault(opens[1], set())
        elif found := re.match(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(?\w+).*?[\])}]\s([\w\-]+)\(", line):
            name, dtype, opcode = found.groups()
            if "f" in dtype or opcode in CONTAINERS:  # f32, bf16, f8e4m3, or a tuple of them
                body.add(opcode)
            instructions[name] = opcode, re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
    kinds: dict[str, str] = {}
    for name, (opcode, called) in instructions.items():
        if opcode in CONTAINERS:
            continue
        fused = {opcode}.union(*(bodies.get(body, set()) for body in called if opcode == "fusion"))
        kinds[name] = next((kind for kind, opcodes in KINDS.items() if fused & set(opcodes)), MOVING)
    return kinds


class Event(NamedTuple):
    """One run of an instruction of a program; times in nanoseconds."""

    program: str
    name: str
    start: float
    end: float


def trace(call: Callable[[], object]) -> Iterator[Event]:
    """Yield everything that runs on the device during a call."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            call()
        [path] = Path(directory).glob("**/*.xplane.pb")
        data: Any = jax.profiler.ProfileData.from_file(str(path))
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events:
                    about = dict(event.stats)
                    if "hlo_op" in about:
                        end = event.start_ns + event.duration_ns
                        yield Event(str(about["hlo_module"]), str(about["hlo_op"]), event.start_ns, end)


def programs() -> dict[str, dict[str, str]]:
    """Return the kinds of instructions of every compiled program in memory, by the program's name."""
    kinds: dict[str, dict[str, str]] = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            kinds.setdefault(module.name, {}).update(kinds_of_operations(module.to_string()))
    return kinds


def shared_time(spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Return the seconds of each kind; operations that run at the same moment share it equally.

    Args:
        spans: kind, start and end of each operation, in nanoseconds.
    """
    edges = sorted([(start, 1, kind) for kind, start, _ in spans] + [(end, -1, kind) for kind, _, end in spans])
    spent: dict[str, float] = defaultdict(float)
    running: Counter[str] = Counter()
    before = edges[0][0] if edges else 0.0
    for moment, change, kind in edges:
        count = running.total()
        for name, number in running.items():
            if number:
                spent[name] += number / count * (moment - before) / 1e9
        running[kind] += change
        before = moment
    return dict(spent)


def profile(work: str, side: JaxHeads, inputs: Inputs) -> dict[str, Any]:
    """Return the seconds of a call of one work and of each kind of operation in it, and the FLOPs needed."""
    [call] = side.ways(WORKS[work], inputs).values()
    call()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    events, known = list(trace(call)), programs()
    kinds = ((known.get(event.program, {}).get(event.name), event) for event in events)
    spent = shared_time([(kind, event.start, event.end) for kind, event in kinds if kind is not None])
    needed = side.about(WORKS[work], inputs).get("needed", np.nan)
    return {"work": WORKS[work].title, "seconds": seconds, "needed": needed, **spent}


def table(rows: list[dict[str, Any]], peak: float) -> pd.DataFrame:
    """Return a row for each work: shares of the operations' time, and the rate of matrix products beside the peak."""
    seconds = pd.DataFrame(rows).set_index("work").fillna(dict.fromkeys((*KINDS, MOVING), 0.0))
    kinds = [kind for kind in (*KINDS, MOVING) if kind in seconds]
    operations = seconds[kinds].sum(axis=1)
    shares = pd.DataFrame({"seconds": seconds["seconds"], "operations run": operations})
    for kind in kinds:
        shares[f"{kind}, %"] = 100 * seconds[kind] / operations
    shares["products, GFLOP/s"] = seconds["needed"] / seconds["matrix products"] / 1e9
    shares["whole call, GFLOP/s"] = seconds["needed"] / seconds["seconds"] / 1e9
    shares["peak, GFLOP/s"] = peak / 1e9
    return shares


def page(shares: pd.DataFrame, options: Options) -> str:
    """Return the page for readers."""
    sizes = options.sizes
    return f"""# Where the time goes

jaxheads alone, random weights of GPT-2's form ({sizes.layers} layers, {sizes.heads} heads, width {sizes.width}),
float32, on {processor()}; {sizes.prompts} prompts × {sizes.length} tokens, {sizes.pairs} pairs ×
{sizes.pair_length}. One call under the profiler, after one that compiles and one that is timed. Shares are of the time
in which operations ran; operations that ran at the same moment share it. "Products": the plan's FLOPs over the time of
matrix products alone; the peak is the rate of products of 1,024 rows in the same process. Importance has no plan, so
its FLOPs are unknown.

{shares.round(3).to_markdown(floatfmt=".3g")}
"""


def run(options: Options) -> lab.Results:
    """Profile each work."""
    rows = []
    with lab.temporary_directory(options.folder) as scratch:
        side = JaxHeads(save_weights(options.sizes, options.seed, scratch))
        paths = save_inputs(options.sizes, options.seed, scratch)
        for work in options.works:
            rows.append(profile(work, side, Inputs.load(paths[WORKS[work].inputs])))
            print(f"{work}: {rows[-1]['seconds']:.3g} s", flush=True)
        shares = table(rows, side.matmul())
    about = {"processor": processor(), "sizes": vars(options.sizes), "seed": options.seed}
    return lab.Results(page(shares, options), about, {"profile": shares.reset_index()})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
