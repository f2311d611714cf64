"""Kinds of arguments, as annotations state them: what a value must be, and the first part of it that is not.

Traced arrays have no values yet: their shapes and types are what is checked.
"""

import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from . import checks

LABELS = ("clusters", "groups", "reference_groups", "extras")
"""Arguments whose arrays may hold texts: they label examples or rows."""

ONE_OR_MORE = ("by",)
"""Sequences of names for which a single name may stand."""

UNBOUNDED = ("range", "within")
"""Arguments whose numbers may be infinite: the ends of a range."""


class Mismatch(NamedTuple):
    """The part of an argument that is not of its kind: its name, what was expected, what came."""

    name: str
    expected: str
    value: Any


Kind = Callable[[str, Any], Mismatch | None]
"""Function of a name and a value that returns what does not fit."""


def kind_of(name: str, annotation: Any) -> Kind:
    """Return the kind that an annotation describes."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is ArrayLike:
        return _array_like(name)
    # From Python 3.12 on, NumPy 2.5 writes `ArrayLike` and `NDArray` as aliases with a value.
    if (alias := origin or annotation) is not None and hasattr(alias, "__value__"):
        return kind_of(name, alias.__value__)
    if isinstance(annotation, typing.TypeVar) or annotation in (Any, object):
        return lambda name, value: None
    if annotation is float and name in UNBOUNDED:
        return _simple("a number", lambda value: checks.is_number(value) and value == value)
    if annotation in _SIMPLE:
        return _simple(*_SIMPLE[annotation])
    if annotation is None or annotation is type(None):
        return _simple("None", lambda value: value is None)
    if origin is typing.Literal:
        return _choice(members)
    if origin in (typing.Union, types.UnionType):
        return _union(name, members)
    if origin is tuple:
        return _tuple(name, members)
    if origin is not None and issubclass(origin, np.ndarray):
        return _simple(*_SIMPLE[np.ndarray])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(name, members)
    if origin is Callable:
        return _simple("a function", callable)
    if origin is not None and issubclass(origin, Iterable):
        return _collection(name, members[0], issubclass(origin, Sequence))
    if getattr(annotation, "_is_protocol", False):
        return _protocol(annotation)
    kind = origin or annotation
    return _instance(kind) if isinstance(kind, type) else lambda name, value: None


def _simple(words: str, accepts: Callable[[Any], bool]) -> Kind:
    return lambda name, value: None if accepts(value) else Mismatch(name, words, value)


def is_array(value: Any) -> bool:
    """Whether a value is an array, of NumPy, JAX or another library with shapes and dtypes."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


_SIMPLE: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    int: ("a whole number", checks.is_whole),
    float: (
        "a finite number",
        lambda value: checks.is_number(value) and (checks.is_traced(value) or bool(np.isfinite(float(value)))),
    ),
    str: ("a text", lambda value: isinstance(value, str)),
    os.PathLike: ("a path", _is_path),
    Array: ("an array", is_array),
    np.ndarray: ("an array", is_array),
}


def _instance(kind: type) -> Kind:
    name = f"jax.sharding.{kind.__name__}" if kind is Mesh else kind.__name__
    return _simple(f"{_article(kind)} {name}", lambda value: isinstance(value, kind))


def _protocol(protocol: type) -> Kind:
    members = {
        name for name in (*vars(protocol), *getattr(protocol, "__annotations__", {})) if not name.startswith("_")
    }
    words = f"{_article(protocol)} {protocol.__name__}"

    def accepts(value: Any) -> bool:
        # Not `hasattr`, which would compute properties.
        return not isinstance(value, type) and all(
            hasattr(type(value), member) or member in getattr(value, "__dict__", ()) for member in members
        )

    # A protocol of `__call__` alone is a function.
    return _simple(words, accepts if members else callable)


def _choice(known: tuple[Any, ...]) -> Kind:
    words = f"one of {', '.join(map(str, known))}"
    return _simple(words, lambda value: isinstance(value, str | bool | int) and value in known)


def _union(name: str, members: tuple[Any, ...]) -> Kind:
    # Type checkers know "array-like" as a union of its own, which unions with more members swallow.
    of_arrays = typing.get_args(ArrayLike) or (ArrayLike,)
    array = [ArrayLike] if set(of_arrays) <= set(members) else []
    rest = [member for member in members if not array or member not in of_arrays]
    paths = [os.PathLike] if any((typing.get_origin(member) or member) is os.PathLike for member in rest) else []
    if paths:
        rest = [
            member for member in rest if member is not str and (typing.get_origin(member) or member) is not os.PathLike
        ]
    kinds = [
        *(_array_like(name) for _ in array),
        *(_simple(*_SIMPLE[path]) for path in paths),
        *(kind_of(name, member) for member in rest),
    ]

    def check(name: str, value: Any) -> Mismatch | None:
        mismatches = []
        for kind in kinds:
            mismatch = kind(name, value)
            if mismatch is None:
                return None
            mismatches.append(mismatch)
        # The member whose parts fit the longest is the one that was meant: its part is what is wrong.
        depths = [mismatch.name.count("[") for mismatch in mismatches]
        if depths.count(max(depths)) == 1:
            return mismatches[depths.index(max(depths))]
        return Mismatch(name, " or ".join(dict.fromkeys(mismatch.expected for mismatch in mismatches)), value)

    return check


def _array_like(name: str) -> Kind:
    kinds = "biufUSO" if name in LABELS else "biuf"
    words = "an array of labels" if name in LABELS else "a number or an array of numbers"

    def accepts(value: Any) -> bool:
        if value is None or isinstance(value, str | bytes | Mapping | set | type) or callable(value):
            return False
        if not is_array(value):
            try:
                value = np.asarray(value)
            except (ValueError, TypeError):
                return False
        kind = getattr(value.dtype, "kind", "V")
        if kind == "O" and not value.ndim:
            return False
        # Kind "V" without fields is bfloat16, and the other small floats of machine learning.
        return kind in kinds or (kind == "V" and getattr(value.dtype, "fields", None) is None)

    return _simple(words, accepts)


def _mapping(name: str, members: tuple[Any, ...]) -> Kind:
    key, entry = (kind_of(name, member) for member in (members or (Any, Any)))

    def check(name: str, value: Any) -> Mismatch | None:
        if not isinstance(value, Mapping):
            return Mismatch(name, "a mapping from names", value)
        mismatches = (key(f"a name in {name}", own) or entry(f"{name}[{own!r}]", value[own]) for own in value)
        return next((mismatch for mismatch in mismatches if mismatch is not None), None)

    return check


def _collection(name: str, member: Any, ordered: bool) -> Kind:
    entry = kind_of(name, member)
    holds = _plural(member)
    words = f"{'a sequence' if ordered else 'a sequence or stream'}{f' of {holds}' if holds else ''}"

    def check(name: str, value: Any) -> Mismatch | None:
        if name in ONE_OR_MORE and isinstance(value, str):
            return None
        if isinstance(value, str | bytes | Mapping | type) or not hasattr(value, "__iter__"):
            return Mismatch(name, words, value)
        if ordered and not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
            return Mismatch(name, words, value)
        if not hasattr(value, "__len__"):  # a generator, which can be read once
            return None
        if getattr(value, "ndim", 1) == 0:
            return Mismatch(name, words, value)
        if checks.is_traced(value):
            return None
        for index, own in enumerate(np.asarray(value) if is_array(value) else value):
            mismatch = entry(f"{name}[{index}]", own)
            if mismatch is not None:
                return Mismatch(name, words, value) if is_array(value) else mismatch
        return None

    return check


def _tuple(name: str, members: tuple[Any, ...]) -> Kind:
    if members and members[-1] is Ellipsis:
        return _collection(name, members[0], True)
    kinds = [kind_of(name, member) for member in members]
    words = _singular(tuple[members])  # type: ignore[valid-type]

    def check(name: str, value: Any) -> Mismatch | None:
        if not isinstance(value, tuple | list) and not (is_array(value) and value.ndim):
            return Mismatch(name, words, value)
        if len(value) != len(kinds):
            return Mismatch(name, words, value)
        mismatches = (kind(f"{name}[{index}]", value[index]) for index, kind in enumerate(kinds))
        return next((mismatch for mismatch in mismatches if mismatch is not None), None)

    return check


def _singular(member: Any) -> str:
    if member in _SIMPLE:
        return _SIMPLE[member][0]
    if member == tuple[int, int]:
        return "a (layer, head) pair"
    if typing.get_origin(member) is tuple:
        return f"({', '.join(_singular(own) for own in typing.get_args(member) if own is not Ellipsis)})"
    return f"{_article(member)} {member.__name__}" if isinstance(member, type) else "a value"


def _plural(member: Any) -> str:
    words = {int: "whole numbers", float: "finite numbers", str: "names", tuple[int, int]: "(layer, head) pairs"}
    if member in words:
        return words[member]
    if not isinstance(member, type) or typing.get_origin(member) is not None:
        return _singular(member) if typing.get_origin(member) is tuple else ""
    return f"{member.__name__}es" if member.__name__.endswith("ch") else f"{member.__name__}s"


def _article(kind: type) -> str:
    return "an" if kind.__name__[0] in "AEIOU" else "a"
