"""What "specialised" means here, in one place.

A head is *specialised* in a function where it does more of it than heads that do it by chance, and *selective* where
that is all it does. Of head h and function f, with s the head's mean score, b the score that only a twentieth of the
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
from ..tables import Column, HeadTable

Floats = NDArray[np.float64]

CHANCE = 0.95
"""The quantile of the null's heads that a head must exceed."""

SHUFFLES = 1000


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Which heads do what, and nothing else.

    Attributes:
        matrix: c, a row a head and a column a function.
        heads: one row a head: `selectivity` with its interval; `function`, the one it does most of, `strength`, its c,
            `p` and `q` (corrected over heads).
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
    """Selectivity of every head and breadth of every function; the module says what they are.

    Args:
        scores: by function, `[E,L,N]`; examples may differ from function to function, and NaN says nothing. More is
            more: give effects by their size.
        nulls: of the same functions, `[E,…]`: scores of heads that do it by chance alone (random weights, shuffled
            text), as many as there are.
        resamples, level, seed: of the bootstrap over examples, of its intervals.

    Raises:
        ValueError: for fewer than two functions, other names or heads than the first's, or infinity.
    """
    check_level(level)
    real, chance = ({name: _read(name, values) for name, values in given.items()} for given in (scores, nulls))
    shape = _check(real, chance)
    rng = np.random.default_rng(seed)
    c_MF = _corrected([_mean(x) for x in real.values()], [_mean(x) for x in chance.values()])
    drawn = [_corrected(*_resampled(real, chance, rng)) for _ in range(resamples)]
    about = {"functions": list(real), "chance": CHANCE, "level": level, "seed": seed, **(provenance or {})}
    p_M = _p_values(c_MF, _selectivity(c_MF), rng)
    heads = _heads(c_MF, drawn, p_M, list(real), shape, level)
    table = HeadTable.from_columns("specialisation", stack, heads[0], about, squeeze=True, extras=heads[1])
    matrix = pd.DataFrame(c_MF, index=table.frame.index, columns=list(real))
    return Specialisation(matrix, table, _functions(c_MF, drawn, list(real), shape, level))


def _heads(
    c_MF: Floats, drawn: list[Floats], p_M: Floats, names: list[str], shape: tuple[int, int], level: float
) -> tuple[dict[str, Column], dict[str, NDArray[Any]]]:
    """The columns of the table of heads, and its extras."""
    selective_M = _selectivity(c_MF)
    bounds = _bounds([_selectivity(c) for c in drawn], selective_M, level)
    extras = {
        "function": np.where(np.isnan(selective_M), "", np.array(names)[c_MF.argmax(axis=1)]),
        "strength": c_MF.max(axis=1),
        "p": p_M,
        "q": false_discovery(p_M),
    }
    column = Column(*(part.reshape(shape) for part in (selective_M, *bounds)))
    return {"selectivity": column}, {name: values.reshape(shape) for name, values in extras.items()}


def _functions(
    c_MF: Floats, drawn: list[Floats], names: list[str], shape: tuple[int, int], level: float
) -> pd.DataFrame:
    breadth_F = _breadth(c_MF)
    low_F, high_F = _bounds([_breadth(c) for c in drawn], breadth_F, level)
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
    """Over examples; 0 where none says anything."""
    says = ~np.isnan(x)
    return (np.where(says, x, 0).sum(axis=0) / np.maximum(says.sum(axis=0), 1)).reshape(-1)


def _resampled(
    real: Mapping[str, Floats], chance: Mapping[str, Floats], rng: np.random.Generator
) -> tuple[list[Floats], list[Floats]]:
    """Means of examples drawn again, the same for a function's heads and for its null's where they are as many."""
    ours, theirs = [], []
    for name, x in real.items():
        rows = rng.integers(0, len(x), len(x))
        null = chance[name]
        ours.append(_mean(x[rows]))
        theirs.append(_mean(null[rows if len(null) == len(x) else rng.integers(0, len(null), len(null))]))
    return ours, theirs


def _corrected(scores: list[Floats], nulls: list[Floats]) -> Floats:
    """c, `[M,F]`."""
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


def _bounds(drawn: list[Floats], value: Floats, level: float) -> tuple[Floats, Floats]:
    """Quantiles over resamples, where at least half say something; NaN elsewhere."""
    if not drawn:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    x = np.stack(drawn)
    enough = (~np.isnan(x)).mean(axis=0) >= 0.5
    filled = np.where(enough & ~np.isnan(value), x, 0.0)
    low, high = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    known = enough & ~np.isnan(value)
    return np.where(known, np.fmin(low, value), np.nan), np.where(known, np.fmax(high, value), np.nan)


def _p_values(c_MF: Floats, selective_M: Floats, rng: np.random.Generator) -> Floats:
    """Share of shuffled heads that are as selective, among those that do anything; NaN for heads that do nothing."""
    rounds = max(1, SHUFFLES // max(1, len(c_MF) // 10))
    null = np.concatenate([_selectivity(rng.permuted(c_MF, axis=0)) for _ in range(rounds)])
    null = np.sort(null[~np.isnan(null)])
    as_much_M = len(null) - np.searchsorted(null, np.nan_to_num(selective_M) - 1e-12)
    return np.where(np.isnan(selective_M), np.nan, (1 + as_much_M) / (1 + len(null)))
