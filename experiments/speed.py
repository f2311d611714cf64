"""Speed of jaxheads beside TransformerLens, nnsight and a plain PyTorch loop: how large is the lead, and why?

    python -m experiments.speed [--quick] [--sides NAME …] [--works NAME …] [--repeats N] [--no-curves] [--out DIR]

Ablation of all heads, patching of z and of the residual stream, importance, measures, a forward pass and greedy
writing, on the same random weights of GPT-2 small and the same inputs. The sides take turns, each in a process of its
own on all cores of the CPU, and after every call their tables are compared, example by example: a side with other
numbers ends the run. The peers are used as their documentation shows and in every way known to be faster; the fastest
way counts. They come with `pip install 'jaxheads[peers]'`; a side that is not installed is left out.

Also measured: compilation, peak memory, the share of this machine's matmul peak in the same run, the factors of the
lead over PyTorch (FLOPs not spent, this CPU's matrix products), and jaxheads' time by heads, layers, examples, length
and devices.

Found (results/speed; results/speed-measures): see the pages, whose numbers docs/does-it-matter.md cites with their
commands.

Cost: nearly all of it is the peers' whole forward passes, in the first call of every way that is tried. A stopped run
goes on where it was. --quick takes a model so small that its times mean nothing: it shows that all sides agree.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import lab
from .support.speed_machine import processor
from .support.speed_report import OURS, PLAIN, results
from .support.speed_worker import Worker
from .support.speed_works import FULL, QUICK, WORKS, Sizes, save_inputs, save_weights

TOLERANCE = 1e-4
"""The largest difference between two sides' tables; relative to the largest value where that exceeds 1."""

REPEATS = 3


class Library(NamedTuple):
    """A side: the path of its class, and the package that it needs.

    Attributes:
        tolerance: the largest difference of its tables. Above TOLERANCE it is relative to the table's largest value,
            however small that is, and the side takes part in sweeps alone.
    """

    path: str
    package: str
    tolerance: float = TOLERANCE

    def takes(self, work: str) -> bool:
        """Return whether the side takes part in a work."""
        return self.tolerance == TOLERANCE or WORKS[work].kind in ("ablate", "patch")


SIDES = {
    "jaxheads": Library(f"{__package__}.support.speed_jaxheads:JaxHeads", "jaxheads"),
    "jaxheads_differences": Library(f"{__package__}.support.speed_jaxheads:JaxHeadsByDifferences", "jaxheads", 0.01),
    "pytorch": Library(f"{__package__}.support.speed_peers:PyTorch", "torch"),
    "transformer_lens": Library(f"{__package__}.support.speed_peers:TransformerLens", "transformer_lens"),
    "transformer_lens_bfloat16": Library(
        f"{__package__}.support.speed_peers:TransformerLensInBfloat16", "transformer_lens", 1.0
    ),
    "nnsight": Library(f"{__package__}.support.speed_peers:NNsight", "nnsight"),
}
ON_DEVICES = f"{__package__}.support.speed_jaxheads:JaxHeadsOnDevices"
PACKAGES = ("torch", "transformer-lens", "nnsight")

CURVES: dict[str, tuple[int, ...]] = {
    "heads": (6, 12, 24),
    "layers": (3, 6, 12),
    "prompts": (4, 8, 16, 32),
    "length": (16, 32, 64, 128),
    "devices": (1, 2, 4),
}
QUICK_CURVES: dict[str, tuple[int, ...]] = {"layers": (1, 2), "devices": (2,)}


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes a tiny model and one repeat.

    Attributes:
        sides: the sides that take part: jaxheads, pytorch, transformer_lens, nnsight; in sweeps also
            jaxheads_differences, with arithmetic="differences", and transformer_lens_bfloat16.
        works: the works: ablate, patch_z, patch_z_shared_prefix, patch_resid_pre, importance, forward, measure,
            forward_long, measure_long, write_1, write_8, write_32.
        repeats: counted repeats of each work by each side, after a first call; 3 when left out, 1 with --quick.
        prompts: number of ablated prompts; 16 when left out. Times are about proportional.
        pairs: number of patched pairs; 8 when left out. Times are about proportional.
        curves: whether jaxheads' time by heads, layers, examples, length and devices is measured, too.
        seed: seed of weights and inputs.
    """

    out: Path = Path("results/speed")
    sides: tuple[str, ...] = tuple(SIDES)
    works: tuple[str, ...] = tuple(WORKS)
    repeats: int | None = None
    prompts: int | None = None
    pairs: int | None = None
    curves: bool = True
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        """Sizes of the works."""
        sizes = QUICK if self.quick else FULL
        chosen = {"prompts": self.prompts, "pairs": self.pairs}
        return replace(sizes, **{name: count for name, count in chosen.items() if count is not None})

    @property
    def count(self) -> int:
        """The number of counted repeats."""
        return self.repeats if self.repeats is not None else 1 if self.quick else REPEATS

    @property
    def curve_sizes(self) -> Sizes:
        """Sizes that the cost curves start from: a quarter of the ablation."""
        return self.sizes if self.quick else replace(FULL, prompts=8, length=32)

    @property
    def points(self) -> list[tuple[str, int]]:
        """The cost curves' points: the size that is changed, and its value."""
        axes = (QUICK_CURVES if self.quick else CURVES) if self.curves else {}
        return [(axis, value) for axis, values in axes.items() for value in values]

    def check(self) -> None:
        """Raise ValueError for options that can't be measured."""
        super().check()
        for name, given, known in (("sides", self.sides, SIDES), ("works", self.works, WORKS)):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"{name} may be {', '.join(known)}; got {', '.join(unknown)}")
        if OURS not in self.sides:
            raise ValueError("expected jaxheads among the sides")


class Journal:
    """Finished measurements on disk, a file each: a stopped run goes on from there.

    Args:
        directory: the folder of the files.
        identity: everything that the measurements depend on.
    """

    def __init__(self, directory: Path, *identity: Any):
        self.directory = directory / hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a finished measurement, or None."""
        path = self.directory / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, name: str, measurement: dict[str, Any]) -> dict[str, Any]:
        """Write a measurement and return it."""
        lab.write_atomically(self.directory / f"{name}.json", json.dumps(measurement).encode())
        return measurement


def measure_work(work: str, sides: Sequence[str], options: Options, journal: Journal, scratch: Path) -> list[dict]:
    """Return all rounds of a work: the first calls of every way of every side, then the fastest ways in turn."""
    names = [f"{work}-{repeat}" for repeat in range(options.count + 1)]
    rounds = [finished for finished in map(journal.get, names) if finished is not None]
    if len(rounds) == len(names):
        return rounds
    weights = save_weights(options.sizes, options.seed, scratch)
    inputs = save_inputs(options.sizes, options.seed, scratch)[WORKS[work].inputs]
    sides = [side for side in sides if side not in WORKS[work].without and SIDES[side].takes(work)]
    with ExitStack() as stack:
        workers = {side: stack.enter_context(closing(Worker(SIDES[side].path))) for side in sides}
        loaded = {side: worker.load(weights, work, inputs) for side, worker in workers.items()}
        about = {side: answer["about"] for side, answer in loaded.items()}
        if rounds:  # the run was stopped: these processes are new, and their first calls don't count
            one_round(work, workers, fastest(rounds[0]))
        for repeat in range(len(rounds), len(names)):
            turns = [*sides[repeat % len(sides) :], *sides[: repeat % len(sides)]]
            ways = fastest(rounds[0]) if rounds else {side: answer["ways"] for side, answer in loaded.items()}
            calls = one_round(work, {side: workers[side] for side in turns}, ways)
            rounds.append(journal.put(names[repeat], {"work": work, "repeat": repeat, "about": about, **calls}))
            print_round(rounds[-1])
    return rounds


def one_round(work: str, workers: Mapping[str, Worker], ways: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the calls of every side's turn with their cost, and the rate of its matrix products right after."""
    calls: dict[str, dict[str, Any]] = {}
    tables: dict[tuple[str, str], np.ndarray] = {}
    rates = {}
    for side, worker in workers.items():
        calls[side] = {}
        for way in ways[side]:
            tables[side, way], calls[side][way] = worker.run(way)
        if side in (OURS, PLAIN):
            rates[side] = worker.matmul()
    for (side, way), difference in differences(work, tables).items():
        calls[side][way]["difference"] = difference
    return {"calls": calls, "rates": rates}


def differences(work: str, tables: Mapping[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], float]:
    """Return each table's largest difference from the plain loop's, relative to the largest value if that exceeds 1.

    Where the plain loop takes no part, jaxheads' table is the reference; where it takes none either, the first table.

    Raises:
        ValueError: for a table of another shape, or tables that differ by a side's tolerance; all of them are named.
    """
    reference = next((key for side in (PLAIN, OURS) for key in tables if key[0] == side), next(iter(tables)))
    expected, largest, wrong = tables[reference], {}, []
    size = float(np.abs(expected).max())
    for (side, way), table in tables.items():
        if table.shape != expected.shape:
            raise ValueError(f"{work}: {side} ({way}) gives {table.shape}, {reference[0]} gives {expected.shape}")
        tolerance = SIDES[side].tolerance if side in SIDES else TOLERANCE
        difference = np.abs(table - expected) / (max(1.0, size) if tolerance == TOLERANCE else size)
        largest[side, way] = float(difference.max())
        if not largest[side, way] < tolerance:  # NaN is wrong too
            at = tuple(map(int, np.unravel_index(np.argmax(difference), difference.shape)))
            wrong.append(f"{side} ({way}) gives {table[at]:.6g} for {expected[at]:.6g} at {at}")
    if wrong:
        raise ValueError(f"{work}: not the table of {reference[0]}, by [example, layer, column]: {'; '.join(wrong)}")
    return largest


def fastest(first: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fastest way of each side in a round."""
    return {side: [min(calls, key=lambda way: calls[way]["seconds"])] for side, calls in first["calls"].items()}


def print_round(calls: Mapping[str, Any]) -> None:
    """Print a line for readers of a log."""
    times = (f"{side} {min(way['seconds'] for way in ways.values()):.3g} s" for side, ways in calls["calls"].items())
    repeat = "first call" if calls["repeat"] == 0 else calls["repeat"]
    print(f"{calls['work']}, {repeat}: {', '.join(times)}", flush=True)


def measure_point(axis: str, value: int, options: Options, journal: Journal, scratch: Path) -> dict[str, Any]:
    """Return the seconds of jaxheads' ablation at one point of a cost curve."""
    name = f"{axis}-{value}"
    if finished := journal.get(name):
        return finished
    start = options.curve_sizes
    sizes = start if axis == "devices" else replace(start, **{axis: value})
    weights = save_weights(sizes, options.seed, scratch)
    inputs = save_inputs(sizes, options.seed, scratch)["prompts"]
    several = axis == "devices" and value > 1
    settings = {"JAX_NUM_CPU_DEVICES": str(value)} if several else {}
    with closing(Worker(ON_DEVICES if several else SIDES[OURS].path, settings)) as worker:
        loaded = worker.load(weights, "ablate", inputs)
        first, *seconds = (worker.run(loaded["ways"][0])[1]["seconds"] for _ in range(options.count + 1))
    point = {"axis": "examples" if axis == "prompts" else axis, "value": value}
    return journal.put(name, {**point, "first": first, "seconds": seconds, "needed": loaded["about"]["needed"]})


def installed(sides: Sequence[str]) -> Iterator[str]:
    """Yield the sides whose package is installed; print how to install the others."""
    for side in sides:
        if importlib.util.find_spec(SIDES[side].package) is not None:
            yield side
        else:
            print(f"{side} is left out: {SIDES[side].package} is not installed (pip install 'jaxheads[peers]')")


def about_run(options: Options, sides: Sequence[str]) -> dict[str, Any]:
    """Return the words for provenance."""
    return {
        "sides": list(sides),
        "sizes": asdict(options.sizes),
        "curves": asdict(options.curve_sizes),
        "repeats": options.count,
        "seed": options.seed,
        "tolerance": {side: SIDES[side].tolerance for side in sides},
        "processor": processor(),
        "cores": os.cpu_count(),
        "peers": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run(options: Options) -> lab.Results:
    """Measure all works and points; a stopped run goes on where it was."""
    sides, code = list(installed(options.sides)), lab.code()
    identity = (options.sizes, options.curve_sizes, options.seed, sides, options.count, code)
    journal = Journal(options.unfinished, *identity)
    rounds, points = [], []
    with (
        lab.temporary_directory(options.folder) as scratch,
        lab.progress(len(options.works) + len(options.points), "works and points measured", True) as advance,
    ):
        for work in options.works:
            rounds += measure_work(work, sides, options, journal, scratch)
            advance()
        for axis, value in options.points:
            points.append(measure_point(axis, value, options, journal, scratch))
            advance()
    return results(rounds, points, about_run(options, sides))


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
