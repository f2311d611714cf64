"""Whether relevance is faithful: what an answer loses with the tokens said to matter, and keeps with them alone.

Tokens are blanked out at the entry of a stream: what the first layer reads there is replaced, and attention still sees
the position.

With f the objective, x an example of n tokens, and tokens in order of falling relevance:

- comprehensiveness: the mean of `f(x) − f(x without the first k)`, over k of 1, 5, 10, 20 and 50 % of n, rounded up
  (DeYoung et al. 2020, ERASER, section 4, there of a class's probability). Larger is better.
- sufficiency: the mean of `f(x) − f(only the first k)`. Smaller is better.
- deletion: the area under f while tokens are blanked out, the first first; insertion: while they are put back into
  an input without any (Petsiuk et al. 2018, RISE, section 4.1). In the objective's units: shares run from 0 to 1.
  Smaller, and larger, is better.
- blank_out: Spearman's rank correlation, within an example, of relevance with `f(x) − f(x without this token)`
  (Abnar & Zuidema 2020, section 4); blank_out_absolute: of the sizes of both, which is what methods without a sign
  tell. NaN for an example where either is the same everywhere.

Dimension key: E examples, T positions, F shares of the tokens that are blanked or kept.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...objectives import Objective
from ...provenance import environment
from ...statistics import bootstrap_mean, rank_correlation
from .attribution import METHODS, OF_ATTENTION, relevance
from .backward import Moved, Question
from .gradients import base_of

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the tokens, for comprehensiveness and sufficiency (DeYoung et al. 2020, section 4)."""

CONTROLS = ("random", "blank-out")
"""An order by chance, and the blank-out effects themselves: what a method should beat, and about the best it can do."""

MEASURES = ("comprehensiveness", "sufficiency", "deletion", "insertion", "blank_out", "blank_out_absolute")


@dataclass(frozen=True)
class Faithfulness:
    """How faithful some methods are, side by side.

    Attributes:
        frame: one row a method; each measure with its interval (`_low`, `_high`), and the cost in `seconds`.
        per_example: by method and measure, `[E]`.
        curves: the objective's mean by method, curve ("deletion" or "insertion") and share of the tokens.
        provenance: plain JSON values.
    """

    frame: pd.DataFrame
    per_example: Mapping[str, Mapping[str, NDArray[np.float64]]]
    curves: pd.DataFrame
    provenance: Mapping[str, Any]


def faithfulness(
    model: Model,
    batch: Batch,
    objective: Objective,
    methods: Sequence[str] | None = None,
    *,
    blank: Batch | int | None = None,
    where: ArrayLike | None = None,
    points: int = 10,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
) -> Faithfulness:
    """Every method's relevance of the input's tokens, objective_values by the model itself.

    Comprehensiveness, sufficiency, deletion, insertion and rank correlation with blank-out are defined at the top of
    this module.

    Means are over examples, with bootstrap intervals. `seconds` are of the whole batch's relevance, the second time:
    the first compiles.

    Args:
        objective: such that more of it means more sure of the answer.
        methods: names of `METHODS`, and of CONTROLS; all that the model's streams allow when left out.
        blank: what replaces a token: zeros when left out, a token id (a mask's, an unknown word's), or a batch of the
            same shape.
        where: which tokens count, bool `[E,T]`; all real ones when left out. Others are never blanked out.
        points: of the curves, beside the first.
        options: by method, further arguments of `relevance`.
        level, seed: of the intervals; the seed is also that of "random".
        memory: bytes for what is held at once, about.

    Raises:
        ValueError: for an unknown method, none, `where` of another shape or without a token in some example, or what
            `relevance` raises for.
    """
    question = Question.of(model, batch, objective, memory)
    judge = _Judge(question, blank, where, points)
    chosen = _chosen(methods, len(model.network.streams))
    found, costs = {}, {}
    for method in chosen:
        way = partial(relevance, model, batch, objective, method, memory=memory, **(options or {}).get(method, {}))
        found[method], costs[method] = judge.relevance(method, way, seed)
    measures, curves = {}, []
    for method in chosen:
        measures[method], own = judge.objective_values(found[method])
        curves.append(own.assign(method=method))
    about = {
        "model": model.name,
        "weights": model.identity(),
        "objective": objective.name,
        "blank": "zeros" if blank is None else blank if isinstance(blank, int) else "batch",
        "examples": len(batch),
        "level": level,
        "seed": seed,
        **environment(),
    }
    frame = _table(measures, costs, level=level, seed=seed)
    return Faithfulness(frame, measures, pd.concat(curves, ignore_index=True), about)


def _chosen(methods: Sequence[str] | None, streams: int) -> tuple[str, ...]:
    known = (*METHODS, *CONTROLS)
    if methods is None:
        return tuple(name for name in known if streams == 1 or name not in OF_ATTENTION)
    unknown = [name for name in methods if name not in known]
    if unknown or not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods must be some of {', '.join(known)}, each once; got {list(methods)}")
    return tuple(methods)


class _Judge:
    """The model asked with tokens of its first stream blanked out."""

    def __init__(self, question: Question, blank: Batch | int | None, where: ArrayLike | None, points: int):
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}")
        self.question = question
        self.stack = question.model.network.streams[0]
        self.base = base_of(question, blank)[self.stack.name]
        mask_ET = np.asarray(self.stack.queries.of(question.batch).mask)
        self.counts_ET = mask_ET if where is None else np.asarray(where).astype(bool) & _like(where, mask_ET)
        empty = np.flatnonzero(~self.counts_ET.any(axis=1))
        if empty.size:
            raise ValueError(f"every example needs a token that counts; examples {empty[:8].tolist()} have none")
        self.shares = np.linspace(0, 1, points + 1)
        self.whole_E = question.value()
        self.blanked_ET = self._one_by_one()

    def relevance(self, method: str, way: Callable[[], Any], seed: int) -> tuple[np.ndarray, float]:
        """Relevance `[E,T]`, and the seconds it took."""
        if method == "random":
            return np.random.default_rng(seed).standard_normal(self.counts_ET.shape), 0.0
        if method == "blank-out":
            began = time.perf_counter()
            self._one_by_one()
            return self.blanked_ET, time.perf_counter() - began
        way()
        began = time.perf_counter()
        found = way().streams[self.stack.name]
        return np.asarray(found, np.float64), time.perf_counter() - began

    def objective_values(self, tokens_ET: np.ndarray) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        """Every measure, `[E]`, and the mean curves."""
        ordered_ET = np.argsort(
            np.argsort(-np.where(self.counts_ET, tokens_ET, -np.inf), axis=1, kind="stable"), axis=1
        )
        n_E1 = self.counts_ET.sum(axis=1, keepdims=True)

        def left(share: float, *, first: bool, up: bool) -> np.ndarray:
            """f with the first tokens blanked, or all but these."""
            k_E1 = np.ceil(share * n_E1 - 1e-9) if up else np.round(share * n_E1)
            chosen_ET = ordered_ET < k_E1
            return self._value(self.counts_ET & (chosen_ET if first else ~chosen_ET))

        without, only = (
            np.mean([self.whole_E - left(share, first=first, up=True) for share in SHARES], axis=0)
            for first in (True, False)
        )
        deleted_FE, inserted_FE = (
            np.stack([left(share, first=first, up=False) for share in self.shares]) for first in (True, False)
        )
        measures = {
            "comprehensiveness": without,
            "sufficiency": only,
            "deletion": np.trapezoid(deleted_FE, self.shares, axis=0),
            "insertion": np.trapezoid(inserted_FE, self.shares, axis=0),
            "blank_out": self._ranked(tokens_ET, lambda x: x),
            "blank_out_absolute": self._ranked(tokens_ET, np.abs),
        }
        curves = [
            pd.DataFrame({"curve": name, "share": self.shares, "value": values_FE.mean(axis=1)})
            for name, values_FE in (("deletion", deleted_FE), ("insertion", inserted_FE))
        ]
        return measures, pd.concat(curves)

    def _ranked(self, tokens_ET: np.ndarray, size: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = [
            rank_correlation(size(tokens[counts]), size(effects[counts]))
            for tokens, effects, counts in zip(tokens_ET, self.blanked_ET, self.counts_ET, strict=True)
        ]
        return np.array([np.nan if one is None else one for one in found])

    def _one_by_one(self) -> np.ndarray:
        """`f(x) − f(x without this token)`, `[E,T]`; 0 where nothing counts."""
        effects_ET = np.zeros(self.counts_ET.shape)
        for at in np.flatnonzero(self.counts_ET.any(axis=0)):
            here_ET = self.counts_ET & (np.arange(self.counts_ET.shape[-1]) == at)
            effects_ET[:, at] = np.where(self.counts_ET[:, at], self.whole_E - self._value(here_ET), 0)
        return effects_ET

    def _value(self, blank_ET: np.ndarray) -> np.ndarray:
        """The objective `[E]` with these tokens blanked out."""
        moved = {self.stack.name: Moved(self.base, jnp.asarray(blank_ET, jnp.float32))}
        return self.question.moving(moved).value()


def _like(where: ArrayLike, mask_ET: np.ndarray) -> np.ndarray:
    if np.shape(where) != mask_ET.shape:
        raise ValueError(f"where must have the shape of the input's positions {mask_ET.shape}, got {np.shape(where)}")
    return mask_ET


def _table(
    measures: Mapping[str, Mapping[str, np.ndarray]], costs: Mapping[str, float], *, level: float, seed: int
) -> pd.DataFrame:
    rows = []
    for method, own in measures.items():
        row: dict[str, Any] = {"method": method}
        for name in MEASURES:
            kept_E = np.where(np.isfinite(own[name]), own[name], np.nan)
            interval = bootstrap_mean(kept_E, level=level, seed=seed)
            row |= {
                name: float(interval.mean),
                f"{name}_low": float(interval.low),
                f"{name}_high": float(interval.high),
            }
        rows.append({**row, "seconds": costs[method]})
    return pd.DataFrame(rows).set_index("method")
