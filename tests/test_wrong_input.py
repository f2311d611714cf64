"""Every public function refuses what is not of an argument's kind: by name, and before anything runs.

Each good call of `tests/good_calls.py` is repeated with one argument replaced by each wrong value of its kind.
"""

import functools
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.stack import Stack
from jaxheads.train.runs import Runs

from .argument_kinds import KINDS, KINDS_OF
from .good_calls import CALLS, batch, is_internal, made, model, names_of, public, table

NAN = float("nan")
NO_MODEL = ["gpt2", 3, lambda: model().network, lambda: jh.Model]
NO_BATCH = [np.ones((2, 3), int), [[1, 2]], "a text", ["a text"], 3, lambda: jh.Batch]
NO_WHOLE = [1.5, "3", True, NAN, [1, 2], 1j]
NO_NUMBER = ["0.5", True, NAN, float("inf"), [0.5, 0.5], {}, 1j]
NO_ARRAY = ["a text", {}, [[1], [2, 3]], object(), len, {1, 2}]
NO_TABLE = ["table.parquet", lambda: table().frame, 3, np.eye(2)]

WRONG: dict[str, list[Any]] = {
    "model": NO_MODEL,
    "batch": NO_BATCH,
    "batches": [*NO_BATCH, {"batch": 1}],
    "objective": [lambda: jh.loss, lambda: jh.objectives.Loss, "loss", 3, lambda values: values],
    "seed": [-1, 2**32, 2**40, *NO_WHOLE],
    "whole": NO_WHOLE,
    "count": [0, -1, *NO_WHOLE],
    "size": [-1, *NO_WHOLE],
    "index": [-1, 99, *NO_WHOLE],
    "number": NO_NUMBER,
    "amount": ["0.5", NAN, float("inf"), [0.5, 0.5], {}, 1j],
    "pairs": ["a", 3.5, [(0, 0.5)], [(0,)], [(-1, 0)], [0.5]],
    "labels": ["a text", [[1], [2, 3]], object(), len],
    "nonnegative": [-1.0, *NO_NUMBER],
    "positive": [0.0, -1.0, *NO_NUMBER],
    "level": [0, 1, 95, -0.5, *NO_NUMBER],
    "fraction": [-0.5, 1.5, *NO_NUMBER],
    "flag": ["yes", 1, [True], 0.0],
    "text": [3, ["a"], True, {}],
    "name": ["nonesuch", 3, ["nonesuch"], True],
    "names": ["nonesuch", ["nonesuch"], 3, [3], {}],
    "path": [3, "", ["a"], True],
    "directory": [3, "", ["a"], True, __file__],
    "mesh": [3, "cpu", lambda: jax.devices()],
    "memory": [0, -1, 1.5, "1 GB", NAN, True, [1]],
    "table": NO_TABLE,
    "array": NO_ARRAY,
    "answers": [{}, object(), len, {1, 2}, 1.5, [1.5], [[]], [], [{}]],
    "sentences": ["a text", ["a text"], 3, [["a", "b"]]],
    "readings": ["a text", ["a text"], 3, [["a", ""]], [], [[]]],
    "word numbers": ["a", 3, [[0.5]], [["a", "b"]], {}],
    "word columns": [3, {"a": 3}, {"a": [[0.5]]}, [[0.5]]],
    "documents": [3, ["a"], "text", [3, 4]],
    "head": ["a", 3, (0,), (0, 0.5), (-1, 0), (9, 9), [[0, 0]]],
    "mapping": [3, [(0, 0)], "a text"],
    "sets": [[(0, 0)], {"a": 3}, {"a": [(9, 9)]}, {"a": [(0.5, 0)]}, {3: [(0, 0)]}, "a", 3],
    "heads": ["a", 3.5, [(9, 9)], [(0, 0.5)], [(0,)], [(-1, 0)], [0.5]],
    "class labels": ["", [], {}, [[0, 1], [1]], [len], len],
    "function": [3, "loss", [len]],
    "metric": [3, len, True],
    "metrics": ["nonesuch", 3, [3], ["nonesuch"], {}],
    "numbers": ["a", 3, [NAN], ["a"], {}],
    "wholes": ["a", 0.5, [0.5], [True], ["a"], {}],
    "network": [lambda: model(), "gpt2", 3],
    "sample": [lambda: batch(), 3, "sample"],
    "task": ["induction", 3, lambda: jh.data.tasks.Induction],
    "edits": [3, "z", [3], {}],
    "frame": [3, "frame", lambda: table()],
    "stack": ["nonesuch", 3, ["decoder"], True],
    "dtype": ["float31", int, bool, 3, np.complex64],
    "tokenizer": [3, "gpt2"],
    "key": [3, "key"],
    "any": [],
}
"""What is not of a kind; functions without arguments that are not public make the values that need a model."""

FUNCTIONS = {name: function for name, function in public() if names_of(function) and not is_internal(name)}


class RanError(BaseException):
    """A model ran, or was traced, where a check should have come before."""


@functools.cache
def good(name: str) -> dict[str, Any]:
    """The good arguments of a function; what they need may run."""
    return {own: made(value) for own, value in CALLS[name].items()}


def wrong_values(name: str, argument: str) -> list[Any]:
    """What is not of an argument's kind; None among it, unless that is the default."""
    kind = KINDS_OF.get(f"{name}.{argument}") or KINDS[argument]
    takes_none = inspect.signature(FUNCTIONS[name]).parameters[argument].default is None
    return [*WRONG[kind], *([] if takes_none or kind == "any" else [None])]


def answer(name: str, argument: str, value: Any) -> str:
    """Call with one wrong argument; return what is amiss with the error, if anything."""
    arguments = good(name) | {argument: value}
    method = FUNCTIONS[name]
    if "self" in arguments:
        method = getattr(arguments.pop("self"), name.split(".")[1])
    try:
        method(**arguments)
    except (TypeError, ValueError) as error:
        return "" if argument in str(error) else f"is not named by {type(error).__name__}: {error}"
    except BaseException as error:
        return f"raises {type(error).__name__}: {error}"
    return "is accepted"


def test_every_public_function_has_a_good_call_and_a_kind_for_each_argument():
    """A new function, or a new argument, comes into the tables of `good_calls`."""
    assert FUNCTIONS.keys() == CALLS.keys()
    known = {*KINDS, *KINDS_OF}
    missing = [
        f"{name}.{own}" for name, f in FUNCTIONS.items() for own in names_of(f) if not {own, f"{name}.{own}"} & known
    ]
    assert not missing
    assert {*KINDS.values(), *KINDS_OF.values()} == WRONG.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_of_an_arguments_kind_is_refused_by_name_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    good(name)

    def ran(*arguments: Any, **named: Any) -> None:
        raise RanError

    for method in ("run", "run_layer"):
        monkeypatch.setattr(Stack, method, ran)
    monkeypatch.setattr(Runs, "compiled_steps", ran)
    monkeypatch.chdir(tmp_path)
    amiss = []
    for argument in names_of(FUNCTIONS[name]):
        for value in map(made_wrong, wrong_values(name, argument)):
            if words := answer(name, argument, value):
                amiss.append(f"{argument}={value!r:.60} {words}")
    assert not amiss, "\n".join(amiss)
    assert not list(tmp_path.iterdir())


def made_wrong(value: Any) -> Any:
    """A wrong value, or what a lambda without arguments makes."""
    return value() if inspect.isfunction(value) and not inspect.signature(value).parameters else value
