"""Where does the time of jaxheads' sweeps go, operation by operation?

    python -m experiments.speed_profile [--quick] [--works NAME …] [--prompts N] [--pairs N] [--out DIR]

The works of `experiments.speed` are done by jaxheads alone: once to compile, once timed, once under JAX's profiler,
whose events are looked up in the compiled programs. An operation is a matrix product if one is fused into it; the
others are told apart by the dearest thing in them. The rate of matrix products is that of the FLOPs which the plan
names, over their time alone; beside it the peak, that of products of 1,024 rows in the same process.

Found (results/speed-profile; 4 prompts, 2 pairs): matrix products run at what the machine gives (192 to 216 GFLOP/s;
210 were measured beside them), so what is lost is time in which there are none. In ablation that is 7 %. In patching
with prefix reuse and of the stream by position it is a quarter: a piece of work is 128 to 512 tokens there, and for
each every layer's weights are copied out of the stack (12 %: XLA does not read a slice in place) and norms are summed
slowly (8 %). What a first touch of fresh memory costs was tried apart, while other work ran: of 16.1 CPU seconds for
the stream, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 saved 1.1, and glibc.malloc.mmap_max=0 (with trim_threshold and
top_pad raised, and 0.4 GB more memory) 1.7. Of importance a seventh is moving data, of a forward pass a seventeenth: no
more than that could be won over PyTorch, whose products are as fast.

Cost: 2 minutes for all works. --quick takes a model whose times say nothing.
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

from experiments.lab import command_line, publish
from experiments.speed import FULL, QUICK, processor
from experiments.speed_jaxheads import JaxHeads
from experiments.speed_works import WORKS, Inputs, Sizes, save_inputs, save_weights

KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("dot", "convolution", "custom-call"),
    "exponentials, tanh": ("exponential", "tanh", "erf", "logistic", "power", "exponential-minus-one"),
    "sums": ("reduce", "reduce-window"),
    "arithmetic": ("add", "subtract", "multiply", "divide", "maximum", "select", "compare", "rsqrt", "sqrt", "negate"),
}
"""An operation is of the first kind of which it holds an instruction on floats (indices are not arithmetic); of "moving
data", such as one layer's weights out of the stack, if of none."""

CONTAINERS = ("while", "call", "conditional")
MOVING = "moving data"


@dataclass(frozen=True)
class Options:
    """What to look at.

    Attributes:
        quick: a tiny model.
        works: as in `experiments.speed`.
        prompts, pairs: how many, to ablate and to patch; 4 and 2 when left out.
        out: where results go.
        seed: of weights and inputs.
    """

    quick: bool = False
    works: tuple[str, ...] = ("ablate", "patch_z", "patch_z_shared_prefix", "patch_resid_pre", "importance", "forward")
    prompts: int = 4
    pairs: int = 2
    out: Path = Path("results/speed-profile")
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        """Of model and inputs."""
        return QUICK if self.quick else replace(FULL, prompts=self.prompts, pairs=self.pairs)

    def check(self) -> None:
        """Raise ValueError for a work that is not there."""
        if unknown := sorted(set(self.works) - set(WORKS)):
            raise ValueError(f"works may be {', '.join(WORKS)}; got {', '.join(unknown)}")
        if not self.works:
            raise ValueError("expected at least one work")


def kinds_of_operations(program: str) -> dict[str, str]:
    """From a compiled program's text, what kind each instruction is; those that only hold others are left out."""
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
        held = {opcode}.union(*(bodies.get(one, set()) for one in called if opcode == "fusion"))
        kinds[name] = next((kind for kind, opcodes in KINDS.items() if held & set(opcodes)), MOVING)
    return kinds


class Event(NamedTuple):
    """An instruction of a program that ran, from when to when, in nanoseconds."""

    program: str
    name: str
    start: float
    end: float


def traced(do: Callable[[], object]) -> Iterator[Event]:
    """Everything that runs on the device meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            do()
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
    """The kinds of instructions of every compiled program that is alive, by its name."""
    found: dict[str, dict[str, str]] = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            found.setdefault(module.name, {}).update(kinds_of_operations(module.to_string()))
    return found


def shared_time(spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Seconds of each kind, of spans (kind, start, end) in nanoseconds: a moment is shared by all that run in it."""
    edges = sorted([(start, 1, kind) for kind, start, _ in spans] + [(end, -1, kind) for kind, _, end in spans])
    spent: dict[str, float] = defaultdict(float)
    running: Counter[str] = Counter()
    before = edges[0][0] if edges else 0.0
    for moment, change, kind in edges:
        count = running.total()
        for one, many in running.items():
            if many:
                spent[one] += many / count * (moment - before) / 1e9
        running[kind] += change
        before = moment
    return dict(spent)


def look(work: str, side: JaxHeads, inputs: Inputs) -> dict[str, Any]:
    """One work: seconds of a call, of each kind of operation in it, and rates."""
    [do] = side.ways(WORKS[work], inputs).values()
    do()
    start = time.perf_counter()
    do()
    seconds = time.perf_counter() - start
    events, known = list(traced(do)), programs()
    kinds = ((known.get(event.program, {}).get(event.name), event) for event in events)
    spent = shared_time([(kind, event.start, event.end) for kind, event in kinds if kind is not None])
    needed = side.about(WORKS[work], inputs).get("needed", np.nan)
    return {"work": WORKS[work].title, "seconds": seconds, "needed": needed, **spent}


def table(rows: list[dict[str, Any]], peak: float) -> pd.DataFrame:
    """One row a work: shares of the time that operations took, and the rate of matrix products beside the peak."""
    found = pd.DataFrame(rows).set_index("work").fillna(dict.fromkeys((*KINDS, MOVING), 0.0))
    kinds = [kind for kind in (*KINDS, MOVING) if kind in found]
    operations = found[kinds].sum(axis=1)
    out = pd.DataFrame({"seconds": found["seconds"], "operations run": operations})
    for kind in kinds:
        out[f"{kind}, %"] = 100 * found[kind] / operations
    out["products, GFLOP/s"] = found["needed"] / found["matrix products"] / 1e9
    out["whole call, GFLOP/s"] = found["needed"] / found["seconds"] / 1e9
    out["peak, GFLOP/s"] = peak / 1e9
    return out


def page(found: pd.DataFrame, options: Options) -> str:
    """The page."""
    sizes = options.sizes
    return f"""# Where the time goes

jaxheads alone, random weights of GPT-2's form ({sizes.layers} layers, {sizes.heads} heads, width {sizes.width}),
float32, on {processor()}; {sizes.prompts} prompts × {sizes.length} tokens, {sizes.pairs} pairs ×
{sizes.pair_length}. One call under the profiler after one that compiles and one that is timed. Shares are of the time
in which operations ran; a moment in which several ran is shared by them. "Products": the plan's FLOPs over the time of
matrix products alone; the peak is that of products of 1,024 rows in the same process. No plan names the FLOPs of
importance.

{found.round(3).to_markdown(floatfmt=".3g")}
"""


def run(options: Options) -> None:
    """Measure and write."""
    options.check()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        side = JaxHeads(save_weights(options.sizes, options.seed, Path(scratch)))
        paths = save_inputs(options.sizes, options.seed, Path(scratch))
        for work in options.works:
            rows.append(look(work, side, Inputs.load(paths[WORKS[work].inputs])))
            print(f"{work}: {rows[-1]['seconds']:.3g} s", flush=True)
        found = table(rows, side.matmul())
    about = {"processor": processor(), "sizes": vars(options.sizes), "seed": options.seed}
    publish(options.out, page(found, options), about, {"profile": found.reset_index()})


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line("speed_profile", Options, run, __doc__, arguments)


if __name__ == "__main__":
    main()
