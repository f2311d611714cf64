"""Models too large for one device: every parameter split over a mesh, by rules on its name.

Heads go to devices whole, the MLP by its hidden units, the embedding by its vocabulary (Shoeybi et al. 2019, section
3); what is small is on every device. The forward pass is the same program: XLA partitions it by where its arrays are.
Arrays are put in place part by part, so that no device ever holds what is another's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
from flax import nnx
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .model import Model

Rules = Sequence[tuple[str, P]]
"""Pattern (of the whole path, "decoder.blocks.mlp.up.kernel") and how one layer's parameter is split, axis by axis."""

Shapes = Mapping[str, tuple[int, ...]]


def default_rules(axis: str = "model") -> Rules:
    """How the parts in `layers` are split over one axis of the mesh."""
    return (
        (r".*\.W_[QKV]", P(None, axis, None)),
        (r".*\.b_[QKV]", P(axis, None)),
        (r".*\.W_O", P(axis, None, None)),
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
        (r"(head\.dense|pooler|widen|conv\d)\.(kernel|bias)", P()),
    )


def shard(model: Model, mesh: Mesh, rules: Rules = (), *, axis: str = "model") -> Model:
    """The model with its parameters split over the mesh; `placement` tells how.

    Args:
        rules: tried before `default_rules(axis)`. Of the rules whose pattern matches a parameter, the first counts
            that divides its axes evenly; without one, every device holds the parameter whole. The axis of layers,
            where there is one, is never split, and specs don't mention it.
        axis: of the mesh, for the default rules.

    Raises:
        ValueError: for a parameter that no rule matches, one of `rules` that matches no parameter, a spec with more
            axes than a parameter it matches, or an axis that the mesh does not have.
    """
    graph, state, settings = nnx.split(model.network, nnx.Param, ...)
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    place = arrange(mesh, rules, axis=axis)({name: variable.shape for name, (_, variable) in flat.items()})
    placed = [(path, variable.replace(place(name, variable[...]))) for name, (path, variable) in flat.items()]
    return replace(model, network=nnx.merge(graph, nnx.from_flat_state(placed), settings))


def placement(model: Model) -> pd.DataFrame:
    """Where the model's parameters are, one row a parameter: shape, dtype, spec, bytes in all and on a device."""
    rows = {}
    for path, variable in nnx.to_flat_state(nnx.state(model.network, nnx.Param)):
        array = variable[...]
        part = array.sharding.shard_shape(array.shape)
        rows[".".join(map(str, path))] = {
            "shape": array.shape,
            "dtype": str(array.dtype),
            "spec": tuple(getattr(array.sharding, "spec", ())),
            "bytes": array.nbytes,
            "bytes_per_device": int(np.prod(part)) * array.dtype.itemsize,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


def arrange(
    mesh: Mesh, rules: Rules = (), *, axis: str = "model"
) -> Callable[[Shapes], Callable[[str, np.ndarray | Array], Array]]:
    """From all parameters' shapes to what puts one of them in its place; raises as `shard` does, before any is put."""
    mesh = automatic(mesh)
    if axis not in mesh.axis_names:
        raise ValueError(f"weights are split over the axis {axis!r}; the mesh has {', '.join(mesh.axis_names)}")
    every = (*rules, *default_rules(axis))

    def over(shapes: Shapes) -> Callable[[str, np.ndarray | Array], Array]:
        if unknown := [name for name in shapes if not any(re.fullmatch(pattern, name) for pattern, _ in every)]:
            raise ValueError(f"no rule says how to split {', '.join(unknown)}; give rules=((pattern, spec), …)")
        if idle := [pattern for pattern, _ in rules if not any(re.fullmatch(pattern, name) for name in shapes)]:
            raise ValueError(
                f"the rules {idle} match no parameter's whole name; the parameters are {', '.join(shapes)}"
            )
        where = {name: NamedSharding(mesh, _spec(name, shape, every, mesh)) for name, shape in shapes.items()}
        return lambda name, value: put(value, where[name])

    return over


def put(value: np.ndarray | Array, sharding: NamedSharding) -> Array:
    """A value that every process has, each device getting its own part of it only.

    A NumPy array must not be changed afterwards: on CPU its memory may be what the devices use.
    """
    if isinstance(value, Array) and not value.is_fully_addressable:
        return jax.device_put(value, sharding)
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(array: Array) -> np.ndarray:
    """The whole array, on every process; where it lies on several, all of them must ask for it."""
    whole = array.is_fully_addressable or array.is_fully_replicated
    return np.asarray(array if whole else process_allgather(array, tiled=True))


def automatic(mesh: Mesh) -> Mesh:
    """The same devices, with all partitioning left to XLA (`jax.make_mesh` gives axes that are typed in the code)."""
    return Mesh(mesh.devices, mesh.axis_names)


def _spec(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> P:
    """By the first rule that matches and divides, with an axis for the layers where there is one."""
    stacked = "blocks" in name.split(".")
    own = shape[1:] if stacked else shape
    for pattern, spec in rules:
        if re.fullmatch(pattern, name) and _divides(name, own, spec, mesh):
            return P(None, *spec) if stacked else spec
    return P()


def _divides(name: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> bool:
    if len(spec) > len(shape):
        raise ValueError(f"{name} has the axes {shape} (in one layer); a rule splits it as {spec}")
    return all(size % _parts(entry, mesh) == 0 for size, entry in zip(shape, spec, strict=False))


def _parts(entry: Any, mesh: Mesh) -> int:
    """Into how many parts one entry of a spec splits an axis."""
    axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
    if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
        raise ValueError(f"a rule splits over {unknown[0]!r}; the mesh has the axes {', '.join(mesh.axis_names)}")
    return int(np.prod([mesh.shape[axis] for axis in axes]))
