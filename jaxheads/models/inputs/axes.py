"""What the positions of a stack stand for: tokens, decoder inputs, patches of an image, frames of audio.

A model with several stacks has several axes of positions. Each stack says which it asks from (`queries`) and which it
looks at (`keys`); everything that counts positions asks the axis, never the batch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from jax import Array

from ..positions import count_positions

if TYPE_CHECKING:
    from .batch import Batch


@dataclass(frozen=True)
class Positions:
    """One axis of a batch: which positions are real, `[B,T]`, and their ids, `[B,T]`, where they have any."""

    mask: Array
    ids: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Examples and positions."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def lengths(self) -> Array:
        """How many real positions each example has, `[B]`."""
        return self.mask.sum(axis=1, dtype=jnp.int32)

    @property
    def positions(self) -> Array:
        """Each position's place among its example's real ones, from 0, `[B,T]`; padding gets 0."""
        return count_positions(self.mask)

    @property
    def last(self) -> Array:
        """Index `[B]` of each example's last real position."""
        return self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)


@dataclass(frozen=True)
class Axis:
    """What an axis stands for.

    Attributes:
        kind: "tokens", "targets" (the decoder's input), "patches" or "frames".
        size: pixels of a patch's side, or feature frames that become one position.
        specials: names of the positions before the patches, such as "CLS" and registers.
    """

    kind: Literal["tokens", "targets", "patches", "frames"] = "tokens"
    size: int = 1
    specials: tuple[str, ...] = ()

    def of(self, batch: "Batch") -> Positions:
        """This axis of a batch."""
        if self.kind == "tokens":
            return Positions(_given(batch.mask), batch.tokens)
        if self.kind == "targets":
            return Positions(_given(batch.target_mask), batch.targets)
        given = _given(batch.pixels if self.kind == "patches" else batch.features)
        return Positions(jnp.ones((len(given), self.count(batch)), bool))

    def ids(self, batch: "Batch") -> Array:
        """The ids of its positions, `[B,T]`."""
        return _given(self.of(batch).ids)

    def count(self, batch: "Batch") -> int:
        """How many positions it has."""
        if self.kind == "patches":
            height, width = self.grid(batch)
            return len(self.specials) + height * width
        if self.kind == "frames":
            return _given(batch.features).shape[2] // self.size
        return self.of(batch).shape[1]

    def grid(self, batch: "Batch") -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = _given(batch.pixels).shape[1:3]
        return height // self.size, width // self.size


TOKENS, TARGETS = Axis("tokens"), Axis("targets")


def _given(field: Array | None) -> Array:
    assert field is not None, "model.check raises for a batch that lacks what the model takes"
    return field
