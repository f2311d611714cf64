"""Specialisation of heads: a definition, and its test.

A head is *specialised* in a function where it does more of it than heads that do it by chance, and *selective* where
that is all it does. For head h and function f, with s the head's mean score, b the score that only a twentieth of the
null's heads exceed, and m the largest score of any head:

    c[h,f] = max(0, s[h,f] − b[f]) / (m[f] − b[f])        from 0 (nothing beyond chance) to 1 (the best head)
    selectivity[h] = 1 − H(c[h,·] / Σ_f c[h,f]) / log F   from 0 (all functions alike) to 1 (one function)
    breadth[f] = exp H(c[·,f] / Σ_h c[h,f])               from 1 (one head does it) to M (all do, alike)

with H the entropy in nats. c has no unit, so scores of attention and effects of ablation may stand side by side. A head
that does nothing beyond chance has no selectivity (NaN); a function that no head does beyond chance has no breadth.
(Entropy as a measure of specificity: Martínez & Reyes-Valdés 2008, of genes and tissues.)

Selectivity has a null of its own: were functions spread over heads independently of each other, a head that does much
of one would still do little of most. So heads are shuffled, function by function, and p is the share of shuffled heads,
of those that do anything, that are as selective.

Dimension key: E examples, L layers, N heads, M = L N, F functions, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..statistics import check_level, false_discovery
from ..statistics.base import Floats
from ..tables import Column, HeadTable

CHANCE = 0.95
"""The quantile of the null's heads that a head must exceed."""

SHUFFLES = 1000


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Selectivity of heads, and breadth of functions.

    Attributes:
        matrix: c, a row a head and a column a function.
        heads: one row a head: `selectivity` with its interval; `function`, the one with the head's largest c, which is
            `strength`; `p` and `q` (corrected over heads).
        functions: one row a function: `breadth` with its interval, `share`, breadth / M, and the best head.
    """

    matrix: pd.DataFrame
    heads: HeadTable
    functions: pd.DataFrame


def specialisation(
    scores: Mapping[str, ArrayLike],
    nulls: Mapping[str, ArrayLike],
    *,
    stack: str = "decoder",
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Specialisation:
    """Return the selectivity of every head and the breadth of every function, defined in the module's docstring.

    Args:
        scores: by function, `[E,L,N]`; examples may differ from function to function, and NaN counts as missing. A
            larger score must mean more of the function: give effects by their size.
        nulls: by function, `[E,…]`: scores of any number of heads that do it by chance alone (random weights, shuffled
            text).
        resamples, level, seed: of the bootstrap over examples, of its intervals.

    Raises:
        ValueError: for fewer than two functions, other names or heads than the first's, or infinity.
    """
    check_level(level)
    real, chance = ({name: _read(name, values) for name, values in group.items()} for group in (scores, nulls))
    shape = _check(real, chance)
    rng = np.random.default_rng(seed)
    c_MF = _corrected([_mean(x) for x in real.values()], [_mean(x) for x in chance.values()])
    resampled = [_corrected(*_resampled(real, chance, rng)) for _ in range(resamples)]
    about = {"functions": list(real), "chance": CHANCE, "level": level, "seed": seed, **(provenance or {})}
    p_M = _p_values(c_MF, _selectivity(c_MF), rng)
    columns, extras = _heads(c_MF, resampled, p_M, list(real), shape, level)
    table = HeadTable.from_columns("specialisation", stack, columns, about, squeeze=True, extras=extras)
    matrix = pd.DataFrame(c_MF, index=table.frame.index, columns=list(real))
    return Specialisation(matrix, table, _functions(c_MF, resampled, list(real), shape, level))


def _heads(
    c_MF: Floats, resampled: list[Floats], p_M: Floats, names: list[str], shape: tuple[int, int], level: float
) -> tuple[dict[str, Column], dict[str, NDArray[Any]]]:
    """Return the columns of the table of heads, and its extras."""
    selectivity_M = _selectivity(c_MF)
    bounds = _bounds([_selectivity(c) for c in resampled], selectivity_M, level)
    extras = {
        "function": np.where(np.isnan(selectivity_M), "", np.array(names)[c_MF.argmax(axis=1)]),
        "strength": c_MF.max(axis=1),
        "p": p_M,
        "q": false_discovery(p_M),
    }
    column = Column(*(values.reshape(shape) for values in (selectivity_M, *bounds)))
    return {"selectivity": column}, {name: values.reshape(shape) for name, values in extras.items()}


def _functions(
    c_MF: Floats, resampled: list[Floats], names: list[str], shape: tuple[int, int], level: float
) -> pd.DataFrame:
    """Return the table of functions."""
    breadth_F = _breadth(c_MF)
    low_F, high_F = _bounds([_breadth(c) for c in resampled], breadth_F, level)
    best = [f"L{layer}H{head}" for layer, head in zip(*np.unravel_index(c_MF.argmax(axis=0), shape), strict=True)]
    columns = {
        "breadth": breadth_F,
        "breadth_low": low_F,
        "breadth_high": high_F,
        "share": breadth_F / len(c_MF),
        "best_head": np.where(np.isnan(breadth_F), "", best),
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="function"))


def _read(name: str, values: ArrayLike) -> Floats:
    x = np.asarray(values, np.float64)
    if x.ndim < 2 or 0 in x.shape or np.isinf(x).any():
        raise ValueError(f"{name}: expected finite scores [examples, layers, heads], got shape {list(x.shape)}")
    return x


def _check(real: Mapping[str, Floats], chance: Mapping[str, Floats]) -> tuple[int, int]:
    shapes = {name: x.shape[1:] for name, x in real.items()}
    if len(real) < 2 or set(real) != set(chance):
        raise ValueError(f"expected two functions or more, each with its null; got {list(real)} and {list(chance)}")
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise ValueError(f"scores: expected the same layers and heads for all functions, got {shapes}")
    return next(iter(shapes.values()))


def _mean(x: Floats) -> Floats:
    """Return the mean over examples that are not NaN, flattened; 0 where all are."""
    counts = ~np.isnan(x)
    return (np.where(counts, x, 0).sum(axis=0) / np.maximum(counts.sum(axis=0), 1)).reshape(-1)


def _resampled(
    real: Mapping[str, Floats], chance: Mapping[str, Floats], rng: np.random.Generator
) -> tuple[list[Floats], list[Floats]]:
    """Return the means of resampled examples, of a function's heads and of its null's.

    Both have the same resampled examples where they have equally many.
    """
    scores, nulls = [], []
    for name, x in real.items():
        examples = rng.integers(0, len(x), len(x))
        null = chance[name]
        scores.append(_mean(x[examples]))
        nulls.append(_mean(null[examples if len(null) == len(x) else rng.integers(0, len(null), len(null))]))
    return scores, nulls


def _corrected(scores: list[Floats], nulls: list[Floats]) -> Floats:
    """Return c, `[M,F]`."""
    columns = []
    for s_M, null in zip(scores, nulls, strict=True):
        beyond_M = np.maximum(s_M - np.quantile(null, CHANCE), 0)
        columns.append(beyond_M / beyond_M.max() if beyond_M.max() > 0 else beyond_M)
    return np.stack(columns, axis=1)


def _entropy(c: Floats, axis: int) -> Floats:
    total = c.sum(axis=axis, keepdims=True)
    p = c / np.where(total > 0, total, 1)
    return np.where(total.squeeze(axis) > 0, -(p * np.log(np.where(p > 0, p, 1))).sum(axis=axis), np.nan)


def _selectivity(c_MF: Floats) -> Floats:
    return 1 - _entropy(c_MF, 1) / np.log(c_MF.shape[1])


def _breadth(c_MF: Floats) -> Floats:
    return np.exp(_entropy(c_MF, 0))


def _bounds(resampled: list[Floats], value: Floats, level: float) -> tuple[Floats, Floats]:
    """Return quantiles over resamples, where at least half of these are not NaN; NaN elsewhere."""
    if not resampled:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    x = np.stack(resampled)
    enough = (~np.isnan(x)).mean(axis=0) >= 0.5
    filled = np.where(enough & ~np.isnan(value), x, 0.0)
    low, high = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    known = enough & ~np.isnan(value)
    return np.where(known, np.fmin(low, value), np.nan), np.where(known, np.fmax(high, value), np.nan)


def _p_values(c_MF: Floats, selectivity_M: Floats, rng: np.random.Generator) -> Floats:
    """Return the share of shuffled heads that are as selective, of those with any c > 0; NaN for heads without."""
    rounds = max(1, SHUFFLES // max(1, len(c_MF) // 10))
    null = np.concatenate([_selectivity(rng.permuted(c_MF, axis=0)) for _ in range(rounds)])
    null = np.sort(null[~np.isnan(null)])
    as_much_M = len(null) - np.searchsorted(null, np.nan_to_num(selectivity_M) - 1e-12)
    return np.where(np.isnan(selectivity_M), np.nan, (1 + as_much_M) / (1 + len(null)))
