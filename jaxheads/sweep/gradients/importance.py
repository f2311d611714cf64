"""Michel, Levy & Neubig's importance of heads (2019, arXiv 1905.10650): how the loss answers to a head's gate."""

import os
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import numpy as np

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...objectives import Objective, Reads
from ...tables import Column, HeadTable
from ..exact.ablate import Inputs, with_objectives
from ..exact.work import Resources
from ..grid import Grid
from ..pieces import InPieces, Part
from ..question import answer
from .backward import amount_gradient, amounts, choose_pieces, per_cell

GRANULARITIES = ("example", "token")


def importance(
    model: Model, batch: Inputs, objective: Objective | None = None,
    *,
    granularity: Literal["example", "token"] = "example", normalise: Literal["layer"] | None = None,
    stack: str | None = None, level: float = 0.95, seed: int = 0,
    memory: int = 1 << 30, devices: jax.sharding.Mesh | None = None,
    progress: bool = False, resume: str | os.PathLike | None = None,
) -> HeadTable:  # fmt: skip
    """Each head's importance `mean over examples of |d objective / d gate|`, the gate on `z` being 1.

    All heads from one pass there and back. Where the objective is linear in a head's output, this is the mean size of
    the effect of zeroing the head.

    Args:
        batch: the inputs; or a stream of batches, as in `ablate`.
        objective: the loss, in the paper; anything else is answered in its own units per gate.
        granularity: "example" is the paper's formula. "token" is what its code computes: there every token has a gate
            of its own, and the sizes of their derivatives are summed: `mean over examples of sum over real tokens of
            |d objective / d gate of the token|`. Two tokens that pull by +1 and -1 make 0 for "example" and 2 for
            "token". The code divides this sum by the number of examples in BERT's last layer and by the number of
            tokens in the others; here all layers are divided by the number of examples. The difference is one factor a
            layer, and is gone after `normalise="layer"`, which is what their code does next.
        normalise: "layer" divides by the l2 norm over the heads of a layer (as the paper does); a layer of zeros stays
            zeros. Interval and `per_example` are divided by the same norm, that of the means: the doubt told is
            that of a head's own derivative, not of the norm.
        stack: which stack's heads; the only one when left out.
        level, seed, memory, devices, progress, resume: as in `ablate`.

    Returns:
        One row a head, columns `importance importance_low importance_high`; `.values` `[L,N]`; `.per_example` `[E,L,N]`
        (None beyond a stream's 2,048 examples) is each example's |derivative| or sum of them. What is not finite counts
        as missing and is named in `.provenance["not_finite"]`; `.provenance["unedited"]` is the objective's mean.

    Raises:
        ValueError: for an unknown granularity, normalisation or stack, or an objective that the model can't give.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(GRANULARITIES)}; got {granularity!r}")
    if normalise not in (None, "layer"):
        raise ValueError(f"normalise must be 'layer' or None; got {normalise!r}")
    part, room = model.stack(stack), Resources(memory, Devices.of(devices))
    about = {"granularity": granularity, "normalise": normalise}

    def ask(batch: Batch, objective: Objective) -> InPieces:
        model.check(batch)
        reads = objective.reads(model, batch)
        pieces = choose_pieces(model.network, part, batch, reads, room)
        some = partial(_Some, model, part, batch, objective, reads, room, pieces.thrifty, granularity == "token")
        grid = Grid(("layer", "head"), (part.layers, part.heads))
        cells = (Part("cells", np.arange(part.layers * part.heads)),)
        return InPieces(
            model, part, batch, objective, reads, grid, pieces.chunks, cells, some,
            identity=(granularity,), columns=("importance",),
        )  # fmt: skip

    table = answer(
        "importance", (ask(*each) for each in with_objectives(batch, objective)), about,
        stream=not isinstance(batch, Batch), level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip
    return table if normalise is None else _by_layer(table)


@dataclass(frozen=True)
class _Some:
    """Some of the examples, on the devices."""

    model: Model
    part: Stack
    batch: Batch
    objective: Objective
    reads: Reads
    room: Resources
    thrifty: bool
    by_token: bool
    examples: np.ndarray

    @cached_property
    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """The objective `[B]`, and its derivative by the gate of every head at every token, but for its sign:
        `[B,L,T,N]`. A gate g is the edit `(1 - w) * z + w * 0` at w = 1 - g."""
        devices, part, here = self.room.devices, self.part, self.batch.take(self.examples)
        closed: Any = devices.examples(amounts(part, "z", here), axis=1)
        nothing: Any = np.zeros((part.layers, 1, 1, 1, 1), np.float32)
        layers: Any = np.arange(part.layers, dtype=np.int32)
        gates = SiteEdit(layers, closed, nothing, "z", part.name)
        piece, reads = devices.examples((here, self.reads.take(self.examples)))
        value_B, slope = amount_gradient(
            self.room.network(self.model), piece, reads, gates, value=self.objective.value, thrifty=self.thrifty
        )
        mask_BT = np.asarray(part.queries.of(here).mask)
        slope_BLTN = np.where(mask_BT[:, None, :, None], per_cell("z", slope), 0.0)
        return devices.fetch(value_B).astype(np.float64), slope_BLTN

    def ends(self) -> np.ndarray:
        """The objective, `[1,B]`."""
        return self.found[0][None]

    def effects(self, key: Any) -> np.ndarray:
        """Importances `[B,L*N]`."""
        del key
        slope_BLTN = self.found[1]
        found_BLN = np.abs(slope_BLTN).sum(axis=2) if self.by_token else np.abs(slope_BLTN.sum(axis=2))
        return found_BLN.reshape(len(found_BLN), -1)


def _by_layer(table: HeadTable) -> HeadTable:
    """Divided by the l2 norm of each layer's means; where they are all 0 they stay it."""
    norm_L = np.sqrt(np.nansum(table.values**2, axis=1))
    norm_L1 = np.where(norm_L > 0, norm_L, 1.0)[:, None]
    mean, low, high = (table.grid(f"importance{end}") / norm_L1 for end in ("", "_low", "_high"))
    column = Column(mean, low, high, None if table.per_example is None else table.per_example / norm_L1)
    return HeadTable.from_columns(table.name, table.stack, {"importance": column}, table.provenance, squeeze=True)
