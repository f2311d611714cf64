"""Plans of exact sweeps: which edited copies share a start, and what they cost, before anything runs.

Dimension key: C cells, L layers, N heads (K at `k` and `v`), T query positions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...execution.batching import Chunks, matmul_tokens
from ...execution.cost import FLOAT, Cost, CostModel
from ...execution.placement import Placement
from ...execution.resources import Resources
from ...models.attention import full_tiles
from ...models.inputs.batch import Batch, Positions
from ...models.sites import is_of_keys
from ...models.stack import Stack
from ...precision import DIFFERENCE_TERMS, arithmetic_used
from ...programs import platform
from ..cached_run import start_column
from ..grid import Grid, Heads, head_mask, heads_of_cells
from ..question import CellGroup
from .engine import Site

FILE_FLOPS = {"cpu": 2e12}
"""Operations that are worth a file of the journal, some 10 seconds' work; by backend."""
FILE_FLOPS_ELSEWHERE = 1e15

COMPILATION_FLOPS = {"cpu": 5e10}
"""Operations that are less than a compilation, some tenths of a second's work; by backend."""
COMPILATION_FLOPS_ELSEWHERE = 2e13

UPWARD = 1
"""Matrix products of the best size that the tokens of all copies may fill, to go up in one pass.

Processor time by groups over that in one pass, on a CPU: 1.1 to 1.4 up to 1,536 tokens, .93 at 2,048, .8 at 4,608.
"""

ANCHORED_GROUPS = 2
"""Groups of copies up to which an unedited run for each costs no more than to keep what it computes."""

ON_CHIP = 48 << 20
"""Bytes of a layer's widest values that a TPU keeps on the chip.

Cycles a token on a v5e by differences, of a Llama of 1.1B: 975 with 44 MiB, 1,544 with 176; of GPT-2 small: 209 with
45, 253 with 90. In bfloat16, of a Llama of 8B: 3,984 with 56 MiB, 4,193 with 224.
"""

LEAST_TOKENS = 1024
"""Tokens a product below which a TPU waits for weights."""

ANCHORS_SHARE = 0.25
"""The share of the memory for activations that may be kept of one example's unedited run."""


@dataclass(frozen=True, eq=False)
class EditGroup:
    """Edited copies that share the first layer and column that can change.

    Attributes:
        site: stack, site, first column that can change, and whether later layers are edited as well.
        layer: the first layer that any copy edits.
        heads: bool `[C,L,N]`, which heads each of C copies edits; see `engine.EditedCopies`.
        position: `[C]`, counted over real tokens; -1 for all.
        cells: number of the cell that each copy answers, `[C]`.
    """

    site: Site
    layer: int
    heads: np.ndarray
    position: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def flops(self, costs: CostModel, examples: int) -> float:
        """Return the operations of these copies, for this many examples each."""
        tokens = costs.positions - self.site.first
        # After the last layer only rows that are read are computed, and of a stream that is not the last one all.
        rows = min(costs.rows, tokens) if costs.final else tokens
        layers = costs.layers - self.layer - 1
        copies = len(self) * examples
        read = costs.beyond + (rows if costs.final else costs.rows) * costs.columns
        if layers == 0:
            return copies * (costs.after(self.site.site) * rows + read)
        inner = (layers - 1) * costs.layer(tokens)
        # The last layer needs keys and values of all positions, everything else at the rows alone.
        last = costs.keys_values * tokens + (costs.layer_of_one - costs.keys_values) * rows
        return copies * (costs.after(self.site.site) * tokens + inner + last + read)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep is going to do.

    Attributes:
        groups: edited copies by their start.
        costs: of the model and the batch.
        examples: of the batch.
        chunks: examples and edited copies that run together.
        placement: where the weights are.
        sources: how many values each copy gets, one after the other.
        runs: forward passes of the batch that these values cost, beside the unedited run.
        upward: whether the copies of all groups run in one pass, `upward.edited_upward`, not group by group.
        anchored: whether the unedited run's products are kept, from which copies are computed as differences.
    """

    groups: tuple[EditGroup, ...]
    costs: CostModel
    examples: int
    chunks: Chunks
    placement: Placement
    sources: int = 1
    runs: int = 0
    upward: bool = False
    anchored: bool = False

    def __str__(self) -> str:
        cost, (examples, copies) = self.cost(), self._on_a_device
        together = f"{self.chunks.examples} × {self._together} at a time"
        if self.upward:
            together += ", all layers in one upward pass"
        lines = [
            f"{sum(map(len, self.groups)):,} edited copies of {self.examples:,} examples, {together}",
            f"{cost.flops:.3g} operations, {cost.whole:.3g} in whole forward passes",
            f"{cost.bytes / 1e9:.3g} GB on each device at the peak",
            self.placement.words(examples * copies * self.costs.positions),
        ]
        return "\n".join(lines)

    @property
    def _together(self) -> int:
        return min(self.chunks.copies, (sum if self.upward else max)(map(len, self.groups)))

    @property
    def _on_a_device(self) -> tuple[int, int]:
        """The numbers of examples and of their copies that run together on each device."""
        data, questions = self.chunks.multiples
        return -(-self.chunks.examples // data), -(-self._together // questions)

    def cost(self) -> Cost:
        """Return operations, and each device's peak memory, with the unedited run and the runs that give values."""
        unedited = (1 + self.runs) * self.costs.unedited(self.examples)
        flops = unedited + self.sources * sum(group.flops(self.costs, self.examples) for group in self.groups)
        examples, copies = self._on_a_device
        # The cache is held twice: as the unedited run's result, and as the edited runs' argument.
        memory = self.placement.bytes + 2 * examples * self.costs.cached + examples * copies * self.costs.copied
        whole = self.costs.forward(self.examples) * (1 + self.sources * sum(map(len, self.groups)))
        return Cost(float(flops), int(memory), float(whole))

    def cell_groups(self) -> Iterator[CellGroup]:
        """Yield the groups of copies, put together until they are worth a file of the journal."""
        enough = FILE_FLOPS.get(platform(), FILE_FLOPS_ELSEWHERE)
        waiting: list[EditGroup] = []
        spent, number = 0.0, 0
        for group in self.groups:
            waiting.append(group)
            spent += group.flops(self.costs, min(self.chunks.examples, self.examples)) * self.sources
            if spent >= enough or group is self.groups[-1]:
                yield CellGroup(f"cells-{number}", np.concatenate([part.cells for part in waiting]), tuple(waiting))
                waiting, spent, number = [], 0.0, number + 1


def compilation_flops() -> float:
    """Return how many operations are less work than a compilation."""
    return COMPILATION_FLOPS.get(platform(), COMPILATION_FLOPS_ELSEWHERE)


def worthwhile_starts(
    groups: Sequence[EditGroup], costs: CostModel, examples: int, sources: int
) -> tuple[EditGroup, ...]:
    """Return the groups, or where their starts save less than programs of their own cost, one group for each layer.

    Args:
        groups: as `edit_groups` gives them, layer by layer.
    """
    layers = {group.layer: [own for own in groups if own.layer == group.layer] for group in groups}
    together = tuple(map(_together, layers.values()))
    spare = sources * sum(group.flops(costs, examples) for group in together)
    spare -= sources * sum(group.flops(costs, examples) for group in groups)
    starts = len({group.site for group in groups})
    return together if spare < compilation_flops() * (starts - 1) else tuple(groups)


def _together(groups: Sequence[EditGroup]) -> EditGroup:
    """Return one group of several groups' copies, from the earliest of their starts."""
    site = min((group.site for group in groups), key=lambda site: site.first)
    arrays = ((group.heads, group.position, group.cells) for group in groups)
    return EditGroup(site, groups[0].layer, *map(np.concatenate, zip(*arrays, strict=True)))


def keeps_anchors(costs: CostModel, stack: Stack, groups: Sequence[EditGroup], resources: Resources) -> bool:
    """Return whether the unedited run's products are kept for differences: where they fit, and groups share them."""
    # They cost one more unedited run, and save each group one of half the layers. Cross-attention's keys, which its
    # edits reach, are no products of the stream.
    shared = arithmetic_used() in DIFFERENCE_TERMS and len(groups) > ANCHORED_GROUPS and not stack.is_cross
    # Copies that start at a later column have their heads in the model's own order.
    one_order = not full_tiles.pays(stack.blocks.attention) or all(group.site.first == 0 for group in groups)
    return shared and one_order and costs.anchors <= resources.memory * ANCHORS_SHARE


def tokens_together(costs: CostModel, placement: Placement) -> int:
    """Return how many tokens of edited copies run through a layer together at best."""
    # Weights that are gathered for a layer should serve many.
    if platform() != "tpu" or placement.kind != "whole":
        return matmul_tokens()
    itemsize = FLOAT if arithmetic_used() in DIFFERENCE_TERMS else placement.itemsize
    return min(matmul_tokens(), max(LEAST_TOKENS, ON_CHIP // (itemsize * costs.widest)))


def choose_chunks(
    costs: CostModel,
    groups: Sequence[EditGroup],
    examples: int,
    resources: Resources,
    *,
    together: int | None = None,
) -> Chunks:
    """Return how many examples and edited copies run together, at best with this many tokens in a layer."""
    # Copies start at different columns: what they send through a layer on average decides how many run together.
    copies, most = sum(map(len, groups)), max(map(len, groups))
    tokens = sum(len(group) * (costs.positions - group.site.first) for group in groups) / copies
    # Of positions there are as many as the longest text has, and each number of copies is a shape. A power of two at
    # most doubles the work, which of a small question is less than compiling its programs.
    by_position = bool((groups[0].position >= 0).any())
    small = sum(group.flops(costs, examples) for group in groups) < 3 * compilation_flops()
    rounded = 1 << (most - 1).bit_length() if by_position and small else most
    chunks = Chunks.fitting(
        examples,
        rounded,
        tokens=max(1, round(tokens)),
        example_bytes=costs.cached,
        copy_bytes=costs.copied,
        memory=resources.memory,
        multiples=resources.devices.multiples,
        together=together,
    )
    return chunks if rounded == most else replace(chunks, step=chunks.copies)


def all_together(chunks: Chunks, costs: CostModel, groups: Sequence[EditGroup], examples: int) -> Chunks | None:
    """Return chunks in which the copies of all groups run in one pass; None where groups by themselves are faster.

    One pass pays where a group does not fill a matrix product: it reads each layer's weights once, not once for each
    group below it. It computes some layers of copies that wait there for their own.
    """
    copies = sum(map(len, groups))
    tokens = chunks.examples * (costs.positions - groups[0].site.first)
    alike = len({group.site for group in groups}) == 1 < len(groups)
    # Differences are taken group by group, whose copies all start at one layer of the unedited run.
    apart = arithmetic_used() in DIFFERENCE_TERMS or chunks.multiples != (1, 1)
    if not alike or apart or chunks.examples < examples:
        return None
    return replace(chunks, copies=copies) if copies * tokens <= UPWARD * matmul_tokens() else None


def edit_groups(stack: Stack, site: str, batch: Batch, grid: Grid, first: int = 0) -> tuple[EditGroup, ...]:
    """Return one edited copy for each cell of a grid over layers, heads and positions, by their start.

    Args:
        site: without its stack's prefix.
        grid: as `grid.site_grid` gives it.
        first: the first column of the batch at which any copy can change.
    """
    axes, sizes = grid.axes, dict(zip(grid.axes, grid.shape, strict=True))
    heads, positions = sizes.get("head", sizes.get("kv_head", 1)), sizes.get("position", 1)
    # Keys of cross-attention are another sequence's: a causal decoder looks at all of them.
    causal = stack.causal and not (stack.is_cross and is_of_keys(site))
    starts = first_columns(stack.positions_at(site, batch), causal) if "position" in axes else np.zeros(1, int)
    starts = np.maximum(starts, first)[:positions]
    # Cells are numbered in row-major order of the grid; a missing axis has size 1.
    numbers = np.arange(grid.size).reshape(stack.layers, heads, positions)
    groups = []
    for layer in range(stack.layers):
        for start in np.unique(starts):
            chosen = np.flatnonzero(starts == start)
            cells = numbers[layer][:, chosen]
            head, index = np.indices(cells.shape).reshape(2, -1)
            mask = np.zeros((cells.size, stack.layers, stack.heads_at(site)), bool)
            mask[:, layer] = heads_of_cells(stack, site, axes, layer)[head]
            position = chosen[index] if "position" in axes else np.full(cells.size, -1)
            where = Site(stack.name, site, int(start))
            groups.append(EditGroup(where, layer, mask, position.astype(np.int32), cells.reshape(-1)))
    return tuple(groups)


def set_groups(stack: Stack, site: str, sets: Mapping[str, Heads]) -> tuple[Grid, tuple[EditGroup, ...]]:
    """Return the grid of named sets of heads, and one edited copy for each set, by their start.

    Raises:
        ValueError: for no set, an empty one, or a head that is not there.
    """
    if not sets:
        raise ValueError("sets must name at least one set of heads, got none")
    masks = [head_mask(stack, site, heads, f"sets: {name!r}") for name, heads in sets.items()]
    mask_CLN = np.stack(masks)
    layers_CL = mask_CLN.any(axis=2)
    start_C = layers_CL.argmax(axis=1)
    # Sets within one layer leave the later layers unedited, which saves the engine an edit in each of them.
    where = Site(stack.name, site, 0, later=bool((layers_CL.sum(axis=1) > 1).any()))
    groups = []
    for layer in np.unique(start_C):
        cells = np.flatnonzero(start_C == layer)
        groups.append(EditGroup(where, int(layer), mask_CLN[cells], np.full(cells.size, -1, np.int32), cells))
    return Grid(("set",), (len(sets),)), tuple(groups)


def first_columns(positions: Positions, causal: bool) -> np.ndarray:
    """Return, for each position, the start column of a copy that is edited there, `[T]`: zeros where not causal.

    A start is the first column at which any example has the position, rounded down: with padding, examples have it at
    different columns.
    """
    T, numbers = positions.shape[1], np.asarray(positions.positions)
    if not causal:
        return np.zeros(T, int)
    there = np.asarray(positions.mask)[:, :, None] & (numbers[:, :, None] == np.arange(T))
    first = np.where(there.any(axis=(0, 1)), there.any(axis=0).argmax(axis=0), T - 1)
    return start_column(first, T)
