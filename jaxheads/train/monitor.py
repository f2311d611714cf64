"""Heads over training: any measure or ablation at every checkpoint and run, and when each skill set in.

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
from numpy.typing import NDArray

from ..measure.patterns import Metric, evaluate, examples_of, resolve
from ..models.inputs.batch import Batch
from ..models.network import Network, forward
from ..models.sites import SiteEdit
from .objective import Sample, scores
from .runs import Runs

Floats = NDArray[np.float64]


def head_scores(
    network: Network, batch: Batch, metrics: tuple[Metric, ...], stack: str | None = None
) -> dict[str, Array]:
    """Each metric's mean over the batch's examples, `[L,N]`; of one with several entries, its largest mean entry. Pure:
    what `Trace` and `Watch` map over checkpoints and runs."""
    [part] = [one for one in network.stacks if stack in (None, one.name)]
    examples = examples_of(part, batch)
    kept = forward(network, batch, (), {part.name: lambda seen: evaluate(metrics, seen["pattern"], examples)})[1]

    def mean(value: Array, counts: Array) -> Array:
        total = jnp.where(counts, value, 0.0).sum(axis=1) / jnp.maximum(counts.sum(axis=1, dtype=jnp.float32), 1.0)
        return total if total.ndim == 2 else total.max(axis=-1)

    return {metric.name: mean(*kept[part.name][metric.name]) for metric in metrics}


def ablation_losses(network: Network, sample: Sample, stack: str | None = None) -> Array:
    """By how much the loss rises without each head (its z set to zero), `[L,N]`, nats. Pure; a whole run for each head,
    one after the other: models of the lab are small."""
    [part] = [one for one in network.stacks if stack in (None, one.name)]
    before = scores(network, sample)[0]

    def without(head: Array) -> Array:
        off_N1 = (jnp.arange(part.heads) == head % part.heads).astype(jnp.float32)[:, None]
        nothing = jnp.zeros((1, 1, 1, 1, 1))
        edit = SiteEdit((head // part.heads)[None], off_N1[None, None, None], nothing, "z", part.name)
        return scores(network, sample, (edit,))[0] - before

    return jax.lax.map(without, jnp.arange(part.layers * part.heads)).reshape(part.layers, part.heads)


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
        """Tidy: step, run, layer, head, and a column for each number of heads."""
        heads = {name: x for name, x in self.values.items() if x.ndim == 4}
        shape = next(iter(heads.values())).shape
        index = pd.MultiIndex.from_product([self.steps, *map(range, shape[1:])], names=["step", "run", "layer", "head"])
        return pd.DataFrame({name: x.reshape(-1) for name, x in heads.items()}, index=index)

    def best(self, name: str) -> Floats:
        """Of each step and run the largest over heads, `[C,R]`."""
        x = self.values[name]
        return x if x.ndim == 2 else x.max(axis=(2, 3))

    def best_head(self, name: str) -> NDArray[np.int64]:
        """At the end of each run the head with the largest value, as (layer, head), `[R,2]`."""
        last = self.values[name][-1]
        flat = last.reshape(len(last), -1).argmax(axis=1)
        return np.stack(np.unravel_index(flat, last.shape[1:]), axis=1)


def trace(
    runs: Runs,
    steps: Sequence[int],
    trajectory: Any,
    function: Callable[[Network], Mapping[str, Array]],
) -> Trace:
    """A function of the network at every checkpoint and run, in one compiled pass.

        trace(trained.runs, trained.steps, trained.trajectory, lambda network: head_scores(network, batch, metrics))

    Args:
        trajectory: parameters `[C,R,…]`.
        function: from a network to named arrays, pure JAX: `head_scores`, `ablation_losses`, a loss, or one's own.
    """
    found = _traced(runs, trajectory, function)
    return Trace(np.asarray(steps), {name: np.asarray(value, np.float64) for name, value in found.items()})


@partial(jax.jit, static_argnums=(0, 2))
def _traced(runs: Runs, trajectory: Any, function: Callable[[Network], Mapping[str, Array]]) -> dict[str, Array]:
    over_runs = jax.vmap(lambda parameters: dict(function(runs.network(parameters))))
    return jax.lax.map(over_runs, trajectory)


class Watch:
    """A monitor for someone's training loop: `watch(parameters, step)` measures and remembers.

        watch = Watch(network_of, batch, ("previous_token", "induction"))
        for step in range(steps):
            ...
            if step % 100 == 0:
                watch(parameters, step)
        watch.trace().frame

    Args:
        network_of: from parameters (a pytree, without an axis of runs) to a network.
        batch: what heads are measured on.
        metrics: names or metrics, as `jaxheads.measure` takes them.
        stacked: whether parameters have a leading axis of runs.
    """

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
        one = jax.jit(lambda parameters: head_scores(network_of(parameters), batch, chosen, stack))
        self._measure = jax.jit(jax.vmap(one)) if stacked else lambda parameters: jax.tree.map(_alone, one(parameters))
        self._rows: list[tuple[int, dict[str, Floats]]] = []

    def __call__(self, parameters: Any, step: int) -> dict[str, float]:
        """Measure; what comes back is each metric's largest value over heads, mean over runs."""
        found = {name: np.asarray(value, np.float64) for name, value in self._measure(parameters).items()}
        self._rows.append((int(step), found))
        return {name: float(value.max(axis=(-2, -1)).mean()) for name, value in found.items()}

    def trace(self) -> Trace:
        """All that was measured. Raises ValueError where nothing was."""
        if not self._rows:
            raise ValueError("nothing was watched yet: call it with parameters and a step")
        names = self._rows[0][1]
        values = {name: np.stack([found[name] for _, found in self._rows]) for name in names}
        return Trace(np.array([step for step, _ in self._rows]), values)


def _alone(value: Array) -> Array:
    return value[None]
