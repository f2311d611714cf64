"""Ablation: what happens to the objective when heads' outputs are taken away."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...checks import whole
from ...execution.lengths import Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...generate.written import Written
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, effect_range
from ...reads import reads_of
from ...statistics import mean_interval
from ...tables import Column, HeadTable
from ..grid import HEAD_AXES, Grid, Heads, check_by, site_grid
from ..pairs import Inputs, inputs
from ..question import Question, sweep
from .mean_groups import read_labels
from .plan import EditGroup, edit_groups, set_groups
from .replacement import Replacement
from .work import exact
from .written_text import written_question


@sweep
@checked(donors=at_least(1))
def ablate(
    model: Model,
    batch: Inputs,
    objective: Objective | None = None,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    by: Sequence[str] = ("layer", "head"),
    sets: Mapping[str, Heads] | None = None,
    reference: Batch | Texts | None = None,
    per_position: bool | None = None,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Replace heads' outputs and return how the objective changes, for every example.

    An effect is `objective(ablated) - objective(unedited)`, per example, then averaged; its interval is
    over examples, or clusters of them. Equal to a whole forward pass with `z` of those heads replaced, but nothing is
    computed that the replacement cannot change.

    Args:
        batch: the inputs; or a stream of batches without end, each with an objective of its own if it needs one. All
            of a stream's examples count and few are kept (see `statistics.GroupedRows`): memory is bounded.
        objective: a number for each example. Of `jh.written`, every text is written anew without the cell's heads; the
            method is then "zero", or "mean" with a reference, over all of whose tokens a head's output is averaged.
        method: what replaces a head's `z`: "zero"; "mean", over the reference's examples; "resample", that of another
            example of the reference at the same position.
        by: ("layer", "head"), one head at a time; ("layer", "kv_head"), all query heads of one key/value head;
            ("layer",), all heads of a layer; ("layer", "head", "position"), one head at one position, counted over real
            tokens; and ("layer", "kv_head", "position").
        sets: instead of `by`: named sets of (layer, head) pairs, each ablated as a whole; see `cumulative`.
        reference: for "mean" and "resample"; when left out, the batch's other examples (a stream needs one).
        per_position: None takes a mean for each position (counted over real tokens) where the reference has at least
            8 examples at every position that the batch has, else one mean for the first position and one for all
            later ones: the first token's output is like no other. True takes means by position whatever their number
            of examples, False one mean over all positions. In a stream the first batch decides.
        groups: labels `[E]`: take the means of each group by itself (the template, in Wang et al. 2022).
        reference_groups: labels of the reference's examples `[R]`; those in `groups`, in their order, when left out.
        donors: for "resample", how many other examples each effect is averaged over.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a cell, columns `effect effect_low effect_high`; `.values` on the grid, `.per_example` `[E, *grid]`
        (None beyond a stream's 2,048 examples). An effect that is not finite counts as missing and is named in
        `.provenance["not_finite"]`; `.provenance["unedited"]` is the objective's mean in the unedited run. Of means,
        `.provenance["means"]` is "by position", "first position apart" or "pooled", and `.provenance["mean_examples"]`
        the least number of examples that any of them is taken over.

    Raises:
        ValueError: for an unknown method, stack or axis, an objective that the model can't give, a head that is not
            there, a reference or groups that do not fit the batch, or a mean that would be a single example's value.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    labels, seed = read_labels(groups, reference_groups), options.get("seed", 0)
    if reference is not None:
        model.check(reference, packed=True)
        [reference] = Lengths(model).alike(reference)
    replacement = Replacement(model, stack, resources, method, reference, per_position, labels, donors, seed)
    if not isinstance(batch, Batch):
        # A batch may serve as its own reference; a stream's later batches are not there yet when the first is asked.
        replacement.check_stream()
    asked = {"by": None if sets else list(by), "sets": None if sets is None else list(sets)}
    counted: dict[str, int] = {}
    first = 0
    lengths = Lengths(model)
    if sets is None:
        _check_by(by)
    extras = None if sets is None else {"heads": _set_words(sets)}
    for current, own_objective in inputs(batch, objective):
        # Everything that can be wrong is checked before the first `yield`: nothing has run by then.
        if isinstance(own_objective, Written):
            about, cells = replacement.about | asked, _cells(stack, current, by, sets)
            yield written_question(
                model, stack, current, own_objective, replacement, resources, cells, about, extras, first
            )
            first += len(current)
            continue
        reads = reads_of(own_objective, model, current)
        count = len(sets) if sets is not None else site_grid(stack, "z", current, by).size
        reads, current = lengths.read(own_objective, reads, current, runs=sweep_runs(count))
        replacement = replacement.settled(current)
        source, counted = replacement.of(current, first), replacement.counted(current, counted)
        # Donors go by the example's number: batches must not draw the same ones again.
        first += len(current)
        about, cells = replacement.about | asked, _cells(stack, current, by, sets)
        yield exact(
            model,
            stack,
            current,
            own_objective,
            reads,
            cells,
            source,
            resources,
            identity=(replacement.identity, about, sets),
            about=about | counted,
            extras=extras,
        )


@checked()
def cumulative(order: Heads) -> dict[str, list[tuple[int, int]]]:
    """Return sets for `ablate` that grow by one head at a time, in this order; the n-th is named "n"."""
    heads = [(whole("order", layer, 0), whole("order", head, 0)) for layer, head in order]
    return {str(count): heads[:count] for count in range(1, len(heads) + 1)}


@checked()
def interactions(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    heads: Heads,
    method: Literal["zero", "mean", "resample"] = "mean",
    *,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> HeadTable:
    """Return what two heads do together beyond what each does alone: effect(both) − effect(first) − effect(second).

    0 for heads that add up. Backup heads (Wang et al. 2022, section 3.4) show here: removing both costs more than the
    sum.

    Args:
        heads: at least two (layer, head) pairs, each once.
        level, seed: of the intervals over examples, and of everything drawn at random.
        options: others of `ablate`, beside `by` and `sets`.

    Returns:
        Axes ("first", "second"), indices into `heads`; columns `interaction` and `effect` (of both), and the heads'
        names as extras. Symmetric; on the diagonal `effect` is that of the head alone and `interaction` is NaN.

    Raises:
        ValueError: for fewer than two heads or one named twice, and as `ablate` does.
    """
    names = [f"{layer}.{head}" for layer, head in heads]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"interactions are between at least two heads, each named once; got {names}")
    count = len(names)
    first, second = np.triu_indices(count)
    sets = {
        f"{names[a]} {names[b]}": [heads[a]] if a == b else [heads[a], heads[b]]
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    }
    table = ablate(model, batch, objective, method, sets=sets, level=level, seed=seed, **options)
    assert table.per_example is not None, "all examples of a single batch are kept"
    # Each pair was asked once: the grid is symmetric, and its diagonal holds each head alone.
    together_EHH = np.empty((len(batch), count, count))
    together_EHH[:, first, second] = together_EHH[:, second, first] = table.per_example
    alone_EH = np.diagonal(together_EHH, axis1=1, axis2=2)
    beyond_EHH = together_EHH - alone_EH[:, :, None] - alone_EH[:, None, :]
    # A head has no interaction with itself; the formula would give minus its effect.
    beyond_EHH[:, np.arange(count), np.arange(count)] = np.nan
    low, high = effect_range(objective)
    columns = {
        name: Column(*mean_interval(values, clusters=table.clusters, within=span, level=level), values, range=span)
        for name, values, span in (
            ("interaction", beyond_EHH, (2 * low, 2 * high)),
            ("effect", together_EHH, (low, high)),
        )
    }
    first_head = np.broadcast_to(np.array(names)[:, None], (count, count))
    extras = {"first_head": first_head, "second_head": first_head.T}
    axes = ("first", "second")
    return HeadTable.from_columns(
        "interactions", table.stack, columns, table.provenance, axes=axes, extras=extras, clusters=table.clusters
    )


def _cells(
    stack: Stack, batch: Batch, by: Sequence[str], sets: Mapping[str, Heads] | None
) -> tuple[Grid, Sequence[EditGroup]]:
    """Return the grid, and the edited copies that answer its cells."""
    if sets is not None:
        return set_groups(stack, "z", sets)
    grid = site_grid(stack, "z", batch, by)
    return grid, edit_groups(stack, "z", batch, grid)


def _check_by(by: Sequence[str]) -> None:
    # By layer and position would need all heads at one position: the values of a source are laid out by head.
    if not set(HEAD_AXES) & set(check_by("z", by)) and "position" in by:
        raise ValueError(f"ablation is by head, by layer, or by head and position; got {tuple(by)}")


def _set_words(sets: Mapping[str, Heads]) -> np.ndarray:
    """Return the name and the heads of each set, in words."""
    return np.array([f"{name}: {' '.join(f'{layer}.{head}' for layer, head in heads)}" for name, heads in sets.items()])
