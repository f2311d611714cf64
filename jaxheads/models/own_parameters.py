"""Parameters of a user's own: a pytree of arrays, brought from its paths to names that we know."""

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from ..checks import shown
from .families import FAMILIES
from .layers import Setting
from .loading.checkpoint import Checkpoint, Tensor
from .loading.containers import listed
from .loading.weights import Table, check_tensors, read_parameters, same

PathTable = Mapping[str, Any]
"""Where the arrays of a pytree belong, by their paths in it, joined by dots.

A value is a name, or a pair of a name (or a tuple of names) and a function from the array to that of the name (or to a
tuple of arrays). A name is a parameter's path in the network (`jh.placement(model)` lists them), or a tensor's name in
Hugging Face's checkpoints. `{layer}` in a path or a name stands for the number of a layer. Arrays of layers are stacked
for a name without it, and a stacked array is split for a name that has it.
"""


def flat_arrays(parameters: Any) -> dict[str, Any]:
    """Return the arrays of a pytree, a module (of Flax or PyTorch) or its state by their paths, joined by dots.

    A dict that holds nothing but "params" stands for what it holds there. States of random number generators and
    settings are left out. Tensors of PyTorch become arrays of NumPy.

    Raises:
        ValueError: for a leaf that is no array, or no array at all.
    """
    if isinstance(parameters, nnx.Module):
        parameters = nnx.state(parameters)
    if hasattr(parameters, "state_dict"):
        parameters = parameters.state_dict()
    if isinstance(parameters, Mapping) and set(parameters) == {"params"}:
        parameters = parameters["params"]
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    arrays, others = {}, []
    for path, leaf in leaves:
        if isinstance(leaf, nnx.RngState | Setting):
            continue
        name = ".".join(map(_word, path))
        array = _as_array(leaf[...] if isinstance(leaf, nnx.Variable) else leaf)
        if array is None or not path:
            others.append(f"{name or 'the whole'} is {shown(leaf)}")
        arrays[name] = array
    if others or not arrays:
        raise ValueError(f"parameters must be a pytree of arrays; {'; '.join(others[:8]) or 'it holds none'}")
    return arrays


def _word(key: Any) -> str:
    """Return the name of one step of a path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _as_array(leaf: Any) -> Any:
    """Return an array of JAX or NumPy, or None for what is no array of numbers."""
    if isinstance(leaf, jax.Array):
        return leaf
    if hasattr(leaf, "detach"):  # PyTorch's, told by what it can do: it need not be installed
        leaf = leaf.detach().cpu()
        leaf = leaf.float() if "bfloat16" in str(leaf.dtype) else leaf
    if not hasattr(leaf, "shape") and not isinstance(leaf, int | float):
        return None
    array = np.asarray(leaf)
    return array if array.dtype.kind in "fiub" or "float" in str(array.dtype) else None


def by_table(arrays: Mapping[str, Any], table: PathTable) -> dict[str, Any]:
    """Return arrays under the names that a table gives their paths; paths that it does not name stay as they are.

    Raises:
        ValueError: for paths that are not there, functions that fail, names that are given twice, and layers that are
            missing or differ in shape; all in one message.
    """
    named: dict[str, Any] = {}
    of_layers: dict[str, dict[int, Any]] = {}
    problems: list[str] = []
    used: set[str] = set()

    def put(name: str, layer: int | None, array: Any) -> None:
        if "{layer}" in name and layer is None:
            for number in range(len(array)):
                put(name, number, array[number])
        elif "{layer}" in name or layer is None:
            full = name.replace("{layer}", str(layer))
            if full in named:
                problems.append(f"{full} is given twice")
            named[full] = array
        else:
            of_layers.setdefault(name, {})[layer] = array

    for path, target in table.items():
        matches = _matches(path, arrays)
        if not matches:
            problems.append(f"there is no {path}")
        for full, layer in matches.items():
            used.add(full)
            try:
                for name, array in _values(target, arrays[full]):
                    put(name, layer, array)
            except Exception as error:  # a user's function fails as it likes
                problems.append(f"{full} does not become {shown(target)}: {error}")
    for name, layers in of_layers.items():
        _stack(name, layers, named, problems)
    for path in set(arrays) - used:
        put(path, None, arrays[path])
    if problems:
        raise ValueError(f"the table does not fit the parameters: {'; '.join(problems[:20])}")
    return named


def _matches(path: str, arrays: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the arrays' paths that an entry of a table names, with their layers."""
    if "{layer}" not in path:
        return {path: None} if path in arrays else {}
    pattern = re.compile(re.escape(path).replace(r"\{layer\}", r"(\d+)", 1).replace(r"\{layer\}", r"\1"))
    return {name: int(match[1]) for name in arrays if (match := pattern.fullmatch(name))}


def _values(target: Any, array: Any) -> list[tuple[str, Any]]:
    """Return the names that an entry of a table gives an array, each with its values."""
    if isinstance(target, str):
        return [(target, array)]
    names, function = target
    if not callable(function):
        raise ValueError("expected a name, or a pair of a name (or names) and a function")
    made: Any = function(array)
    if isinstance(names, str):
        return [(names, _as_array(made))]
    return list(zip(names, map(_as_array, made), strict=True))


def _stack(name: str, layers: Mapping[int, Any], named: dict[str, Any], problems: list[str]) -> None:
    """Stack the arrays of all layers under one name."""
    shapes = {array.shape for array in layers.values()}
    if missing := sorted(set(range(max(layers) + 1)) - set(layers)):
        problems.append(f"{name} lacks the layers {missing}")
    elif len(shapes) > 1:
        problems.append(f"{name} has layers of different shapes: {', '.join(map(str, sorted(shapes)))}")
    elif name in named:
        problems.append(f"{name} is given twice")
    else:
        stack = jnp.stack if any(isinstance(array, Tracer) for array in layers.values()) else np.stack
        named[name] = stack([layers[number] for number in range(len(layers))])


def tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return arrays as a checkpoint's tensors."""
    return {
        name: Tensor(tuple(array.shape), str(array.dtype), partial(np.asarray, array)) for name, array in arrays.items()
    }


def parameter_shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a network, by its path."""
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): tuple(variable.shape) for path, variable in state}


def own_table_of(
    arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], table: Table | None, name: str
) -> Table | None:
    """Return the table of arrays that are named as the parameters are; None for those of a checkpoint's names.

    Raises:
        ValueError: for names of neither kind; the message lists all that are known.
    """
    stored = set() if table is None else {rule.name for rule in table.rules}
    if any(path in shapes and path not in stored for path in arrays):
        return Table(tuple(same(path, path) for path in shapes))
    if table is not None and any(_is_stored(path, table) for path in arrays):
        return None
    known = ", ".join(f"{path} {shape}" for path, shape in shapes.items())
    theirs = "" if table is None else f"; or the names of Hugging Face's checkpoint: {', '.join(sorted(stored))}"
    raise ValueError(
        f"{name}: none of the {len(arrays)} arrays ({listed(sorted(arrays))}) has a name that is known. Give a table "
        f"from your paths to ours: {known}{theirs}"
    )


def _is_stored(path: str, table: Table) -> bool:
    """Whether a checkpoint of the table may hold a tensor of this name."""
    for pattern, replacement in table.rename:
        path = re.sub(pattern, replacement, path)
    return any(re.fullmatch(re.escape(rule.name).replace(r"\{layer\}", r"\d+"), path) for rule in table.rules)


def other_parameters(model: Any, parameters: Any, table: PathTable) -> Any:
    """Return the network of a model with other parameters; see `Model.with_parameters`."""
    kind = (model.hf_config or {}).get("model_type")
    stored = FAMILIES[kind].table(model.config) if kind in FAMILIES else None
    arrays = by_table(flat_arrays(parameters), table)
    graph, state, settings = nnx.split(model.network, nnx.Param, ...)
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    old = {name: variable[...] for name, (_, variable) in flat.items()}
    shapes = {name: tuple(array.shape) for name, array in old.items()}
    own = own_table_of(arrays, shapes, stored, model.name)
    checkpoint = Checkpoint({}, tensors(arrays), lambda: (None, ""), f"the parameters for {model.name}", str)

    def place(name: str, value: Any) -> jax.Array:
        # NumPy's arrays are copied: their owner may go on to change them.
        array = (
            jnp.asarray(value, old[name].dtype) if isinstance(value, jax.Array) else jnp.array(value, old[name].dtype)
        )
        traced = isinstance(array, Tracer) or isinstance(old[name], Tracer)
        return array if traced or array.sharding == old[name].sharding else jax.device_put(array, old[name].sharding)

    if own is None:
        assert stored is not None
        new = read_parameters(shapes, stored, checkpoint, next(iter(old.values())).dtype, place)
    else:
        check_tensors(own, shapes, checkpoint.tensors, checkpoint.name)
        new = {name: place(name, arrays[name]) for name in shapes}
    filled = [(path, variable.replace(new[name])) for name, (path, variable) in flat.items()]
    return nnx.merge(graph, nnx.from_flat_state(filled), settings)


def parameters_identity(network: Any) -> str:
    """Hash all parameters: their paths, dtypes and values."""
    digest = hashlib.sha256()
    for path, variable in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        array = np.asarray(variable[...])
        digest.update(f"{'.'.join(map(str, path))} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
