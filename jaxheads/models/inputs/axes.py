"""Axes of positions: tokens, a decoder's input, patches of an image, or frames of audio.

A model with several stacks has several axes. Each stack has one for its queries and one for its keys (`Stack.queries`,
`Stack.keys`); code that counts positions reads them from the axis, not from the batch.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from .batch import Batch, Positions


@dataclass(frozen=True)
class Axis:
    """An axis of positions.

    Attributes:
        kind: "tokens", "targets" (the decoder's input), "patches" or "frames".
        size: pixels of a patch's side, or feature frames per position.
        specials: names of the positions before the patches, such as "CLS" and registers.
    """

    kind: Literal["tokens", "targets", "patches", "frames"] = "tokens"
    size: int = 1
    specials: tuple[str, ...] = ()

    def of(self, batch: Batch) -> Positions:
        """Return the positions of a batch along this axis."""
        if self.kind == "tokens":
            return Positions(_present(batch.mask), batch.tokens, batch.segments)
        if self.kind == "targets":
            return Positions(_present(batch.target_mask), batch.targets)
        field = _present(batch.pixels if self.kind == "patches" else batch.features)
        return Positions(jnp.ones((len(field), self.count(batch)), bool))

    def ids(self, batch: Batch) -> Array:
        """Return the token ids of a batch along this axis, `[B,T]`."""
        return _present(self.of(batch).ids)

    def count(self, batch: Batch) -> int:
        """Return the number of positions, padding included."""
        if self.kind == "patches":
            height, width = self.grid(batch)
            return len(self.specials) + height * width
        if self.kind == "frames":
            return _present(batch.features).shape[2] // self.size
        return self.of(batch).shape[1]

    def grid(self, batch: Batch) -> tuple[int, int]:
        """Return the number of rows and of columns of patches."""
        height, width = _present(batch.pixels).shape[1:3]
        return height // self.size, width // self.size


TOKENS, TARGETS = Axis("tokens"), Axis("targets")


def _present(field: Array | None) -> Array:
    assert field is not None, "model.check raises for a batch that lacks a field which the model reads"
    return field
