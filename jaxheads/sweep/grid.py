"""Which edited copies a question consists of: one for each head, layer, position, or set of heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..models.inputs.batch import Batch
from ..models.sites import has_heads, is_of_keys
from ..models.stack import Stack
from .exact.engine import Site
from .exact.plan import Plan, first_columns

Heads = Sequence[tuple[int, int]]

BY = (("layer", "head"), ("layer",), ("layer", "position"), ("layer", "head", "position"))


@dataclass(frozen=True, eq=False)
class Grid:
    """Copies on a grid, in the order of the grid.

    Attributes:
        axes, shape: of the table.
        steps: the copies, by what they share, where the engine of sweeps runs them.
        missing: `[E,C]` or `[1,C]`, where there is nothing to be asked: a position that an example does not have.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    steps: tuple[Plan, ...] = ()
    missing: np.ndarray | None = None

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """What each copy is called, `[C]` by axis."""
        numbers = np.indices(self.shape).reshape(len(self.axes), -1)
        return dict(zip(self.axes, numbers, strict=True))


def grid(stack: Stack, site: str, batch: Batch, by: Sequence[str], first: int = 0) -> Grid:
    """One copy for each cell of the axes in `by`.

    Args:
        site: without its stack's prefix.
        first: the first column of the batch at which any copy can change.

    Raises:
        ValueError: for axes that are not known, or heads at a site that has none.
    """
    by = check_by(site, by)
    heads, side = stack.heads_at(site) if "head" in by else 1, stack.positions_at(site, batch)
    positions = int(np.asarray(side.lengths).max()) if "position" in by else 1
    shape = tuple({"layer": stack.layers, "head": heads, "position": positions}[axis] for axis in by)
    back_only = stack.causal and not (stack.is_cross and is_of_keys(site))
    columns = np.maximum(first_columns(side, back_only), first) if "position" in by else np.array([first])
    numbers = np.arange(stack.layers * heads * positions).reshape(stack.layers, heads, positions)
    steps = []
    for layer in range(stack.layers):
        for column in np.unique(columns[:positions]):
            at = np.flatnonzero(columns[:positions] == column)
            cells = numbers[layer][:, at]
            head, place = np.indices(cells.shape).reshape(2, -1)
            chosen = np.zeros((cells.size, stack.layers, stack.heads_at(site)), bool)
            chosen[np.arange(cells.size), layer] = (head[:, None] == np.arange(chosen.shape[2])) | ("head" not in by)
            position = at[place] if "position" in by else np.full(cells.size, -1)
            where = Site(stack.name, site, int(column))
            steps.append(Plan(where, layer, chosen, position.astype(np.int32), cells.reshape(-1)))
    missing = None
    if "position" in by:
        absent_EP = np.arange(positions)[None] >= np.asarray(side.lengths)[:, None]
        missing = np.broadcast_to(absent_EP[:, None], (len(batch), numbers.size // positions, positions))
        missing = missing.reshape(len(batch), -1) if absent_EP.any() else None
    return Grid(by, shape, tuple(steps), missing)


def set_grid(stack: Stack, site: str, sets: Mapping[str, Heads]) -> Grid:
    """One copy for each set of heads, all of them edited at once.

    Raises:
        ValueError: for no set, an empty one, or a head that is not there.
    """
    if not sets:
        raise ValueError("sets must name at least one set of heads, got none")
    chosen = np.zeros((len(sets), stack.layers, stack.heads_at(site)), bool)
    for number, (name, heads) in enumerate(sets.items()):
        chosen[number] = head_mask(stack, site, heads, f"set {name!r}")
    start = chosen.any(axis=2).argmax(axis=1)
    where = Site(stack.name, site, 0, later=bool((chosen.any(axis=2).sum(axis=1) > 1).any()))
    steps = []
    for layer in np.unique(start):
        cells = np.flatnonzero(start == layer)
        steps.append(Plan(where, int(layer), chosen[cells], np.full(cells.size, -1, np.int32), cells))
    return Grid(("set",), (len(sets),), tuple(steps))


def head_mask(stack: Stack, site: str, heads: Heads, what: str = "heads") -> np.ndarray:
    """Bool `[L,N]` (K for N at `k` and `v`); raises ValueError for an empty list or a head that is not there."""
    limits = (stack.layers, stack.heads_at(site))
    pairs = np.asarray(list(heads))
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"{what} must be a list of at least one (layer, head) pair, got {heads!r}")
    if ((pairs < 0) | (pairs >= limits)).any():
        raise ValueError(
            f"{what} has heads that are not there: layers are 0..{limits[0] - 1}, heads of {site} 0..{limits[1] - 1}; "
            f"got {[tuple(map(int, pair)) for pair in pairs]}"
        )
    mask = np.zeros(limits, bool)
    mask[pairs[:, 0], pairs[:, 1]] = True
    return mask


def check_by(site: str, by: Sequence[str]) -> tuple[str, ...]:
    """The axes as a tuple; raises ValueError if they are not among those that are known, or don't fit the site."""
    axes = (by,) if isinstance(by, str) else tuple(by)
    if axes not in BY:
        raise ValueError(f"by must be one of {', '.join(map(str, BY))}; got {axes}")
    if "head" in axes and not has_heads(site):
        raise ValueError(f"{site} has no heads: ask by ('layer',) or ('layer', 'position'); got by={axes}")
    return axes
