"""Path patching: what a head does to the objective through the direct paths to some receivers only.

Wang et al. 2022 (arXiv 2211.00593), section 3.1 and appendix B.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..models.batch import Batch
from ..models.model import Model
from ..objectives import Objective
from ..tables import HeadTable
from .path_ends import Receiver, receiver_masks, receiver_names
from .path_engine import Piece, next_direct, to_each_head, to_logits, to_receivers
from .path_question import Direction, MLPs, Question

KINDS = ("q", "k", "v")


def paths(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    objective: Objective,
    receivers: Sequence[Receiver] | Literal["logits"],
    *,
    direction: Direction = "noising",
    mlps: MLPs = "recomputed",
    positions: ArrayLike | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of every head along its direct paths to some receivers: path patching.

    A direct path leads through the residual stream and the MLPs, never through another head. For each head as the
    sender: (1) the edited run is run with the sender's `z` from the other run and every other head's held, and what the
    receivers read there is recorded; (2) it is run again with just those values in the receivers' place, all after them
    recomputed. The effect is the objective of (2) minus that of the unedited run, per example.

    Args:
        clean: the inputs as they are.
        corrupt: the same inputs with what matters replaced, token for token: shape and mask are those of `clean`.
        receivers: "logits" (the stream after the last layer), or a list of ("q", layer, head), ("k", layer, key/value
            head), ("v", layer, key/value head) and ("mlp", layer), all of which receive together.
        direction: "noising", as in the paper, edits the clean run with the corrupt run's output; "denoising" edits the
            corrupt run with the clean run's.
        mlps: "recomputed", as in the paper: paths may lead through MLPs. "frozen": they are held like heads, and only
            paths along the residual stream are left.
        positions: where receivers receive: one column of the padded batch for each example `[B]`, one for all, or bool
            `[B,T]`; everywhere when left out. Padding is never meant.
        stack: which stack's heads; the only one when left out.
        level: of the interval.
        seed: of the bootstrap.
        memory: bytes for the activations of one piece of work.
        progress: show a progress bar.
        resume: a directory: finished pieces are written there, and a later call with the same question goes on from
            them.

    Returns:
        One row a sender, columns `effect`, in units of the objective, and `normalised`, the same as a share of the
        difference between the two runs (see `patch`), each with its interval. NaN for a head that comes after all
        receivers: there is no path. A head comes before the MLP of its own layer, and before `q`, `k`, `v` of later
        layers.

    Raises:
        ValueError: for runs that do not fit each other, receivers that are not there, that no head comes before, or
            that hide each other (logits beside others), positions that hold no real token of some example, an unknown
            direction or way with MLPs, or an objective that the model can't give.
    """
    question = Question.asked(
        model, clean, corrupt, objective,
        direction=direction, mlps=mlps, positions=positions, stack=stack, memory=memory,
    )  # fmt: skip
    masks = receiver_masks(question.stack, receivers)
    L, N = question.stack.layers, question.stack.heads
    if masks:
        chunks = question.chunks(question.changing)
        *span, last = _layers(masks)
        given = {site: jnp.asarray(mask) for site, mask in masks.items()}
        engine = partial(to_receivers, receivers=given, span=tuple(span), **question.static)
    else:
        question.check_rows()
        chunks, last = question.chunks(question.reads.rows.shape[1]), L - 1
        engine = partial(to_logits, **question.static)

    def ask(piece: Piece, layer: int) -> np.ndarray:
        values_BN = np.empty((len(piece.batch), N))
        for heads in chunks.copy_pieces(N):
            values_BN[:, heads] = np.asarray(engine(piece, layer=layer, heads_G=jnp.asarray(heads))).T
        return values_BN

    return question.answer(
        "paths", ask, np.broadcast_to(np.arange(L)[:, None] <= last, (L, N)),
        examples=chunks.examples, words={"receivers": receiver_names(masks)},
        level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip


def all_paths(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    objective: Objective,
    kind: Literal["q", "k", "v"] = "q",
    *,
    direction: Direction = "noising",
    mlps: MLPs = "recomputed",
    positions: ArrayLike | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of every head along its direct paths to every later head's queries, keys or values.

    Each cell is what `paths` gives for that one receiver; the arguments are the same, but for these.

    Args:
        kind: what receives: "q", "k" or "v".

    Returns:
        One row a pair, with axes layer, head (the sender's), receiver_layer and receiver_head (key/value heads at "k"
        and "v"), and the columns of `paths`; NaN where the receiver is not in a later layer.

    Raises:
        ValueError: as `paths`, and for a stack of one layer.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    question = Question.asked(
        model, clean, corrupt, objective,
        direction=direction, mlps=mlps, positions=positions, stack=stack, memory=memory,
    )  # fmt: skip
    L, N = question.stack.layers, question.stack.heads
    R = N if kind == "q" else question.stack.kv_heads
    if L < 2:
        raise ValueError(f"paths from head to head need two layers; the {question.stack.name} has {L}")
    chunks = question.chunks(question.changing)
    room = max(1, question.together(question.changing) // (chunks.examples * chunks.copies))
    together = max(number for number in range(1, R + 1) if R % number == 0 and number <= room)

    def ask(piece: Piece, layer: int) -> np.ndarray:
        values = np.full((len(piece.batch), N, L, R), np.nan)
        for heads in chunks.copy_pieces(N):
            direct: Array | None = None
            for receiver in range(layer + 1, L):
                direct = next_direct(piece, direct, layer, jnp.asarray(heads), receiver - 1, way=question.way)
                found_GRB = to_each_head(piece, direct, receiver, kind=kind, together=together, **question.static)
                values[:, heads, receiver] = np.moveaxis(np.asarray(found_GRB), 2, 0)
        return values

    later = np.arange(L)[:, None] < np.arange(L)[None]
    return question.answer(
        "all_paths", ask, np.broadcast_to(later[:, None, :, None], (L, N, L, R)),
        examples=chunks.examples, words={"kind": kind},
        level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip


def _layers(masks: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """The receivers' first and last layer, and the last layer whose heads come before any of them."""
    there = [(int(layer), site) for site, mask in masks.items() for layer in np.flatnonzero(mask.any(axis=1))]
    return min(there)[0], max(there)[0], max(layer - (site != "mlp_out") for layer, site in there)
