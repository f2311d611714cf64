"""The training loop: compiled groups of steps, checkpoints, metrics on disk, and resuming after a stop."""

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

from ..arguments import at_least, checked, more_than
from ..checks import whole
from ..models.model import Model
from ..progress import progress as show_progress
from .checkpoints import claimed, restore, restore_rows, save, save_rows, set_aside, steps_in
from .objective import Task
from .runs import Hyper, OneDevice, Optimizer, Penalty, Placement, Runs, State, adamw, log_spaced

Monitor = Callable[[Any, int], object]
"""Function `monitor(parameters, step)`; parameters have a leading axis of runs. The progress bar shows the numbers by
name that it returns, if any, as `Watch` does."""

STEPS_PER_CALL = 100


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of training: parameters at the checkpoints, and the loss curve.

    Attributes:
        runs: the architecture, the task and each run's hyper-parameters.
        steps: the checkpoints' steps, `[C]`.
        kept: parameters at these steps, each with a leading axis of runs.
        curve: one row a step and run: step, run, loss, accuracy (of the batch before the step).
    """

    runs: Runs
    steps: tuple[int, ...]
    kept: tuple[Any, ...]
    curve: pd.DataFrame

    @cached_property
    def trajectory(self) -> Any:
        """Parameters at all checkpoints of all runs, `[C,R,…]`."""
        return jax.tree.map(lambda *weights: jnp.stack(weights), *self.kept)

    @property
    def last(self) -> Any:
        """Parameters at the end, `[R,…]`."""
        return self.kept[-1]

    @checked()
    def model(self, run: int = 0, step: int | None = None) -> Any:
        """Return one run as a model: at the end, or at the last checkpoint that is not later than `step`."""
        whole("run", run, 0, len(self.runs.hyper) - 1)
        index = -1 if step is None else int(np.searchsorted(self.steps, step, side="right")) - 1
        return self.runs.model(self.kept[index], run)


@checked(steps=at_least(1), batch=at_least(1), init_scale=more_than(0))
def train(
    config: Mapping[str, Any] | Model,
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
    progress: bool | None = None,
) -> Trained:
    """Train one small model for each of `runs`, all at once.

    One compiled call (`vmap`) takes a step of all runs; each run equals a training by itself. A run's seed decides its
    weights and data, and a step's number its batch, so a training that was killed resumes without a trace.

    Args:
        config: of the architecture, as `jaxheads.init` takes it; `task.model_config()` returns one that fits. Or a
            model, which is fine-tuned: every run starts from its weights, and a run's seed decides its data alone.
        task: one of `jaxheads.data.tasks`, or any object with a `name` and a `sample`.
        runs: each with a "seed" and any hyper-parameters that `optimizer` reads; see `jaxheads.train.grid`.
        batch: examples a step.
        optimizer: function of a run's hyper-parameters that returns an optax transformation.
        penalty: function `(network, sample, hyper)`, such as `li_penalty` makes; its value is added to the loss that is
            minimised, but not to the losses that are recorded.
        init_scale: factor on the initial weights of matrices.
        checkpoints: the steps at which parameters are kept; by default 40, log-spaced. The last step is always added.
        directory: keep checkpoints (orbax) and metrics (parquet) in this directory, and resume from them. Optimizer,
            penalty and task count by their code and content, with versions and numeric settings. More steps go on from
            fewer; of a longer run a shorter one takes its checkpoints.
        devices: a mesh with an axis "runs", which splits the runs evenly, or "data", which splits the examples of each
            batch, or both.
        monitor: called at every checkpoint with the parameters and the step.
        progress: show a bar (or lines in a log) with the current loss and the monitor's numbers.

    Raises:
        ValueError: for no step, runs that do not fit each other or the mesh, or a directory of another training.
        RuntimeError: for a directory that another training is writing into.
        TypeError: for a directory beside an optimizer, a penalty or a task whose content can't be read.
        FloatingPointError: for a loss that is not finite; the message names run and step.
    """
    training = Runs(config, task, tuple(dict(run) for run in runs), batch, optimizer, init_scale, penalty)
    wanted = tuple(sorted({*(log_spaced(steps) if checkpoints is None else checkpoints), steps}))
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"checkpoints: expected steps from 0 to {steps}, got {wanted[0]} to {wanted[-1]}")
    placement = OneDevice() if devices is None else _OnMesh.of(devices, len(training.hyper), batch)
    folder = None if directory is None else Path(directory).expanduser().resolve()
    with claimed(folder, {} if folder is None else training.about):
        return _train_to_end(_Storage(folder, training, wanted), placement, monitor, progress)


def _train_to_end(storage: "_Storage", placement: Placement, monitor: Monitor | None, progress: bool | None) -> Trained:
    """Start or resume training, and run it to the last checkpoint."""
    training, checkpoints = storage.runs, storage.checkpoints
    state, done = storage.resume(training.start())
    state, take_steps = placement.runs(state), training.compiled_steps(STEPS_PER_CALL, placement)
    numbers: dict[str, float] = {}
    label = f"training {len(training.hyper)} × {training.task.name}"
    with show_progress(checkpoints[-1] - done, label, progress) as advance:
        for until in (step for step in checkpoints if step >= done):
            while done < until:
                count = min(STEPS_PER_CALL, until - done)
                state, losses, accuracies = take_steps(state, jnp.int32(done), jnp.int32(count))
                storage.record(done, np.asarray(losses)[:, :count], np.asarray(accuracies)[:, :count])
                done += count
                numbers["loss"] = float(np.asarray(losses)[:, count - 1].mean())
                advance(count, ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
            storage.keep(done, state)
            if monitor is not None and isinstance(measured := monitor(state.parameters, done), Mapping):
                numbers |= {str(name): float(value) for name, value in measured.items()}
    return storage.finish()


@dataclass(frozen=True)
class _OnMesh(Placement):
    """Runs split over a mesh's axis "runs", the examples of a batch over "data"."""

    mesh: Mesh

    @classmethod
    def of(cls, mesh: Mesh, runs: int, batch: int) -> "_OnMesh":
        """Check that the mesh fits.

        Raises:
            ValueError: for other axes, or axes that do not divide the runs or the examples.
        """
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


class _Storage:
    """The checkpoints and metrics of a training, in memory and, if there is a directory, on disk.

    `about.json` records which training it is; `parameters/STEP` and `state/STEP` are orbax checkpoints, of which only
    the newest state is kept; `curve/STEP.parquet` holds the metrics of the steps from STEP on.
    """

    def __init__(self, directory: Path | None, runs: Runs, checkpoints: tuple[int, ...]):
        self.directory, self.runs, self.checkpoints = directory, runs, checkpoints
        self.kept: dict[int, Any] = {}
        self.rows: dict[int, Any] = {}

    def resume(self, fresh: State) -> tuple[State, int]:
        """Return the newest state and its step; `fresh` and 0 if the directory holds none."""
        if self.directory is None:
            return fresh, 0
        states = steps_in(self.directory / "state")
        done = states[-1] if states else 0
        state = self._read(done, fresh) if states else None
        if state is None:
            folders = ("state", "parameters", "curve")
            if states:
                set_aside(self.directory, folders)
            for folder in folders:
                shutil.rmtree(self.directory / folder, ignore_errors=True)
            self.kept, self.rows = {}, {}
            return fresh, 0
        missing = [step for step in self.checkpoints if step < done and step not in self.kept]
        # A run that stopped at its last checkpoint is whole; a longer run does not hold every step of a shorter one.
        if missing or (done > self.checkpoints[-1] and self.checkpoints[-1] not in self.kept):
            raise ValueError(
                f"{self.directory} holds {done} steps of this training, and checkpoints at {sorted(self.kept)}, but "
                f"none at {missing or [self.checkpoints[-1]]}: choose these, or another directory"
            )
        return state, done

    def _read(self, done: int, fresh: State) -> State | None:
        """Read everything up to a step; None if any of it is not as it was written."""
        assert self.directory is not None
        # The state is written last: parameters and metrics of later steps are leftovers of a killed run.
        for step in steps_in(self.directory / "parameters"):
            if step <= done:
                self.kept[step] = restore(self.directory / "parameters" / str(step), fresh.parameters)
            else:
                shutil.rmtree(self.directory / "parameters" / str(step))
        for path in sorted((self.directory / "curve").glob("*.parquet")):
            if int(path.stem) < done:
                self.rows[int(path.stem)] = restore_rows(path)
            else:
                path.unlink()
        state = restore(self.directory / "state" / str(done), fresh)
        whole = all(part is not None for part in (*self.kept.values(), *self.rows.values()))
        steps = sum(len(frame) for frame in self.rows.values()) // len(self.runs.hyper) if whole else -1
        return state if steps == done else None

    def record(self, first: int, losses: np.ndarray, accuracies: np.ndarray) -> None:
        """Store the metrics `[R,n]` of the n steps from `first` on.

        Raises:
            FloatingPointError: for a loss that is not finite.
        """
        if not np.isfinite(losses).all():
            run, at = np.argwhere(~np.isfinite(losses))[0]
            raise FloatingPointError(
                f"the loss of run {run} ({dict(self.runs.hyper[run])}) is {losses[run, at]} at step {first + at}: "
                "lower its rate, or look at the data"
            )
        R, n = losses.shape
        step, run = np.meshgrid(np.arange(first, first + n), np.arange(R), indexing="ij")
        columns = {"step": step, "run": run, "loss": losses.T, "accuracy": accuracies.T}
        frame = pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()})
        self.rows[first] = frame
        if self.directory is not None:
            path = self.directory / "curve" / f"{first:010d}.parquet"
            save_rows(path, frame)

    def keep(self, done: int, state: State) -> None:
        """Store the parameters of a checkpoint, and on disk the state in place of the older one."""
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
        """Return everything stored as a result."""
        steps = tuple(step for step in sorted(self.kept) if step in self.checkpoints)
        curve = pd.concat([self.rows[first] for first in sorted(self.rows)], ignore_index=True)
        # The directory of a longer run answers a shorter one, too.
        curve = curve.query(f"step < {self.checkpoints[-1]}")
        return Trained(self.runs, steps, tuple(self.kept[step] for step in steps), curve)
