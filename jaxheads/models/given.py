"""What users give in place of batches and objectives: texts, and objectives made of texts.

`arguments.settled` calls these functions for each argument that is a batch or an objective, in every function. A text
is encoded by the tokenizer of the model beside it, and an objective's texts become that model's token ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..kinds import is_array
from .inputs.batch import Batch

COMPLETED = ("batch", "clean", "corrupt", "reference")
"""Arguments whose batches get the answer that an objective asks for."""


def as_batch(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    """Return texts as the batch that `model.encode` makes of them, and a stream with its texts encoded.

    Entries of a stream may be texts, too, and pairs of them where the argument is `clean`. What is neither is returned
    as it came: the check of kinds comes next.

    Raises:
        ValueError: for texts that the model can't encode.
    """
    # The model of a method is the object itself, as the objective of a call is.
    model = given.get("model", given.get("self"))
    if not hasattr(type(model), "encode"):
        return value
    objective = given.get("objective", given.get("self")) if name in COMPLETED else None
    return _Given(model, objective, name == "clean" and given.get("corrupt") is None).of(value)


def as_objective(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    """Return an objective whose texts are token ids of the model beside it."""
    del name
    resolve, model = getattr(value, "resolved", None), given.get("model")
    if resolve is None or isinstance(value, type) or not hasattr(type(model), "encode"):
        return value
    return resolve(model)


class _Given(NamedTuple):
    """One call: its model, its objective, and whether tuples of the argument are pairs of runs."""

    model: Any
    objective: Any
    pairs: bool

    def of(self, value: Any) -> Any:
        """Return a batch, or a stream of batches, of pairs, or of either with objectives."""
        if isinstance(value, Batch) or self._is_texts(value):
            return self._batch(value, self.objective)
        if type(value) in (list, tuple):
            return type(value)(map(self._entry, value))
        if isinstance(value, type | Mapping) or is_array(value) or not isinstance(value, Iterable):
            return value
        return self._stream(value)

    def _stream(self, entries: Iterable[Any]) -> Iterator[Any]:
        for entry in entries:
            yield self._entry(entry)

    def _entry(self, entry: Any) -> Any:
        own = next((part for part in entry if hasattr(part, "reads")), None) if isinstance(entry, tuple) else None
        if not isinstance(entry, tuple) or (own is None and not self.pairs):
            return self._batch(entry, self.objective)
        objective = self.objective if own is None else own
        settled = [self._batch(part, objective) for part in entry if part is not own]
        return (*settled, *([] if own is None else [as_objective("objective", own, {"model": self.model})]))

    def _batch(self, value: Any, objective: Any) -> Any:
        """Return a batch, made of texts if need be, with the answer that its objective asks for."""
        batch = self.model.encode(value) if self._is_texts(value) else value
        complete = getattr(objective, "completed", None)
        return complete(self.model, batch) if isinstance(batch, Batch) and complete is not None else batch

    def _is_texts(self, value: Any) -> bool:
        """Whether a value is what `Model.encode` takes: a string, or several strings, pairs or lists of words."""
        if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
            return isinstance(value, str)
        if self.pairs and any(isinstance(entry, tuple) for entry in value):
            return False  # pairs of a clean and a corrupt text
        return all(map(_is_text, value))


def _is_text(value: Any) -> bool:
    words = value if isinstance(value, list | tuple) else []
    return isinstance(value, str) or (len(words) > 0 and all(isinstance(word, str) for word in words))
