"""The loop: steps in one compiled piece after the other, checkpoints, metrics on disk, and going on after a stop."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..files import write_atomically
from ..progress import progress as show_progress
from .checkpoints import claim, restore, save, steps_in
from .objective import Task
from .runs import Alone, Hyper, Optimizer, Penalty, Placed, Runs, State, adamw, log_spaced

Monitor = Callable[[Any, int], object]
"""`monitor(parameters, step)`, parameters with a leading axis of runs. Where it returns numbers by name, as `Watch`
does, the progress bar shows them."""

INNER = 100
"""Steps in one compiled piece, at most."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What training leaves.

    Attributes:
        runs: what was trained.
        steps: the steps at which parameters were kept, `[C]`.
        kept: parameters at these steps, each with a leading axis of runs.
        curve: one row a step and run: step, run, loss, accuracy (of the batch before the step).
    """

    runs: Runs
    steps: tuple[int, ...]
    kept: tuple[Any, ...]
    curve: pd.DataFrame

    @cached_property
    def trajectory(self) -> Any:
        """Parameters of all kept steps and runs, `[C,R,…]`."""
        return jax.tree.map(lambda *weights: jnp.stack(weights), *self.kept)

    @property
    def last(self) -> Any:
        """Parameters at the end, `[R,…]`."""
        return self.kept[-1]

    def model(self, run: int = 0, step: int | None = None) -> Any:
        """One run as a model, at the end or after the last kept step that is not later than `step`."""
        index = -1 if step is None else int(np.searchsorted(self.steps, step, side="right")) - 1
        return self.runs.model(self.kept[index], run)


def train(
    config: Mapping[str, Any],
    task: Task,
    steps: int,
    *,
    runs: Sequence[Hyper] = ({"seed": 0},),
    batch: int = 64,
    optimizer: Optimizer = adamw,
    penalty: Penalty | None = None,
    init_scale: float = 1.0,
    checkpoints: Sequence[int] | None = None,
    directory: str | os.PathLike | None = None,
    devices: Mesh | None = None,
    monitor: Monitor | None = None,
    progress: bool = False,
) -> Trained:
    """Train one small model for each of `runs`, all at once.

    All runs of a step are one compiled call (`vmap`); each is what it would be by itself. A run's weights and data are
    decided by its seed, and a step's data by its number, so training goes on after a kill as if there had been none.

    Args:
        config: of the architecture, as `jaxheads.init` takes it; `task.model_config()` gives one that fits.
        task: one of `jaxheads.data.tasks`, or anything with its `sample`.
        runs: each with a "seed" and, if wanted, hyper-parameters that `optimizer` reads; see `jaxheads.train.grid`.
        batch: examples a step.
        optimizer: from a run's hyper-parameters to an optax transformation.
        penalty: `(network, sample, hyper)` to what is added to the loss that is descended, as `li_penalty` makes it;
            the losses that are recorded are without it.
        init_scale: multiplies the initial weights of matrices.
        checkpoints: after which steps parameters are kept; log-spaced ones, 40, when left out. The last step is among
            them in any case.
        directory: keep checkpoints (orbax) and metrics (parquet) there, and go on from them where there are any.
        devices: a mesh with an axis "runs", over which runs are split evenly, or "data", over which the examples of
            each batch are, or both.
        monitor: called at every checkpoint with the parameters and the step.
        progress: show a bar, with the current loss and what the monitor says.

    Raises:
        ValueError: for no step, runs that do not fit each other or the mesh, or a directory of another training.
        FloatingPointError: where a loss is not finite; it says which run and step.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least one, got {steps}")
    training = Runs(config, task, tuple(dict(run) for run in runs), batch, optimizer, init_scale, penalty)
    wanted = tuple(sorted({*(log_spaced(steps) if checkpoints is None else checkpoints), steps}))
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"checkpoints: expected steps from 0 to {steps}, got {wanted[0]} to {wanted[-1]}")
    placed = Alone() if devices is None else _OnMesh.of(devices, len(training.hyper), batch)
    place = _Place(None if directory is None else Path(directory).expanduser().resolve(), training, wanted)
    return _go(place, placed, monitor, progress)


def _go(place: "_Place", placed: Placed, monitor: Monitor | None, progress: bool) -> Trained:
    """Start or go on, to the last checkpoint that is wanted."""
    training, wanted = place.runs, place.wanted
    state, done = place.resume(training.start())
    state, advance_by = placed.runs(state), training.several(INNER, placed)
    said: dict[str, float] = {}
    label = f"training {len(training.hyper)} × {training.task.name}"
    with show_progress(wanted[-1] - done, label, progress) as advance:
        for until in (step for step in wanted if step >= done):
            while done < until:
                count = min(INNER, until - done)
                state, losses, rights = advance_by(state, jnp.int32(done), jnp.int32(count))
                place.record(done, np.asarray(losses)[:, :count], np.asarray(rights)[:, :count])
                done += count
                said["loss"] = float(np.asarray(losses)[:, count - 1].mean())
                advance(count, ", ".join(f"{name} {value:.3f}" for name, value in said.items()))
            place.keep(done, state)
            if monitor is not None and isinstance(found := monitor(state.parameters, done), Mapping):
                said |= {str(name): float(value) for name, value in found.items()}
    return place.finish()


@dataclass(frozen=True)
class _OnMesh(Placed):
    """Runs over a mesh's axis "runs", the examples of a batch over "data"."""

    mesh: Mesh

    @classmethod
    def of(cls, mesh: Mesh, runs: int, batch: int) -> "_OnMesh":
        """Raises ValueError for other axes, or runs or examples that they do not divide."""
        sizes = {"runs": runs, "data": batch}
        known = set(mesh.axis_names) <= set(sizes) and mesh.axis_names
        if not known or any(sizes[str(axis)] % mesh.shape[axis] for axis in mesh.axis_names):
            raise ValueError(
                f"devices: expected an axis 'runs' that divides {runs} runs, or 'data' that divides batches of "
                f"{batch}, got {dict(mesh.shape)}"
            )
        return cls(Mesh(mesh.devices, mesh.axis_names))

    @property
    def axis(self) -> str | None:
        return "runs" if "runs" in self.mesh.axis_names else None

    def runs(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, P(self.axis)))

    def examples(self, tree: Any) -> Any:
        if "data" not in self.mesh.axis_names:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P("data")))


class _Place:
    """Where training is kept: in memory, or in a directory that it can be taken up from.

    `about.json` says which training it is; `parameters/STEP` and `state/STEP` are orbax checkpoints, of which the
    newest state is kept; `curve/STEP.parquet` holds the metrics of the steps from STEP on.
    """

    def __init__(self, directory: Path | None, runs: Runs, wanted: tuple[int, ...]):
        self.directory, self.runs, self.wanted = directory, runs, wanted
        self.kept: dict[int, Any] = {}
        self.rows: dict[int, pd.DataFrame] = {}

    def resume(self, fresh: State) -> tuple[State, int]:
        """The newest state and the steps it has behind it; `fresh` and 0 where there is none."""
        if self.directory is None:
            return fresh, 0
        self._claim()
        states = steps_in(self.directory / "state")
        if not states:
            for part in ("parameters", "curve"):
                shutil.rmtree(self.directory / part, ignore_errors=True)
            return fresh, 0
        done = states[-1]
        state = restore(self.directory / "state" / str(done), fresh)
        for step in steps_in(self.directory / "parameters"):
            if step <= done:
                self.kept[step] = restore(self.directory / "parameters" / str(step), fresh.parameters)
            else:
                shutil.rmtree(self.directory / "parameters" / str(step))
        for path in sorted((self.directory / "curve").glob("*.parquet")):
            if int(path.stem) < done:
                self.rows[int(path.stem)] = pd.read_parquet(path)
            else:
                path.unlink()
        return state, done

    def record(self, first: int, losses: np.ndarray, rights: np.ndarray) -> None:
        """Metrics of some steps, `[R,n]`."""
        if not np.isfinite(losses).all():
            run, at = np.argwhere(~np.isfinite(losses))[0]
            raise FloatingPointError(
                f"the loss of run {run} ({dict(self.runs.hyper[run])}) is {losses[run, at]} at step {first + at}: "
                "lower its rate, or look at the data"
            )
        R, n = losses.shape
        step, run = np.meshgrid(np.arange(first, first + n), np.arange(R), indexing="ij")
        columns = {"step": step, "run": run, "loss": losses.T, "accuracy": rights.T}
        frame = pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()})
        self.rows[first] = frame
        if self.directory is not None:
            path = self.directory / "curve" / f"{first:010d}.parquet"
            write_atomically(path, lambda file: frame.to_parquet(file, index=False))

    def keep(self, done: int, state: State) -> None:
        """Parameters of a checkpoint; on disk the state as well, in place of an older one."""
        if done in self.kept:
            return
        self.kept[done] = jax.tree.map(jnp.copy, state.parameters)
        if self.directory is None:
            return
        save(self.directory / "parameters" / str(done), state.parameters)
        save(self.directory / "state" / str(done), state)
        for older in steps_in(self.directory / "state")[:-1]:
            shutil.rmtree(self.directory / "state" / str(older))

    def finish(self) -> Trained:
        steps = tuple(step for step in sorted(self.kept) if step in self.wanted)
        curve = pd.concat([self.rows[first] for first in sorted(self.rows)], ignore_index=True)
        return Trained(self.runs, steps, tuple(self.kept[step] for step in steps), curve)

    def _claim(self) -> None:
        assert self.directory is not None
        runs = self.runs
        about = {
            "config": dict(runs.config),
            "task": repr(runs.task),
            "runs": [dict(run) for run in runs.hyper],
            "batch": runs.batch,
            "init_scale": runs.init_scale,
            "optimizer": getattr(runs.optimizer, "__qualname__", repr(runs.optimizer)),
            "penalty": getattr(runs.penalty, "__qualname__", repr(runs.penalty)),
        }
        claim(self.directory, about)
