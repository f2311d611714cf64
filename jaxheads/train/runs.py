"""Many small models as one: parameters, optimiser state and hyper-parameters with a leading axis of runs.

Dimension key: R runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from ..models.load import family_of
from ..models.model import Model
from ..models.network import Network
from .objective import Task, scores

Hyper = Mapping[str, float]
Optimizer = Callable[[Mapping[str, Array]], optax.GradientTransformation]
"""From a run's hyper-parameters (traced) to what updates it."""


def adamw(hyper: Mapping[str, Array]) -> optax.GradientTransformation:
    """AdamW with gradients clipped to norm 1; reads `rate` (1e-3), `decay` (0), `b1` (0.9), `b2` (0.98), and `cosine`:
    in so many steps the rate falls to 0 by half a cosine (constant when left out)."""
    get = hyper.get
    moments: Any = {"b1": get("b1", 0.9), "b2": get("b2", 0.98)}
    rate: Any = get("rate", 1e-3)
    if "cosine" in hyper:
        rate = _falling(rate, hyper["cosine"])
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, weight_decay=get("decay", 0.0), **moments),  # type: ignore[arg-type]
    )


def _falling(rate: Any, steps: Array) -> Callable[[Array], Array]:
    """optax's own `cosine_decay_schedule` wants its steps untraced."""
    return lambda count: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(count.astype(jnp.float32) / steps, 1.0))) / 2


Penalty = Callable[[Network, Any, Mapping[str, Array]], Array]
"""From a network, a sample and a run's hyper-parameters (traced) to what is added to the loss."""


class Placed(Protocol):
    """Where runs and examples lie; `Alone` puts them nowhere."""

    @property
    def axis(self) -> str | None:
        """The mesh's axis that runs are split over."""
        ...

    def runs(self, tree: Any) -> Any:
        """Arrays with a leading axis of runs, on their devices."""
        ...

    def examples(self, tree: Any) -> Any:
        """A batch's arrays, with a leading axis of examples, within a step of one run."""
        ...


class Alone(Placed):
    """One device."""

    @property
    def axis(self) -> None:
        return None

    def runs(self, tree: Any) -> Any:
        return tree

    def examples(self, tree: Any) -> Any:
        return tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Where training is; every array has a leading axis of runs."""

    parameters: Any
    optimizer: Any


@dataclass(frozen=True, eq=False)
class Runs:
    """What is trained and how; immutable, and everything that steps need to be compiled once.

    Attributes:
        config: of the architecture, as `jaxheads.init` takes it.
        hyper: for each run its hyper-parameters; "seed" decides weights and data.
        init_scale: multiplies every matrix's initial weights (0.02 standard deviation).
        penalty: is added to the loss that is descended.
    """

    config: Mapping[str, Any]
    task: Task
    hyper: tuple[Hyper, ...]
    batch: int
    optimizer: Optimizer = adamw
    init_scale: float = 1.0
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        names = {frozenset(one) for one in self.hyper}
        if not self.hyper or len(names) > 1 or "seed" not in next(iter(names)):
            raise ValueError(f"runs: expected one or more with the same hyper-parameters, seed among them; got {names}")
        if self.batch < 1:
            raise ValueError(f"batch: expected at least one example a step, got {self.batch}")
        family = family_of(self.config, "the model to train")
        read = family.config_type.from_hf(self.config)
        graph, _, rest = nnx.split(family(read, rngs=nnx.Rngs(0)), nnx.Param, ...)
        object.__setattr__(self, "_parts", (family, read, graph, rest))

    @property
    def values(self) -> dict[str, Array]:
        """Hyper-parameters, `[R]` each, but for the seed."""
        names = [name for name in self.hyper[0] if name != "seed"]
        return {name: jnp.asarray([run[name] for run in self.hyper], jnp.float32) for name in names}

    @property
    def keys(self) -> Array:
        """A random key for each run."""
        return jax.vmap(jax.random.key)(jnp.asarray([int(run["seed"]) for run in self.hyper], jnp.uint32))

    def start(self) -> State:
        """Fresh weights and optimiser state."""

        def one(key: Array, hyper: Mapping[str, Array]) -> State:
            family, read, _, _ = self._parts  # type: ignore[attr-defined]
            parameters = nnx.split(family(read, rngs=nnx.Rngs(jax.random.fold_in(key, 0))), nnx.Param, ...)[1]
            if self.init_scale != 1:
                parameters = jax.tree_util.tree_map_with_path(self._scaled, parameters)
            return State(parameters, self.optimizer(hyper).init(parameters))

        return jax.jit(jax.vmap(one))(self.keys, self.values)

    def network(self, parameters: Any) -> Network:
        """The network with one run's parameters (no leading axis)."""
        _, _, graph, rest = self._parts  # type: ignore[attr-defined]
        return nnx.merge(graph, parameters, rest)

    def model(self, parameters: Any, run: int, name: str = "") -> Model:
        """One run of stacked parameters, as a user's model."""
        own = jax.tree.map(lambda weight: weight[run], parameters)
        about = ", ".join(f"{key} {value:g}" for key, value in self.hyper[run].items())
        name = name or f"{self.task.name} ({about})"
        return Model(self.network(own), name=name, hf_config=dict(self.config), identity=lambda: f"trained: {name}")

    def _scaled(self, path: tuple[Any, ...], weight: Array) -> Array:
        stacked = any("blocks" in str(key) for key in path)
        return weight * self.init_scale if weight.ndim - stacked > 1 else weight

    def step(
        self, state: State, key: Array, hyper: Mapping[str, Array], number: Array, placed: Placed
    ) -> tuple[State, Array, Array]:
        """One step of one run: its state, loss and accuracy before the step. Data depend on key and number alone."""
        sample = placed.examples(self.task.sample(jax.random.fold_in(jax.random.fold_in(key, 1), number), self.batch))

        def loss(parameters: Any) -> tuple[Array, tuple[Array, Array]]:
            network = self.network(parameters)
            value, right = scores(network, sample)
            return value if self.penalty is None else value + self.penalty(network, sample, hyper), (value, right)

        (_, (value, right)), gradients = jax.value_and_grad(loss, has_aux=True)(state.parameters)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole numbers
            updates, optimizer = self.optimizer(hyper).update(gradients, state.optimizer, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), optimizer), value, right

    def several(self, most: int, placed: Placed) -> Callable[[State, Array, Array], tuple[State, Array, Array]]:
        """A compiled function `(state, first, count)`: that many steps, up to `most`, of all runs; losses and
        accuracies `[R,most]`, of which the first `count` are filled. One compilation whatever the count."""

        def one(state: State, key: Array, hyper: Mapping[str, Array], first: Array, count: Array) -> Any:
            def body(i: Array, carried: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
                state, losses, rights = carried
                state, loss, right = self.step(state, key, hyper, first + i, placed)
                return state, losses.at[i].set(loss), rights.at[i].set(right)

            empty = jnp.zeros(most, jnp.float32)
            return jax.lax.fori_loop(0, count, body, (state, empty, empty))

        keys, values = placed.runs((self.keys, self.values))
        several = jax.vmap(one, in_axes=(0, 0, 0, None, None), spmd_axis_name=placed.axis)
        mapped = jax.jit(several, donate_argnums=0)
        return lambda state, first, count: mapped(state, keys, values, first, count)


def grid(seeds: Sequence[int], **values: Sequence[float]) -> tuple[Hyper, ...]:
    """Every combination of seeds and hyper-parameters: `grid(range(3), rate=[1e-3, 3e-3])` is six runs."""
    runs: list[dict[str, float]] = [{"seed": int(seed)} for seed in seeds]
    for name, options in values.items():
        runs = [{**run, name: float(option)} for run in runs for option in options]
    return tuple(runs)


def log_spaced(steps: int, count: int = 40) -> tuple[int, ...]:
    """Checkpoints after 0 and `steps` steps and, evenly spaced in log (1 + step), up to `count` in all."""
    found = np.unique(np.rint(np.expm1(np.linspace(0, np.log1p(steps), count))).astype(int))
    return tuple(found.tolist())
