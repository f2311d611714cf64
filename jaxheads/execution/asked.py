"""The question that is asked: its name and arguments in readable words, and the folders of its finished parts.

A public function enters `asking`; whatever it calls finds the folder of its parts there. So all batches of a stream
share one folder, which is named by the first of them, and it is closed when the answer is there.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..models.inputs.batch import Batch
from ..models.model import Model
from ..provenance import environment
from .parts import Parts

LONGEST = 200
"""Letters of an argument in words."""


@dataclass
class Asked:
    """A question that is being answered.

    Attributes:
        parts: the folders of its parts, by directory and name.
    """

    name: str
    arguments: Mapping[str, Any]
    parts: dict[tuple[Path, str], Parts] = field(default_factory=dict)

    def words(self, model: Model) -> dict[str, Any]:
        """Return the question, the model, the arguments and what else the answer depends on, in words."""
        own = {name: in_words(value) for name, value in self.arguments.items() if name not in ("model", "resume")}
        words = {"question": self.name, "model": model.name, "arguments": own, **environment()}
        del words["time_utc"]  # the folder says when it was started
        return words


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)


@contextmanager
def asking(name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Answer a question in this block: parts that it keeps are in its own folders, which are closed at its end."""
    asked, finished = Asked(name, arguments), False
    token = _ASKED.set(asked)
    try:
        yield
        finished = True
    finally:
        _ASKED.reset(token)
        for parts in asked.parts.values():
            parts.close(finished=finished)


def parts_of(directory: Path, name: str, question: str, model: Model) -> Parts:
    """Return the folder for the parts of a computation of this name, which the question asked has, or now gets."""
    asked = _ASKED.get()
    folder = directory / f"{name}-{question}"
    if asked is None:
        # Nobody says when the answer is there: nothing waits.
        return Parts(folder, partial(Asked(name, {}).words, model), waits=False)
    return asked.parts.setdefault((directory, name), Parts(folder, partial(asked.words, model)))


def in_words(value: Any) -> Any:
    """Return an argument as a value of JSON that a reader understands: numbers and texts as such, arrays by shape."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if not isinstance(value, str) else value[:LONGEST]
    if isinstance(value, Batch):
        shapes = {name: list(array.shape) for name, array in vars(value).items() if isinstance(array, jax.Array)}
        return f"{len(value)} examples: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if isinstance(value, Model):
        return value.name
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return value.tolist() if value.size <= 16 else f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return {str(key): in_words(own) for key, own in list(value.items())[:16]}
    if isinstance(value, list | tuple):
        return [in_words(own) for own in value[:16]] + ["…"] * (len(value) > 16)
    if isinstance(value, Iterator):
        return "a stream"
    name = getattr(value, "name", None) or getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else f"a {type(value).__name__}"
