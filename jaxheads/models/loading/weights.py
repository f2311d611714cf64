"""Ports as tables: every tensor of a checkpoint mapped to the parameters it fills, and back.

Paths name parameters as `nnx` does, joined by dots. Parameters below a stack's `blocks` have a leading layer axis; the
names of their tensors contain `{layer}`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .checkpoint import Checkpoint, Tensor
from .containers import listed

_WHOLE = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 I8 I16 I32 I64".split())
"""Stored formats that hold no weights by themselves, in the words of all containers."""

Arrays = tuple[Any, ...]
Placement = Callable[[str, np.ndarray], jax.Array]
"""Function from a parameter's path and values to its array on its device or devices."""


@dataclass(frozen=True)
class Rule:
    """Map of a checkpoint's tensor to the parameters it fills, those of a layer where its name has `{layer}`.

    Where the name has `{expert}` or `{head}` too, those of one expert or head of the layer.

    Attributes:
        name: the tensor's name.
        paths: the parameters' paths.
        read: function from the tensor and the parameters' shapes to their values.
        write: function from the parameters' values to the tensor.
        absent: layers without the tensor; their parameters are zero, and the network does not use them.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[Any, tuple[tuple[int, ...], ...]], Arrays]
    write: Callable[..., Any]
    absent: frozenset[int] = frozenset()


Entry = tuple[str, Rule, tuple[int, ...], tuple[tuple[int, ...], ...]]
"""A tensor's full name, its rule, its index (layer, expert or head), and the shapes of its parameters there."""

_INDICES = ("layer", "expert", "head")
"""Fields of a tensor's name, in the order of the parameters' leading axes."""


@dataclass(frozen=True)
class Table:
    """All rules of a network, with the tensors that its checkpoints may hold beside them.

    Attributes:
        rules: rules that name every parameter, and every tensor that is not passed over.
        passed_over: patterns of tensors that this network does not use, each with the reason.
        rename: patterns and replacements that bring a checkpoint's older or shorter names to the rules' form.
        copies: second names of tensors, mapped to the first; a checkpoint that holds both must hold equal values.
            Rules take precedence.
        alternatives: rules of tensors that a checkpoint may hold in place of those in `rules`, for these parameters.
    """

    rules: tuple[Rule, ...]
    passed_over: Mapping[str, str] = field(default_factory=dict)
    rename: tuple[tuple[str, str], ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    alternatives: tuple[Rule, ...] = ()


def same(name: str, path: str) -> Rule:
    """Map a tensor to a parameter without change."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor,), lambda value: value)


def linear(name: str, path: str) -> Rule:
    """Map a matrix stored `[out, in]` and used `[in, out]`."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor.T,), lambda value: value.T)


def heads_in(name: str, path: str) -> Rule:
    """Map a projection into heads, stored `[N*H, D]` and used `[D,N,H]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.T.reshape(shapes[0]),),
        lambda value: value.reshape(value.shape[0], -1).T,
    )


def heads_bias(name: str, path: str) -> Rule:
    """Map a bias of heads, stored `[N*H]` and used `[N,H]`."""
    return Rule(name, (path,), lambda tensor, shapes: (tensor.reshape(shapes[0]),), lambda value: value.reshape(-1))


def heads_out(name: str, path: str) -> Rule:
    """Map a projection out of heads, stored `[D, N*H]` and used `[N,H,D]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.T.reshape(shapes[0]),),
        lambda value: value.reshape(-1, value.shape[-1]).T,
    )


def fused_heads(name: str, *paths: str) -> Rule:
    """Map projections (or biases) joined on the last axis: stored `[(D,) sum of N*H]`, each used `[(D,) N, H]`."""
    return _fused(name, paths, lambda tensor: tensor, -2)


def fused_linear(name: str, *paths: str) -> Rule:
    """Map matrices of a joined `torch.nn.Linear`: stored `[sum of out, in]`, each used `[in, out]` or `[D,N,H]`."""
    return _fused(name, paths, lambda tensor: tensor.T, 1)


def fused_bias(name: str, *paths: str) -> Rule:
    """Map biases of joined matrices: stored `[sum of out]`, each used `[out]` or `[N,H]`."""
    return _fused(name, paths, lambda tensor: tensor, 0)


def _fused(name: str, paths: tuple[str, ...], turn: Callable[[Any], Any], leading: int) -> Rule:
    """Map a joined tensor to its components.

    Args:
        turn: moves the joined axis to the end, and back.
        leading: the number of axes before it; negative to count a parameter's axes from the end.
    """

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        edges = np.cumsum([0, *(int(np.prod(shape[leading:])) for shape in shapes)])
        components = [turn(tensor)[..., start:end] for start, end in pairwise(edges)]
        return tuple(component.reshape(shape) for component, shape in zip(components, shapes, strict=True))

    def write(*values: Any) -> Any:
        join = np.concatenate if isinstance(values[0], np.ndarray) else jnp.concatenate
        return turn(join([value.reshape(*value.shape[:leading], -1) for value in values], axis=-1))

    return Rule(name, paths, read, write)


def reshaped(name: str, path: str) -> Rule:
    """Map a projection out of heads that is stored in the order of its use, `[N*H, D]` for `[N,H,D]`."""
    return Rule(
        name,
        (path,),
        lambda tensor, shapes: (tensor.reshape(shapes[0]),),
        lambda value: value.reshape(-1, value.shape[-1]),
    )


def norm(name: str, path: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """Map a norm's scale and, with `bias`, its bias."""
    rules = (same(f"{name}.weight", f"{path}.scale"), same(f"{name}.bias", f"{path}.bias"))
    return rules if bias else rules[:1]


def dense(name: str, path: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """Map the matrix of a `torch.nn.Linear` and, with `bias`, its bias."""
    rules = (linear(f"{name}.weight", f"{path}.kernel"), same(f"{name}.bias", f"{path}.bias"))
    return rules if bias else rules[:1]


def projections(names: Mapping[str, str], path: str, *, bias: bool | str) -> tuple[Rule, ...]:
    """Map queries, keys, values and output that are stored as four `torch.nn.Linear`.

    Args:
        names: their names by the letters Q, K, V and O.
        path: the path of the attention module.
        bias: whether they have biases, or the letters of those that have.
    """
    biased = bias if isinstance(bias, str) else "QKVO" if bias else ""
    rules = [heads_in(f"{names[letter]}.weight", f"{path}.W_{letter}") for letter in "QKV"]
    rules.append(heads_out(f"{names['O']}.weight", f"{path}.W_O"))
    rules += [heads_bias(f"{names[letter]}.bias", f"{path}.b_{letter}") for letter in "QKV" if letter in biased]
    if "O" in biased:
        rules.append(same(f"{names['O']}.bias", f"{path}.b_O"))
    return tuple(rules)


def _one_device(shapes: Mapping[str, tuple[int, ...]]) -> Placement:
    del shapes
    return lambda path, value: jnp.asarray(value)


def fill(
    build: Callable[[], Any],
    table: Table,
    checkpoint: Checkpoint,
    dtype: Any = jnp.float32,
    arrange: Callable[[Mapping[str, tuple[int, ...]]], Placement] = _one_device,
) -> Any:
    """Build a network with every parameter read from the checkpoint, in `dtype`.

    Parameters move to their devices as they are read, so the host holds those of a single rule at a time.

    Args:
        build: makes the network with random parameters; only its shapes are used.
        arrange: returns the placement of the parameters. It is called with all shapes before any tensor is read.

    Raises:
        ValueError: for tensors that are missing, unknown or misshapen, all in one message, or that hold NaN or inf.
    """
    graph, state, settings = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    flat = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    shapes = {path: tuple(variable.shape) for path, variable in flat.items()}
    placed = read_parameters(shapes, table, checkpoint, dtype, arrange(shapes))
    filled = [(path, variable.replace(placed[".".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled), _settings(build, settings))


def read_parameters(
    shapes: Mapping[str, tuple[int, ...]], table: Table, checkpoint: Checkpoint, dtype: Any, place: Placement
) -> dict[str, jax.Array]:
    """Read parameters of these shapes from the checkpoint, in `dtype`, by their paths; raises as `fill` does."""
    stored = _renamed(checkpoint, table)
    _drop_copies(stored, table, checkpoint.name)
    table = _as_stored(table, stored)
    check_tensors(table, shapes, stored, checkpoint.name)
    placed, bad = {}, []
    for rule in table.rules:
        # No name for the values: it would keep them on the host while the next rule's are read.
        placed |= {path: place(path, value) for path, value in _values(rule, shapes, stored, dtype, bad).items()}
    if bad:
        raise ValueError(
            f"the weights of {checkpoint.name}, as {jnp.dtype(dtype)}, hold NaN or infinite values: {listed(bad)}"
        )
    return placed


def _settings(build: Callable[[], Any], abstract: nnx.State) -> nnx.State:
    """Return a network's state beside its parameters; compiled, so that no random parameter is drawn for it."""
    return jax.jit(lambda: nnx.split(build(), nnx.Param, ...)[2])() if jax.tree.leaves(abstract) else abstract


def _values(
    rule: Rule,
    shapes: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, Tensor],
    dtype: Any,
    bad: list[str],
) -> dict[str, np.ndarray]:
    """Read the parameters of a rule; names of tensors that are not finite are added to `bad`."""
    values = {path: np.zeros(shapes[path], jnp.dtype(dtype)) for path in rule.paths}
    for name, _, index, shapes_there in _entries_of(rule, shapes):
        tensor = stored[name].read()
        for path, value in zip(rule.paths, rule.read(tensor, shapes_there), strict=True):
            target = values[path][(*index, ...)]
            with np.errstate(over="ignore"):  # what overflows is infinite, and noticed
                target[...] = value
            if not np.isfinite(target).all() and name not in bad:
                bad.append(name)
    return values


def gaps(table: Table, checkpoint: Checkpoint) -> tuple[set[str], set[str]]:
    """Return the names of rules for which the checkpoint has no tensor in any layer, and of tensors without a rule.

    Names alone are compared, and no network is needed: so one finds which of several tables a checkpoint fits.
    """
    names = _renamed(checkpoint, table)
    table = _as_stored(table, names)
    rules = {rule.name for rule in table.rules}
    second = {name: original for name, original in table.copies.items() if name not in rules}
    stored = {second.get(name, name) for name in names}
    missing, unknown = rules - stored, stored - rules
    for name in [name for name in missing if "{layer}" in name]:
        pattern = _pattern(name)
        if of_layers := {tensor for tensor in unknown if pattern.fullmatch(tensor)}:
            missing.remove(name)
            unknown -= of_layers
    return missing - {rule.name for rule in table.rules if rule.absent}, unknown


def export(network: Any, table: Table) -> dict[str, np.ndarray]:
    """Return the network's parameters in the checkpoint's names and orientation; `fill` inverts this exactly."""
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    values = {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in state}
    shapes = {path: value.shape for path, value in values.items()}
    tensors = {}
    for name, rule, index, _ in _entries(table, shapes):
        parameters = [values[path][index] for path in rule.paths]
        # Not ascontiguousarray, which gives a scalar an axis.
        tensors[name] = np.asarray(rule.write(*parameters), order="C")
    return tensors


def _entries(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Entry]:
    """Yield an entry for every tensor, rule by rule."""
    for rule in table.rules:
        yield from _entries_of(rule, shapes)


def _entries_of(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Entry]:
    """Yield an entry for every tensor of a rule, layer by layer, expert by expert, head by head."""
    if any(path not in shapes for path in rule.paths):
        raise KeyError(f"the table names parameters that the network lacks: {rule.paths}")
    stacked = tuple(shapes[path] for path in rule.paths)
    fields = [field for field in _INDICES if f"{{{field}}}" in rule.name]
    for index in np.ndindex(*stacked[0][: len(fields)]):
        if not index or index[0] not in rule.absent:
            name = rule.name.format(**dict(zip(fields, index, strict=True)))
            yield name, rule, index, tuple(shape[len(fields) :] for shape in stacked)


def _pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of a rule's names in all layers, of all experts."""
    return re.compile(re.sub(r"\\\{(layer|expert)\\\}", r"\\d+", re.escape(name)))


def _as_stored(table: Table, stored: Iterable[str]) -> Table:
    """Return the table with the alternatives that the checkpoint holds, in place of the rules of their parameters."""
    held = [rule for rule in table.alternatives if any(map(_pattern(rule.name).fullmatch, stored))]
    paths = {path for rule in held for path in rule.paths}
    kept = [rule for rule in table.rules if not paths.issuperset(rule.paths)]
    return replace(table, rules=(*kept, *held))


def _renamed(checkpoint: Checkpoint, table: Table) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under the names of the rules, without those passed over."""
    stored = {}
    for original, tensor in checkpoint.tensors.items():
        name = original
        for pattern, replacement in table.rename:
            name = re.sub(pattern, replacement, name)
        if any(re.fullmatch(pattern, name) for pattern in table.passed_over):
            continue
        if name in stored:
            raise ValueError(f"{checkpoint.name} has {name} twice, under this name and an older one ({original})")
        stored[name] = tensor
    return stored


def _drop_copies(stored: dict[str, Tensor], table: Table, source: str) -> None:
    """Remove second copies of tensors; raise ValueError for a copy that differs from the first."""
    differ, required = [], {rule.name for rule in table.rules}
    for name, original in table.copies.items():
        if name in required or (copy := stored.pop(name, None)) is None:
            continue
        if original not in stored:
            stored[original] = copy  # the checkpoint has it under the second name alone
        elif copy.shape != stored[original].shape or not np.array_equal(copy.read(), stored[original].read()):
            differ.append(f"{name} and {original}")
    if differ:
        raise ValueError(f"{source} does not fit its config, by which these are the same: {'; '.join(differ)}")


def check_tensors(
    table: Table, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, Tensor], source: str
) -> None:
    """Raise ValueError for missing, unknown and misshapen tensors and those of whole numbers, all in one message."""
    expected: dict[str, tuple[int, ...]] = {}
    filled = {path for rule in table.rules for path in rule.paths}
    for rule in table.rules:
        if entries := list(_entries_of(rule, shapes)):
            # One shape for all layers: a config may claim thousands that the file lacks.
            parameters = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in entries[0][-1]]
            shape = tuple(jax.eval_shape(rule.write, *parameters).shape)
            expected |= dict.fromkeys((name for name, *_ in entries), shape)
    if filled != set(shapes):
        raise KeyError(f"the table leaves parameters empty: {sorted(set(shapes) - filled)}")
    problems = []
    if missing := [name for name in expected if name not in stored]:
        problems.append(f"{len(missing)} tensors are missing: {listed(missing)}")
    if extra := sorted(set(stored) - set(expected)):
        problems.append(f"{len(extra)} tensors are not known: {listed(extra)}")
    wrong = [name for name in expected if name in stored and stored[name].shape != expected[name]]
    if wrong:
        shown = [f"{name} is {stored[name].shape}, expected {expected[name]}" for name in wrong]
        problems.append(f"{len(wrong)} tensors have another shape: {listed(shown)}")
    if whole := [name for name in expected if name in stored and stored[name].dtype in _WHOLE]:
        shown = [f"{name} ({stored[name].dtype})" for name in whole]
        problems.append(f"{len(whole)} tensors hold whole numbers, weights that lack their scales: {listed(shown)}")
    if problems:
        raise ValueError(f"{source} does not fit its config: " + "; ".join(problems))
