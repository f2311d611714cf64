"""MIB's scores for circuit localization: how soon the first components of a ranking of heads or edges are enough.

Mueller et al. 2025 (arXiv 2504.13151) and the code of its circuit track, `evaluation.py`.

Dimension key: E examples of the batch, P components (heads or edges), S shares, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import at_least, checked
from ...execution.resources import Options, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...progress import progress as show_progress
from ...statistics import Interval, jackknife_interval, rows_of
from ...tables import HeadTable
from .components import Chosen, Components, by_order, scores
from .evaluate import CircuitEvaluator
from .kept_runs import Ablation

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares at which MIB evaluates a ranking."""


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve:
    """Faithfulness of the first components of a ranking, by their share of all, and the areas that sum it up.

    Attributes:
        table: one row a share; `faithfulness` with its interval, and `circuit`, the objective when they alone are
            kept; extras `share` and `size`, the number of components.
        cpr: area under the faithfulness over the share, MIB's circuit performance ratio: higher is better.
        cmd: area between the faithfulness and 1, |1 − faithfulness|, its circuit–model distance: lower is better.
    """

    table: HeadTable
    cpr: Interval
    cmd: Interval

    def __repr__(self) -> str:
        areas = ", ".join(
            f"{name} {area.mean:.4g} [{area.low:.4g}, {area.high:.4g}]"
            for name, area in (("CPR", self.cpr), ("CMD", self.cmd))
        )
        return f"<FaithfulnessCurve {areas}>\n{self.table.frame.to_string()}"


@shares_options(copies=True)
@checked(donors=at_least(1))
def faithfulness_curve(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    ranking: HeadTable,
    ablation: str = "patching",
    *,
    column: str | None = None,
    order: str = "signed",
    shares: Sequence[float] = SHARES,
    reference: Batch | Texts | None = None,
    per_position: bool | None = None,
    groups: ArrayLike | None = None,
    reference_groups: ArrayLike | None = None,
    donors: int = 1,
    **options: Unpack[Options],
) -> FaithfulnessCurve:
    """Keep more and more of what a ranking puts first, ablate the rest, and see how soon that is enough.

    Faithfulness is (F(C) − F(∅)) / (F(M) − F(∅)), as in `circuit`, of means over examples. Of P components the first
    ⌊share · P⌋ are kept. Areas are trapezoids over the share itself, from the first of the shares to the last, as in
    MIB's code (there is a logarithmic scale in it, off by default): with its shares a curve that is 1 throughout has
    CPR 0.999. MIB also drops nodes that the kept edges leave without a way in or out; with patching that changes
    nothing. Its nodes are heads and MLPs: ours are heads alone, MLPs are left as they are.

    Args:
        ranking: a table over layers and heads, or over senders and receivers: `attribute`, `ablate`,
            `edge_attribution`, …
        ablation: what the rest becomes; "patching" from `reference`, MIB's counterfactual.
        column: of the ranking; its first metric when left out.
        order: "signed", highest score first; "absolute", by size; "negated", lowest first: for effects of taking
            something away (`ablate`, and `direction="noising"`), which are negative where it matters.
        shares: ascending, above 0 and up to 1.
        reference, per_position, groups, reference_groups, donors: as in `circuit`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a table that ranks neither all heads nor all edges, shares that don't ascend, and as `circuit`.
    """
    shares_S = _checked(shares)
    components = Components.ranked(model, model.stack(options.get("stack")), ranking)
    ranked = np.argsort(-scores(ranking, components, column, order), kind="stable")
    seed = options.get("seed", 0)
    rest = Ablation(ablation, reference, per_position, groups, reference_groups, donors, seed)
    evaluator = CircuitEvaluator.of(model, batch, objective, components, rest, options)
    # 0.29 · 100 is 28.999… in binary: without a little more, the floor would lose a component.
    size_S = np.floor(shares_S * len(components) + 1e-9).astype(int)
    # The inverse of the ranking is each component's rank; a circuit of size n holds the ranks below n.
    kept_SP = np.argsort(ranked)[None] < size_S[:, None]
    with show_progress(len(shares_S) + 2, f"keeping {components.kind} by rank", evaluator.progress) as advance:
        nothing_E, everything_E, values_SE = evaluator.with_ends(kept_SP, advance)
    gains_ES = (values_SE - nothing_E).T
    cpr, cmd = _areas(gains_ES, everything_E - nothing_E, shares_S, evaluator.clusters, evaluator.level)
    about = {"ranking": ranking.name, "column": column or ranking.metrics[0], "order": order}
    table = evaluator.table(
        "faithfulness_curve",
        {"faithfulness": gains_ES, "circuit": values_SE.T},
        ("step",),
        share=True,
        about={**about, "cpr": _json_numbers(cpr), "cmd": _json_numbers(cmd)},
        extras={"share": shares_S, "size": size_S},
    )
    return FaithfulnessCurve(table, cpr, cmd)


def _checked(shares: Sequence[float]) -> np.ndarray:
    shares_S = np.asarray(shares, np.float64)
    ascending = shares_S.ndim == 1 and len(shares_S) >= 2 and (np.diff(shares_S) > 0).all()
    if not (ascending and shares_S[0] > 0 and shares_S[-1] <= 1):
        raise ValueError(f"shares must be at least two, ascending, above 0 and up to 1; got {list(shares)}")
    return shares_S


@checked()
def auroc(ranking: HeadTable, known: Chosen, *, column: str | None = None, order: str = "signed") -> float:
    """Return how well a ranking tells a known circuit's heads or edges from the others, 0 to 1.

    The share of pairs, one in the circuit and one outside, in which the one inside comes first; ties count half. 0.5
    for a random ranking, 1 for a perfect one. (MIB tabulates the curve at its shares; this is the area under the whole
    of it.)

    Args:
        known: (layer, head) pairs, or (sender, receiver) names, or bool over the table's grid.
        column, order: as in `faithfulness_curve`.

    Raises:
        ValueError: if the known circuit holds all or nothing of what is ranked.
    """
    from scipy import stats

    frame = ranking.frame
    numbers_P = by_order(np.asarray(ranking.grid(column or ranking.metrics[0]), np.float64).reshape(-1), order)
    nodes = ["sender_node", "receiver_node"]
    named = frame[nodes] if set(nodes) <= set(frame) else frame.index.droplevel(0).to_frame()
    inside_P = _inside([tuple(row) for row in named.to_numpy().tolist()], ranking.shape, known)
    ranked_P = np.isfinite(numbers_P)
    if not inside_P[ranked_P].any() or inside_P[ranked_P].all() or (inside_P & ~ranked_P).any():
        raise ValueError(
            f"a known circuit must hold some, and not all, of what {ranking.name} ranks; it holds "
            f"{inside_P[ranked_P].sum()} of {ranked_P.sum()}, and {(inside_P & ~ranked_P).sum()} that are not ranked"
        )
    # The Mann–Whitney U: a rank counts the components that are beaten, and itself. Of the sum over the circuit,
    # n (n + 1) / 2 are pairs within it.
    ranks_P, inside_P = stats.rankdata(numbers_P[ranked_P]), inside_P[ranked_P]
    inside, outside = int(inside_P.sum()), int((~inside_P).sum())
    return float((ranks_P[inside_P].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _inside(rows: list[tuple[Any, ...]], shape: tuple[int, ...], known: Chosen) -> np.ndarray:
    """Return whether each of a table's rows is in the known circuit."""
    if isinstance(known, np.ndarray) and known.dtype == bool:
        if known.shape != shape:
            raise ValueError(f"known: a circuit as bool must cover the ranking's grid {shape}, got {known.shape}")
        return known.reshape(-1)
    wanted = {tuple(component) for component in known}
    if unknown := sorted(wanted - set(rows)):
        raise ValueError(f"known: the ranking has no {unknown[:8]}; it has {rows[0]}, {rows[1]}, …")
    return np.array([row in wanted for row in rows])


def _areas(
    gains_ES: np.ndarray, whole_E: np.ndarray, shares_S: np.ndarray, clusters: np.ndarray | None, level: float
) -> tuple[Interval, Interval]:
    """Return CPR and CMD of mean gains over the mean whole, with jackknife intervals over examples."""
    # An example lost at one share is left out altogether: a curve's points must be means over the same examples.
    finite_E = np.isfinite(gains_ES).all(axis=1) & np.isfinite(whole_E)
    values_EC = np.concatenate([gains_ES, whole_E[:, None]], axis=1)[finite_E]
    # Weights of the trapezoidal rule: half of the step on either side of each share.
    width_S = np.convolve(np.diff(shares_S), [0.5, 0.5])

    def areas(mean_C: np.ndarray) -> np.ndarray:
        faithful_S = mean_C[:-1] / (mean_C[-1] if mean_C[-1] else np.nan)
        return np.array([faithful_S @ width_S, np.abs(1 - faithful_S) @ width_S])

    if not len(values_EC):
        nothing = np.asarray(np.nan)
        unknown = Interval(nothing, nothing, nothing, np.asarray(0))
        return unknown, unknown
    rows = rows_of(values_EC, clusters=None if clusters is None else clusters[finite_E])
    both = jackknife_interval(areas, rows, within=([-np.inf, 0.0], np.inf), level=level)
    cpr, cmd = (Interval(*(field[area] for field in both)) for area in range(2))
    return cpr, cmd


def _json_numbers(area: Interval) -> list[float | None]:
    """Return an area as numbers for JSON, which has no NaN."""
    return [float(number) if np.isfinite(number) else None for number in area]
