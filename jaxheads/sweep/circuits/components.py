"""What a circuit is made of: the heads of a stack, or the edges between its nodes.

A letter beside the usual ones: P parts, heads or edges, in the order of their grid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...models.model import Model
from ...models.stack import Stack
from ...tables import HeadTable
from ..exact.engine import end_of
from ..grid import Heads, head_mask
from .graph import Graph

Kind = Literal["heads", "edges"]
KINDS = ("heads", "edges")
Edges = Iterable[tuple[str, str]]
Chosen = Heads | Edges | np.ndarray
"""Some parts: (layer, head) pairs, (sender, receiver) pairs of names (see `Graph`), or bool over the grid."""

MOST_NAMED = 60
"""Parts of a set that are told by name; of more only the number is told."""


@dataclass(frozen=True, eq=False)
class Parts:
    """All that a circuit may keep.

    Attributes:
        graph: None where the parts are heads.
    """

    stack: Stack
    graph: Graph | None

    @classmethod
    def of(cls, model: Model, stack: Stack, kind: str) -> "Parts":
        """The stack's heads or edges; raises ValueError for anything else, and for edges where there are none."""
        if kind not in KINDS:
            raise ValueError(f"a circuit is made of {' or '.join(KINDS)}; got {kind!r}")
        return cls(stack, Graph.of(stack, end_of(model.network, stack.name)) if kind == "edges" else None)

    @classmethod
    def like(cls, model: Model, stack: Stack, chosen: Chosen | Mapping[str, Chosen]) -> "Parts":
        """Of the kind that some chosen parts, or named sets of them, are."""
        some: Any = next(iter(chosen.values()), ()) if isinstance(chosen, Mapping) else chosen
        if isinstance(some, np.ndarray) and some.dtype == bool:
            return cls.of(model, stack, "heads" if some.shape == (stack.layers, stack.heads) else "edges")
        return cls.of(model, stack, "edges" if any(isinstance(name, str) for name in next(iter(some), ())) else "heads")

    @classmethod
    def ranked(cls, model: Model, stack: Stack, ranking: HeadTable) -> "Parts":
        """Of the kind that a table ranks."""
        axes = tuple(ranking.frame.index.names[1:])
        kind = {("layer", "head"): "heads", ("sender", "receiver"): "edges"}.get(axes)
        parts = None if kind is None else cls.of(model, stack, kind)
        if parts is None or ranking.shape != parts.exists.shape:
            raise ValueError(
                f"a ranking is a table over the {stack.layers} × {stack.heads} heads of the {stack.name}, or over its "
                f"senders and receivers; got {' × '.join(map(str, ranking.shape))} over {', '.join(axes)}"
            )
        return parts

    @property
    def kind(self) -> Kind:
        """ "heads" or "edges"."""
        return "heads" if self.graph is None else "edges"

    @property
    def axes(self) -> tuple[str, str]:
        """Of the grid."""
        return ("layer", "head") if self.graph is None else ("sender", "receiver")

    @cached_property
    def exists(self) -> np.ndarray:
        """Where on the grid there is a part."""
        return np.ones((self.stack.layers, self.stack.heads), bool) if self.graph is None else self.graph.exists

    @cached_property
    def places(self) -> np.ndarray:
        """Where each is on the grid, `[P,2]`."""
        return np.argwhere(self.exists)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of each, `[P]`: "3.0", "head 3.0 > mlp 3"."""
        if self.graph is None:
            return tuple(f"{layer}.{head}" for layer, head in self.places)
        return tuple(f"{self.graph.senders[u]} > {self.graph.receivers[v]}" for u, v in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def mask(self, chosen: Chosen, what: str) -> np.ndarray:
        """Bool `[P]`, True at these parts.

        Raises:
            ValueError: for none, or one that is not there.
        """
        if isinstance(chosen, np.ndarray) and chosen.dtype == bool:
            if chosen.shape != self.exists.shape:
                raise ValueError(f"{what} as bool must cover the grid {self.exists.shape}, got {chosen.shape}")
            return chosen[self.exists]
        if self.graph is None:
            return head_mask(self.stack, "z", list(chosen), what).reshape(-1)  # type: ignore[arg-type]
        return self._edges(list(chosen), what)

    def grid(self, values: np.ndarray, elsewhere: Any = np.nan) -> np.ndarray:
        """`[…,P]` spread over the grid."""
        whole = np.full((*values.shape[:-1], *self.exists.shape), elsewhere, values.dtype)
        whole[..., self.exists] = values
        return whole

    def words(self, mask: np.ndarray) -> str:
        """The parts in a mask, by name if they are few."""
        chosen = [self.names[p] for p in np.flatnonzero(mask)]
        return (", " if self.graph else " ").join(chosen) if len(chosen) <= MOST_NAMED else f"{len(chosen)} {self.kind}"

    def _edges(self, chosen: Sequence[Any], what: str) -> np.ndarray:
        known = {name: p for p, name in enumerate(self.names)}
        names = [" > ".join(map(str, edge)) for edge in chosen]
        if not names or (unknown := [name for name in names if name not in known]):
            raise ValueError(
                f"{what} must be a list of at least one (sender, receiver) pair that is an edge, such as "
                f"('embed', 'q 0.0'); got {unknown[:8] if names else chosen!r}"
            )
        mask = np.zeros(len(self), bool)
        mask[[known[name] for name in names]] = True
        return mask


def scores(ranking: HeadTable, parts: Parts, column: str | None, order: str) -> np.ndarray:
    """A ranking's numbers `[P]`, turned so that the highest comes first.

    Raises:
        ValueError: for an unknown order or column, or a part that the ranking says nothing of.
    """
    numbers_P = np.asarray(ranking.grid(column or ranking.metrics[0]), np.float64)[parts.exists]
    if not np.isfinite(numbers_P).all():
        silent = np.flatnonzero(~np.isfinite(numbers_P))
        raise ValueError(
            f"a ranking needs a number for each of {len(parts)} {parts.kind}; it has none for {len(silent)}, such as "
            f"{parts.names[silent[0]]}"
        )
    return turned(numbers_P, order)


def turned(numbers: np.ndarray, order: str) -> np.ndarray:
    """So that what comes first is highest; raises ValueError for an unknown order."""
    ways = {"signed": np.positive, "negated": np.negative, "absolute": np.abs}
    if order not in ways:
        raise ValueError(f"order must be one of {', '.join(ways)}; got {order!r}")
    return ways[order](numbers)
