"""The grid of an answer: its axes, its shape, and the cells that an example lacks.

Dimension key: E examples, C cells, L layers, N heads (K at `k` and `v`).

In stacks with grouped queries, N // K query heads share a key/value head. The axis "kv_head" has a cell for each of the
K: at `k` and `v` that head, elsewhere all query heads that read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..models.inputs.answers import token_texts
from ..models.inputs.batch import Batch, Positions
from ..models.sites import has_heads, is_of_keys
from ..models.stack import Stack

Heads = Sequence[tuple[int, int]]
"""(layer, head) pairs."""

BY = (
    ("layer", "head"),
    ("layer", "kv_head"),
    ("layer",),
    ("layer", "position"),
    ("layer", "head", "position"),
    ("layer", "kv_head", "position"),
)
HEAD_AXES = ("head", "kv_head")
"""Axes of which a cell edits some heads, not all of a layer."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of an answer, in row-major order.

    Attributes:
        axes, shape: of the table.
        missing: `[E,C]` or `[1,C]`: cells without an answer, such as a position that an example lacks.
        positions: the batch's positions that the axis "position" counts, if there is one.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    missing: np.ndarray | None = None
    positions: Positions | None = None

    @property
    def size(self) -> int:
        """The number of cells, C."""
        return int(np.prod(self.shape))

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Each cell's index along each axis, `[C]` by axis."""
        numbers = np.indices(self.shape).reshape(len(self.axes), -1)
        return dict(zip(self.axes, numbers, strict=True))


def site_grid(stack: Stack, site: str, batch: Batch, by: Sequence[str]) -> Grid:
    """Return the grid of a question about one site, by layer, head and position as `by` names them.

    Heads of `k` and `v` are key/value heads: where there are fewer of them than query heads, their axis is named so.

    Args:
        site: without its stack's prefix.

    Raises:
        ValueError: for axes that are not known, or heads at a site that has none.
    """
    axes = check_by(site, by)
    if stack.heads_at(site) < stack.heads:
        axes = tuple("kv_head" if axis == "head" and is_of_keys(site) else axis for axis in axes)
    own = stack.positions_at(site, batch)
    lengths_E = np.asarray(own.lengths)
    positions = int(lengths_E.max())
    sizes = {"layer": stack.layers, "head": stack.heads_at(site), "kv_head": stack.groups, "position": positions}
    shape = tuple(sizes[axis] for axis in axes)
    # The grid is as wide as the longest example; shorter ones lack its last positions.
    absent_EP = np.arange(positions)[None] >= lengths_E[:, None]
    if "position" not in axes:
        return Grid(axes, shape)
    if not absent_EP.any():
        return Grid(axes, shape, positions=own)
    absent = absent_EP[(slice(None), *(slice(None) if axis == "position" else None for axis in axes))]
    missing = np.broadcast_to(absent, (len(lengths_E), *shape)).reshape(len(lengths_E), -1)
    return Grid(axes, shape, missing, own)


def check_by(site: str, by: Sequence[str]) -> tuple[str, ...]:
    """Return the axes as a tuple; raises ValueError for axes that are not known, or heads at a site without heads."""
    axes = (by,) if isinstance(by, str) else tuple(by)
    if axes not in BY:
        raise ValueError(f"by must be one of {', '.join(map(str, BY))}; got {axes}")
    if {"head", "kv_head"} & set(axes) and not has_heads(site):
        raise ValueError(f"{site} has no heads: ask by ('layer',) or ('layer', 'position'); got by={axes}")
    return axes


def heads_of_cells(stack: Stack, site: str, axes: Sequence[str], layer: int) -> np.ndarray:
    """Return which heads of a site belong to each cell along the axis of heads in one layer, bool `[cells, heads]`.

    One cell with all heads where `axes` has no heads.
    """
    heads = stack.heads_at(site)
    if "head" in axes:
        return np.eye(heads, dtype=bool)
    if "kv_head" not in axes:
        return np.ones((1, heads), bool)
    # Where heads were removed, keys and values come one for each query head.
    has_own = is_of_keys(site) and stack.blocks.attention.key_heads is None
    reads = np.arange(heads) if has_own else stack.group_of_heads[layer]
    return np.arange(stack.groups)[:, None] == reads[None]


def head_mask(stack: Stack, site: str, heads: Heads, what: str = "heads") -> np.ndarray:
    """Return bool `[L,N]`, True at these heads; raises ValueError for an empty list or a head that is not there."""
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


class PositionTokens:
    """The token at each position of a grid, as far as all examples agree on it, batch after batch."""

    def __init__(self) -> None:
        self.ids = np.zeros(0, int)
        self.agreed = np.zeros(0, bool)
        self.known = True

    def add(self, positions: Positions | None) -> None:
        """Add a batch's positions; where they have no ids, no token is known any more."""
        if positions is None or positions.ids is None:
            self.known = False
            return
        for ids_T, mask_T in zip(np.asarray(positions.ids), np.asarray(positions.mask), strict=True):
            real = ids_T[mask_T]
            both = min(len(real), len(self.ids))
            self.agreed[:both] &= real[:both] == self.ids[:both]
            self.ids = np.concatenate([self.ids, real[both:]])
            self.agreed = np.concatenate([self.agreed, np.ones(len(real) - both, bool)])

    def column(self, tokenizer: object, grid: Grid) -> dict[str, np.ndarray]:
        """Return the column `token` of the grid, "" where examples differ; none where no position is agreed on."""
        if not self.known or not self.agreed.any() or not hasattr(tokenizer, "convert_ids_to_tokens"):
            return {}
        texts_P = np.where(self.agreed, token_texts(tokenizer, self.ids), "")
        return {"token": texts_P[grid.coordinates["position"]].reshape(grid.shape)}
