"""Path patching: what a head does to the objective through its direct paths to some receivers only.

Wang et al. 2022 (arXiv 2211.00593), section 3.1 and appendix B. A direct path leads through the residual stream and the
MLPs, never through another head. For each head as the sender: (1) the unedited run is repeated with the sender's `z`
from the other run and every other head's `z` held, and what the receivers read there is recorded; (2) it is repeated
with just those values in the receivers' place, and everything after them recomputed.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.batching import Chunks
from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...tables import HeadTable
from ..exact.engine import end_of, stream_of
from ..exact.patch import Pair, pairs
from ..exact.work import Resources
from ..pieces import InPieces
from ..question import answer
from .engine import Piece, next_direct, to_each_head, to_receivers, to_the_end
from .receivers import Masks, Receiver, receiver_masks, receiver_names, receiving_stack
from .streams import hears_own_layer
from .work import Direction, MLPs, Question, Ways

KINDS = ("q", "k", "v")


def paths(
    model: Model,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None = None,
    objective: Objective | None = None,
    receivers: Sequence[Receiver] | Literal["logits", "memory"] = "logits",
    *,
    direction: Direction = "noising",
    mlps: MLPs = "recomputed",
    positions: ArrayLike | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of every head along its direct paths to some receivers, all of which receive together.

    Args:
        clean: the inputs as they are; or a stream of pairs (clean, corrupt), as in `patch`.
        corrupt: the same inputs with what matters replaced, token for token: shape and mask are those of `clean`.
        receivers: "logits" (the stream after the last layer), or a list of ("q", layer, head), ("k", layer, key/value
            head), ("v", layer, key/value head) and ("mlp", layer). Heads of another stack on the same stream have its
            name before: ("cross.q", layer, head) of a decoder. "memory" for an encoder's heads: the end of its stream,
            as all cross-attention reads it.
        direction: "noising", as in the paper, edits the clean run with the corrupt run's output; "denoising" edits the
            corrupt run with the clean run's.
        mlps: "recomputed", as in the paper: paths may lead through MLPs. "frozen": their outputs are held like heads',
            and only paths along the residual stream are left.
        positions: where receivers receive: one column of the padded batch for each example `[B]`, one for all, or bool
            `[B,T]`; everywhere when left out. Padding is never meant.
        stack, level, seed, memory, devices, progress, resume: as in `ablate`.

    Returns:
        One row a sender, columns `effect`, `objective(2) - objective(unedited)`, and `normalised`, the same as a share
        of the difference between the two runs, as in `patch`. NaN where no path leads from the head to any receiver:
        one leads to the MLP of its own layer and of later ones, and to heads that come later on the stream: of later
        layers, and from a decoder's own heads to the cross-attention of their layer.

    Raises:
        ValueError: for runs that do not fit each other, a receiver that is not there or that no head comes before,
            logits beside others (which they would hide), positions without a real token of some example, an unknown
            option, or an objective that the model can't give.
    """
    senders = model.stack(stack)
    stream, end = stream_of(model.network, senders.name), end_of(model.network, senders.name)
    masks = receiver_masks(stream, senders, receivers, end)
    about: dict[str, Any] = {"direction": direction, "mlps": mlps, "positions": "all" if positions is None else "some"}
    about["receivers"] = receiver_names(masks, senders, end)
    ask = _Asking(
        model, direction, mlps, positions, stack, Resources(memory, Devices.of(devices)), (repr(about),),
        partial(_to_group, masks=masks) if masks else _to_the_end,
    )  # fmt: skip
    return answer(
        "paths", (ask.of(*pair) for pair in pairs(clean, corrupt, objective)), about,
        stream=not isinstance(clean, Batch), level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip


def all_paths(
    model: Model,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None = None,
    objective: Objective | None = None,
    kind: str = "q",
    *,
    direction: Direction = "noising",
    mlps: MLPs = "recomputed",
    positions: ArrayLike | None = None,
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of every head along its direct paths to every later head's queries, keys or values.

    Each cell is what `paths` gives for that one receiver; the arguments are the same, but for these.

    Args:
        kind: what receives: "q", "k" or "v"; with the stack's name before it for another on the same stream, such as
            "cross.q".

    Returns:
        One row a pair, with axes layer, head (the sender's), receiver_layer and receiver_head (key/value heads at "k"
        and "v"), and the columns of `paths`; NaN where the receiver does not come later on the stream.

    Raises:
        ValueError: as `paths`, and for a stack of one layer.
    """
    senders, (prefix, _, letter) = model.stack(stack), kind.rpartition(".")
    if letter not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    stream = stream_of(model.network, senders.name)
    to = receiving_stack(stream, senders, prefix, letter).name, letter
    if senders.layers < 2 and not hears_own_layer(stream, senders.name, *to):
        raise ValueError(f"paths from head to head need two layers; the {senders.name} has {senders.layers}")
    about = {"direction": direction, "mlps": mlps, "positions": "all" if positions is None else "some", "kind": kind}
    ask = _Asking(
        model, direction, mlps, positions, stack, Resources(memory, Devices.of(devices)), (repr(about),),
        partial(_to_each_head, to=to),
    )  # fmt: skip
    return answer(
        "all_paths", (ask.of(*pair) for pair in pairs(clean, corrupt, objective)), about,
        stream=not isinstance(clean, Batch), level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip


@dataclass(frozen=True)
class _Asking:
    """All that is asked, but for the pair.

    Attributes:
        identity: words that the answer depends on.
        ways: of a pair, the paths that are asked about.
    """

    model: Model
    direction: Direction
    mlps: MLPs
    positions: ArrayLike | None
    stack: str | None
    room: Resources
    identity: tuple[Any, ...]
    ways: Callable[[Question], Ways]

    def of(self, clean: Batch, corrupt: Batch, objective: Objective) -> InPieces:
        """Of one pair; raises ValueError before anything runs."""
        asked = Question.asked(
            self.model, clean, corrupt, objective,
            direction=self.direction, mlps=self.mlps, positions=self.positions, stack=self.stack, room=self.room,
        )  # fmt: skip
        return asked.in_pieces(self.ways(asked), self.identity)


def _to_the_end(asked: Question) -> Ways:
    asked.check_rows()
    chunks = asked.chunks(asked.stack.queries.count(asked.base) if asked.end == "memory" else asked.reads.rows.shape[1])
    paths_LN = np.ones((asked.stack.layers, asked.stack.heads), bool)
    return Ways(partial(_senders, partial(to_the_end, **asked.static), chunks, asked.room.devices), paths_LN, chunks)


def _to_group(asked: Question, masks: Masks) -> Ways:
    there = [
        (name, site, np.flatnonzero(mask.any(axis=1))) for name, sites in masks.items() for site, mask in sites.items()
    ]
    before = max(layers[-1] - asked.nearest(name, site) for name, site, layers in there)
    paths_LN = np.tile(np.arange(asked.stack.layers)[:, None] <= before, asked.stack.heads)
    receivers = {name: {site: jnp.asarray(mask) for site, mask in sites.items()} for name, sites in masks.items()}
    span = min(layers[0] for _, _, layers in there), max(layers[-1] for _, _, layers in there)
    engine = partial(to_receivers, receivers=receivers, span=(int(span[0]), int(span[1])), **asked.static)
    chunks = asked.chunks(asked.changing)
    return Ways(partial(_senders, engine, chunks, asked.room.devices), paths_LN, chunks)


def _senders(engine: Callable[..., Array], chunks: Chunks, devices: Devices, piece: Piece, layer: int) -> np.ndarray:
    """The objectives `[B,N]` of the copies whose senders are in one layer."""
    N = piece.runs.other_z.shape[3]
    values_BN = np.empty((len(piece.batch), N))
    for heads in chunks.copy_pieces(N):
        values_BN[:, heads] = devices.fetch(engine(piece, layer=layer, heads_G=devices.cells(heads))).T
    return values_BN


def _to_each_head(asked: Question, to: tuple[str, str]) -> Ways:
    L, N, nearest = asked.stack.layers, asked.stack.heads, asked.nearest(*to)
    [part] = [part for part in asked.stream.members if part.name == to[0]]
    R = part.heads if to[1] == "q" else part.kv_heads
    chunks, devices = asked.chunks(asked.changing), asked.room.devices
    room = max(1, asked.together(asked.changing) // (chunks.examples * chunks.copies))
    together = max(number for number in range(1, R + 1) if R % number == 0 and number <= room)

    def ask(piece: Piece, layer: int) -> np.ndarray:
        values_BNLR = np.full((len(piece.batch), N, L, R), np.nan)
        for heads in chunks.copy_pieces(N):
            direct, heads_G = None, devices.cells(heads)
            for receiver in range(layer, L):
                if receiver >= layer + nearest:
                    found_GRB = to_each_head(
                        piece, direct, layer, heads_G, receiver, to=to, together=together, **asked.static
                    )
                    values_BNLR[:, heads, receiver] = np.moveaxis(devices.fetch(found_GRB), 2, 0)
                if receiver + 1 < L:
                    direct = next_direct(piece, direct, layer, heads_G, receiver, way=asked.way)
        return values_BNLR

    later_LL = np.arange(L)[:, None] + nearest <= np.arange(L)[None]
    return Ways(ask, np.broadcast_to(later_LL[:, None, :, None], (L, N, L, R)), chunks)
