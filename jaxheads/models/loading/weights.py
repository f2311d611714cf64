"""A port is a table: every tensor of the checkpoint to the parameters it fills, and back.

Paths name parameters as `nnx` does, joined by dots. A path through a stack's `blocks` has a leading layer axis; its
tensors are named with `{layer}`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .checkpoint import Checkpoint, Tensor

Arrays = tuple[Any, ...]
Place = Callable[[str, np.ndarray], jax.Array]
"""Puts the parameter of a path onto its device or devices."""


@dataclass(frozen=True)
class Rule:
    """One tensor of the checkpoint and the parameters it fills (one layer's, where the name has `{layer}`).

    Attributes:
        name: the tensor's name.
        paths: the parameters.
        read: from the tensor and the parameters' shapes to their values.
        write: from their values back to the tensor.
        absent: layers without the tensor: their parameters are zero, and the network does not use them.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[Any, tuple[tuple[int, ...], ...]], Arrays]
    write: Callable[..., Any]
    absent: frozenset[int] = frozenset()


Entry = tuple[str, Rule, int | None, tuple[tuple[int, ...], ...]]
"""A tensor's full name, its rule, its layer if it has one, and the shapes that its parameters have in that layer."""


@dataclass(frozen=True)
class Table:
    """All rules of one network, and what else its checkpoints may carry.

    Attributes:
        rules: complete: every parameter and every tensor that is not passed over.
        passed_over: patterns of tensors that hold nothing this network uses, with the reason.
        rename: patterns and replacements that bring a checkpoint's older or shorter names to the rules' form.
        copies: tensors that, unless a rule names them, a checkpoint may hold a second time under another name: each
            must equal the one named.
    """

    rules: tuple[Rule, ...]
    passed_over: Mapping[str, str] = field(default_factory=dict)
    rename: tuple[tuple[str, str], ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)


def same(name: str, path: str) -> Rule:
    """The tensor as it is."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor,), lambda value: value)


def linear(name: str, path: str) -> Rule:
    """A matrix stored `[out, in]` and used `[in, out]`."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor.T,), lambda value: value.T)


def heads_in(name: str, path: str) -> Rule:
    """A projection into heads: stored `[N*H, D]`, used `[D,N,H]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.T.reshape(shapes[0]),),
        lambda value: value.reshape(value.shape[0], -1).T,
    )


def heads_bias(name: str, path: str) -> Rule:
    """A bias of heads: stored `[N*H]`, used `[N,H]`."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor.reshape(shapes[0]),), lambda value: value.reshape(-1))


def heads_out(name: str, path: str) -> Rule:
    """A projection out of heads: stored `[D, N*H]`, used `[N,H,D]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.T.reshape(shapes[0]),),
        lambda value: value.reshape(-1, value.shape[-1]).T,
    )


def fused_heads(name: str, *paths: str) -> Rule:
    """Projections (or biases) side by side on the last axis, stored `[(D,) sum of N*H]`, used `[(D,) N, H]` each."""
    return _fused(name, paths, lambda tensor: tensor, -2)


def fused_linear(name: str, *paths: str) -> Rule:
    """Matrices below each other, stored `[sum of out, in]` as one `torch.nn.Linear`, used `[in, out]` or `[D,N,H]`
    each."""
    return _fused(name, paths, lambda tensor: tensor.T, 1)


def fused_bias(name: str, *paths: str) -> Rule:
    """Their biases, stored `[sum of out]`, used `[out]` or `[N,H]` each."""
    return _fused(name, paths, lambda tensor: tensor, 0)


def _fused(name: str, paths: tuple[str, ...], turn: Callable[[Any], Any], kept: int) -> Rule:
    """`turn` gives the parts side by side on the last axis, and the other way round; `kept` axes come before it."""

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        edges = np.cumsum([0, *(int(np.prod(shape[kept:])) for shape in shapes)])
        parts = [turn(tensor)[..., a:b] for a, b in pairwise(edges)]
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def write(*values: Any) -> Any:
        join = np.concatenate if isinstance(values[0], np.ndarray) else jnp.concatenate
        return turn(join([value.reshape(*value.shape[:kept], -1) for value in values], axis=-1))

    return Rule(name, paths, read, write)


def interleaved_heads(name: str, *paths: str) -> Rule:
    """Projections (or biases) of one `torch.nn.Linear`, side by side within each head: stored `[N*P*H (,D)]` for P
    paths, used `[(D,) N, H]` each."""

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        parts = tensor.T.reshape(*tensor.shape[1:], shapes[0][-2], len(paths), shapes[0][-1])
        return tuple(parts[..., part, :] for part in range(len(paths)))

    def write(*values: Any) -> Any:
        stack = np.stack if isinstance(values[0], np.ndarray) else jnp.stack
        joined = stack(values, axis=-2)
        return joined.reshape(*joined.shape[:-3], -1).T

    return Rule(name, paths, read, write)


def reshaped(name: str, path: str) -> Rule:
    """A matrix stored in the order it is used, `[N*H, D]` for `[N,H,D]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.reshape(shapes[0]),),
        lambda value: value.reshape(-1, value.shape[-1]),
    )


def norm(name: str, path: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """A norm's scale and, where it has one, bias."""
    rules = (same(f"{name}.weight", f"{path}.scale"), same(f"{name}.bias", f"{path}.bias"))
    return rules if bias else rules[:1]


def dense(name: str, path: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """A `torch.nn.Linear`'s matrix and, where it has one, bias."""
    rules = (linear(f"{name}.weight", f"{path}.kernel"), same(f"{name}.bias", f"{path}.bias"))
    return rules if bias else rules[:1]


def projections(names: Mapping[str, str], path: str, *, bias: bool | str) -> tuple[Rule, ...]:
    """Queries, keys, values and output kept as four `torch.nn.Linear`: `names` by the letters Q, K, V and O; `bias`
    says whether they have biases, or the letters of those that do."""
    biased = bias if isinstance(bias, str) else "QKVO" if bias else ""
    rules = [heads_in(f"{names[letter]}.weight", f"{path}.W_{letter}") for letter in "QKV"]
    rules.append(heads_out(f"{names['O']}.weight", f"{path}.W_O"))
    rules += [heads_bias(f"{names[letter]}.bias", f"{path}.b_{letter}") for letter in "QKV" if letter in biased]
    if "O" in biased:
        rules.append(same(f"{names['O']}.bias", f"{path}.b_O"))
    return tuple(rules)


def _one_device(shapes: Mapping[str, tuple[int, ...]]) -> Place:
    del shapes
    return lambda path, value: jnp.asarray(value)


def fill(
    build: Callable[[], Any],
    table: Table,
    checkpoint: Checkpoint,
    dtype: Any = jnp.float32,
    arrange: Callable[[Mapping[str, tuple[int, ...]]], Place] = _one_device,
) -> Any:
    """The network that `build` describes, every parameter taken from the checkpoint, in `dtype`.

    Parameters are put in place as they are read: the host holds those of one rule at a time.

    Args:
        arrange: is told all parameters' shapes before anything is read, and gives what puts each in its place.

    Raises:
        ValueError: once, for everything that is wrong: tensors missing, unknown or misshapen, or holding NaN or inf.
    """
    graph, state, settings = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    flat = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    shapes = {path: tuple(variable.shape) for path, variable in flat.items()}
    stored = _renamed(checkpoint, table)
    _drop_copies(stored, table, checkpoint.name)
    _check(table, shapes, {name: tensor.shape for name, tensor in stored.items()}, checkpoint.name)

    place, placed, bad = arrange(shapes), {}, []
    for rule in table.rules:
        own, entries = {path: shapes[path] for path in rule.paths}, _entries_of(rule, shapes)
        placed |= {path: place(path, value) for path, value in _values(own, entries, stored, dtype, bad).items()}
    if bad:
        raise ValueError(f"the weights of {checkpoint.name} hold NaN or infinite values: {_some(bad)}")
    filled = [(path, variable.replace(placed[".".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled), _settings(build, settings))


def _settings(build: Callable[[], Any], abstract: nnx.State) -> nnx.State:
    """What a network has beside its parameters: compiled, so that no parameter is drawn for it."""
    return jax.jit(lambda: nnx.split(build(), nnx.Param, ...)[2])() if jax.tree.leaves(abstract) else abstract


def _values(
    shapes: Mapping[str, tuple[int, ...]],
    entries: Iterable[Entry],
    stored: Mapping[str, Tensor],
    dtype: Any,
    bad: list[str],
) -> dict[str, np.ndarray]:
    """The parameters of one rule; names of tensors that are not finite are added to `bad`."""
    values = {path: np.zeros(shape, jnp.dtype(dtype)) for path, shape in shapes.items()}
    for name, rule, layer, part_shapes in entries:
        tensor = stored[name].read()
        if not np.isfinite(tensor.astype(np.float32, copy=False)).all():
            bad.append(name)
        for path, value in zip(rule.paths, rule.read(tensor, part_shapes), strict=True):
            target = values[path] if layer is None else values[path][layer]
            target[...] = value
    return values


def export(network: Any, table: Table) -> dict[str, np.ndarray]:
    """The network's parameters under the checkpoint's names and in its orientation: what `fill` reads, bit for bit."""
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    values = {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in state}
    shapes = {path: value.shape for path, value in values.items()}
    tensors = {}
    for name, rule, layer, _ in _entries(table, shapes):
        parts = [values[path] if layer is None else values[path][layer] for path in rule.paths]
        tensors[name] = np.asarray(rule.write(*parts), order="C")  # ascontiguousarray gives a number an axis
    return tensors


def _entries(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Entry]:
    """Every tensor, those of one rule together."""
    for rule in table.rules:
        yield from _entries_of(rule, shapes)


def _entries_of(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Entry]:
    if any(path not in shapes for path in rule.paths):
        raise KeyError(f"the table names parameters that the network lacks: {rule.paths}")
    full = tuple(shapes[path] for path in rule.paths)
    if "{layer}" not in rule.name:
        yield rule.name, rule, None, full
        return
    for layer in range(full[0][0]):
        if layer not in rule.absent:
            yield rule.name.format(layer=layer), rule, layer, tuple(shape[1:] for shape in full)


def _renamed(checkpoint: Checkpoint, table: Table) -> dict[str, Tensor]:
    stored = {}
    for given, tensor in checkpoint.tensors.items():
        name = given
        for pattern, replacement in table.rename:
            name = re.sub(pattern, replacement, name)
        if any(re.fullmatch(pattern, name) for pattern in table.passed_over):
            continue
        if name in stored:
            raise ValueError(f"{checkpoint.name} has {name} twice, under this name and an older one ({given})")
        stored[name] = tensor
    return stored


def _drop_copies(stored: dict[str, Tensor], table: Table, source: str) -> None:
    """Take tensors out that are there a second time; raise ValueError for one that differs from what it copies."""
    differ, own = [], {rule.name for rule in table.rules}
    for name, original in table.copies.items():
        if name in own or (copy := stored.pop(name, None)) is None:
            continue
        if original not in stored:
            stored[original] = copy  # the checkpoint holds it under this name alone
        elif not np.array_equal(copy.read(), stored[original].read()):
            differ.append(f"{name} and {original}")
    if differ:
        raise ValueError(f"{source} does not fit its config, by which these are the same: {'; '.join(differ)}")


def _check(
    table: Table, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], source: str
) -> None:
    expected = {}
    filled = {path for rule in table.rules for path in rule.paths}
    for name, rule, _, part_shapes in _entries(table, shapes):
        parts = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in part_shapes]
        expected[name] = tuple(jax.eval_shape(rule.write, *parts).shape)
    if filled != set(shapes):
        raise KeyError(f"the table leaves parameters empty: {sorted(set(shapes) - filled)}")
    problems = []
    if missing := [name for name in expected if name not in stored]:
        problems.append(f"{len(missing)} tensors are missing: {_some(missing)}")
    if extra := sorted(set(stored) - set(expected)):
        problems.append(f"{len(extra)} tensors are not known: {_some(extra)}")
    wrong = [name for name in expected if name in stored and tuple(stored[name]) != expected[name]]
    if wrong:
        shown = [f"{name} is {tuple(stored[name])}, expected {expected[name]}" for name in wrong]
        problems.append(f"{len(wrong)} tensors have another shape: {_some(shown)}")
    if problems:
        raise ValueError(f"{source} does not fit its config: " + "; ".join(problems))


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
