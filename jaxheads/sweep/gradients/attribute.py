"""Attribution: the effect of patching, estimated for all cells at once from gradients.

The definitions of AtP* are as its reimplementations quote the paper. It defines every score as a mean of absolute
values. Here "atp", "atp+qk" and "ig" keep the sign, as `patch` does; the absolute values can be taken of `per_example`.
With GradDrop effects have no sign: they are at least 0, `normalised` is their share of the mean size of the whole
difference, and `exact` the mean size of the exact effects.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.lengths import GRADIENT_RUNS, Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...reads import needs_derivative, reads_of
from ...statistics import mean_interval, rank_correlation
from ...tables import Column, HeadTable
from ..circuits.attribution import METHODS as EDGE_METHODS
from ..circuits.attribution import edge_attribution
from ..estimates import missed_words
from ..exact.patch import patch
from ..grid import check_by, site_grid
from ..pairs import Direction, Pair, base_and_other, check_pair, pairs
from ..question import CellGroup, Question, question
from .backward import gradient_chunks
from .work import AttributionWork, NodeMethod

METHODS = ("atp", "atp+qk", "atp+graddrop", "atp*", "ig")


@shares_options(copies=True)
@checked(steps=at_least(1))
def attribute(
    model: Model,
    clean: Batch | Iterable[Pair] | Texts,
    corrupt: Batch | Texts | None = None,
    objective: Objective | None = None,
    method: Literal["atp", "atp+qk", "atp+graddrop", "atp*", "ig", "eap", "eap-ig"] = "atp",
    *,
    site: str = "z",
    by: Sequence[str] = ("layer", "head"),
    direction: Direction = "denoising",
    rule: Literal["left", "midpoint", "right"] | None = None,
    steps: int | None = None,
    exact: bool = False,
    **options: Unpack[Options],
) -> HeadTable:
    """Estimate `patch` from gradients, all cells at once: the same arguments, the same table, the same signs.

    With a the values of a cell and m the objective, both in the run that is edited, and a' the other run's values:

    - "atp", attribution patching (Nanda 2023): `(a' - a) · d m / d a`, summed over the cell. One forward and backward
      pass for all cells.
    - "atp+qk", for `q` and `k`: the pattern is recomputed with the other run's queries or keys, and `d m / d pattern`
      taken of its change (Kramár et al. 2024, arXiv 2403.00745, section 3.1, the QK fix). With positions in `by` one
      position's query or key is patched at a time, as in the paper; without, all of a head's at once, as in `patch`.
    - "atp+graddrop": L backward passes, in each of which one layer's contributions to the stream (`attn_out` and
      `mlp_out`) are frozen, so that no gradient flows through them; `sum of |estimate| / (L - 1)`, as a cell's own
      layer adds nothing (section 3.2, GradDrop). A cell that acts on the output only directly gets its `|atp|`. The
      paper does not treat the stream's own sites: no layer cuts `resid_pre`, `resid_mid` and `resid_post` off, so their
      sum is divided by L, by the same reasoning. In post-norm blocks the norms' inputs are frozen.
    - "atp*": both; away from `q` and `k`, where the QK fix has nothing to mend, GradDrop alone.
    - "ig": `(a' - a)` times the mean of `d m / d a` at `steps` points on the straight way from a to a', one layer's
      site at a time: the estimates of a layer's cells sum to the effect of patching them all, as far as the points can
      show it. "left" takes k / steps from the run that is edited, k from 0 (one step is "atp"), "right" from 1,
      "midpoint" (k + 1/2) / steps, exact where m is quadratic. Costs L * steps passes.
    - "eap", "eap-ig": edges; see `edge_attribution`, whose table this gives.

    Args:
        clean, corrupt, objective, site, by, direction: as in `patch`; a stream of pairs, too.
        rule, steps: for "ig" ("midpoint" and 5 when left out) and "eap-ig".
        exact: patch every cell as well: adds the column `exact`, and to the provenance `spearman`, the rank correlation
            of the two over cells (None where one of them is constant), and `missed`, the cells whose effect the
            estimates miss, by name; `compare_estimates` says what that is and has the intervals. Not for a stream.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        A table over the axes in `by`, as `patch` gives it: columns `effect` and `normalised`.

    Raises:
        ValueError: as `patch` does; for an unknown method, or an argument that does not belong to it; for GradDrop in
            a stack of one layer.
    """
    one_of("method", method, (*METHODS, *EDGE_METHODS))
    if exact and not isinstance(clean, Batch):
        raise ValueError("exact effects are computed of one pair of batches, not of a stream: ask `patch` as well")
    inputs = (model, clean, corrupt, objective)
    if method in EDGE_METHODS:
        arguments = _edge_arguments(method, site, by, rule, steps)
        return edge_attribution(*inputs, **arguments, direction=direction, exact=exact, **options)
    return node_attribution(
        *inputs, method, site=site, by=by, direction=direction, rule=rule, steps=steps, exact=exact, **options
    )


@question
def node_attribution(
    model: Model,
    clean: Batch | Iterable[Pair],
    corrupt: Batch | None,
    objective: Objective | None,
    method: str,
    *,
    site: str,
    by: Sequence[str],
    direction: Direction,
    rule: str | None,
    steps: int | None,
    exact: bool,
    **options: Unpack[Options],
) -> Iterator[Question]:
    """Estimate `patch` of nodes; arguments, table and errors are those of `attribute`."""
    resources, stack_name = Resources.of(options), options.get("stack")
    name, site = model.site(site if stack_name is None or "." in site else f"{stack_name}.{site}")
    stack, by = model.stack(name), check_by(site, by)
    node_method = NodeMethod.of(method, stack, site, rule, steps)
    about: dict[str, Any] = {"method": method, "site": site, "by": list(by), "direction": direction}
    if node_method.fractions:
        about |= {"rule": node_method.rule, "steps": node_method.steps}

    # Exact effects are asked for at the end, when the question has been checked and its estimates are there.
    def finish(table: HeadTable) -> HeadTable:
        table = replace(table, name="attribute")
        if not exact:
            return table
        patched = patch(model, clean, corrupt, objective, f"{name}.{site}", by, direction=direction, **options)
        return _beside_exact(table, patched, unsigned=node_method.drops_layers, level=table.provenance["level"])

    lengths = Lengths(model)
    for clean_batch, corrupt_batch, own_objective in pairs(clean, corrupt, objective):
        base, other = base_and_other(direction, clean_batch, corrupt_batch)
        check_pair(model, clean_batch, corrupt_batch, own_objective)
        needs_derivative(own_objective)
        reads, grid = reads_of(own_objective, model, base), site_grid(stack, site, base, by)
        reads, base, other = lengths.read(own_objective, reads, base, other, runs=GRADIENT_RUNS)
        more_bytes = node_method.extra_bytes(stack, base)
        chunks, remat = gradient_chunks(model.network, stack, base, reads, resources, more_bytes)
        yield Question(
            model,
            stack,
            base,
            own_objective,
            reads,
            grid,
            # One backward pass gives all cells: they are one group.
            (CellGroup("cells", np.arange(grid.size)),),
            chunks,
            partial(
                AttributionWork, model, stack, node_method, by, base, other, own_objective, reads, resources, remat
            ),
            resources,
            identity=(other, repr(about)),
            about=about,
            copies=False,
            unsigned=node_method.drops_layers,
            finish=finish,
        )


def _beside_exact(table: HeadTable, patched: HeadTable, *, unsigned: bool, level: float) -> HeadTable:
    """Return the estimates with the exact effects beside them, how well the two agree, and what the estimates miss."""
    assert patched.per_example is not None, "exact effects are asked of one pair, whose examples are all kept"
    exact = Column(*(patched.grid(name) for name in ("effect", "effect_low", "effect_high")))
    # GradDrop's estimates are means of sizes. The exact effects are compared as such, too.
    if unsigned:
        sizes = np.abs(np.asarray(patched.per_example[patched.metrics.index("effect")], np.float64))
        exact = Column(*mean_interval(sizes, clusters=patched.clusters, within=(0.0, np.inf), level=level))
    estimate = Column(table.grid("effect"))
    about = {"spearman": rank_correlation(table.grid("effect"), np.asarray(exact.mean))}
    about |= missed_words(table, exact, estimate)
    # Gradients are always full: the exact effects may have been computed as differences.
    about |= {"exact_arithmetic": patched.provenance["arithmetic"]}
    frame = table.frame.assign(exact=np.asarray(exact.mean).ravel())
    return replace(table, frame=frame, provenance=table.provenance | about)


def _edge_arguments(method: str, site: str, by: Sequence[str], rule: str | None, steps: int | None) -> dict[str, Any]:
    """Return the arguments that only `edge_attribution` takes; raises ValueError for those it does not take."""
    if site != "z" or tuple(by) != ("layer", "head"):
        raise ValueError(f"method={method!r} attributes edges and takes neither site nor by; got {site!r} and {by}")
    path = {name: value for name, value in (("rule", rule), ("steps", steps)) if value is not None}
    if method == "eap" and path:
        raise ValueError(f"method='eap' takes one gradient; {' and '.join(path)} are arguments of 'eap-ig'")
    return {"method": method, **path}
