"""Activation patching: what happens to one run when it is given some of another run's values.

Zhang & Nanda 2024 (arXiv 2309.16042) say how to read it: three runs (clean, corrupted, patched), corrupted prompts of
equal length, a logit difference, and the effect as a share of the whole difference.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import jax
from jax import Array

from ...execution.lengths import Lengths, sweep_runs
from ...execution.resources import Options, Resources
from ...models.attention.row_edits import BY_QUERIES
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch, Texts
from ...models.inputs.query_rows import Take
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack, run_block, take_rows
from ...objectives import Objective, Reads, read_out
from ...programs import compiled
from ...reads import reads_of
from ..cached_run import Value
from ..grid import check_by, site_grid
from ..pairs import Direction, Pair, base_and_other, check_pair, first_change, pairs
from ..question import Question, sweep
from .engine import SiteValues
from .plan import edit_groups
from .work import Chunk, exact


@sweep
def patch(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    site: str = "z",
    by: Sequence[str] = ("layer", "head"),
    *,
    direction: Direction = "denoising",
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Put one run's values into the other, one cell after the other, and return how the objective changes.

    Args:
        clean: the inputs as they are; or a stream of pairs (clean, corrupt), each with an objective of its own if it
            needs one, `corrupt` then being left out.
        corrupt: the same inputs with what matters replaced, token for token: shape and mask are those of `clean`.
        site: "z", "q", "k", "v", "scores", "pattern", or a site of the stream: "resid_pre", "attn_out", "resid_mid",
            "mlp_out", "resid_post"; with its stack's prefix where the model has several stacks.
        by: ("layer", "head"), ("layer",), ("layer", "position") or ("layer", "head", "position"). Heads of `k` and `v`
            are key/value heads; where query heads share these, the table's axis is `kv_head`, of K cells. "kv_head" in
            place of "head" asks that of any site: elsewhere a cell is all query heads of a group. Positions count real
            tokens; at `scores` and `pattern` they are those of queries.
        direction: "denoising" puts the clean run's values into the corrupt run, "noising" the corrupt run's into the
            clean run.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a cell, columns `effect`, `objective(patched) - objective(unpatched)` in units of the objective, and
        `normalised`, the same as a share of the whole difference between the two runs: 1 where one cell carries all of
        it (Zhang & Nanda 2024, section 2; the ratio of means, not the mean of ratios). NaN where an example has no
        such position, or where the runs do not differ.

    Raises:
        ValueError: for runs that do not fit each other, an unknown site, axis or direction, heads asked of a site that
            has none, or an objective that the model can't give.
    """
    resources, stack_name = Resources.of(options), options.get("stack")
    name, site = model.site(site if stack_name is None or "." in site else f"{stack_name}.{site}")
    # "decoder.z" names its stack; a bare "z" is of the stack that was asked for, or of the only one.
    stack, by = model.stack(name), check_by(site, by)
    about, lengths = {"site": site, "by": list(by), "direction": direction}, Lengths(model)
    for clean_batch, corrupt_batch, own_objective in pairs(clean, corrupt, objective):
        base, other = base_and_other(direction, clean_batch, corrupt_batch)
        check_pair(model, clean_batch, corrupt_batch, own_objective)
        reads, grid = reads_of(own_objective, model, base), site_grid(stack, site, base, by)
        reads, base, other = lengths.read(own_objective, reads, base, other, runs=sweep_runs(grid.size))
        # Prompts of a pair share their beginning: in a causal stack nothing before the first difference changes.
        groups = edit_groups(stack, site, base, grid, first_change(stack, base, other))
        yield exact(
            model,
            stack,
            base,
            own_objective,
            reads,
            (grid, groups),
            OtherRuns(other),
            resources,
            identity=(other, repr(about)),
            about=about,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OtherRun:
    """Another run's values of any site of a stack: computed from its stream, one layer at a time.

    Attributes:
        value: the run's objective, `[B]`.
        resid_pre: the input of each layer of the stack, `[L,B,T,D]`.
        context: the stack's attention inputs.
    """

    value: Array
    resid_pre: Array
    context: AttentionInputs
    where: None = None

    def at(self, stack: Stack, site: str, layer: Array) -> Array | Callable[[Take], Array]:
        """Return the site's values in one layer; scores and patterns as a function of query rows."""
        sites = run_block(stack.block(layer), self.resid_pre[layer], self.context)[1]
        return sites.of_queries(site) if site in BY_QUERIES else sites[site]


class OtherRuns:
    """A source of the other run's values: that of each example's counterpart in another batch."""

    count = 1
    runs = 1

    def __init__(self, other: Batch):
        self.other = other

    def of(self, chunk: Chunk) -> Iterator[OtherRun]:
        """Yield the run of these examples' counterparts."""
        batch = chunk.devices.examples(self.other.model_inputs.take(chunk.examples))
        yield run_other(chunk.network, batch, chunk.reads, stack=chunk.stack.name, value=chunk.objective.value)

    def baseline(self, chunk: Chunk, values: Sequence[SiteValues]) -> Array:
        """Return the other run's objective: an effect of its whole distance from the unedited run counts as 1."""
        del chunk
        # The objective was read in the same pass that gave the values: the other run costs one forward pass in all.
        [run] = values
        assert isinstance(run, OtherRun)
        return run.value


@partial(compiled, static_argnames=("stack", "value"))
def run_other(network: Network, batch: Batch, reads: Reads, *, stack: str, value: Value) -> OtherRun:
    """Run a batch, keeping its objective and one stack's stream.

    The stream alone is kept, not the sites: they follow from it layer by layer, and the memory stays that of a stream.
    """
    kept: dict[str, tuple[Array, AttentionInputs]] = {}

    def run_stack(current: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, values = current.run(x_BTD, context, read={stack: lambda sites: sites["resid_pre"]})
        if values:
            own = context if current.name == stack else context.cross
            assert own is not None
            kept[stack] = values[stack], own
        return x_BTD

    last_BTD = network.hidden(batch, run_stack)
    value_B = value(read_out(network, take_rows(last_BTD, reads.rows), reads), reads)
    return OtherRun(value_B, *kept[stack])
