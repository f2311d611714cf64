"""Ablation judged by text: every cell's heads are ablated while the model writes, and its text is scored.

Dimension key: E examples, B of a chunk, C cells, L layers, N heads, H head dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.batching import Chunks, Later
from ...execution.resources import Resources
from ...generate.prompts import Prompts
from ...generate.written import Written
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...programs import to_device
from ...reads import Reads
from ..grid import Grid
from ..question import CellGroup, Question
from .plan import EditGroup
from .replacement import Replacement


def written_question(
    model: Model,
    stack: Stack,
    batch: Batch,
    objective: Written,
    replacement: Replacement,
    resources: Resources,
    cells: tuple[Grid, Sequence[EditGroup]],
    about: Mapping[str, Any],
    extras: Mapping[str, ArrayLike] | None,
    first: int,
) -> Question:
    """Return the question of how a score of written text changes where heads are ablated.

    Args:
        replacement: what replaces heads' outputs: zeros, or the mean over a reference's tokens.
        cells: the grid, and the edited copies that answer its cells.
        first: the number of the batch's first example in its stream, by which tokens are drawn.

    Raises:
        ValueError: for another replacement, or cells by position: text that is being written has no positions yet.
    """
    grid, edited = cells
    objective.check(model, batch)
    if "position" in grid.axes or replacement.labels is not None:
        raise ValueError(
            "text that is being written has no positions yet, and no groups: ask by layer and head, without groups=; "
            f"got by={grid.axes}"
        )
    if replacement.method == "resample" or (replacement.method == "mean" and replacement.reference is None):
        raise ValueError(
            f"method={replacement.method!r} of heads that write: expected 'zero', or 'mean' with reference=, a batch "
            "over whose tokens outputs are averaged"
        )
    heads_CLN = np.zeros((grid.size, stack.layers, stack.heads), bool)
    for group in edited:
        heads_CLN[group.cells] = group.heads
    writer = objective.writer(model, len(heads_CLN))
    prompts = writer.prompts(batch)
    chunks = writer.chunks(prompts, resources)
    values = _Values(replacement)
    groups = [
        CellGroup(f"cells-{cells[0]}-{cells[-1]}", cells, cells)
        for cells in np.split(np.arange(len(heads_CLN)), range(chunks.copies, len(heads_CLN), chunks.copies))
    ]

    def work(examples: np.ndarray) -> _Work:
        return _Work(model, stack, objective, prompts, values, heads_CLN, chunks, resources, examples, first)

    return Question(
        model,
        stack,
        batch,
        objective,
        # No part of one run is read: the objective's own fields say what the answer depends on.
        Reads(to_device(np.zeros((len(batch), 1)), np.int32)),
        grid,
        tuple(groups),
        chunks,
        work,
        resources,
        identity=(replacement.identity, about, heads_CLN),
        about=about,
        extras=extras,
    )


@dataclass(frozen=True)
class _Values:
    """Values that replace heads' outputs, computed when first needed."""

    replacement: Replacement

    @cached_property
    def of_layers(self) -> Array:
        """The values `[L,1,1,N,H]`, or zeros `[L,1,1,1,1]`."""
        own = self.replacement
        if own.method == "zero":
            return jnp.zeros((own.stack.layers, 1, 1, 1, 1))
        return own.pooled_means()[:, None]


@dataclass(frozen=True)
class _Work:
    """Scores of one chunk of examples."""

    model: Model
    stack: Stack
    objective: Written
    prompts: Prompts
    values: _Values
    heads_CLN: np.ndarray
    sizes: Chunks
    resources: Resources
    examples: np.ndarray
    first: int

    def baselines(self) -> Later[np.ndarray]:
        """Return the scores of the unedited texts, `[1,B]`."""
        return lambda: self._unedited[None]

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Write the texts of some cells; return how their scores differ, `[B,C]`."""
        # Filled up with the last cell: every group has the shape of the others, whose programs compiled once.
        cells = group.cells[np.minimum(np.arange(self.sizes.copies), len(group.cells) - 1)]
        mask = self.heads_CLN[cells]
        layers, values = jnp.arange(self.stack.layers), self.values.of_layers
        # Every copy edits all layers, where its mask says so: copies of one shape may be of any layers.
        edit = SiteEdit(
            jnp.broadcast_to(layers, (len(cells), *layers.shape)),
            to_device(mask[:, :, None, None, :, None], np.float32),
            jnp.broadcast_to(values, (len(cells), *values.shape)),
            "z",
            self.stack.name,
        )
        scores_CB = self._scores((edit,), len(cells))[: len(group.cells)]
        # Texts are scored on the host: there is nothing to wait for.
        return lambda: (scores_CB - self._unedited).T

    @cached_property
    def _unedited(self) -> np.ndarray:
        return self._scores((), None)

    def _scores(self, edits: tuple[SiteEdit, ...], copies: int | None) -> np.ndarray:
        writer = self.objective.writer(self.model, copies)
        arrays = writer.chunk(self.prompts, edits, self.examples, self.resources, self.first)
        return self.objective.scores(self.model, arrays, self.examples)
