"""A question of attribution about one pair of runs: its cells, and how they are estimated, piece by piece."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...tables import HeadTable
from ..exact.patch import DIRECTIONS, check_pair
from ..exact.work import Resources
from ..grid import Grid, check_by
from ..pieces import InPieces, Part
from .backward import choose_pieces
from .estimators import Piece
from .folding import fold, mean_size

RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Where in each step of a path the gradient is taken."""

MADE_ANEW = ("q", "k")
"""Sites that act through the pattern only."""

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Sites that no layer's contribution lies behind: dropping a layer never cuts them off."""


@dataclass(frozen=True)
class Question:
    """What is asked of a pair of runs: `this` is edited with values of `other`.

    Attributes:
        pattern, drop: whether the method makes patterns anew here, and whether it drops layers.
        shares: points of the path from this run's values (0) to the other's (1); none for methods without one.
    """

    model: Model
    part: Stack
    site: str
    by: tuple[str, ...]
    pattern: bool
    drop: bool
    shares: tuple[float, ...]
    this: Batch
    other: Batch
    objective: Objective
    reads: Reads

    @classmethod
    def asked(
        cls,
        model: Model,
        clean: Batch,
        corrupt: Batch,
        objective: Objective,
        method: str,
        site: str,
        by: Sequence[str],
        direction: str,
        stack: str | None,
        path: Mapping[str, Any],
    ) -> "Question":
        """Raises ValueError, before anything runs, as `attribute` says."""
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
        name, site = model.site(site if stack is None or "." in site else f"{stack}.{site}")
        part, by = model.stack(name), check_by(site, by)
        if method == "atp+qk" and site not in MADE_ANEW:
            raise ValueError(f"'atp+qk' mends estimates at {' and '.join(MADE_ANEW)}; at {site} use 'atp'")
        drop = method in ("atp+graddrop", "atp*")
        if drop and part.layers == 1 and site not in STREAM:
            raise ValueError(f"GradDrop at {site} needs at least 2 layers, the {name} has one; use 'atp'")
        check_pair(model, clean, corrupt)
        this, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
        pattern = method in ("atp+qk", "atp*") and site in MADE_ANEW
        shares = tuple((step + RULES[path["rule"]]) / path["steps"] for step in range(path["steps"])) if path else ()
        reads = objective.reads(model, this)
        return cls(model, part, site, by, pattern, drop, shares, this, other, objective, reads)

    def in_pieces(self, room: Resources, identity: tuple[Any, ...]) -> InPieces:
        """The work, cut into pieces; `identity` holds the words that the answer depends on."""
        pieces = choose_pieces(self.model.network, self.part, self.this, self.reads, room, self._floats_beside)
        return InPieces(
            self.model, self.part, self.this, self.objective, self.reads, self.grid, pieces.chunks,
            (Part("cells", np.arange(math.prod(self.grid.shape))),), partial(_Some, self, room, pieces.thrifty),
            identity=(self.other, *identity), sizes=self.drop,
        )  # fmt: skip

    @cached_property
    def grid(self) -> Grid:
        """The cells; positions that an example does not have are missing."""
        heads = self.part.heads_at(self.site)
        sizes = {"layer": self.part.layers, "head": heads, "position": self.positions}
        shape = tuple(sizes[axis] for axis in self.by)
        missing_ET = np.arange(self.positions) >= self._lengths[:, None]
        absent = missing_ET[(slice(None), *(slice(None) if axis == "position" else None for axis in self.by))]
        missing = np.broadcast_to(absent, (len(self.this), *shape)) if "position" in self.by else None
        return Grid(self.by, shape, missing=None if missing is None else missing.reshape(len(self.this), -1))

    def cells(self, piece: Piece) -> np.ndarray:
        """Estimates `[B, *by]`."""
        mask_BT = np.asarray(self.part.positions_at(self.site, piece.batch).mask)
        to_cells = partial(fold, mask_BT=mask_BT, by=self.by, positions=self.positions)
        if self.shares:
            return to_cells(piece.along(self.shares))
        estimate = piece.straight
        if self.pattern:
            estimate = partial(piece.through_pattern, one_by_one="position" in self.by)
        if not self.drop:
            return to_cells(estimate())
        sizes = [np.abs(to_cells(estimate(piece.without(layer)))) for layer in range(self.part.layers)]
        return np.sum(sizes, axis=0) / (self.part.layers - (self.site not in STREAM))

    def comparable(self, exact: HeadTable) -> np.ndarray:
        """Exact effects as the estimates are given: with their sign, or their mean size."""
        if not self.drop or exact.per_example is None:
            return exact.grid("effect")
        return mean_size(exact.per_example[exact.metrics.index("effect")])

    @property
    def positions(self) -> int:
        """Of the longest example."""
        return int(self._lengths.max())

    @property
    def _lengths(self) -> np.ndarray:
        return np.asarray(self.part.positions_at(self.site, self.this).lengths)

    @property
    def _floats_beside(self) -> int:
        """Numbers that are held for each layer and example beside a gradient's own."""
        T, S = self.part.queries.count(self.this), self.part.keys.count(self.this)
        values, pattern, stream = (
            math.prod(self.part.site_shape(site, 1, T, S)) for site in (self.site, "pattern", "resid_pre")
        )
        return 4 * values + 10 * pattern * self.pattern + 2 * stream * self.drop


@dataclass(frozen=True)
class _Some:
    """Some of the examples, on the devices."""

    question: Question
    room: Resources
    thrifty: bool
    examples: np.ndarray

    @cached_property
    def piece(self) -> Piece:
        asked, devices = self.question, self.room.devices
        batch = asked.this.take(self.examples)
        this, other, reads = (
            devices.examples(one) for one in (batch, asked.other.take(self.examples), asked.reads.take(self.examples))
        )
        network, value = self.room.network(asked.model), asked.objective.value
        return Piece(network, asked.part, asked.site, batch, this, other, reads, value, self.thrifty, devices)

    def ends(self) -> np.ndarray:
        """The objectives of both runs, `[2,B]`."""
        return np.stack([self.piece.unedited, self.piece.whole])

    def effects(self, key: Any) -> np.ndarray:
        """Estimates `[B,C]`."""
        del key
        return self.question.cells(self.piece).reshape(len(self.examples), -1)
