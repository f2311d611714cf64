"""Interpreter of pickles that builds plain values only: numbers, strings, tuples, lists, dicts.

Python's unpickler does what a pickle asks of every object that it meets. This one has no such objects: a pickle names
globals, which stay names, and calls them, which the caller answers. It runs one operation for each of the file's bytes
at most, and allocates nothing that the file does not hold.
"""

import pickletools
from collections.abc import Callable
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np

_ARGUMENT = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORE = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_RECALL = frozenset(("GET", "BINGET", "LONG_BINGET"))


class Name(NamedTuple):
    """A global that the pickle names; nothing is imported."""

    module: str
    name: str


def plain_pickle(
    data: bytes | mmap, *, name: Callable[[Name], Name], call: Callable[[Name, tuple], Any], load: Callable[[Any], Any]
) -> Any:
    """Run a pickle and return its value.

    Args:
        data: the pickle, or a map of a file, which is read from where it stands to the pickle's end.
        name: returns the global, or raises for one that is not allowed.
        call: returns the value of a call of a global.
        load: returns what a persistent id stands for.

    Raises:
        ValueError: for a pickle that is cut off, broken, or does more than build plain values.
    """
    return _run(_Machine(name, call, load), data)


def _run(machine: "_Machine", data: "bytes | mmap") -> Any:
    try:
        for opcode, argument, _ in pickletools.genops(data):  # type: ignore[arg-type] (a map reads as a file does)
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes what it has not put") from error
    raise ValueError("its pickle has no end")


class _Machine:
    """The stack and the memo of a running pickle."""

    def __init__(self, name: Callable[[Name], Name], call: Callable[[Name, tuple], Any], load: Callable[[Any], Any]):
        self.name, self.call, self.load = name, call, load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Run one operation."""
        if opcode in _ARGUMENT:
            self.stack.append(argument)
        elif opcode in _CONSTANT:
            self.stack.append(_CONSTANT[opcode]())
        elif opcode in _TUPLES:
            self.stack.append(tuple(self.taken(len(self.stack) - _TUPLES[opcode])))
        elif opcode in _STORE:
            self.memo[argument] = self.stack[-1]
        elif opcode in _RECALL:
            self.stack.append(self.memo[argument])
        elif opcode not in ("PROTO", "FRAME"):
            operation = getattr(self, f"do_{opcode.lower()}", None)
            if operation is None:
                raise ValueError(f"its pickle does {opcode}, which no plain value needs")
            operation(argument)

    def taken(self, start: int) -> list[Any]:
        """Take from the stack what lies above `start`."""
        if not 0 <= start <= len(self.stack):
            raise IndexError
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.taken(self.marks.pop())

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.taken(self.marks.pop())))

    def do_list(self, _: Any) -> None:
        self.stack.append(self.taken(self.marks.pop()))

    def do_append(self, _: Any) -> None:
        [value] = self.taken(len(self.stack) - 1)
        self.top(list).append(value)

    def do_appends(self, _: Any) -> None:
        values = self.taken(self.marks.pop())
        self.top(list).extend(values)

    def do_dict(self, _: Any) -> None:
        values = self.taken(self.marks.pop())
        self.stack.append({})
        self.set_items(values)

    def do_setitem(self, _: Any) -> None:
        self.set_items(self.taken(len(self.stack) - 2))

    def do_setitems(self, _: Any) -> None:
        self.set_items(self.taken(self.marks.pop()))

    def do_global(self, argument: str) -> None:
        self.stack.append(self.name(Name(*argument.split(" ", 1))))

    def do_stack_global(self, _: Any) -> None:
        module, name = self.taken(len(self.stack) - 2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle names a global by what is no string")
        self.stack.append(self.name(Name(module, name)))

    def do_reduce(self, _: Any) -> None:
        name, arguments = self.taken(len(self.stack) - 2)
        if type(name) is not Name or type(arguments) is not tuple:
            raise ValueError("its pickle calls what is no global")
        self.stack.append(self.call(name, arguments))

    def do_build(self, _: Any) -> None:
        """Drop the attributes that a pickle adds to a dict (a module's `_metadata`): plain values have none."""
        self.taken(len(self.stack) - 1)
        self.top(dict)

    def do_binpersid(self, _: Any) -> None:
        [pid] = self.taken(len(self.stack) - 1)
        self.stack.append(self.load(pid))

    def set_items(self, values: list[Any]) -> None:
        """Set keys and values, one after the other, in the dict on top of the stack."""
        target = self.top(dict)
        if len(values) % 2:
            raise ValueError("its pickle sets a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) is not str and type(key) is not int:  # to hash a nested tuple may take for ever
                raise ValueError(f"its pickle has a key of type {type(key).__name__}, expected a string")
            target[key] = value

    def top(self, kind: type) -> Any:
        """Return the value on top of the stack, of exactly this type."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"its pickle changes a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]


class _Fields(_Machine):
    """A machine that takes an object for the dict of its fields."""

    def do_newobj(self, _: Any) -> None:
        self.taken(len(self.stack) - 2)
        self.stack.append({})

    def do_build(self, _: Any) -> None:
        [state] = self.taken(len(self.stack) - 1)
        self.top(dict).update(state if type(state) is dict else {})


def plain_fields(data: bytes) -> dict[str, Any]:
    """Return the fields of a pickled dict or dataclass that are plain values or NumPy's scalars.

    Raises:
        ValueError: for a pickle that is cut off, broken, or holds something else.
    """

    def call(name: Name, arguments: tuple) -> Any:
        if name.name == "dtype" and arguments and type(arguments[0]) is str:
            return {"numpy": arguments[0]}
        if name.name == "scalar" and len(arguments) == 2 and type(arguments[0]) is dict and "numpy" in arguments[0]:
            content = arguments[1].encode("latin-1") if type(arguments[1]) is str else arguments[1]
            return np.frombuffer(content, np.dtype(arguments[0]["numpy"]), 1)[0].item()
        if name.name == "encode" and arguments and type(arguments[0]) is str:
            return arguments[0].encode("latin-1")
        return {}

    machine = _Fields(lambda name: name, call, lambda _: None)
    fields = _run(machine, data)
    if type(fields) is not dict:
        raise ValueError(f"it holds a {type(fields).__name__}, expected a dict or a config")
    return {name: value for name, value in fields.items() if type(name) is str and type(value) is not Name}
