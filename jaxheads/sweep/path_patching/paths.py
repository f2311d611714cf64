"""Path patching: what a head does to the objective through its direct paths to some receivers only.

Wang et al. 2022 (arXiv 2211.00593), section 3.1 and appendix B. A direct path leads through the residual stream and the
MLPs, never through another head. For each head as the sender: (1) the base run is repeated with the sender's `z` from
the other run and every other head's `z` frozen, and what the receivers read there is recorded; (2) it is repeated with
just those values in the receivers' place, and everything after them recomputed.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ...checks import one_of
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ..cached_run import end_of, stream_of
from ..pairs import Direction, Pair, pairs
from ..question import Question, question
from .engine import send_to_end, send_to_receivers
from .receivers import Receiver, ReceiverMasks, layers_to, receiver_masks, receiver_names, receiving_stack
from .work import HeadPairWork, MLPMode, PathInputs, SenderWork, path_inputs, path_question


@question
def paths(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    receivers: Sequence[Receiver] | Literal["logits", "memory"] = "logits",
    *,
    direction: Direction = "noising",
    mlps: MLPMode = "recomputed",
    positions: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Return the effect of every head along its direct paths to some receivers, all of which receive together.

    Args:
        clean: the inputs as they are; or a stream of pairs (clean, corrupt), as in `patch`.
        corrupt: the same inputs with what matters replaced, token for token: shape and mask are those of `clean`.
        receivers: "logits" (the stream after the last layer), or a list of ("q", layer, head), ("k", layer, key/value
            head), ("v", layer, key/value head) and ("mlp", layer). Heads of another stack on the same stream have its
            name before: ("cross.q", layer, head) of a decoder. "memory" for an encoder's heads: the end of its stream,
            as all cross-attention reads it.
        direction: "noising", as in the paper, edits the clean run with the corrupt run's output; "denoising" edits the
            corrupt run with the clean run's.
        mlps: "recomputed", as in the paper: paths may lead through MLPs. "frozen": MLPs' outputs are frozen like
            heads', and only paths along the residual stream are left.
        positions: where receivers receive: one column of the padded batch for each example `[B]`, one for all, or bool
            `[B,T]`; everywhere when left out. Padding never receives.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a sender, columns `effect`, `objective(2) - objective(unedited)`, and `normalised`, the effect as a
        share of the difference between the two runs, as in `patch`. NaN where no path leads from the head to any
        receiver: one leads to the MLP of its own layer and of later ones, and to heads that come later on the stream:
        of later layers, and from a decoder's own heads to the cross-attention of their layer.

    Raises:
        ValueError: for runs that do not fit each other, a receiver that is not there or that no head comes before,
            logits beside others (which they would hide), positions without a real token of some example, an unknown
            option, or an objective that the model can't give.
    """
    resources, senders = Resources.of(options), model.stack(options.get("stack"))
    stream, end = stream_of(model.network, senders.name), end_of(model.network, senders.name)
    masks = receiver_masks(stream, senders, receivers, end)
    about = {**_about(direction, mlps, positions), "receivers": receiver_names(masks, senders, end)}
    batches = pairs(clean, corrupt, objective)
    for inputs in path_inputs(
        model, senders, batches, direction=direction, mlps=mlps, positions=positions, resources=resources
    ):
        yield _to_receivers(inputs, masks, about) if masks else _to_end(inputs, about)


@question
def all_paths(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    kind: str = "q",
    *,
    direction: Direction = "noising",
    mlps: MLPMode = "recomputed",
    positions: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Return the effect of every head along its direct paths to every later head's queries, keys or values.

    Each cell is what `paths` gives for that one receiver; the other arguments are those of `paths`.

    Args:
        kind: what receives: "q", "k" or "v"; with the stack's name before it for another on the same stream, such as
            "cross.q".
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a pair, with axes layer, head (the sender's), receiver_layer and receiver_head (key/value heads at "k"
        and "v"), and the columns of `paths`; NaN where the receiver does not come later on the stream.

    Raises:
        ValueError: as `paths`, and for a stack of one layer.
    """
    resources, senders = Resources.of(options), model.stack(options.get("stack"))
    prefix, _, site = kind.rpartition(".")
    one_of("kind", site, ("q", "k", "v"))
    stream = stream_of(model.network, senders.name)
    receivers = receiving_stack(stream, senders, prefix, site)
    L, N, R = senders.layers, senders.heads, receivers.heads_at(site)
    distance = layers_to(stream, senders.name, receivers.name, site)
    if distance >= L:
        raise ValueError(f"paths from head to head need two layers; the {senders.name} has {L}")
    later_LL = np.arange(L)[:, None] + distance <= np.arange(L)[None]
    has_path_LNLR = np.broadcast_to(later_LL[:, None, :, None], (L, N, L, R))
    about = {**_about(direction, mlps, positions), "kind": kind}
    batches = pairs(clean, corrupt, objective)
    for inputs in path_inputs(
        model, senders, batches, direction=direction, mlps=mlps, positions=positions, resources=resources
    ):
        chunks = inputs.chunks(N * R, inputs.columns_run)
        work = partial(HeadPairWork, inputs, chunks, to=(receivers.name, site))
        yield path_question(inputs, chunks, has_path_LNLR, work, about)


def _to_end(inputs: PathInputs, about: dict[str, Any]) -> Question:
    """Return the question about paths to the end of the stream."""
    inputs.check_rows()
    L, N = inputs.senders.layers, inputs.senders.heads
    # Other stacks read the end at all positions, the logits only at the objective's rows.
    tokens = inputs.senders.queries.count(inputs.base) if inputs.end == "memory" else inputs.reads.rows.shape[1]
    chunks = inputs.chunks(N, tokens)
    work = partial(SenderWork, inputs, chunks, engine=partial(send_to_end, **inputs.static))
    return path_question(inputs, chunks, np.ones((L, N), bool), work, about)


def _to_receivers(inputs: PathInputs, masks: ReceiverMasks, about: dict[str, Any]) -> Question:
    """Return the question about paths to a group of receivers."""
    L, N = inputs.senders.layers, inputs.senders.heads
    layers = {
        (name, site): np.flatnonzero(np.asarray(mask).any(axis=1)).tolist()
        for name, sites in masks.items()
        for site, mask in sites.items()
    }
    span = min(numbers[0] for numbers in layers.values()), max(numbers[-1] for numbers in layers.values())
    # A head has a path to the group if any one receiver comes after it.
    last_sender = max(numbers[-1] - inputs.layers_to(*where) for where, numbers in layers.items())
    has_path_LN = np.tile(np.arange(L)[:, None] <= last_sender, N)
    engine = partial(send_to_receivers, receivers=masks, span=span, **inputs.static)
    chunks = inputs.chunks(N, inputs.columns_run)
    return path_question(inputs, chunks, has_path_LN, partial(SenderWork, inputs, chunks, engine=engine), about)


def _about(direction: str, mlps: str, positions: ArrayLike | None) -> dict[str, Any]:
    return {"direction": direction, "mlps": mlps, "positions": "all" if positions is None else "some"}
