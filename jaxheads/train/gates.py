"""Gates on heads that learn to close: L0 by the hard-concrete distribution (Voita et al. 2019; Louizos et al. 2018).

A gate's log-odds are log a. With noise u it is clip(σ((log u − log(1−u) + log a) / β) · 1.2 − 0.1, 0, 1), exactly 0 or
1 with a positive chance; what is paid for is the chance that it is open, σ(log a − β log(0.1 / 1.1)).

Dimension key: L layers, N heads, G strengths of the penalty.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from ..edits import gate
from ..models.model import Model
from ..models.network import Network
from ..progress import progress as show_progress
from .checkpoints import claim, restore, save, steps_in
from .objective import Sample, Task, scores

BETA, LOW, HIGH = 0.33, -0.1, 1.1
"""Temperature, and how far the stretched gate reaches beyond 0 and 1."""

PIECE = 50


def drawn(log_a: Array, key: Array) -> Array:
    """Gates with noise, as in training."""
    u = jax.random.uniform(key, log_a.shape, minval=1e-6, maxval=1 - 1e-6)
    return _stretched(jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_a) / BETA))


def settled(log_a: Array) -> Array:
    """Gates without noise, as the authors evaluate: no temperature."""
    return _stretched(jax.nn.sigmoid(log_a))


def open_probability(log_a: Array) -> Array:
    """P(g > 0)."""
    return jax.nn.sigmoid(log_a - BETA * jnp.log(-LOW / HIGH))


def full_probability(log_a: Array) -> Array:
    """P(g = 1)."""
    return jax.nn.sigmoid(log_a - BETA * jnp.log((1 - LOW) / (HIGH - 1)))


def decided(log_a: Array) -> Array:
    """0 or 1, whichever is the likelier of P(g = 0) and P(g = 1): the paper's test-time gates (section 5.1)."""
    return (full_probability(log_a) > 1 - open_probability(log_a)).astype(jnp.float32)


def _stretched(s: Array) -> Array:
    return jnp.clip(s * (HIGH - LOW) + LOW, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Gated:
    """Learned gates, for each strength of the penalty.

    Attributes:
        strengths: λ, `[G]`.
        log_a: by stack `[G,L,N]`.
        parameters: the network's, `[G,…]`, as they were after training with the gates.
        losses: of the task with settled gates at the end, `[G]`, on the last sample.
    """

    model: Model
    strengths: tuple[float, ...]
    log_a: Mapping[str, np.ndarray]
    parameters: Any
    losses: np.ndarray

    def gates(self, index: int) -> dict[str, np.ndarray]:
        """Of one strength, decided: 1 for heads that stay, by stack `[L,N]`."""
        return {name: np.asarray(decided(jnp.asarray(value[index]))) for name, value in self.log_a.items()}

    def alive(self) -> dict[str, np.ndarray]:
        """How many heads stay at each strength, by stack `[G]`."""
        return {
            name: np.asarray(decided(jnp.asarray(value))).sum(axis=(1, 2)).astype(int)
            for name, value in self.log_a.items()
        }

    def network(self, index: int) -> Network:
        """The network with the weights of one strength, without its gates."""
        graph, _, rest = nnx.split(self.model.network, nnx.Param, ...)
        return nnx.merge(graph, jax.tree.map(lambda weight: weight[index], self.parameters), rest)


def learn_gates(
    model: Model,
    task: Task,
    steps: int,
    *,
    strengths: Sequence[float] = (0.05,),
    stacks: Sequence[str] | None = None,
    batch: int = 64,
    rate: float = 1e-3,
    gate_rate: float = 0.05,
    train_weights: bool = True,
    start: float = 2.0,
    seed: int = 0,
    directory: str | os.PathLike | None = None,
    progress: bool = False,
) -> Gated:
    """Train gates, and with them the weights, from a trained model: task loss + λ · Σ P(open) / number of layers.

    The penalty is the sum over a layer's heads, averaged over attention layers (the authors' code; the paper sums). All
    strengths are trained at once.

    Args:
        strengths: λ; more closes more.
        stacks: whose heads have gates; all when left out.
        start: the gates' log a at the beginning: 2 is open with a chance of 0.94.
        directory: keep the newest state there, and go on from it where there is one.

    Raises:
        ValueError: for no step or strength, a negative one, an unknown stack, or a directory of another training.
    """
    if steps < 1 or not strengths or min(strengths) < 0:
        raise ValueError(f"expected steps and penalties from 0 up, got {steps} steps and strengths {list(strengths)}")
    names = tuple(model.stacks if stacks is None else (model.stack(name).name for name in stacks))
    gating = _Gating(task, names, batch)
    lambdas, rates = jnp.asarray(strengths, jnp.float32), jnp.float32([gate_rate, rate if train_weights else 0.0])
    given = model.network, jax.random.key(seed), rates
    state = jax.vmap(lambda _: gating.begin(*given, start))(lambdas)
    about = {
        "model": model.identity(), "task": repr(task), "stacks": names, "strengths": list(strengths), "batch": batch,
        "rates": np.asarray(rates).tolist(), "start": start, "seed": seed,
    }  # fmt: skip
    place = None if directory is None else Path(directory).expanduser().resolve()
    state, done = _taken_up(place, about, state)
    if done > steps:
        raise ValueError(f"{place} holds {done} steps already, more than {steps}")
    with show_progress(steps - done, f"gating {model.name}, {len(strengths)} strengths", progress) as advance:
        for first in range(done, steps, PIECE):
            count = min(PIECE, steps - first)
            state = _several(gating, state, jnp.int32(first), jnp.int32(count), lambdas, *given)
            if place is not None:
                save(place / str(first + count), state)
                for older in steps_in(place)[:-1]:
                    shutil.rmtree(place / str(older))
            advance(count)
    log_a, weights = state[0]
    losses = np.asarray(_settled(gating, state[0], jnp.int32(steps), *given[:2]))
    return Gated(model, tuple(strengths), {name: np.asarray(value) for name, value in log_a.items()}, weights, losses)


def _taken_up(place: Path | None, about: Mapping[str, Any], fresh: Any) -> tuple[Any, int]:
    """The newest state there, and the steps behind it; `fresh` and 0 where there is none."""
    if place is None:
        return fresh, 0
    claim(place, about)
    kept = steps_in(place)
    return (restore(place / str(kept[-1]), fresh), kept[-1]) if kept else (fresh, 0)


@dataclass(frozen=True)
class _Gating:
    """The loop's pure parts, for networks of one architecture. A state is ((log a by stack, weights), (optimiser states
    of either)); what a call is given besides: the network that training starts from, a key, and the two rates."""

    task: Task
    names: tuple[str, ...]
    batch: int

    def begin(self, network: Network, key: Array, rates: Array, start: float) -> Any:
        """Gates nearly open, weights as the network has them."""
        del key
        stacks = {stack.name: stack for stack in network.stacks}
        log_a = {name: jnp.full((stacks[name].layers, stacks[name].heads), start) for name in self.names}
        parts = (log_a, nnx.split(network, nnx.Param, ...)[1])
        return parts, tuple(optax.adam(rate).init(part) for rate, part in zip(rates, parts, strict=True))

    def loss(self, parts: Any, sample: Sample, gates: Mapping[str, Array], network: Network) -> Array:
        """Of the task, with these gates."""
        graph, _, rest = nnx.split(network, nnx.Param, ...)
        merged = nnx.merge(graph, parts[1], rest)
        edits = tuple(gate(Model(merged), gates[name], stack=name) for name in self.names)
        return scores(merged, sample, edits)[0]

    def step(self, state: Any, number: Array, strength: Array, network: Network, key: Array, rates: Array) -> Any:
        """One step: data and noise are decided by its number."""
        key = jax.random.fold_in(key, number)
        sample = self.task.sample(jax.random.fold_in(key, 0), self.batch)
        layers = sum(stack.layers for stack in network.stacks if stack.name in self.names)

        def lose(parts: Any) -> Array:
            noise = {name: jax.random.fold_in(key, n) for n, name in enumerate(self.names, 1)}
            gates = {name: drawn(parts[0][name], noise[name]) for name in self.names}
            paid = sum((open_probability(value).sum() for value in parts[0].values()), jnp.float32(0))
            return self.loss(parts, sample, gates, network) + strength * paid / layers

        parts, states = state
        slopes = jax.grad(lose)(parts)
        moved, kept = [], []
        for rate, slope, old, part in zip(rates, slopes, states, parts, strict=True):
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole numbers
                updates, new = optax.adam(rate).update(slope, old, part)
            moved.append(optax.apply_updates(part, updates))
            kept.append(new)
        return tuple(moved), tuple(kept)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _several(
    gating: _Gating,
    state: Any,
    first: Array,
    count: Array,
    strengths: Array,
    network: Network,
    key: Array,
    rates: Array,
) -> Any:
    """So many steps of all strengths."""

    def one(state: Any, strength: Array) -> Any:
        def step(i: Array, state: Any) -> Any:
            return gating.step(state, first + i, strength, network, key, rates)

        return jax.lax.fori_loop(0, count, step, state)

    return jax.vmap(one)(state, strengths)


@partial(jax.jit, static_argnums=0)
def _settled(gating: _Gating, parts: Any, number: Array, network: Network, key: Array) -> Array:
    """The task's losses `[G]` with gates that have no noise, on a sample that no step has seen."""
    sample = gating.task.sample(jax.random.fold_in(key, number), gating.batch)

    def one(parts: Any) -> Array:
        return gating.loss(parts, sample, {name: settled(value) for name, value in parts[0].items()}, network)

    return jax.vmap(one)(parts)
