"""Michel, Levy & Neubig's importance of heads (2019, arXiv 1905.10650): how the loss answers to a head's gate."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from ..models.batch import Batch
from ..models.model import Model
from ..models.sites import SiteEdit
from ..objectives import Objective
from ..progress import progress as show_progress
from ..tables import HeadTable
from .answers import asked_of, effect_table
from .gradient.pieces import amount_gradient, amounts, choose_pieces, per_cell

GRANULARITIES = ("example", "token")


def importance(
    model: Model,
    batch: Batch,
    objective: Objective,
    *,
    granularity: Literal["example", "token"] = "example",
    normalise: Literal["layer"] | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    progress: bool = False,
) -> HeadTable:
    """Each head's importance `mean over examples of |d objective / d gate|`, the gate on `z` being 1.

    All heads from one pass there and back. Where the objective is linear in a head's output, this is the mean size of
    the effect of zeroing the head.

    Args:
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
        level, seed: of the bootstrap interval over examples.
        memory: bytes for the activations of one piece of work.
        progress: show a progress bar.

    Returns:
        One row a head, columns `importance importance_low importance_high`; `.values` `[L,N]`; `.per_example` `[E,L,N]`
        is each example's |derivative| or sum of them. What is not finite counts as missing and is named in
        `.provenance["not_finite"]`; `.provenance["unedited"]` is the objective's mean.

    Raises:
        ValueError: for an unknown granularity, normalisation or stack, or an objective that the model can't give.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(GRANULARITIES)}; got {granularity!r}")
    if normalise not in (None, "layer"):
        raise ValueError(f"normalise must be 'layer' or None; got {normalise!r}")
    model.check(batch)
    unedited_E, slope_ELTN = _slopes(model, batch, objective, stack, memory, progress)
    mask_ET = np.asarray(model.stack(stack).queries.of(batch).mask)
    slope_ELTN = np.where(mask_ET[:, None, :, None], slope_ELTN, 0.0)
    found_ELN = np.abs(slope_ELTN).sum(axis=2) if granularity == "token" else np.abs(slope_ELTN.sum(axis=2))
    if normalise == "layer":
        found_ELN = found_ELN / _norms(found_ELN)[:, None]
    about = {**asked_of(model, objective, unedited_E), "granularity": granularity, "normalise": normalise}
    name = model.stack(stack).name
    return effect_table("importance", name, {"importance": found_ELN}, about, level=level, seed=seed)


def _slopes(
    model: Model, batch: Batch, objective: Objective, stack: str | None, memory: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The objective `[E]`, and its derivative by the gate of every head at every token, but for its sign: `[E,L,T,N]`.

    A gate g is the edit `(1 - w) * z + w * 0` at w = 1 - g.
    """
    part, reads = model.stack(stack), objective.reads(model, batch)
    nothing = jnp.zeros((part.layers, 1, 1, 1, 1))
    pieces = choose_pieces(model.network, part, batch, reads, memory)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with show_progress(len(batch), f"importance of {part.layers * part.heads} heads", progress) as advance:
        for examples in pieces.of(len(batch)):
            piece, real = batch.take(examples), len(np.unique(examples))
            closed = jnp.asarray(amounts(part, "z", piece))
            gates = SiteEdit(jnp.arange(part.layers), closed, nothing, "z", part.name)
            value_B, slope = amount_gradient(
                model.network, piece, reads.take(examples), gates, value=objective.value, thrifty=pieces.thrifty
            )
            found.append((np.asarray(value_B, np.float64)[:real], per_cell("z", slope)[:real]))
            advance(real)
    value_E, slope_ELTN = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return value_E, slope_ELTN


def _norms(found_ELN: np.ndarray) -> np.ndarray:
    """The l2 norm of each layer's means over examples, `[L]`; 1 where they are all 0."""
    known_ELN = np.isfinite(found_ELN)
    mean_LN = np.where(known_ELN, found_ELN, 0.0).sum(axis=0) / np.maximum(known_ELN.sum(axis=0), 1)
    norm_L = np.sqrt((mean_LN**2).sum(axis=1))
    return np.where(norm_L > 0, norm_L, 1.0)
