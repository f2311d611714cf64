"""Faithfulness of relevance: how the answer changes without the most relevant tokens, and with them alone.

Tokens are blanked out at the entry of a stream: the first layer's input there is replaced, and attention still sees the
position.

With f the objective, x an example of n tokens, and tokens in order of falling relevance:

- comprehensiveness: the mean of `f(x) − f(x without the first k)`, over k of 1, 5, 10, 20 and 50 % of n, rounded up
  (DeYoung et al. 2020, ERASER, section 4, there of a class's probability). Larger is better.
- sufficiency: the mean of `f(x) − f(only the first k)`. Smaller is better.
- deletion: the area under f while tokens are blanked out, most relevant first; insertion: while they are put back into
  an input without any (Petsiuk et al. 2018, RISE, section 4.1). In the objective's units: shares run from 0 to 1.
  Smaller, and larger, is better.
- blank_out: Spearman's rank correlation, within an example, of relevance with `f(x) − f(x without this token)`
  (Abnar & Zuidema 2020, section 4); blank_out_absolute: of the absolute values of both, for methods without a sign.
  NaN for an example where either is constant.

Dimension key: E examples, T positions, F shares of the tokens that are blanked or kept.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...arguments import among, at_least, checked
from ...checks import booleans, one_of
from ...execution.resources import OPTIONS, Options, Resources, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...objectives import Objective
from ...progress import progress
from ...provenance import provenance
from ...statistics import mean_interval, rank_correlation
from .backward_pass import EntryMix
from .batch_objective import BatchObjective
from .methods import METHODS, OF_ATTENTION, relevance
from .propagation import baseline_entries

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of the tokens, for comprehensiveness and sufficiency (DeYoung et al. 2020, section 4)."""

CONTROLS = ("random", "blank-out")
"""A random order, which a method should beat, and the blank-out effects themselves, about the best it can do."""

MEASURES = ("comprehensiveness", "sufficiency", "deletion", "insertion", "blank_out", "blank_out_absolute")


@dataclass(frozen=True)
class Faithfulness:
    """Faithfulness of several methods, side by side.

    Attributes:
        frame: one row a method; each measure with its interval (`_low`, `_high`), the cost in `seconds`,
            and the model's name.
        per_example: by method and measure, `[E]`.
        curves: the objective's mean by method, curve ("deletion" or "insertion") and share of the tokens.
        provenance: plain JSON values.
    """

    frame: pd.DataFrame
    per_example: Mapping[str, Mapping[str, NDArray[np.float64]]]
    curves: pd.DataFrame
    provenance: Mapping[str, Any]


@shares_options(without=("stack", "resume"))
@checked(points=at_least(1), methods=among((*METHODS, *CONTROLS)))
def faithfulness(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    methods: Sequence[str] | None = None,
    *,
    blank: Batch | int | None = None,
    where: ArrayLike | None = None,
    points: int = 10,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **shared: Unpack[Options],
) -> Faithfulness:
    """Score the faithfulness of each method's relevance of the input's tokens by blanking tokens out.

    Comprehensiveness, sufficiency, deletion, insertion and rank correlation with blank-out are defined at the top of
    the module `measure.relevance.faithfulness`. Means are over examples, with their intervals. `seconds` are those
    of the whole batch's relevance when it is computed a second time: the first compiles.

    Args:
        objective: larger where the model is more sure of the answer.
        methods: names of `METHODS`, and of CONTROLS; all that the model's streams allow when left out.
        blank: the replacement of a token: zeros when left out, a token id (a mask's, an unknown word's), or a batch of
            the same shape.
        where: which tokens count, bool `[E,T]`; all real ones when left out. Others are never blanked out.
        points: of the curves, beside the first.
        options: by method, further arguments of `relevance`.
        options: shared by all questions: level, clusters, seed (of "random"), memory, devices, progress.

    Raises:
        ValueError: for an unknown method, none, `where` of another shape or without a token in some example, or what
            `relevance` raises for.
    """
    resources = Resources.of(shared)
    level, seed = (shared.get(option, OPTIONS[option][1]) for option in ("level", "seed"))
    blanking = _Blanking(BatchObjective.of(model, batch, objective, resources), blank, where, points)
    names = _method_names(methods, len(model.network.streams))
    for method in options or {}:
        one_of("options: the method", method, names)
    on = {"memory": resources.memory, "devices": resources.devices.mesh}
    measures, curves, seconds = {}, [], {}
    with progress(len(names), "faithfulness", resources.progress) as advance:
        for method in names:
            ask = partial(relevance, model, batch, objective, method, **on, **(options or {}).get(method, {}))
            tokens_ET, seconds[method] = blanking.relevance(method, ask, seed)
            measures[method], curve = blanking.measures(tokens_ET)
            curves.append(curve.assign(method=method))
            advance()
    replacement = "zeros" if blank is None else blank if isinstance(blank, int) else "batch"
    about = {"objective": objective.name, "blank": replacement, "examples": len(batch), "level": level, "seed": seed}
    frame = _frame(measures, seconds, clusters=batch.cluster_labels, level=level).assign(model=model.name)
    return Faithfulness(frame, measures, pd.concat(curves, ignore_index=True), provenance(model, **about))


def _method_names(methods: Sequence[str] | None, streams: int) -> tuple[str, ...]:
    known = (*METHODS, *CONTROLS)
    if methods is None:
        return tuple(name for name in known if streams == 1 or name not in OF_ATTENTION)
    unknown = [name for name in methods if name not in known]
    if unknown or not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods must be some of {', '.join(known)}, each once; got {list(methods)}")
    return tuple(methods)


class _Blanking:
    """Runs of a model with tokens of its first stream blanked out."""

    def __init__(self, objective: BatchObjective, blank: Batch | int | None, where: ArrayLike | None, points: int):
        self.objective = objective
        self.stack = objective.model.network.streams[0]
        self.base = baseline_entries(objective, "zeros" if blank is None else blank)[self.stack.name]
        self.counts_ET = _counted(np.asarray(self.stack.queries.of(objective.batch).mask), where)
        self.shares = np.linspace(0, 1, points + 1)
        self.whole_E = objective.value()
        self.effects_ET = self._blank_out_effects()

    def relevance(self, method: str, ask: Callable[[], Any], seed: int) -> tuple[np.ndarray, float]:
        """Return relevance `[E,T]`, and the seconds it took."""
        if method == "random":
            return np.random.default_rng(seed).standard_normal(self.counts_ET.shape), 0.0
        if method == "blank-out":
            start = time.perf_counter()
            self._blank_out_effects()
            return self.effects_ET, time.perf_counter() - start
        ask()
        start = time.perf_counter()
        tokens_ET = ask().streams[self.stack.name]
        return np.asarray(tokens_ET, np.float64), time.perf_counter() - start

    def measures(self, tokens_ET: np.ndarray) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        """Return every measure, `[E]`, and the mean curves, of this relevance."""
        falling_ET = np.argsort(-np.where(self.counts_ET, tokens_ET, -np.inf), axis=1, kind="stable")
        rank_ET = np.argsort(falling_ET, axis=1)
        n_E1 = self.counts_ET.sum(axis=1, keepdims=True)

        def without(count_E1: np.ndarray) -> np.ndarray:
            return self._value(self.counts_ET & (rank_ET < count_E1))

        def only(count_E1: np.ndarray) -> np.ndarray:
            return self._value(self.counts_ET & (rank_ET >= count_E1))

        # the margin keeps a product that is whole up to rounding, as 0.1 · 30, from being rounded up
        counts = [np.ceil(share * n_E1 - 1e-9) for share in SHARES]
        deleted_FE = np.stack([without(np.round(share * n_E1)) for share in self.shares])
        inserted_FE = np.stack([only(np.round(share * n_E1)) for share in self.shares])
        measures = {
            "comprehensiveness": np.mean([self.whole_E - without(count_E1) for count_E1 in counts], axis=0),
            "sufficiency": np.mean([self.whole_E - only(count_E1) for count_E1 in counts], axis=0),
            "deletion": np.trapezoid(deleted_FE, self.shares, axis=0),
            "insertion": np.trapezoid(inserted_FE, self.shares, axis=0),
            "blank_out": self._correlation(tokens_ET, self.effects_ET),
            "blank_out_absolute": self._correlation(np.abs(tokens_ET), np.abs(self.effects_ET)),
        }
        curves = [
            pd.DataFrame({"curve": name, "share": self.shares, "value": values_FE.mean(axis=1)})
            for name, values_FE in (("deletion", deleted_FE), ("insertion", inserted_FE))
        ]
        return measures, pd.concat(curves)

    def _correlation(self, tokens_ET: np.ndarray, effects_ET: np.ndarray) -> np.ndarray:
        """Return each example's rank correlation, `[E]`; NaN where either is constant."""
        correlations = [
            rank_correlation(tokens_T[counts_T], effects_T[counts_T])
            for tokens_T, effects_T, counts_T in zip(tokens_ET, effects_ET, self.counts_ET, strict=True)
        ]
        return np.array([np.nan if correlation is None else correlation for correlation in correlations])

    def _blank_out_effects(self) -> np.ndarray:
        """Return `f(x) − f(x without this token)`, `[E,T]`; 0 for tokens that do not count."""
        effects_ET = np.zeros(self.counts_ET.shape)
        for position in np.flatnonzero(self.counts_ET.any(axis=0)):
            blank_ET = self.counts_ET & (np.arange(self.counts_ET.shape[1]) == position)
            difference_E = self.whole_E - self._value(blank_ET)
            effects_ET[:, position] = np.where(self.counts_ET[:, position], difference_E, 0)
        return effects_ET

    def _value(self, blank_ET: np.ndarray) -> np.ndarray:
        """Return the objective `[E]` with these tokens blanked out."""
        mixes = {self.stack.name: EntryMix(self.base, blank_ET.astype(np.float32))}
        return self.objective.mixed(mixes).value()


def _counted(mask_ET: np.ndarray, where: ArrayLike | None) -> np.ndarray:
    """Return which tokens count, bool `[E,T]`, after checking `where`."""
    if where is not None:
        if np.shape(where) != mask_ET.shape:
            raise ValueError(
                f"where must have the shape of the input's positions {mask_ET.shape}, got {np.shape(where)}"
            )
        mask_ET = mask_ET & booleans("where", where)
    empty = np.flatnonzero(~mask_ET.any(axis=1))
    if empty.size:
        raise ValueError(f"every example needs a token that counts; examples {empty[:8].tolist()} have none")
    return mask_ET


def _frame(
    measures: Mapping[str, Mapping[str, np.ndarray]],
    seconds: Mapping[str, float],
    *,
    clusters: np.ndarray | None,
    level: float,
) -> pd.DataFrame:
    rows = []
    for method, by_measure in measures.items():
        row: dict[str, Any] = {"method": method}
        for name in MEASURES:
            finite_E = np.where(np.isfinite(by_measure[name]), by_measure[name], np.nan)
            interval = mean_interval(finite_E, clusters=clusters, within=(-np.inf, np.inf), level=level)
            row |= {
                name: float(interval.mean),
                f"{name}_low": float(interval.low),
                f"{name}_high": float(interval.high),
                f"{name}_n": int(interval.n),
            }
        rows.append({**row, "seconds": seconds[method]})
    return pd.DataFrame(rows).set_index("method")
