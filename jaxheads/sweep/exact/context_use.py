"""Use of context: what happens to the objective when a head sees only the first and the recent positions.

Dimension key: E examples, B of a chunk, T query positions, S key positions, W windows, C cells of one window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from ...arguments import at_least, checked
from ...checks import whole
from ...execution.batching import Later
from ...execution.lengths import Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, loss
from ...reads import reads_of
from ..cached_run import start_column
from ..grid import site_grid
from ..pairs import Inputs, inputs
from ..question import CellGroup, Question, Work, question
from .knock_out import ForbiddenEdges
from .plan import edit_groups
from .work import exact


@question
@checked(sink=at_least(0))
def context_use(
    model: Model,
    batch: Inputs,
    objective: Objective | None = None,
    *,
    windows: Sequence[int] = (16, 64, 256),
    sink: int = 4,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Restrict each head to a window, and return how the objective changes: a curve over windows for every head.

    A query of the head sees the keys of the `sink` first positions and of the `recent` last ones, its own among them
    (`jh.window`, Xiao et al. 2023); all other heads see everything. A head whose curve is 0 from a window on needs no
    earlier context for this objective.

    Args:
        batch: one batch or a stream of batches, each with an objective of its own if it needs one.
        objective: the next-token loss when left out.
        windows: the numbers of recent positions, ascending.
        sink: the number of first positions that stay.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a head; for each window of w positions `window_w`, the objective with the window less that without, and
        its interval. It is exactly 0 in examples that are no longer than the window.

    Raises:
        ValueError: for windows that are not ascending numbers from 1 on, for cross-attention, whose keys are at no
            distance, and as `knock_out` does.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    sizes = [whole("windows", window, 1) for window in windows]
    if not sizes or sizes != sorted(set(sizes)):
        raise ValueError(f"windows must be ascending numbers of positions, at least one; got {list(windows)}")
    if stack.is_cross:
        raise ValueError(f"the {stack.name} of {model.name} reads another sequence: it has no recent keys")
    lengths = Lengths(model)
    for current, own_objective in inputs(batch, loss() if objective is None else objective):
        model.check(current)
        reads = reads_of(own_objective, model, current)
        count = len(sizes) * stack.layers * stack.heads
        reads, current = lengths.read(own_objective, reads, current, runs=sweep_runs(count))
        grid = site_grid(stack, "scores", current, ("layer", "head"))
        of_windows, hides_WE = [], np.zeros((len(sizes), len(current)), bool)
        for number, size in enumerate(sizes):
            edges_BTS = beyond_window(stack, current, size, sink)
            # Nothing changes before the first query that loses a key.
            loses_ET: np.ndarray = np.asarray(edges_BTS.any(axis=2))
            hides_WE[number] = loses_ET.any(axis=1)
            column, T = int(np.argmax(loses_ET.any(axis=0))), stack.queries.count(current)
            first = int(start_column(column, T)) if stack.causal else 0
            cells = grid, edit_groups(stack, "scores", current, grid, first)
            asks = model, stack, current, own_objective, reads, cells, ForbiddenEdges(edges_BTS), resources
            of_windows.append(exact(*asks, identity=(), about={}))
        yield _together(of_windows, [f"window_{size}" for size in sizes], hides_WE, (tuple(sizes), sink))


def beyond_window(stack: Stack, batch: Batch, recent: int, sink: int) -> np.ndarray:
    """Return the edges that a window hides, bool `[B,T,S]`; none to a later key of a causal stack, or of padding."""
    positions = stack.queries.of(batch)
    numbers_BT, real_BT = np.asarray(positions.positions), np.asarray(positions.mask)
    edges_BTS = np.abs(numbers_BT[:, :, None] - numbers_BT[:, None]) >= recent
    edges_BTS &= (numbers_BT >= sink)[:, None] & real_BT[:, :, None] & real_BT[:, None]
    return edges_BTS & np.tri(numbers_BT.shape[1], dtype=bool) if stack.causal else edges_BTS


def _together(
    questions: Sequence[Question], columns: Sequence[str], hides_WE: np.ndarray, asked: tuple[tuple[int, ...], int]
) -> Question:
    """Return several questions about one batch, of one grid, as one with a column for each."""
    first = questions[0]
    groups = [
        CellGroup(f"{column}-{group.name}", group.cells + number * first.grid.size, (number, group))
        for number, (column, own) in enumerate(zip(columns, questions, strict=True))
        for group in own.groups
    ]

    def work(examples: np.ndarray) -> _Together:
        return _Together([own.work(examples) for own in questions], hides_WE[:, examples])

    about = {"windows": list(asked[0]), "sink": asked[1]}
    return replace(
        first, groups=tuple(groups), work=work, columns=tuple(columns), identity=asked, about=about, plan=None
    )


@dataclass(frozen=True)
class _Together:
    """Results of several questions on one chunk of examples; `hides` says which windows hide anything, `[W,B]`."""

    works: Sequence[Work]
    hides: np.ndarray

    def baselines(self) -> Later[np.ndarray]:
        """Send the unedited run, which all questions share."""
        return self.works[0].baselines()

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send the runs of one question's group."""
        number, own = group.key
        later = self.works[number].effects(own)
        # Where nothing is hidden, the edited copy differs by rounding alone.
        return lambda: np.where(self.hides[number][:, None], later(), 0.0)
