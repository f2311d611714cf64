"""A question of attribution, asked piece by piece, and its answer as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...models.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...progress import progress as show_progress
from ...statistics import rank_correlation
from ...tables import HeadTable
from ..answers import asked_of, effect_table
from ..cells import check_by
from ..engine import side_of
from ..patch import DIRECTIONS, check_pair
from .cells import fold, mean_size
from .pieces import choose_pieces
from .slopes import Piece

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

    def answer(self, memory: int, progress: bool) -> "Answer":
        """Piece by piece."""
        pieces = choose_pieces(self.model.network, self.part, self.this, self.reads, memory, self._floats_beside)
        found: list[tuple[np.ndarray, ...]] = []
        with show_progress(len(self.this), f"attributing {self.site}", progress) as advance:
            for examples in pieces.of(len(self.this)):
                piece, real = self._piece(examples, pieces.thrifty), len(np.unique(examples))
                found.append(tuple(part[:real] for part in (self._cells(piece), piece.unedited, piece.whole)))
                advance(real)
        return Answer(self, *(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _piece(self, examples: np.ndarray, thrifty: bool) -> Piece:
        this, other = (batch.take(examples) for batch in (self.this, self.other))
        reads = self.reads.take(examples)
        return Piece(self.model.network, self.part, self.site, this, other, reads, self.objective.value, thrifty)

    def _cells(self, piece: Piece) -> np.ndarray:
        """Estimates `[B, *by]`."""
        mask_BT = np.asarray(side_of(self.part, self.site, piece.this).mask)
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

    @property
    def positions(self) -> int:
        """Of the longest example."""
        return int(np.asarray(side_of(self.part, self.site, self.this).lengths).max())

    @property
    def there(self) -> np.ndarray:
        """Which cells each example has, `[E, *by]` (1 where it broadcasts): positions within its length."""
        lengths_E = np.asarray(side_of(self.part, self.site, self.this).lengths).reshape(-1, *[1] * len(self.by))
        return np.arange(self.positions) < lengths_E if "position" in self.by else lengths_E > 0

    @property
    def _floats_beside(self) -> int:
        """Numbers that are held for each layer and example beside a gradient's own."""
        T, S = self.part.queries.count(self.this), self.part.keys.count(self.this)
        values, pattern, stream = (
            math.prod(self.part.site_shape(site, 1, T, S)) for site in (self.site, "pattern", "resid_pre")
        )
        return 4 * values + 10 * pattern * self.pattern + 2 * stream * self.drop


@dataclass(frozen=True)
class Answer:
    """Estimates `[E, *by]`, and the objective `[E]` of the run that is edited and of the other."""

    question: Question
    effects: np.ndarray
    unedited: np.ndarray
    whole: np.ndarray

    def table(self, about: Mapping[str, Any], exact: HeadTable | None, *, level: float, seed: int) -> HeadTable:
        """With intervals and, where the exact effects are given, how well the two agree."""
        asked, total_E = self.question, self.whole - self.unedited
        table = effect_table(
            "attribute",
            asked.part.name,
            {"effect": self.effects},
            {**asked_of(asked.model, asked.objective, self.unedited), **about},
            axes=asked.by,
            total=np.abs(total_E) if asked.drop else total_E,
            there=asked.there,
            level=level,
            seed=seed,
            extras={} if exact is None else {"exact": self._comparable(exact)},
        )
        if exact is None:
            return table
        agreement = rank_correlation(table.grid("effect"), table.grid("exact"))
        return replace(table, provenance=table.provenance | {"spearman": agreement})

    def _comparable(self, exact: HeadTable) -> np.ndarray:
        """Exact effects as the estimates are given: with their sign, or their mean size."""
        if not self.question.drop or exact.per_example is None:
            return exact.grid("effect")
        return mean_size(exact.per_example[exact.metrics.index("effect")])
