"""How long does jaxheads take beside TransformerLens, nnsight and a plain PyTorch loop, and why?

    python -m experiments.speed [--quick] [--sides NAME …] [--works NAME …] [--repeats N] [--no-curves] [--out DIR]

Ablation of all heads, patching of z and of the residual stream, importance and a forward pass, on the same random
weights of GPT-2 small and the same inputs. Sides take turns, each in a process of its own on all cores of the CPU, and
after every call their tables are compared, example by example: a side that says something else ends the run. The peers
are used as their own documentation shows and in every way known to be faster, of which the fastest counts; they come
with `pip install 'jaxheads[peers]'`, and a side that is not installed is left out.

Also: compilation apart, peak memory, the share of the matmul peak that this machine reaches in the same run, how much
of the lead over PyTorch is FLOPs not spent and how much this CPU's matrix products, and jaxheads' time against heads,
layers, examples, length and devices.

Cost: almost all of it is the peers' whole forward passes, in the first call in every way that is tried. A run that was
stopped goes on where it was. --quick takes a model so small that its times say nothing: it shows that all agree.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments import speed_report
from experiments.speed_worker import Worker, WorkerError
from experiments.speed_works import WORKS, Sizes, save_inputs, save_weights
from jaxheads.files import write_atomically, write_together
from jaxheads.progress import progress
from jaxheads.provenance import environment, git_state

TOLERANCE = 1e-4
"""Most that two sides' tables may differ; relative to the largest value where that exceeds 1."""

REPEATS = 3


class Library(NamedTuple):
    """A side: where its class is, and the package that it needs."""

    path: str
    package: str


SIDES = {
    "jaxheads": Library("experiments.speed_jaxheads:JaxHeads", "jaxheads"),
    "pytorch": Library("experiments.speed_peers:PyTorch", "torch"),
    "transformer_lens": Library("experiments.speed_peers:TransformerLens", "transformer_lens"),
    "nnsight": Library("experiments.speed_peers:NNsight", "nnsight"),
}
ON_DEVICES = "experiments.speed_jaxheads:JaxHeadsOnDevices"
PACKAGES = ("torch", "transformer-lens", "nnsight")


FULL, QUICK = Sizes(), Sizes(2, 2, 32, 101, 64, prompts=4, length=12, pairs=2, pair_length=8, prefix=4, long=40)
CURVES: dict[str, tuple[int, ...]] = {
    "heads": (6, 12, 24),
    "layers": (3, 6, 12),
    "prompts": (4, 8, 16, 32),
    "length": (16, 32, 64, 128),
    "devices": (1, 2, 4),
}
QUICK_CURVES: dict[str, tuple[int, ...]] = {"layers": (1, 2), "devices": (2,)}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        quick: a tiny model, one repeat.
        sides: who takes part: jaxheads, pytorch, transformer_lens, nnsight.
        works: what they do: ablate, patch_z, patch_z_shared_prefix, patch_resid_pre, importance, forward, measure,
            forward_long, measure_long.
        repeats: how often each side does each work, after a first call; 3 when left out, 1 with --quick.
        prompts, pairs: how many, to ablate and to patch; 16 and 8 when left out. Times are about proportional.
        curves: also jaxheads' time against heads, layers, examples, length and devices.
        out: where results go.
        seed: of weights and inputs.
    """

    quick: bool = False
    sides: tuple[str, ...] = tuple(SIDES)
    works: tuple[str, ...] = tuple(WORKS)
    repeats: int | None = None
    prompts: int | None = None
    pairs: int | None = None
    curves: bool = True
    out: Path = Path("results/speed")
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        """Of the works."""
        sizes = QUICK if self.quick else FULL
        return replace(sizes, prompts=self.prompts or sizes.prompts, pairs=self.pairs or sizes.pairs)

    @property
    def count(self) -> int:
        """How many repeats count."""
        return self.repeats if self.repeats is not None else 1 if self.quick else REPEATS

    @property
    def curve_sizes(self) -> Sizes:
        """What the cost curves start from: a quarter of the ablation."""
        return self.sizes if self.quick else replace(FULL, prompts=8, length=32)

    @property
    def points(self) -> list[tuple[str, int]]:
        """The cost curves' points: what is changed, to what."""
        axes = (QUICK_CURVES if self.quick else CURVES) if self.curves else {}
        return [(axis, value) for axis, values in axes.items() for value in values]

    def check(self) -> None:
        """Raise ValueError for what can't be measured."""
        for name, given, known in (("sides", self.sides, SIDES), ("works", self.works, WORKS)):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"{name} may be {', '.join(known)}; got {', '.join(unknown)}")
        if "jaxheads" not in self.sides or not self.works or self.count < 1:
            raise ValueError("expected jaxheads among the sides, at least one work and one repeat")


class Pieces:
    """What is already measured, each in a file: a run that was stopped goes on from there."""

    def __init__(self, directory: Path, *question: Any):
        self.directory = directory / hashlib.sha256(repr(question).encode()).hexdigest()[:16]

    def get(self, name: str) -> dict[str, Any] | None:
        """The piece, if it is there."""
        path = self.directory / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, name: str, piece: dict[str, Any]) -> dict[str, Any]:
        """Keep it."""
        write_atomically(self.directory / f"{name}.json", json.dumps(piece).encode())
        return piece


def measure_work(work: str, sides: Sequence[str], options: Options, pieces: Pieces, scratch: Path) -> list[dict]:
    """All rounds of one work: the first call of every way of every side, then the fastest ones in turn."""
    names = [f"{work}-{repeat}" for repeat in range(options.count + 1)]
    rounds = [piece for piece in map(pieces.get, names) if piece is not None]
    if len(rounds) == len(names):
        return rounds
    weights = save_weights(options.sizes, options.seed, scratch)
    inputs = save_inputs(options.sizes, options.seed, scratch)[WORKS[work].inputs]
    sides = [side for side in sides if side not in WORKS[work].without]
    with ExitStack() as stack:
        workers = {side: stack.enter_context(closing(Worker(SIDES[side].path))) for side in sides}
        loaded = {side: worker.load(weights, work, inputs) for side, worker in workers.items()}
        about = {side: one["about"] for side, one in loaded.items()}
        if rounds:  # stopped and gone on: these processes are new, and their first calls don't count
            one_round(work, workers, fastest(rounds[0]))
        for repeat in range(len(rounds), len(names)):
            turns = [*sides[repeat % len(sides) :], *sides[: repeat % len(sides)]]
            ways = fastest(rounds[0]) if rounds else {side: one["ways"] for side, one in loaded.items()}
            found = one_round(work, {side: workers[side] for side in turns}, ways)
            rounds.append(pieces.put(names[repeat], {"work": work, "repeat": repeat, "about": about, **found}))
            say(rounds[-1])
    return rounds


def one_round(work: str, workers: Mapping[str, Worker], ways: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Every side's turn: its calls with what they took, and the rate of its matrix products right after."""
    calls: dict[str, dict[str, Any]] = {}
    tables: dict[tuple[str, str], np.ndarray] = {}
    rates = {}
    for side, worker in workers.items():
        calls[side] = {}
        for way in ways[side]:
            tables[side, way], calls[side][way] = worker.run(way)
        if side in (speed_report.OURS, speed_report.PLAIN):
            rates[side] = worker.matmul()
    for (side, way), difference in differences(work, tables).items():
        calls[side][way]["difference"] = difference
    return {"calls": calls, "rates": rates}


def differences(work: str, tables: Mapping[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], float]:
    """How far each table is from the plain loop's (the first, without one), relative to the largest value above 1.

    Raises:
        ValueError: for a table of another shape, or one that is further away than TOLERANCE; with all that are.
    """
    reference = next((key for key in tables if key[0] == speed_report.PLAIN), next(iter(tables)))
    expected, found, wrong = tables[reference], {}, []
    scale = max(1.0, float(np.abs(expected).max()))
    for (side, way), table in tables.items():
        if table.shape != expected.shape:
            raise ValueError(f"{work}: {side} ({way}) gives {table.shape}, {reference[0]} gives {expected.shape}")
        away = np.abs(table - expected) / scale
        found[side, way] = float(away.max())
        if not found[side, way] < TOLERANCE:  # NaN is wrong too
            at = tuple(map(int, np.unravel_index(np.argmax(away), away.shape)))
            wrong.append(f"{side} ({way}) gives {table[at]:.6g} for {expected[at]:.6g} at {at}")
    if wrong:
        raise ValueError(f"{work}: not the table of {reference[0]}, by [example, layer, column]: {'; '.join(wrong)}")
    return found


def fastest(first: Mapping[str, Any]) -> dict[str, list[str]]:
    """The fastest way of each side in a round."""
    return {side: [min(calls, key=lambda way: calls[way]["seconds"])] for side, calls in first["calls"].items()}


def say(one: Mapping[str, Any]) -> None:
    """A line for whoever follows a log."""
    times = (f"{side} {min(call['seconds'] for call in calls.values()):.3g} s" for side, calls in one["calls"].items())
    print(f"{one['work']}, {'first call' if one['repeat'] == 0 else one['repeat']}: {', '.join(times)}", flush=True)


def measure_point(axis: str, value: int, options: Options, pieces: Pieces, scratch: Path) -> dict[str, Any]:
    """Seconds of jaxheads' ablation at one point of a cost curve."""
    name = f"{axis}-{value}"
    if kept := pieces.get(name):
        return kept
    base = options.curve_sizes
    sizes = base if axis == "devices" else replace(base, **{axis: value})
    weights = save_weights(sizes, options.seed, scratch)
    inputs = save_inputs(sizes, options.seed, scratch)["prompts"]
    many = axis == "devices" and value > 1
    settings = {"JAX_NUM_CPU_DEVICES": str(value)} if many else {}
    with closing(Worker(ON_DEVICES if many else SIDES["jaxheads"].path, settings)) as worker:
        loaded = worker.load(weights, "ablate", inputs)
        first, *seconds = (worker.run(loaded["ways"][0])[1]["seconds"] for _ in range(options.count + 1))
    point = {"axis": "examples" if axis == "prompts" else axis, "value": value}
    return pieces.put(name, {**point, "first": first, "seconds": seconds, "needed": loaded["about"]["needed"]})


def installed(sides: Sequence[str]) -> Iterator[str]:
    """Those whose package is there; for the others, how to have them."""
    for side in sides:
        if importlib.util.find_spec(SIDES[side].package) is not None:
            yield side
        else:
            print(f"{side} is left out: {SIDES[side].package} is not installed (pip install 'jaxheads[peers]')")


def provenance(options: Options, sides: Sequence[str]) -> dict[str, Any]:
    """Where the numbers come from."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "sides": list(sides),
        "sizes": asdict(options.sizes),
        "curves": asdict(options.curve_sizes),
        "repeats": options.count,
        "seed": options.seed,
        "tolerance": TOLERANCE,
        "processor": processor(),
        "cores": os.cpu_count(),
        "peers": versions,
        **environment(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(options: Options) -> list[Path]:
    """Measure and write; a run that was stopped goes on where it was."""
    options.check()
    sides, partial_results = list(installed(options.sides)), options.out / ".partial"
    code = git_state(Path(__file__).parent)
    pieces = Pieces(partial_results, options.sizes, options.curve_sizes, options.seed, sides, options.count, code)
    rounds, points = [], []
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress(len(options.works) + len(options.points), "works and points measured", True) as advance,
    ):
        for work in options.works:
            rounds += measure_work(work, sides, options, pieces, Path(scratch))
            advance()
        for axis, value in options.points:
            points.append(measure_point(axis, value, options, pieces, Path(scratch)))
            advance()
    about = provenance(options, sides)
    contents = speed_report.files(rounds, points, about)
    contents["provenance.json"] = (json.dumps(about, indent=2) + "\n").encode()
    written = write_together({options.out / name: content for name, content in contents.items()})
    shutil.rmtree(partial_results, ignore_errors=True)
    return written


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.speed", description=__doc__)
    try:
        run(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, WorkerError) as error:
        sys.exit(f"speed: {error}")
    print((options.out / "summary.md").read_text(encoding="utf-8"))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
