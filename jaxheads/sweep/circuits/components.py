"""Components of a circuit: the heads of a stack, or the edges between its nodes.

Dimension key: P components, heads or edges, in the order of their grid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...checks import one_of
from ...models.model import Model
from ...models.stack import Stack
from ...tables import HeadTable
from ..grid import Heads, head_mask
from .graph import Graph, graph_of

Kind = Literal["heads", "edges"]
KINDS = ("heads", "edges")
Edges = Iterable[tuple[str, str]]
Chosen = Heads | Edges | np.ndarray
"""Chosen components: (layer, head) pairs, (sender, receiver) pairs of names (see `Graph`), or bool over the grid."""

MOST_NAMED = 60
"""The largest set whose components are named; of a larger one only their number is written."""


@dataclass(frozen=True, eq=False)
class Components:
    """All heads or all edges that a circuit may keep.

    Attributes:
        graph: None where the components are heads.
    """

    stack: Stack
    graph: Graph | None

    @classmethod
    def of(cls, model: Model, stack: Stack, kind: str) -> "Components":
        """Return the stack's heads or edges; raises ValueError for another kind, and for a stream without edges."""
        one_of("parts", kind, KINDS)
        return cls(stack, graph_of(model, stack) if kind == "edges" else None)

    @classmethod
    def chosen(cls, model: Model, stack: Stack, chosen: Chosen | Mapping[str, Chosen]) -> "Components":
        """Return the stack's heads or edges, whichever a user has chosen from, in one set or in several named ones."""
        first: Any = next(iter(chosen.values()), ()) if isinstance(chosen, Mapping) else chosen
        if isinstance(first, np.ndarray) and first.dtype == bool:
            return cls.of(model, stack, "heads" if first.shape == (stack.layers, stack.heads) else "edges")
        # Heads are pairs of numbers, edges are pairs of names.
        named = any(isinstance(name, str) for name in next(iter(first), ()))
        return cls.of(model, stack, "edges" if named else "heads")

    @classmethod
    def ranked(cls, model: Model, stack: Stack, ranking: HeadTable) -> "Components":
        """Return the stack's heads or edges, whichever a table ranks; raises ValueError for one that ranks neither."""
        # The first level of a table's index is the stack.
        axes = tuple(ranking.frame.index.names[1:])
        kind = {("layer", "head"): "heads", ("sender", "receiver"): "edges"}.get(axes)
        components = None if kind is None else cls.of(model, stack, kind)
        if components is None or ranking.shape != components.exists.shape:
            raise ValueError(
                f"a ranking is a table over the {stack.layers} × {stack.heads} heads of the {stack.name}, or over its "
                f"senders and receivers; got {' × '.join(map(str, ranking.shape))} over {', '.join(axes)}"
            )
        return components

    @property
    def kind(self) -> Kind:
        """ "heads" or "edges"."""
        return "heads" if self.graph is None else "edges"

    @property
    def axes(self) -> tuple[str, str]:
        """The axes of the grid."""
        return ("layer", "head") if self.graph is None else ("sender", "receiver")

    @cached_property
    def exists(self) -> np.ndarray:
        """Whether a cell of the grid is a component; not every sender and receiver make an edge."""
        return np.ones((self.stack.layers, self.stack.heads), bool) if self.graph is None else self.graph.exists

    @cached_property
    def cells(self) -> np.ndarray:
        """The grid's cell of each component, `[P,2]`."""
        return np.argwhere(self.exists)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the components, `[P]`: "3.0", "head 3.0 > mlp 3"."""
        if self.graph is None:
            return tuple(f"{layer}.{head}" for layer, head in self.cells)
        return tuple(f"{self.graph.senders[u]} > {self.graph.receivers[v]}" for u, v in self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def mask(self, chosen: Chosen, name: str) -> np.ndarray:
        """Return bool `[P]`, True at the chosen components; `name` is the set's in errors.

        Raises:
            ValueError: for an empty list, or a component that does not exist.
        """
        if isinstance(chosen, np.ndarray) and chosen.dtype == bool:
            if chosen.shape != self.exists.shape:
                raise ValueError(f"{name} as bool must cover the grid {self.exists.shape}, got {chosen.shape}")
            return chosen[self.exists]
        if self.graph is None:
            return head_mask(self.stack, "z", list(chosen), name).reshape(-1)  # type: ignore[arg-type]
        return self._edge_mask(list(chosen), name)

    def grid(self, values: np.ndarray, elsewhere: Any = np.nan) -> np.ndarray:
        """Return values `[…,P]` spread over the grid, with `elsewhere` in cells that are no component."""
        grid = np.full((*values.shape[:-1], *self.exists.shape), elsewhere, values.dtype)
        grid[..., self.exists] = values
        return grid

    def words(self, mask: np.ndarray) -> str:
        """Return the names of the components in a mask, or their number if they are many."""
        names = [self.names[p] for p in np.flatnonzero(mask)]
        return (", " if self.graph else " ").join(names) if len(names) <= MOST_NAMED else f"{len(names)} {self.kind}"

    def _edge_mask(self, chosen: Sequence[Any], name: str) -> np.ndarray:
        numbers = {edge: p for p, edge in enumerate(self.names)}
        edges = [" > ".join(map(str, edge)) for edge in chosen]
        if not edges or (unknown := [edge for edge in edges if edge not in numbers]):
            raise ValueError(
                f"{name} must be a list of at least one (sender, receiver) pair that is an edge, such as "
                f"('embed', 'q 0.0'); got {unknown[:8] if edges else chosen!r}"
            )
        mask = np.zeros(len(self), bool)
        mask[[numbers[edge] for edge in edges]] = True
        return mask


def scores(ranking: HeadTable, components: Components, column: str | None, order: str) -> np.ndarray:
    """Return a ranking's numbers `[P]`, with the sign that puts the highest first.

    Raises:
        ValueError: for an unknown order or column, or a component without a number.
    """
    numbers_P = np.asarray(ranking.grid(column or ranking.metrics[0]), np.float64)[components.exists]
    if not np.isfinite(numbers_P).all():
        unranked = np.flatnonzero(~np.isfinite(numbers_P))
        raise ValueError(
            f"a ranking needs a number for each of {len(components)} {components.kind}; it has none for "
            f"{len(unranked)}, such as {components.names[unranked[0]]}"
        )
    return by_order(numbers_P, order)


def by_order(numbers: np.ndarray, order: str) -> np.ndarray:
    """Return numbers with the sign that makes the first highest; raises ValueError for an unknown order."""
    signs = {"signed": np.positive, "negated": np.negative, "absolute": np.abs}
    one_of("order", order, signs)
    return signs[order](numbers)
