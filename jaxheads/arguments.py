"""Arguments of public functions, checked against the signature before anything runs.

`@checked()` reads a function's annotations: each argument must be of the annotated kind, and the one that is not is
named in a ValueError with what was expected, what came and, for common slips, how to mend it. What an annotation can't
state (a range, a choice by name) is given to `checked` by the argument's name.

    @checked(count=at_least(1))
    def token_pairs(model: Model, circuit: Literal["ov", "qk"], layer: int, head: int, *, count: int = 10): ...

What a user may write in place of a value, such as texts in place of a batch, becomes the value before the check, by the
function that `settles` names for its class: once for all functions that take one.
"""

import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jax import Array

from . import checks
from .checks import shown
from .columns import plain
from .kinds import Kind, Mismatch, is_array, kind_of
from .precision import products

F = TypeVar("F", bound=Callable[..., Any])

Settler = Callable[[str, Any, Mapping[str, Any]], Any]
"""Function of an argument's name, its value and all arguments by name that returns the value that was meant."""

_SETTLERS: dict[Any, Settler] = {}
"""By class: what makes its values of what users write in their place."""

Rule = Callable[[str, Any], object]
"""Function of an argument's name and value that raises ValueError; what it returns is not used."""


def _level(name: str, value: Any) -> None:
    checks.check_level(value, name)


RULES: Mapping[str, Rule] = {"seed": checks.seed, "level": _level, "confidence": _level}
"""Rules of arguments that mean one thing in every function."""


def at_least(least: int, most: int | None = None) -> Rule:
    """Return the rule of a count: a whole number within a range; None passes, where the annotation allows it."""
    return _unless_none(lambda name, value: checks.whole(name, value, least, most))


def between(least: float | None, most: float | None = None) -> Rule:
    """Return the rule of a finite number within a range, ends included."""
    return _unless_none(lambda name, value: checks.finite(name, value, least, most))


def more_than(bound: float, most: float | None = None) -> Rule:
    """Return the rule of a finite number above a bound."""

    def check(name: str, value: Any) -> None:
        checks.finite(name, value, bound, most)
        if not checks.is_traced(value) and value <= bound:
            raise ValueError(f"{name} must be more than {bound:g}, got {float(value):g}")

    return _unless_none(check)


def among(known: Iterable[object] | Callable[[], Iterable[object]]) -> Rule:
    """Return the rule of a name, or a sequence of names, that must each be known."""

    def check(name: str, value: Any) -> None:
        names = known() if callable(known) else known
        for entry in [value] if isinstance(value, str) else value:
            checks.one_of(name, entry, names)

    return _unless_none(check)


def _unless_none(rule: Rule) -> Rule:
    return lambda name, value: None if value is None else rule(name, value)


def checked(**rules: Rule) -> Callable[[F], F]:
    """Return a decorator that checks a function's arguments by their annotations, and by rules for single arguments.

    Columns of tables reach the function as arrays of numbers or as lists. A class gets its constructor checked. Every
    public function is checked, and here gets its arithmetic: full products of float32, see `precision.products`.
    """

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__)  # type: ignore[misc]
            return function
        if is_checked(function):
            return function

        @functools.wraps(function)
        def checking(*arguments: Any, **named: Any) -> Any:
            arguments, named = settled(function, arguments, named)
            check_arguments(function, arguments, named, rules)
            with products():
                return function(*arguments, **named)

        checking.is_checked = True  # type: ignore[attr-defined]
        return checking

    return decorate


def settles(kind: Any) -> Callable[[Settler], Settler]:
    """Return a decorator for the function that makes values of a class of what users may write in their place."""

    def register(settler: Settler) -> Settler:
        _SETTLERS[kind] = settler
        return settler

    return register


def settled(
    function: Any, arguments: Sequence[Any], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments as a function reads them: columns of tables as lists, texts as batches.

    Twice is once: what is settled stays as it is.

    Raises:
        ValueError: for what can't become a value of the argument's class, such as a text for a model without tokenizer.
    """
    plainly, by_name = tuple(map(plain, arguments)), {name: plain(value) for name, value in named.items()}
    signature, _, classes = _kinds(function)
    # Where words have a meaning of their own, as "mean" for a baseline, they are no texts.
    kinds = {name: own & _SETTLERS.keys() for name, own in classes.items() if str not in own}
    kinds = {name: own for name, own in kinds.items() if own}
    if not kinds:
        return plainly, by_name
    try:
        bound = signature.bind(*plainly, **by_name)
    except TypeError:  # `check_arguments` says what is missing
        return plainly, by_name
    given = {**by_name, **bound.arguments}
    for name in [name for name in kinds if name in bound.arguments]:
        for kind in kinds[name]:
            try:
                bound.arguments[name] = _SETTLERS[kind](name, bound.arguments[name], given)
            except ValueError as error:
                raise ValueError(f"{_title(function)}: {name}: {error}") from error
    return bound.args, bound.kwargs


def is_checked(function: Any) -> bool:
    """Whether a function, or the constructor of a class, checks its arguments."""
    return getattr(function.__init__ if isinstance(function, type) else function, "is_checked", False)


def check_arguments(
    function: Any, arguments: Sequence[Any], named: Mapping[str, Any], rules: Mapping[str, Rule] | None = None
) -> None:
    """Raise ValueError for the first argument that is not of its kind; Python's own TypeError for a missing one."""
    signature, kinds, _ = _kinds(function)
    try:
        bound = signature.bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(f"{_title(function)}: {error}") from None
    for name, value in bound.arguments.items():
        kind = kinds.get(name)
        mismatch = None if kind is None else kind(name, value)
        if mismatch is not None:
            raise ValueError(f"{_title(function)}: {_words(mismatch, bound.arguments)}")
        rule = (rules or {}).get(name) or RULES.get(name)
        if rule is not None:
            rule(name, value)


def check_kind(name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError for one value that is not of an annotated kind."""
    mismatch = kind_of(name, annotation)(name, value)
    if mismatch is not None:
        raise ValueError(_words(mismatch, {}))


@functools.cache
def _kinds(function: Any) -> tuple[inspect.Signature, dict[str, Kind], dict[str, set[Any]]]:
    """Return a function's signature, and the kind of each of its arguments and the classes in its annotation."""
    original = inspect.unwrap(function)
    signature = inspect.signature(original)
    names = vars(sys.modules[original.__module__])
    kinds, classes = {}, {}
    for name, parameter in signature.parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, names)
            except NameError:  # imported for type checkers only
                continue
        if annotation is inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            continue
        kinds[name], classes[name] = kind_of(name, annotation), set(_members(annotation))
    return signature, kinds, classes


def _members(annotation: Any) -> Iterable[Any]:
    """Yield the classes that an annotation names, those within others too; `str` where it names words."""
    if isinstance(annotation, type):
        yield annotation
    if isinstance(annotation, str):
        yield str
    for member in typing.get_args(annotation):
        yield from _members(member)


def _title(function: Any) -> str:
    name = function.__qualname__.removesuffix(".__init__")
    return name.rpartition("<locals>.")[2]


def _words(mismatch: Mismatch, arguments: Mapping[str, Any]) -> str:
    name, expected, value = mismatch
    comma = ";" if expected.startswith("one of ") else ","
    return f"{name} must be {expected}{comma} got {shown(value)}{_hint(mismatch, arguments)}"


def _hint(mismatch: Mismatch, arguments: Mapping[str, Any]) -> str:
    """Return how to mend the commonest slips, as the end of a message."""
    expected, value = mismatch.expected, mismatch.value
    if "a Model" in expected and isinstance(value, str | os.PathLike):
        return f"; load it first: jh.load({os.fspath(value)!r})"
    if "a Batch" in expected and not (isinstance(value, str) and "one of" in expected):
        return _batch_hint(value, arguments)
    if "an Objective" in expected and callable(value):
        called = getattr(value, "__name__", "objective")
        return f"; it is not called: jh.{called}(…)" if not isinstance(value, type) else f"; make one: {called}(…)"
    if "a mapping from names" in expected and isinstance(value, list | tuple):
        return f"; name each entry: {mismatch.name}={{'name': …}}"
    if "a HeadTable" in expected and isinstance(value, str | os.PathLike):
        return "; load it first: jh.HeadTable.load(…)"
    if "a sequence" in expected and "names" in expected and isinstance(value, str):
        return f"; write ({value!r},)"
    if mismatch.name == "key" and isinstance(value, int):
        return f"; make one of a seed: jax.random.key({value})"
    if "jax.sharding.Mesh" in expected:
        return "; make one: jax.sharding.Mesh(np.array(jax.devices()), ('data',))"
    if expected.startswith("one of "):
        return checks.nearest(value, expected.removeprefix("one of ").removesuffix(" or None").split(", "))
    return ""


def _batch_hint(value: Any, arguments: Mapping[str, Any]) -> str:
    entry = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(entry, str):
        model = arguments.get("model")
        if getattr(model, "tokenizer", True) is None:
            return f"; {model.name} has no tokenizer: give token ids, jh.Batch(tokens=…)"  # type: ignore[union-attr]
        return "; encode texts first: model.encode(…)"
    if is_array(value) or isinstance(entry, list | tuple | int | np.ndarray | Array):
        return "; make one of token ids: jh.Batch(tokens=…)"
    return ""
