"""MIB's scores for circuit localization: of any ranking of heads or edges, how soon what it ranks first is enough.

Mueller et al. 2025 (arXiv 2504.13151) and the code of its circuit track, `evaluation.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...progress import progress as show_progress
from ...statistics import Interval
from ...tables import HeadTable
from .components import Chosen, Parts, scores, turned
from .evaluate import Ablated, Keeper

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's."""


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve:
    """How faithful the first so many parts of a ranking are, and the areas that sum it up.

    Attributes:
        table: one row a share; `faithfulness` with its interval, and `circuit`, the objective when so many are kept;
            extras `share` and `size`, how many parts that is.
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


def faithfulness_curve(
    model: Model,
    batch: Batch,
    objective: Objective,
    ranking: HeadTable,
    ablation: str = "patching",
    *,
    column: str | None = None,
    order: str = "signed",
    shares: Sequence[float] = SHARES,
    stack: str | None = None,
    level: float = 0.95,
    progress: bool = False,
    resume: Any = None,
    **options: Any,
) -> FaithfulnessCurve:
    """Keep more and more of what a ranking puts first, ablate the rest, and see how soon that is enough.

    Faithfulness is (F(C) − F(∅)) / (F(M) − F(∅)), as in `circuit`, of means over examples. Of P parts the first
    ⌊share · P⌋ are kept. Areas are trapezoids over the share itself, from the first of the shares to the last, as in
    MIB's code (there is a logarithmic scale in it, off by default): with its shares a curve that is 1 throughout has
    CPR 0.999. MIB also drops nodes that the kept edges leave without a way in or out; with patching that changes
    nothing. Its nodes are heads and MLPs: ours are heads alone, MLPs are left as they are.

    Args:
        ranking: a table over layers and heads, or over senders and receivers: `attribute`, `ablate`,
            `edge_attribution`, …
        ablation: what the rest becomes; "patching" from `reference=`, MIB's counterfactual.
        column: of the ranking; its first metric when left out.
        order: "signed", highest score first; "absolute", by size; "negated", lowest first: for effects of taking
            something away (`ablate`, and `direction="noising"`), which are negative where it matters.
        shares: ascending, above 0 and up to 1.
        options: others of `circuit`: reference, per_position, groups, donors, seed, memory, devices, …

    Raises:
        ValueError: for a table that ranks neither all heads nor all edges, shares that don't ascend, and as `circuit`.
    """
    kept = _checked(shares)
    parts = Parts.ranked(model, model.stack(stack), ranking)
    first = np.argsort(-scores(ranking, parts, column, order), kind="stable")
    ablated = Ablated(ablation, **options)
    keeper = Keeper.of(model, batch, objective, parts, ablated, level=level, progress=progress, resume=resume)
    sizes = np.floor(kept * len(parts) + 1e-9).astype(int)
    with show_progress(len(kept) + 2, f"keeping {parts.kind} by rank", progress) as advance:
        nothing_E, everything_E, values_SE = keeper.with_ends(np.argsort(first)[None] < sizes[:, None], advance)
    gains_ES = (values_SE - nothing_E).T
    cpr, cmd = _areas(gains_ES, everything_E - nothing_E, kept, level, ablated.seed)
    about = {"ranking": ranking.name, "column": column or ranking.metrics[0], "order": order}
    table = keeper.table(
        "faithfulness_curve", {"faithfulness": gains_ES, "circuit": values_SE.T}, ("step",), share=True,
        about={**about, "cpr": _plain(cpr), "cmd": _plain(cmd)}, extras={"share": kept, "size": sizes},
    )  # fmt: skip
    return FaithfulnessCurve(table, cpr, cmd)


def _checked(shares: Sequence[float]) -> np.ndarray:
    kept = np.asarray(shares, np.float64)
    if kept.ndim != 1 or len(kept) < 2 or not (kept[0] > 0 and kept[-1] <= 1 and (np.diff(kept) > 0).all()):
        raise ValueError(f"shares must be at least two, ascending, above 0 and up to 1; got {list(shares)}")
    return kept


def auroc(ranking: HeadTable, known: Chosen, *, column: str | None = None, order: str = "signed") -> float:
    """How well a ranking tells a known circuit's heads or edges from the others.

    The share of pairs, one in the circuit and one outside, in which the one inside comes first; ties count half. 0.5
    for a ranking that knows nothing, 1 for a perfect one. (MIB tabulates the curve at its shares; this is the area
    under the whole of it.)

    Args:
        known: (layer, head) pairs, or (sender, receiver) names, or bool over the table's grid.
        column, order: as in `faithfulness_curve`.

    Raises:
        ValueError: if the known circuit holds all or nothing of what is ranked.
    """
    frame = ranking.frame
    numbers_P = turned(np.asarray(ranking.grid(column or ranking.metrics[0]), np.float64).reshape(-1), order)
    nodes = ["sender_node", "receiver_node"]
    named = frame[nodes] if set(nodes) <= set(frame) else frame.index.droplevel(0).to_frame()
    inside_P = _inside([tuple(row) for row in named.to_numpy().tolist()], ranking.shape, known)
    ranked_P = np.isfinite(numbers_P)
    if not inside_P[ranked_P].any() or inside_P[ranked_P].all() or (inside_P & ~ranked_P).any():
        raise ValueError(
            f"a known circuit must hold some, and not all, of what {ranking.name} ranks; it holds "
            f"{inside_P[ranked_P].sum()} of {ranked_P.sum()}, and {(inside_P & ~ranked_P).sum()} that are not ranked"
        )
    ranks_P, inside_P = stats.rankdata(numbers_P[ranked_P]), inside_P[ranked_P]
    inside, outside = int(inside_P.sum()), int((~inside_P).sum())
    return float((ranks_P[inside_P].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _inside(rows: list[tuple[Any, ...]], shape: tuple[int, ...], known: Chosen) -> np.ndarray:
    """Which of a table's rows are in the known circuit."""
    if isinstance(known, np.ndarray) and known.dtype == bool:
        if known.shape != shape:
            raise ValueError(f"a known circuit as bool must cover the ranking's grid {shape}, got {known.shape}")
        return known.reshape(-1)
    wanted = {tuple(part) for part in known}
    if unknown := sorted(wanted - set(rows)):
        raise ValueError(f"the ranking has no {unknown[:8]}; it has {rows[0]}, {rows[1]}, …")
    return np.array([row in wanted for row in rows])


def _areas(
    gains_ES: np.ndarray, whole_E: np.ndarray, shares: np.ndarray, level: float, seed: int, resamples: int = 1000
) -> tuple[Interval, Interval]:
    """CPR and CMD of mean gains over the mean whole, with percentile bootstrap intervals over examples."""
    told_E = np.isfinite(gains_ES).all(axis=1) & np.isfinite(whole_E)
    gains_ES, whole_E, E = gains_ES[told_E], whole_E[told_E], int(told_E.sum())
    width_S = np.convolve(np.diff(shares), [0.5, 0.5])

    def areas(weights_RE: np.ndarray) -> np.ndarray:
        whole_R = weights_RE @ whole_E
        faithful_RS = weights_RE @ gains_ES / np.where(whole_R != 0, whole_R, np.nan)[:, None]
        return np.stack([faithful_RS @ width_S, np.abs(1 - faithful_RS) @ width_S])

    means = areas(np.ones((1, E)))[:, 0]
    if E < 2:
        return tuple(Interval(mean, *np.full(2, np.nan)) for mean in means)  # type: ignore[return-value]
    drawn = np.random.default_rng([seed, 2]).multinomial(E, np.full(E, 1 / E), size=resamples)
    found = areas(drawn.astype(np.float64))
    found = found[:, np.isfinite(found).all(axis=0)]
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(found, tails, axis=1) if found.size else np.full((2, 2), np.nan)
    low, high = np.minimum(low, means), np.maximum(high, means)
    return Interval(means[0], low[0], high[0]), Interval(means[1], low[1], high[1])


def _plain(area: Interval) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [float(number) if np.isfinite(number) else None for number in area]
