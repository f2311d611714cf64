"""Edges: how much each matters by itself, exactly or from gradients."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...statistics import rank_correlation
from ...tables import HeadTable
from ..exact.patch import Pair, pairs
from ..exact.work import Resources
from ..question import answer
from .edge_work import EdgesAsking, one_of

METHODS = ("eap", "eap-ig")
RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}

Direction = Literal["denoising", "noising"]


def edge_attribution(
    model: Model, clean: Batch | Iterable[Pair], corrupt: Batch | None = None, objective: Objective | None = None,
    *,
    method: Literal["eap", "eap-ig"] = "eap", rule: Literal["left", "right", "midpoint"] = "left", steps: int = 5,
    direction: Direction = "denoising", exact: bool = False, stack: str | None = None,
    level: float = 0.95, seed: int = 0, memory: int = 1 << 30, devices: jax.sharding.Mesh | None = None,
    progress: bool = False, resume: str | os.PathLike | None = None,
) -> HeadTable:  # fmt: skip
    """The effect of patching each edge, estimated for all edges at once from gradients.

    An edge's score is `sum over positions of (other_u - own_u) · d objective / d in_v`: what its sender would say
    differently, times how the objective answers to its receiver's input. It estimates `patch_edges`, with the same
    signs: with "denoising" the corrupt run is edited with clean values, with "noising" the other way round.

    "eap" (Syed et al. 2023) takes the gradient in the run that is edited. The paper's scores, the clean run's gradient
    times corrupted minus clean, are those of `direction="noising"`. "eap-ig" (Hanna et al. 2024) averages gradients
    over `steps` runs whose embeddings lie between the two; the change stays that between the two real runs, so the
    direction only turns the sign, and the authors' is that of "noising".

    Args:
        clean, corrupt: of one shape, with padding in the same places; or a stream of pairs, as in `patch`.
        rule: which points "eap-ig" takes, from the corrupted end: "left" k/steps for k from 0, as the authors' code
            does; "right" the same from 1; "midpoint" (k + 1/2)/steps, whose error falls with steps².
        exact: patch every edge as well: adds the column `exact`, and to the provenance `spearman`, the rank
            correlation of the two over edges. Costs part of a forward pass for each edge and example.
        stack: whose stream, where there are several. An encoder's ends at the "memory" that the decoder reads; a
            decoder's has its cross-attention's heads too, whose keys and values stay those of the run that is edited.
        level, seed, memory, devices, progress, resume: as in `ablate`.

    Returns:
        A table over senders and receivers (named in `sender_node`, `receiver_node`), NaN where no edge is: `effect`,
        and `normalised`, the share of the objective's whole change from the run that is edited to the other.

    Raises:
        ValueError: for a stream that is no sum (post-norm), a cross-attention's stack (which writes to another's), a
            model that compares the ends of several streams, batches that don't fit each other, an objective that the
            model can't give, or an unknown option.
    """
    one_of("method", method, METHODS)
    one_of("rule", rule, tuple(RULES))
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    ways: dict[str, Any] = {"method": method, "direction": direction}
    shares = np.zeros(1)
    if method == "eap-ig":
        ways |= {"rule": rule, "steps": steps}
        from_corrupt = (np.arange(steps) + RULES[rule]) / steps
        shares = from_corrupt if direction == "denoising" else 1 - from_corrupt
    asking = EdgesAsking(model, direction, stack, shares, exact, Resources(memory, Devices.of(devices)), (repr(ways),))
    table = _answer(
        "edge_attribution", asking, clean, corrupt, objective, ways,
        level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip
    if not exact:
        return table
    agreement = rank_correlation(table.grid("effect"), table.grid("exact"))
    return replace(table, provenance=table.provenance | {"spearman": agreement})


def patch_edges(
    model: Model,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None = None,
    objective: Objective | None = None,
    *,
    direction: Direction = "denoising",
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
    devices: jax.sharding.Mesh | None = None,
    progress: bool = False,
    resume: str | os.PathLike | None = None,
) -> HeadTable:
    """The effect of patching each edge by itself: its receiver hears of its sender what the other run's said.

    All that follows from the receiver is recomputed; what else the sender says, others hear as it was. Effects are
    `objective(edited) - objective(unedited)` of the run that is edited, the corrupt one with "denoising", the clean one
    with "noising". Arguments, the table and what raises are as in `edge_attribution`.
    """
    asking = EdgesAsking(model, direction, stack, None, True, Resources(memory, Devices.of(devices)), ())
    return _answer(
        "patch_edges", asking, clean, corrupt, objective, {"direction": direction},
        level=level, seed=seed, progress=progress, resume=resume,
    )  # fmt: skip


def _answer(
    name: str,
    asking: EdgesAsking,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None,
    objective: Objective | None,
    ways: Mapping[str, Any],
    **options: Any,
) -> HeadTable:
    """The table, with the names of senders and receivers."""
    graph = asking.graph
    about = {**ways, "edges": int(graph.exists.sum())}
    names = np.meshgrid(graph.senders, graph.receivers, indexing="ij")
    return answer(
        name, (asking.of(*pair) for pair in pairs(clean, corrupt, objective)), about,
        stream=not isinstance(clean, Batch), **options,
        extras=lambda: dict(zip(("sender_node", "receiver_node"), names, strict=True)),
    )  # fmt: skip
