"""Many small models as one: parameters, optimiser state and hyper-parameters with a leading axis of runs.

Dimension key: R runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from ..arguments import at_least, checked
from ..checks import finite, seed, shown
from ..compile_cache import keep_by_default
from ..models.load import family_of
from ..models.model import Model
from ..models.network import Network
from .checkpoints import words_of
from .objective import Task, check_task, scores

Hyper = Mapping[str, float]
Optimizer = Callable[[Mapping[str, Array]], optax.GradientTransformation]
"""Function of a run's hyper-parameters (traced) that returns its optax transformation."""


@checked()
def adamw(hyper: Mapping[str, Array]) -> optax.GradientTransformation:
    """Return AdamW with gradients clipped to norm 1.

    Args:
        hyper: may hold `rate` (1e-3), `decay` (0), `b1` (0.9), `b2` (0.98), and `cosine`, the number of steps in which
            the rate falls to 0 along half a cosine (without it the rate is constant).
    """
    get = hyper.get
    moments: Any = {"b1": get("b1", 0.9), "b2": get("b2", 0.98)}
    rate: Any = get("rate", 1e-3)
    if "cosine" in hyper:
        rate = _cosine_decay(rate, hyper["cosine"])
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, weight_decay=get("decay", 0.0), **moments),  # type: ignore[arg-type]
    )


def _cosine_decay(rate: Any, steps: Array) -> Callable[[Array], Array]:
    # optax's own `cosine_decay_schedule` needs its number of steps untraced.
    return lambda count: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(count.astype(jnp.float32) / steps, 1.0))) / 2


Penalty = Callable[[Network, Any, Mapping[str, Array]], Array]
"""Function of a network, a sample and a run's hyper-parameters (traced) whose value is added to the loss."""


class Placement(Protocol):
    """The devices of runs and examples; `OneDevice` leaves arrays as they are."""

    @property
    def axis(self) -> str | None:
        """The mesh axis that runs are split over."""
        ...

    def runs(self, tree: Any) -> Any:
        """Put arrays with a leading axis of runs on their devices."""
        ...

    def examples(self, tree: Any) -> Any:
        """Split a batch's arrays, with a leading axis of examples, inside a step of one run."""
        ...


class OneDevice(Placement):
    """Everything on one device."""

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
    """Parameters and optimiser state; every array has a leading axis of runs."""

    parameters: Any
    optimizer: Any


@dataclass(frozen=True, eq=False)
class Runs:
    """Immutable description of a training: architecture, task, and each run's hyper-parameters.

    Attributes:
        config: of the architecture, as `jaxheads.init` takes it; or a model, from whose weights each run starts.
        hyper: each run's hyper-parameters; "seed" decides weights and data.
        init_scale: factor on the initial weights of matrices (standard deviation 0.02).
        penalty: added to the loss that is minimised.
    """

    config: Mapping[str, Any] | Model
    task: Task
    hyper: tuple[Hyper, ...]
    batch: int
    optimizer: Optimizer = adamw
    init_scale: float = 1.0
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        names = {frozenset(run) for run in self.hyper}
        if not self.hyper or len(names) > 1 or "seed" not in next(iter(names)):
            raise ValueError(f"runs: expected one or more with the same hyper-parameters, seed among them; got {names}")
        for number, run in enumerate(self.hyper):
            for name, value in run.items():
                (seed if name == "seed" else finite)(f"{name} of runs[{number}]", value)
        if self.batch < 1:
            raise ValueError(f"batch: expected at least one example a step, got {self.batch}")
        if isinstance(self.config, Model):
            if self.init_scale != 1:
                raise ValueError(f"init_scale is of fresh weights, and {self.config.name} has its own; leave it out")
            family, config, network = None, None, self.config.network
        else:
            family = family_of(self.config, "the model to train")
            config = family.config_type.from_hf(self.config)
            network = family(config, rngs=nnx.Rngs(0))
        check_task(network, self.task, self.batch)
        first = {name: jnp.float32(value) for name, value in self.hyper[0].items() if name != "seed"}
        if not hasattr(made := self.optimizer(first), "update"):
            raise ValueError(
                f"optimizer must be a function of a run's hyper-parameters that returns an optax transformation, such "
                f"as jh.train.adamw; it returned {shown(made)}"
            )
        graph, _, rest = nnx.split(network, nnx.Param, ...)
        # The graph is the same for all runs: parameters alone are vmapped over.
        object.__setattr__(self, "_built", (family, config, graph, rest))

    @property
    def about(self) -> dict[str, Any]:
        """Everything that the numbers of a training depend on, as plain JSON values."""
        return {
            "config": self.config.identity() if isinstance(self.config, Model) else dict(self.config),
            "task": words_of(self.task),
            "runs": [dict(run) for run in self.hyper],
            "batch": self.batch,
            "init_scale": self.init_scale,
            "optimizer": words_of(self.optimizer),
            "penalty": words_of(self.penalty),
        }

    @property
    def values(self) -> dict[str, Array]:
        """The hyper-parameters except the seed, `[R]` each."""
        names = [name for name in self.hyper[0] if name != "seed"]
        return {name: jnp.asarray([run[name] for run in self.hyper], jnp.float32) for name in names}

    @property
    def keys(self) -> Array:
        """A random key for each run, `[R]`."""
        return jax.vmap(jax.random.key)(jnp.asarray([int(run["seed"]) for run in self.hyper], jnp.uint32))

    def start(self) -> State:
        """Return fresh weights and optimiser state of all runs."""

        def start_one(key: Array, hyper: Mapping[str, Array]) -> State:
            family, config, _, _ = self._built  # type: ignore[attr-defined]
            if isinstance(self.config, Model):
                parameters = nnx.split(self.config.network, nnx.Param, ...)[1]
                return State(parameters, self.optimizer(hyper).init(parameters))
            parameters = nnx.split(family(config, rngs=nnx.Rngs(jax.random.fold_in(key, 0))), nnx.Param, ...)[1]
            if self.init_scale != 1:
                parameters = jax.tree_util.tree_map_with_path(self._scaled, parameters)
            return State(parameters, self.optimizer(hyper).init(parameters))

        keep_by_default()
        return jax.jit(jax.vmap(start_one))(self.keys, self.values)

    def network(self, parameters: Any) -> Network:
        """Return the network with one run's parameters (no leading axis)."""
        _, _, graph, rest = self._built  # type: ignore[attr-defined]
        return nnx.merge(graph, parameters, rest)

    def model(self, parameters: Any, run: int, name: str = "") -> Model:
        """Make a `Model` of one run of stacked parameters."""
        selected = jax.tree.map(lambda weight: weight[run], parameters)
        about = ", ".join(f"{key} {value:g}" for key, value in self.hyper[run].items())
        name = name or f"{self.task.name} ({about})"
        network = self.network(selected)
        if isinstance(self.config, Model):
            name = f"{self.config.name}, {name}"
            return replace(self.config, network=network, name=name, identity=lambda: f"trained: {name}")
        return Model(network, name=name, hf_config=dict(self.config), identity=lambda: f"trained: {name}")

    def _scaled(self, path: tuple[Any, ...], weight: Array) -> Array:
        # Vectors (biases, norms) keep their initial values; in a block a leading axis of layers is no axis of a matrix.
        stacked = any("blocks" in str(key) for key in path)
        return weight * self.init_scale if weight.ndim - stacked > 1 else weight

    def step(
        self, state: State, key: Array, hyper: Mapping[str, Array], number: Array, placement: Placement
    ) -> tuple[State, Array, Array]:
        """Take one step of one run; return the new state, and loss and accuracy before the step.

        Key and number alone decide the data, so a resumed run repeats them.
        """
        # A task of few examples has a training set for each run, which the run's key decides.
        task = self.task.of_run(key) if hasattr(self.task, "of_run") else self.task  # type: ignore[attr-defined]
        sample = task.sample(jax.random.fold_in(jax.random.fold_in(key, 1), number), self.batch)
        sample = placement.examples(sample)

        def penalised(parameters: Any) -> tuple[Array, tuple[Array, Array]]:
            network = self.network(parameters)
            loss, accuracy = scores(network, sample)
            total = loss if self.penalty is None else loss + self.penalty(network, sample, hyper)
            return total, (loss, accuracy)

        (_, (loss, accuracy)), gradients = jax.value_and_grad(penalised, has_aux=True)(state.parameters)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, optimizer = self.optimizer(hyper).update(gradients, state.optimizer, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), optimizer), loss, accuracy

    def compiled_steps(
        self, most: int, placement: Placement
    ) -> Callable[[State, Array, Array], tuple[State, Array, Array]]:
        """Compile a function `(state, first, count)` that takes up to `most` steps of all runs.

        It returns the new state, and losses and accuracies `[R,most]`, of which the first `count` are filled.
        """

        def steps(state: State, key: Array, hyper: Mapping[str, Array], first: Array, count: Array) -> Any:
            def body(i: Array, carried: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
                state, losses, accuracies = carried
                state, loss, accuracy = self.step(state, key, hyper, first + i, placement)
                return state, losses.at[i].set(loss), accuracies.at[i].set(accuracy)

            empty = jnp.zeros(most, jnp.float32)
            # The count is traced, so one compilation serves every distance between checkpoints.
            return jax.lax.fori_loop(0, count, body, (state, empty, empty))

        keys, values = placement.runs((self.keys, self.values))
        over_runs = jax.vmap(steps, in_axes=(0, 0, 0, None, None), spmd_axis_name=placement.axis)
        compiled = jax.jit(over_runs, donate_argnums=0)
        return lambda state, first, count: compiled(state, keys, values, first, count)


@checked()
def grid(seeds: Sequence[int], **values: Sequence[float]) -> tuple[Hyper, ...]:
    """Return every combination of seeds and hyper-parameters: `grid(range(3), rate=[1e-3, 3e-3])` is six runs."""
    runs: list[dict[str, float]] = [{"seed": seed("seeds", number)} for number in seeds]
    for name, options in values.items():
        runs = [{**run, name: float(option)} for run in runs for option in options]
    return tuple(runs)


@checked(steps=at_least(1), count=at_least(2))
def log_spaced(steps: int, count: int = 40) -> tuple[int, ...]:
    """Return up to `count` steps from 0 to `steps`, both included, evenly spaced in log (1 + step)."""
    spaced = np.rint(np.expm1(np.linspace(0, np.log1p(steps), count))).astype(int)
    return tuple(np.unique(spaced).tolist())
