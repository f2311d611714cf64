"""Heads over training: any measure or ablation at every checkpoint and run.

Dimension key: C checkpoints, R runs, L layers, N heads, M metrics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import ArrayLike, NDArray

from ..arguments import checked
from ..checks import one_of
from ..measure.patterns import Metric, evaluate, examples_of, resolve
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward
from ..models.sites import SiteEdit
from ..programs import compiled
from ..view import View, evolution
from .objective import Sample, scores
from .runs import Runs

Floats = NDArray[np.float64]


@checked()
def head_scores(
    network: Network, batch: Batch, metrics: tuple[Metric, ...], stack: str | None = None
) -> dict[str, Array]:
    """Return each metric's mean over the batch's examples, `[L,N]`; for a metric of several entries, the largest mean.

    Pure: `trace` and `Watch` map it over checkpoints and runs.
    """
    chosen = Model(network).stack(stack)
    examples = examples_of(chosen, batch)
    measured = forward(network, batch, (), {chosen.name: lambda seen: evaluate(metrics, seen["pattern"], examples)})[1]

    def mean(value: Array, counts: Array) -> Array:
        total = jnp.where(counts, value, 0.0).sum(axis=1) / jnp.maximum(counts.sum(axis=1, dtype=jnp.float32), 1.0)
        return total if total.ndim == 2 else total.max(axis=-1)

    return {metric.name: mean(*measured[chosen.name][metric.name]) for metric in metrics}


@checked()
def ablation_losses(network: Network, sample: Sample, stack: str | None = None) -> Array:
    """Return the rise of the loss when each head's z is set to zero, `[L,N]`, nats. Pure."""
    chosen = Model(network).stack(stack)
    before = scores(network, sample)[0]

    def rise(head: Array) -> Array:
        off_N1 = (jnp.arange(chosen.heads) == head % chosen.heads).astype(jnp.float32)[:, None]
        zero = jnp.zeros((1, 1, 1, 1, 1))
        edit = SiteEdit((head // chosen.heads)[None], off_N1[None, None, None], zero, "z", chosen.name)
        return scores(network, sample, (edit,))[0] - before

    # One whole forward pass a head, in turn: the lab's models are small, and a sweep could not be mapped over runs.
    return jax.lax.map(rise, jnp.arange(chosen.layers * chosen.heads)).reshape(chosen.layers, chosen.heads)


@dataclass(frozen=True, eq=False)
class Trace:
    """Numbers of every head at every kept step of every run.

    Attributes:
        steps: `[C]`.
        values: by name `[C,R,L,N]`, or `[C,R]` for numbers of the whole model.
    """

    steps: NDArray[np.int64]
    values: Mapping[str, Floats]

    @property
    def frame(self) -> pd.DataFrame:
        """The numbers of heads as a tidy table: step, run, layer, head, and a column for each name."""
        heads = {name: x for name, x in self.values.items() if x.ndim == 4}
        shape = next(iter(heads.values())).shape
        index = pd.MultiIndex.from_product([self.steps, *map(range, shape[1:])], names=["step", "run", "layer", "head"])
        return pd.DataFrame({name: x.reshape(-1) for name, x in heads.items()}, index=index)

    @checked()
    def best(self, name: str) -> Floats:
        """Return the largest value over heads at each step and run, `[C,R]`."""
        x = self.values[name]
        return x if x.ndim == 2 else x.max(axis=(2, 3))

    @checked()
    def best_head(self, name: str) -> NDArray[np.int64]:
        """Return each run's head with the largest value at the last step, as (layer, head), `[R,2]`."""
        last = self.values[name][-1]
        flat = last.reshape(len(last), -1).argmax(axis=1)
        return np.stack(np.unravel_index(flat, last.shape[1:]), axis=1)

    @checked()
    def view(
        self, names: Sequence[str] | None = None, *, onsets: Mapping[str, ArrayLike] | None = None, title: str = ""
    ) -> View:
        """Show how the best head of each score develops, one thin line a run.

        Args:
            names: of the scores; all when left out.
            onsets: by name, steps to mark.

        Raises:
            ValueError: for a score that there is not.
        """
        chosen = list(self.values) if names is None else list(names)
        for name in chosen:
            one_of("names", name, self.values)
        best = {name: self.best(name) for name in chosen}
        return evolution(self.steps, best, onsets=onsets, label="largest over heads", title=title)


@checked()
def trace(
    runs: Runs,
    steps: Sequence[int],
    trajectory: Any,
    function: Callable[[Network], Mapping[str, Array]],
) -> Trace:
    """Evaluate a function of the network at every checkpoint and run, in one compiled pass.

        trace(trained.runs, trained.steps, trained.trajectory, lambda network: head_scores(network, batch, metrics))

    Args:
        trajectory: parameters `[C,R,…]`.
        function: takes a network and returns named arrays, in pure JAX: `head_scores`, `ablation_losses`, a loss, or
            your own.
    """
    values = _traced(runs, trajectory, function)
    return Trace(np.asarray(steps), {name: np.asarray(value, np.float64) for name, value in values.items()})


@partial(compiled, static_argnums=(0, 2))
def _traced(runs: Runs, trajectory: Any, function: Callable[[Network], Mapping[str, Array]]) -> dict[str, Array]:
    over_runs = jax.vmap(lambda parameters: dict(function(runs.network(parameters))))
    # vmap over checkpoints as well would hold the activations of all of them at once.
    return jax.lax.map(over_runs, trajectory)


class Watch:
    """A monitor for any training loop: `watch(parameters, step)` measures every head and keeps the numbers.

        watch = Watch(network_of, batch, ("previous_token", "induction"))
        for step in range(steps):
            ...
            if step % 100 == 0:
                watch(parameters, step)
        watch.trace().frame

    Args:
        network_of: makes a network of parameters (a pytree without an axis of runs).
        batch: the inputs on which heads are measured.
        metrics: names or metrics, as `jaxheads.measure` takes them.
        stacked: whether parameters have a leading axis of runs.
    """

    @checked()
    def __init__(
        self,
        network_of: Callable[[Any], Network],
        batch: Batch,
        metrics: str | Metric | Sequence[str | Metric],
        *,
        stack: str | None = None,
        stacked: bool = False,
    ):
        chosen = resolve(metrics)
        measure = jax.jit(lambda parameters: head_scores(network_of(parameters), batch, chosen, stack))
        if stacked:
            self._measure = jax.jit(jax.vmap(measure))
        else:
            self._measure = lambda parameters: jax.tree.map(_as_one_run, measure(parameters))
        self._rows: list[tuple[int, dict[str, Floats]]] = []

    def __call__(self, parameters: Any, step: int) -> dict[str, float]:
        """Measure every head; return each metric's largest value over heads, averaged over runs."""
        values = {name: np.asarray(value, np.float64) for name, value in self._measure(parameters).items()}
        self._rows.append((int(step), values))
        return {name: float(value.max(axis=(-2, -1)).mean()) for name, value in values.items()}

    def trace(self) -> Trace:
        """Return everything measured so far.

        Raises:
            ValueError: before the first measurement.
        """
        if not self._rows:
            raise ValueError("nothing was watched yet: call it with parameters and a step")
        names = self._rows[0][1]
        values = {name: np.stack([row[name] for _, row in self._rows]) for name in names}
        return Trace(np.array([step for step, _ in self._rows]), values)


def _as_one_run(value: Array) -> Array:
    return value[None]
