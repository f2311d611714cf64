"""The objective of a run in which only the edges of a circuit are kept."""

from typing import Literal, Unpack

import numpy as np

from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...progress import progress as show_progress
from .kept_runs import EdgeRuns


@shares_options(without=("level", "seed", "resume"), copies=True)
def keep_edges(
    model: Model,
    clean: Batch | Texts,
    corrupt: Batch | Texts | None,
    objective: Objective,
    kept: np.ndarray,
    *,
    ablation: Literal["patching", "zero", "mean"] = "patching",
    per_position: bool | None = None,
    **options: Unpack[Options],
) -> np.ndarray:
    """Return the objective `[G,E]` of the clean run with only the edges of a circuit kept, for each of G circuits.

    Over an edge that is not kept, its receiver reads the sender's output in the corrupt run instead.

    Args:
        corrupt: for "patching" of the clean batch's shape, with padding in the same places; for "mean" any batch; for
            "zero" none is needed.
        kept: bool `[G,U,V]`, in the order of `Graph.senders` and `Graph.receivers`; pairs that are no edges are passed
            over.
        ablation: what other edges carry: "patching" the sender's output in the corrupt run, "mean" its mean over the
            corrupt batch's examples, "zero" nothing.
        per_position: of "mean", as in `ablate`: by position where the corrupt batch has 8 examples at every position
            of the clean one, else with the first position apart; True by position, False over all positions.
        options: shared by all questions: stack, memory, devices, progress.

    Raises:
        ValueError: as in `edge_attribution`, and for circuits of another shape.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    runs = EdgeRuns(model, stack, clean, corrupt, objective, ablation, resources, per_position)
    # `resume` is not taken: a user who wants circuits kept on disk asks `circuit`, which remembers each by itself.
    count = len(np.asarray(kept))
    with show_progress(count * len(clean), f"running {count} circuits", resources.progress) as advance:
        return runs.values(kept, advance)
