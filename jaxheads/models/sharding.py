"""Models too large for one device: every parameter split over a mesh, by rules on its name.

Each device gets whole heads, a share of the MLP's hidden units and a share of the vocabulary (Shoeybi et al. 2019,
section 3); small parameters are on every device. The forward pass is unchanged: XLA partitions it by its arrays'
shardings. A device receives only its own shards.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..arguments import checked
from .gathering import gathering_axes, marked, resting_spec
from .model import Model

Rules = Sequence[tuple[str, P]]
"""Pairs of a pattern, of the parameter's whole path ("decoder.blocks.mlp.up.kernel"), and one layer's spec."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each parameter, by its path."""


def default_rules(axis: str = "model") -> Rules:
    """Return the rules that split the parameters of all families over one axis of the mesh."""
    return (
        (r".*\.[WP]_[QKV]", P(None, axis, None)),
        (r".*\.[bp]_[QKV]", P(axis, None)),
        (r".*\.W_O", P(axis, None, None)),
        (r".*\.experts\.(up|gate)\.kernel", P(None, None, axis)),
        (r".*\.experts\.(up|gate)\.bias", P(None, axis)),
        (r".*\.experts\.down\.kernel", P(None, axis, None)),
        (r".*\.(router\.(kernel|bias)|shared_gate\.kernel)", P()),
        (r".*\.sinks", P(axis)),
        (r"(.*\.)?probe|text_head\.(kernel|bias)|head\.kernel", P()),
        (r".*\.(up|gate)\.kernel", P(None, axis)),
        (r".*\.(up|gate)\.bias", P(axis)),
        (r".*\.down\.kernel", P(axis, None)),
        (r"(.*\.)?(un)?embed\.embedding", P(axis, None)),
        (r"head\.bias|logits_bias", P(axis)),
        (r"project_(in|out)\.kernel", P()),
        (r".*\.(b_O|down\.bias)", P()),
        (r"(.*[._])?norm\.(scale|bias)", P()),
        (r"(.*\.)?(patches\.(kernel|bias)|cls|others|positions|gain)", P()),
        (r"(classifier|distillation)\.(weight|bias)|.*projection\.kernel|logit_scale", P()),
        (r"(.*\.)?(embed_\w+|\w+_bias)\.embedding", P()),
        (r"(head\.dense|classifier\.dense|pooler|widen|conv\d)\.(kernel|bias)", P()),
    )


@checked()
def shard(model: Model, mesh: Mesh, rules: Rules = (), *, axis: str = "model", gather: bool | None = None) -> Model:
    """Split a model's parameters over a mesh and return the new model; `placement` shows the result.

    Args:
        rules: tried before `default_rules(axis)`. A parameter is split by the first rule that matches its path and
            divides its axes evenly; without one, every device holds it whole. Specs leave out the layer axis of
            stacked parameters, which is never split.
        axis: the mesh's axis for the default rules, over which heads are split.
        gather: whether parameters rest in shares over the mesh's other axes, too, and each layer's are gathered when
            it runs (FSDP). When left out, so it is on a mesh without `axis`.

    Raises:
        ValueError: for a parameter that no rule matches, one of `rules` that matches no parameter, a spec with more
            axes than a parameter it matches, or an axis that the mesh does not have.
    """
    graph, state, settings = nnx.split(model.network, nnx.Param, ...)
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    arrangement = Arrangement.of(mesh, rules, axis=axis, gather=gather)
    place = arrangement({name: variable.shape for name, (_, variable) in flat.items()})
    placed = [(path, variable.replace(place(name, variable[...]))) for name, (path, variable) in flat.items()]
    return replace(model, network=arrangement.marked(nnx.merge(graph, nnx.from_flat_state(placed), settings)))


@checked()
def placement(model: Model) -> pd.DataFrame:
    """Return how parameters are split, one row a parameter: shape, dtype, spec, bytes in all and per device."""
    rows = {}
    for path, variable in nnx.to_flat_state(nnx.state(model.network, nnx.Param)):
        array = variable[...]
        shard_shape = array.sharding.shard_shape(array.shape)
        rows[".".join(map(str, path))] = {
            "shape": array.shape,
            "dtype": str(array.dtype),
            "spec": tuple(getattr(array.sharding, "spec", ())),
            "bytes": array.nbytes,
            "bytes_per_device": int(np.prod(shard_shape)) * array.dtype.itemsize,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


@dataclass(frozen=True)
class Arrangement:
    """An arrangement of parameters on a mesh: called with all their shapes, it returns the function that puts one.

    Attributes:
        rules: for all parameters, each its spec in use.
        own: the number of rules that are the user's.
        gathered: the axes over which parameters rest in shares beside; none where they are used as they rest.
    """

    mesh: Mesh
    rules: Rules
    own: int
    gathered: tuple[str, ...]

    @classmethod
    def of(cls, mesh: Mesh, rules: Rules = (), *, axis: str = "model", gather: bool | None = None) -> "Arrangement":
        """Check a user's mesh and rules; raises as `shard` does."""
        mesh = automatic(mesh)
        whole = axis not in mesh.axis_names
        if whole and (axis != "model" or gather is False):
            raise ValueError(f"weights are split over the axis {axis!r}; the mesh has {', '.join(mesh.axis_names)}")
        # Without an axis for heads, the default rules have nothing to split: each parameter is used whole.
        every = (*rules, *([(".*", P())] if whole else default_rules(axis)))
        return cls(mesh, every, len(rules), gathering_axes(mesh, axis) if gather or whole else ())

    def __call__(self, shapes: Shapes) -> Callable[[str, np.ndarray | Array], Array]:
        """Return the function that puts one parameter on the mesh; shapes are checked before anything is put."""
        if unknown := [name for name in shapes if not any(re.fullmatch(pattern, name) for pattern, _ in self.rules)]:
            raise ValueError(f"no rule says how to split {', '.join(unknown)}; give rules=((pattern, spec), …)")
        own = self.rules[: self.own]
        if idle := [pattern for pattern, _ in own if not any(re.fullmatch(pattern, name) for name in shapes)]:
            raise ValueError(
                f"the rules {idle} match no parameter's whole name; the parameters are {', '.join(shapes)}"
            )
        largest = max(math.prod(_layer_shape(name, shape)) for name, shape in shapes.items())
        shardings = {name: NamedSharding(self.mesh, self._spec(name, shape, largest)) for name, shape in shapes.items()}
        return lambda name, value: put(value, shardings[name])

    def marked(self, network: Any) -> Any:
        """Return a network whose parameters were put so, with what its programs gather."""
        return marked(network, self.mesh, self.gathered) if self.gathered else network

    def _spec(self, name: str, shape: tuple[int, ...], largest: int) -> P:
        """Return the spec of the first rule that matches and divides evenly, with None for a layer axis."""
        layer_shape, spec = _layer_shape(name, shape), P()
        for pattern, rule in self.rules:
            if re.fullmatch(pattern, name) and _divides(name, layer_shape, rule, self.mesh):
                spec = rule
                break
        spec = resting_spec(layer_shape, spec, self.mesh, self.gathered, largest)
        return P(None, *spec) if _is_stacked(name) else spec


def put(value: np.ndarray | Array, sharding: NamedSharding) -> Array:
    """Put a value, which every process has, on the devices, each of which receives its own shard only.

    A NumPy array must not be changed afterwards: on CPU the devices may use its memory. A shape without values (see
    `jaxheads.init`) stays one, and says where it would be.
    """
    if isinstance(value, jax.ShapeDtypeStruct):
        return type(value)(value.shape, value.dtype, sharding=sharding)  # type: ignore[return-value]
    if isinstance(value, Array) and not value.is_fully_addressable:
        return jax.device_put(value, sharding)
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(array: Array) -> np.ndarray:
    """Return the whole array on every process; all processes must call this if the array is spread over several."""
    local = array.is_fully_addressable or array.is_fully_replicated
    return np.asarray(array if local else process_allgather(array, tiled=True))


def automatic(mesh: Mesh) -> Mesh:
    """Return a mesh of the same devices that leaves all partitioning to XLA."""
    # The axes of `jax.make_mesh` are explicit: programs would have to declare the sharding of each value.
    return Mesh(mesh.devices, mesh.axis_names)


def _is_stacked(name: str) -> bool:
    return "blocks" in name.split(".")


def _layer_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if _is_stacked(name) else shape


def _divides(name: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> bool:
    if len(spec) > len(shape):
        raise ValueError(f"{name} has the axes {shape} (in one layer); a rule splits it as {spec}")
    return all(size % _shards(entry, mesh) == 0 for size, entry in zip(shape, spec, strict=False))


def _shards(entry: Any, mesh: Mesh) -> int:
    """Return the number of shards into which one entry of a spec splits an axis."""
    axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
    if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
        raise ValueError(f"a rule splits over {unknown[0]!r}; the mesh has the axes {', '.join(mesh.axis_names)}")
    return int(np.prod([mesh.shape[axis] for axis in axes]))
