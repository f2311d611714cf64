"""Gates on heads that learn to close: L0 by the hard-concrete distribution (Voita et al. 2019; Louizos et al. 2018).

A gate's log-odds are log a. With noise u it is clip(σ((log u − log(1−u) + log a) / β) · 1.2 − 0.1, 0, 1), exactly 0 or
1 with positive probability. The penalty is the probability that it is open, σ(log a − β log(0.1 / 1.1)).

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

from ..arguments import at_least, checked, more_than
from ..edits import gate
from ..models.model import Model
from ..models.network import Network
from ..programs import compiled
from ..progress import progress as show_progress
from .checkpoints import claimed, restore, save, set_aside, steps_in, words_of
from .objective import Sample, Task, check_task, scores

BETA, LOW, HIGH = 0.33, -0.1, 1.1
"""Temperature, and the ends of the stretched gate, which reach beyond 0 and 1."""

STEPS_PER_CALL = 50


def drawn(log_a: Array, key: Array) -> Array:
    """Draw gates with noise, as in training."""
    u = jax.random.uniform(key, log_a.shape, minval=1e-6, maxval=1 - 1e-6)
    return _stretched(jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_a) / BETA))


def settled(log_a: Array) -> Array:
    """Return gates without noise or temperature, as the authors evaluate."""
    return _stretched(jax.nn.sigmoid(log_a))


def open_probability(log_a: Array) -> Array:
    """Return P(g > 0)."""
    return jax.nn.sigmoid(log_a - BETA * jnp.log(-LOW / HIGH))


def full_probability(log_a: Array) -> Array:
    """Return P(g = 1)."""
    return jax.nn.sigmoid(log_a - BETA * jnp.log((1 - LOW) / (HIGH - 1)))


def decided(log_a: Array) -> Array:
    """Return 1 if P(g = 1) > P(g = 0), else 0: the paper's gates at test time (section 5.1)."""
    return (full_probability(log_a) > 1 - open_probability(log_a)).astype(jnp.float32)


def _stretched(s: Array) -> Array:
    return jnp.clip(s * (HIGH - LOW) + LOW, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Gated:
    """Learned gates for each strength of the penalty.

    Attributes:
        strengths: λ, `[G]`.
        log_a: by stack `[G,L,N]`.
        parameters: the network's, `[G,…]`, after training with the gates.
        losses: the task's loss with settled gates at the end, `[G]`, on a sample that no step used.
    """

    model: Model
    strengths: tuple[float, ...]
    log_a: Mapping[str, np.ndarray]
    parameters: Any
    losses: np.ndarray

    def gates(self, index: int) -> dict[str, np.ndarray]:
        """Return the decided gates of one strength: 1 for heads that stay, by stack `[L,N]`."""
        return {name: np.asarray(decided(jnp.asarray(log_a[index]))) for name, log_a in self.log_a.items()}

    def alive(self) -> dict[str, np.ndarray]:
        """Count the heads that stay at each strength, by stack `[G]`."""
        return {
            name: np.asarray(decided(jnp.asarray(log_a))).sum(axis=(1, 2)).astype(int)
            for name, log_a in self.log_a.items()
        }

    def network(self, index: int) -> Network:
        """Return the network with the weights of one strength, without its gates."""
        graph, _, rest = nnx.split(self.model.network, nnx.Param, ...)
        return nnx.merge(graph, jax.tree.map(lambda weight: weight[index], self.parameters), rest)


@checked(steps=at_least(1), batch=at_least(1), rate=more_than(0), gate_rate=more_than(0))
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
    progress: bool | None = None,
) -> Gated:
    """Train gates, and with them the weights, from a trained model: task loss + λ · Σ P(open) / number of layers.

    The penalty sums over a layer's heads and averages over attention layers (the authors' code; the paper sums). All
    strengths are trained at once.

    Args:
        strengths: λ; a larger one closes more gates.
        stacks: the stacks whose heads have gates; all by default.
        start: the gates' log a at the beginning: a gate with 2 is open with probability 0.94.
        directory: keep the newest state in this directory, and resume from it.

    Raises:
        ValueError: for no step or strength, a negative one, an unknown stack, or a directory of another training.
        RuntimeError: for a directory that another training is writing into.
    """
    if not len(strengths) or min(strengths) < 0:
        raise ValueError(f"strengths must be one or more penalties from 0 up, got {list(strengths)}")
    names = tuple(model.stacks if stacks is None else (model.stack(name).name for name in stacks))
    check_task(model.network, task, batch)
    gating = _Gating(task, names, batch)
    lambdas, rates = jnp.asarray(strengths, jnp.float32), jnp.float32([gate_rate, rate if train_weights else 0.0])
    fixed = model.network, jax.random.key(seed), rates
    state = jax.vmap(lambda _: gating.begin(model.network, rates, start))(lambdas)
    folder = None if directory is None else Path(directory).expanduser().resolve()
    about = (
        {}
        if folder is None
        else {
            "model": words_of(model),
            "task": words_of(task),
            "stacks": names,
            "strengths": list(strengths),
            "batch": batch,
            "rates": np.asarray(rates).tolist(),
            "start": start,
            "seed": seed,
        }
    )
    with claimed(folder, about):
        state, done = _resume(folder, state)
        if done > steps:
            raise ValueError(f"{folder} holds {done} steps already, more than {steps}")
        with show_progress(steps - done, f"gating {model.name}, {len(strengths)} strengths", progress) as advance:
            for first in range(done, steps, STEPS_PER_CALL):
                count = min(STEPS_PER_CALL, steps - first)
                state = _take_steps(gating, state, jnp.int32(first), jnp.int32(count), lambdas, *fixed)
                if folder is not None:
                    _keep_newest(folder, first + count, state)
                advance(count)
    log_a, weights = state[0]
    losses = np.asarray(_final_losses(gating, state[0], jnp.int32(steps), *fixed[:2]))
    return Gated(model, tuple(strengths), {name: np.asarray(value) for name, value in log_a.items()}, weights, losses)


def _resume(folder: Path | None, fresh: Any) -> tuple[Any, int]:
    """Return the newest state in the folder and its step; `fresh` and 0 if the folder holds none."""
    if folder is None:
        return fresh, 0
    for step in reversed(steps_in(folder)):
        if (state := restore(folder / str(step), fresh)) is not None:
            return state, step
        set_aside(folder, [str(step)])
    return fresh, 0


def _keep_newest(folder: Path, step: int, state: Any) -> None:
    # The old state goes only after the new one is complete: a kill in between loses nothing.
    save(folder / str(step), state)
    for older in steps_in(folder)[:-1]:
        shutil.rmtree(folder / str(older))


@dataclass(frozen=True)
class _Gating:
    """The pure functions of the loop, for networks of one architecture.

    A state is ((log a by stack, weights), (optimiser state of the gates, optimiser state of the weights)). The network
    that training starts from, a key and the two learning rates are arguments.
    """

    task: Task
    names: tuple[str, ...]
    batch: int

    def begin(self, network: Network, rates: Array, start: float) -> Any:
        """Return the first state: all gates at `start`, weights as the network has them."""
        stacks = [network.stack(name) for name in self.names]
        log_a = {stack.name: jnp.full((stack.layers, stack.heads), start) for stack in stacks}
        trained = (log_a, nnx.split(network, nnx.Param, ...)[1])
        return trained, tuple(optax.adam(rate).init(tree) for rate, tree in zip(rates, trained, strict=True))

    def loss(self, trained: Any, sample: Sample, gates: Mapping[str, Array], network: Network) -> Array:
        """Return the task's loss with these gates."""
        graph, _, rest = nnx.split(network, nnx.Param, ...)
        merged = nnx.merge(graph, trained[1], rest)
        edits = tuple(gate(Model(merged), gates[name], stack=name) for name in self.names)
        return scores(merged, sample, edits)[0]

    def step(self, state: Any, number: Array, strength: Array, network: Network, key: Array, rates: Array) -> Any:
        """Take one step. Its number decides data and noise, so a resumed run repeats them."""
        key = jax.random.fold_in(key, number)
        sample = self.task.sample(jax.random.fold_in(key, 0), self.batch)
        layers = sum(stack.layers for stack in network.stacks if stack.name in self.names)

        def penalised(trained: Any) -> Array:
            noise = {name: jax.random.fold_in(key, n) for n, name in enumerate(self.names, 1)}
            gates = {name: drawn(trained[0][name], noise[name]) for name in self.names}
            penalty = sum((open_probability(log_a).sum() for log_a in trained[0].values()), jnp.float32(0))
            return self.loss(trained, sample, gates, network) + strength * penalty / layers

        trained, states = state
        gradients = jax.grad(penalised)(trained)
        new_trained, new_states = [], []
        for rate, gradient, old, tree in zip(rates, gradients, states, trained, strict=True):
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, new = optax.adam(rate).update(gradient, old, tree)
            new_trained.append(optax.apply_updates(tree, updates))
            new_states.append(new)
        return tuple(new_trained), tuple(new_states)


@partial(compiled, static_argnums=0, donate_argnums=1)
def _take_steps(
    gating: _Gating,
    state: Any,
    first: Array,
    count: Array,
    strengths: Array,
    network: Network,
    key: Array,
    rates: Array,
) -> Any:
    """Take `count` steps of all strengths, numbered from `first`."""

    def steps_of_one(state: Any, strength: Array) -> Any:
        def step(i: Array, state: Any) -> Any:
            return gating.step(state, first + i, strength, network, key, rates)

        return jax.lax.fori_loop(0, count, step, state)

    return jax.vmap(steps_of_one)(state, strengths)


@partial(compiled, static_argnums=0)
def _final_losses(gating: _Gating, trained: Any, number: Array, network: Network, key: Array) -> Array:
    """Return the task's losses `[G]` with gates that have no noise, on a sample that no step used."""
    sample = gating.task.sample(jax.random.fold_in(key, number), gating.batch)

    def loss(trained: Any) -> Array:
        return gating.loss(trained, sample, {name: settled(log_a) for name, log_a in trained[0].items()}, network)

    return jax.vmap(loss)(trained)
