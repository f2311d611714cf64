"""The journal: finished parts of a long computation on disk, so that a run that was stopped goes on where it was."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from .batching import Later
from .parts import Parts

Coordinates = Mapping[str, np.ndarray] | Callable[[tuple[int, ...]], Mapping[str, np.ndarray]]
"""Columns of a part beside `value`, each broadcast to the part's shape; or a function of that shape."""


class Journal:
    """Finished parts of one computation.

    Args:
        parts: where they are kept; None keeps nothing.
        question: a name for everything the result depends on: parts are never taken for answers to another question.
    """

    def __init__(self, parts: Parts | None, question: str = ""):
        self.parts, self.question = parts, question

    def part(
        self,
        name: str,
        compute: Callable[[], np.ndarray],
        coordinates: Coordinates | None = None,
        *,
        kind: str = "values",
    ) -> np.ndarray:
        """Return a part in float64: read from disk if it is there and whole, else computed and written soon.

        Args:
            coordinates: columns of its table beside `value`; the indices along each axis when left out.
            kind: the folder of the parts that have the same columns.
        """
        return self.later(name, lambda: compute, coordinates, kind=kind)()

    def later(
        self,
        name: str,
        send: Callable[[], Later[np.ndarray]],
        coordinates: Coordinates | None = None,
        *,
        kind: str = "values",
    ) -> Later[np.ndarray]:
        """Send the work on a part to the devices, if it is not there, and return the function that `part` is.

        Args:
            send: sends the work, and returns the function that waits for its result.
            coordinates, kind: as in `part`.
        """
        if self.parts is None:
            return send()
        key = f"{self.question}/{name}"
        if (known := _from_first_process(self.parts.read(kind, key))) is not None:
            return lambda: known
        result = send()
        return lambda: self._kept(kind, key, np.asarray(result(), np.float64), coordinates)

    def _kept(self, kind: str, key: str, value: np.ndarray, coordinates: Coordinates | None) -> np.ndarray:
        assert self.parts is not None
        if jax.process_index() > 0:
            return value
        if callable(coordinates):
            coordinates = coordinates(value.shape)
        elif coordinates is None:
            coordinates = {f"axis_{axis}": index for axis, index in enumerate(np.indices(value.shape, sparse=True))}
        self.parts.add(kind, key, value, coordinates)
        return value


def _from_first_process(value: np.ndarray | None) -> np.ndarray | None:
    """Return what the first of several processes has read, so that all go on with it or all compute."""
    if jax.process_count() == 1:
        return value
    # Arrays that are broadcast need one shape everywhere: first whether there is a value and its shape, then its bits.
    shape = np.zeros(9, np.int64) if value is None else np.array([1, value.ndim, *value.shape, *[0] * (7 - value.ndim)])
    exists, axes, *sizes = np.asarray(broadcast_one_to_all(shape.astype(np.int32)))
    if not exists:
        return None
    words = np.zeros(2 * int(np.prod(sizes[:axes])), np.int32) if value is None else value.reshape(-1).view(np.int32)
    return np.asarray(broadcast_one_to_all(words)).view(np.float64).reshape(sizes[:axes])
