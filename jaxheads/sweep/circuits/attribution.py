"""Edges: how much each matters by itself, exactly or from gradients."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, Unpack

import numpy as np

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.resources import Options, Resources
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...statistics import rank_correlation
from ...tables import Column, HeadTable
from ..estimates import missed_words
from ..pairs import DIRECTIONS, Direction, Pair, base_and_other, check_pair, pairs
from ..question import Question, question
from .graph import graph_of
from .work import edge_question

METHODS = ("eap", "eap-ig")
RULES = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Offset of each rule's points, as a share of the step between them."""


@question
@checked(steps=at_least(1))
def edge_attribution(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    *,
    method: Literal["eap", "eap-ig"] = "eap",
    rule: Literal["left", "right", "midpoint"] = "left",
    steps: int = 5,
    direction: Direction = "denoising",
    exact: bool = False,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Estimate the effect of patching each edge, for all edges at once, from gradients.

    An edge's score is `sum over positions of (other_u - base_u) · d objective / d in_v`: the change of its sender's
    output, times the gradient of the objective by its receiver's input. It estimates `patch_edges`, with the same
    signs: with "denoising" the corrupt run is edited with clean values, with "noising" the clean run with corrupt ones.

    "eap" (Syed et al. 2023) takes the gradient in the run that is edited. The paper's scores, the clean run's gradient
    times corrupted minus clean, are those of `direction="noising"`. "eap-ig" (Hanna et al. 2024) averages gradients
    over `steps` runs whose embeddings lie between the two; the change stays that between the two real runs, so the
    direction only turns the sign, and the authors' is that of "noising".

    An encoder's stream ends at the "memory" that the decoder reads. A decoder's has its cross-attention's heads too,
    whose keys and values stay those of the run that is edited.

    Args:
        clean, corrupt: of one shape, with padding in the same places; or a stream of pairs, as in `patch`.
        rule: which points "eap-ig" takes, from the corrupted end: "left" k/steps for k from 0, as the authors' code
            does; "right" k/steps for k from 1; "midpoint" (k + 1/2)/steps, whose error falls with steps².
        direction: "denoising" puts the clean run's outputs into the corrupt run, "noising" the corrupt run's into the
            clean run.
        exact: patch every edge as well: adds the column `exact`, and to the provenance `spearman`, the rank
            correlation of the two over edges, and `missed`, the edges whose effect the estimates miss, by name (see
            `compare_estimates`). Costs part of a forward pass for each edge and example.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        A table over senders and receivers (named in `sender_node`, `receiver_node`), NaN where no edge is: `effect`,
        and `normalised`, the share of the objective's whole change from the run that is edited to the other.

    Raises:
        ValueError: for a stream that is no sum (post-norm), a cross-attention's stack (which writes to another's), a
            model that compares the ends of several streams, batches that don't fit each other, an objective that the
            model can't give, or an unknown option.
    """
    one_of("method", method, METHODS)
    one_of("rule", rule, RULES)
    one_of("direction", direction, DIRECTIONS)
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    graph, fractions = graph_of(model, stack), np.zeros(1)
    about: dict[str, Any] = {"method": method, "direction": direction}
    if method == "eap-ig":
        about |= {"rule": rule, "steps": steps}
        from_corrupt = (np.arange(steps) + RULES[rule]) / steps
        # The points are the same in both directions; fractions count from the run that is edited.
        fractions = from_corrupt if direction == "denoising" else 1 - from_corrupt
    # To first order, patching edge (u, v) changes the objective by (other_u - base_u) · d objective / d in_v. EAP takes
    # the gradient at the base run, fraction 0. EAP-IG averages it on the way to the other run, as integrated gradients
    # do, which are exact for the sum over all edges that leave the embedding.
    for clean_batch, corrupt_batch, own_objective in pairs(clean, corrupt, objective):
        check_pair(model, clean_batch, corrupt_batch)
        yield edge_question(
            model,
            stack,
            graph,
            base_and_other(direction, clean_batch, corrupt_batch),
            own_objective,
            resources,
            fractions=fractions.tolist(),
            exact=exact,
            about={**about, "edges": int(graph.exists.sum())},
            finish=_with_agreement if exact else lambda table: table,
        )


@question
def patch_edges(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    *,
    direction: Direction = "denoising",
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Patch each edge by itself: its receiver reads the other run's output of its sender.

    All that follows from the receiver is recomputed; other receivers read the sender's output unchanged. Effects are
    `objective(edited) - objective(unedited)` of the run that is edited.

    Args:
        clean, corrupt: of one shape, with padding in the same places; or a stream of pairs, as in `patch`.
        direction: "denoising" puts the clean run's outputs into the corrupt run, "noising" the corrupt run's into the
            clean run.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        A table as `edge_attribution` gives it.

    Raises:
        ValueError: as `edge_attribution` does.
    """
    one_of("direction", direction, DIRECTIONS)
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    graph = graph_of(model, stack)
    for clean_batch, corrupt_batch, own_objective in pairs(clean, corrupt, objective):
        check_pair(model, clean_batch, corrupt_batch)
        yield edge_question(
            model,
            stack,
            graph,
            base_and_other(direction, clean_batch, corrupt_batch),
            own_objective,
            resources,
            exact=True,
            about={"direction": direction, "edges": int(graph.exists.sum())},
        )


def _with_agreement(table: HeadTable) -> HeadTable:
    """Return the table with the rank correlation of estimates and exact effects, and the edges that are missed."""
    about = {"spearman": rank_correlation(table.grid("effect"), table.grid("exact"))}
    exact = Column(*(table.grid(name) for name in ("exact", "exact_low", "exact_high")))
    about |= missed_words(table, exact, Column(table.grid("effect")))
    return replace(table, provenance=table.provenance | about)
