"""Importance of heads after Michel, Levy & Neubig (2019, arXiv 1905.10650): the loss's derivative by a head's gate.

Dimension key: B examples of a chunk, L layers, T positions, N heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Unpack

import jax
import numpy as np

from ...checks import one_of
from ...execution.batching import Later
from ...execution.lengths import GRADIENT_RUNS, Lengths
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...reads import needs_derivative, reads_of
from ...tables import Column, HeadTable
from ..grid import site_grid
from ..pairs import Inputs, inputs
from ..question import CellGroup, Question, question
from .backward import edit_weights, gradient_chunks, slopes_by_position, weight_gradient

GRANULARITIES = ("example", "token")


@question
def importance(
    model: Model,
    batch: Inputs,
    objective: Objective | None = None,
    *,
    granularity: Literal["example", "token"] = "example",
    normalise: Literal["layer"] | None = None,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Return each head's importance `mean over examples of |d objective / d gate|`, the gate on `z` being 1.

    All heads from one forward and backward pass. Where the objective is linear in a head's output, this is the mean
    size of the effect of zeroing the head. Before a step or a saturated softmax it is 0 whatever that effect:
    `compare_estimates(ablate(…, "zero"), importance(…))` names such heads.

    Args:
        batch: the inputs; or a stream of batches, as in `ablate`.
        objective: the loss, in the paper; anything else is answered in its own units per gate.
        granularity: "example" is the paper's formula. "token" is what its code computes: every token has a gate of its
            own, and the sizes of their derivatives are summed: `mean over examples of sum over real tokens of
            |d objective / d gate of the token|`. Two tokens that pull by +1 and -1 make 0 for "example" and 2 for
            "token". The code divides this sum by the number of examples in BERT's last layer and by the number of
            tokens in the others; here all layers are divided by the number of examples. The difference is one factor a
            layer, and is gone after `normalise="layer"`, which is what their code does next.
        normalise: "layer" divides by the l2 norm over the heads of a layer (as the paper does); a layer of zeros stays
            zeros. Interval and `per_example` are divided by that norm of the means: the interval is that of a head's
            own derivative, without the doubt about the norm.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a head, columns `importance importance_low importance_high`; `.values` `[L,N]`; `.per_example` `[E,L,N]`
        (None beyond a stream's 2,048 examples) is each example's |derivative| or sum of them. A number that is not
        finite counts as missing and is named in `.provenance["not_finite"]`; `.provenance["unedited"]` is the
        objective's mean.

    Raises:
        ValueError: for an unknown granularity, normalisation or stack, or an objective that the model can't give.
    """
    one_of("granularity", granularity, GRANULARITIES)
    if normalise not in (None, "layer"):
        raise ValueError(f"normalise must be 'layer' or None; got {normalise!r}")
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    lengths = Lengths(model)
    for current, own_objective in inputs(batch, objective):
        model.check(current, packed=True)
        needs_derivative(own_objective)
        reads, grid = reads_of(own_objective, model, current), site_grid(stack, "z", current, ("layer", "head"))
        reads, current = lengths.read(own_objective, reads, current, runs=GRADIENT_RUNS)
        chunks, remat = gradient_chunks(model.network, stack, current, reads, resources)
        by_token = granularity == "token"
        yield Question(
            model,
            stack,
            current,
            own_objective,
            reads,
            grid,
            # One backward pass gives all heads: they are one group.
            (CellGroup("cells", np.arange(grid.size)),),
            chunks,
            partial(ImportanceWork, model, stack, current, own_objective, reads, resources, remat, by_token),
            resources,
            identity=(granularity,),
            about={"granularity": granularity, "normalise": normalise},
            columns=("importance",),
            copies=False,
            finish=_normalise_layers if normalise == "layer" else lambda table: table,
        )


@dataclass(frozen=True)
class ImportanceWork:
    """Importances for one chunk of examples.

    Attributes:
        remat: as in `weight_gradient`.
        by_token: whether every token has a gate of its own.
        examples: indices of the chunk's examples.
    """

    model: Model
    stack: Stack
    batch: Batch
    objective: Objective
    reads: Reads
    resources: Resources
    remat: bool
    by_token: bool
    examples: np.ndarray

    def baselines(self) -> Later[np.ndarray]:
        """Send the pass forward and back: the objective, `[1,B]`."""
        value_B = self._values_and_slopes[0]
        return lambda: self.resources.devices.fetch(value_B).astype(np.float64)[None]

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send the pass forward and back: the importance of every head, `[B,L*N]`."""
        del group
        slopes = self._values_and_slopes[1]
        return lambda: self._importance(slopes)

    def _importance(self, slopes: jax.Array) -> np.ndarray:
        mask_BT = np.asarray(self.stack.queries.of(self.batch).mask)[self.examples]
        slope_BLTN = np.where(mask_BT[:, None, :, None], slopes_by_position("z", slopes), 0.0)
        # Sizes are taken before the mean over examples: derivatives of either sign do not cancel there. Over an
        # example's tokens they do, unless each token has a gate of its own.
        importance_BLN = np.abs(slope_BLTN).sum(axis=2) if self.by_token else np.abs(slope_BLTN.sum(axis=2))
        return importance_BLN.reshape(len(importance_BLN), -1)

    @cached_property
    def _values_and_slopes(self) -> tuple[jax.Array, jax.Array]:
        """The objective `[B]`, and its derivative by each token's gate on each head, but for the sign."""
        devices, stack, batch = self.resources.devices, self.stack, self.batch.take(self.examples)
        # A gate g is the edit `(1 - w) * z + w * 0` with w = 1 - g: at w = 0 it is open, and d/dw = -d/dg.
        weights: Any = devices.examples(edit_weights(stack, "z", batch), axis=1)
        zeros: Any = np.zeros((stack.layers, 1, 1, 1, 1), np.float32)
        layers: Any = np.arange(stack.layers, dtype=np.int32)
        gates = SiteEdit(layers, weights, zeros, "z", stack.name)
        chunk, reads = devices.examples((batch, self.reads.take(self.examples)))
        return weight_gradient(
            self.resources.network(self.model), chunk, reads, gates, value=self.objective.value, remat=self.remat
        )


def _normalise_layers(table: HeadTable) -> HeadTable:
    """Divide each layer by the l2 norm of its means; a layer of zeros stays zeros."""
    norm_L = np.sqrt(np.nansum(table.values**2, axis=1))
    norm_L1 = np.where(norm_L > 0, norm_L, 1.0)[:, None]
    mean, low, high = (table.grid(f"importance{end}") / norm_L1 for end in ("", "_low", "_high"))
    examples = None if table.per_example is None else table.per_example / norm_L1
    columns = {"importance": Column(mean, low, high, table.grid("importance_n"), examples)}
    return HeadTable.from_columns(
        table.name, table.stack, columns, table.provenance, squeeze=True, clusters=table.clusters
    )
