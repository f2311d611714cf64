"""Specialisation of heads: a definition, and its test against heads of random-weight models.

A head is *specialised* in a function where it surely does more of it than a head of a random-weight model does, and
*selective* where it does little else. For head h and function f, let z[h,f] be the excess of the head's mean score over
the mean μ[f] of the null's models, in units of chance (`random_heads.py` has its equations). Chance counts the noise of
the examples, the spread of heads within a random model, and the spread between random models.

*What counts.* p[h,f] is the probability that a head of another random-weight model reaches z[h,f]. A score is surely
beyond chance if q[h,f] ≤ 0.05 (Benjamini & Hochberg 1995 over all heads and functions). A head without any such score
does nothing, and has c = 0 throughout. Of any other head, what exceeds the null's 95 % quantile b[f] counts, shrunk:

    c[h,f] = x[h,f] / max(max_h x[h,f], least)    with x = (s − μ) (1 − (b/z)²) where z > b, else 0

from 0 (nothing beyond chance) to 1 (the best head); `least` is the x of a head five units of chance above μ. This
second threshold isn't corrected for the number of tests, on purpose: a doubtful second function then counts against
selectivity, where a strict one would make weak generalists look selective. (The shrinkage: Breiman's garrote, 1995.)

    selectivity[h] = 1 − H(c[h,·] / Σ_f c[h,f]) / log F   from 0 (all functions alike) to 1 (one function)
    breadth[f] = exp H(c[·,f] / Σ_h c[h,f])               from 1 (one head does it) to M (all do, alike)

with H the entropy in nats (as a measure of specificity: Martínez & Reyes-Valdés 2008, of genes and tissues). A head
that does nothing has no selectivity (NaN) and no function (""). Breadth is over the heads that surely do f; it is NaN
where none does.

*Noise.* Both indices are bent by noise, which makes a generalist look selective. So they are recomputed with noise
added to the scores: that of the examples (whole clusters where given), and chance's own spread between heads, because
no one can tell which part of a score the head would have had anyway. The mean change is subtracted once. The interval
is the spread of the recomputed values about the corrected value, widened as Student's t is for few examples, and cut to
the index's range. It also spans the doubt about what counts: all that exceeds b, or only what surely does. It says
nothing about heads too weak to be told from chance.

*The test.* p of a head is the probability that a head of another random-weight model reaches its

    W[h] = (1 + max_f z (1 − (b/z)²))^selectivity[h] − 1

(before the correction for noise), which is large only for a head that is both strong and selective: a generalist of any
strength has W near 0. All heads of all draws are a sample of such heads, each shifted as another model may be. So p is
a rank among them, of resolution 1 / (1 + draws × heads), and below it, down to the square of that, an extrapolation by
a tail. It is at least F min_f p[h,f], so that a head with q ≤ 0.05 surely has a function. It is conditional on the
draws: that the examined model would be one more of their kind if its training had done nothing. Few draws say little
about the spread between models, and p allows for it; one draw says nothing, and p then holds only if random models are
alike. q corrects p over heads. Size, power and coverage: results/specialisation-power, by `python -m
experiments.specialisation_power`.

Dimension key: E examples, L layers, N heads, M = L N, F functions, A heads that do anything, R resamples.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..arguments import at_least, checked
from ..statistics import false_discovery
from ..statistics.base import Floats
from ..tables import Column, HeadTable
from .random_heads import Means, RandomHeads, Tail, means

CHANCE = 0.95
"""The quantile of the null's heads that a score must exceed to count."""

SURE = 0.05
"""The accepted rate of scores that are called beyond chance and aren't."""

LEAST = 5.0
"""The best head of a function is taken to be at least this many units of chance above it."""


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Selectivity of heads, and breadth of functions.

    Attributes:
        matrix: c, a row a head and a column a function.
        heads: one row a head: `selectivity` with its interval; `function`, the one with the head's largest c, which is
            `strength`; `excess`, its largest z; `p` and `q` (corrected over heads) of being strong and selective.
        functions: one row a function: `breadth` with its interval; `share`, breadth / M; `heads`, the number that
            surely do it; the best head; `chance`, the mean score of the null's heads.
    """

    matrix: pd.DataFrame
    heads: HeadTable
    functions: pd.DataFrame


@checked(resamples=at_least(0))
def specialisation(
    scores: Mapping[str, ArrayLike],
    nulls: Mapping[str, ArrayLike | Sequence[ArrayLike]],
    *,
    clusters: ArrayLike | Mapping[str, ArrayLike] | None = None,
    stack: str = "decoder",
    resamples: int = 400,
    level: float = 0.95,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Specialisation:
    """Return the selectivity of every head and the breadth of every function, defined in the module's docstring.

    Args:
        scores: by function, `[E,L,N]`; examples may differ from function to function, and NaN counts as missing. A
            larger score must mean more of the function: give effects by their size.
        nulls: by function, the scores of several random-weight models on such examples: a list of `[E,L,N]` or one
            `[draws,E,L,N]`. Draws have one order in all functions, and may differ in their heads and examples. A single
            `[E,L,N]` is one draw.
        clusters: labels of examples that are kin, `[E]`, or labels by function; also of nulls with E examples.
        resamples, seed: of the added noise. With 0 resamples nothing is corrected for noise, and there are no bounds.
        level: of the intervals.

    Raises:
        ValueError: for fewer than two functions, other names or heads than the first's, draws that don't fit each
            other, fewer than two examples (or clusters), or infinity.

    Warns:
        UserWarning: for a single draw.
    """
    real, draws = _read(scores, nulls)
    if len(draws) == 1:
        warnings.warn(
            "nulls: one random-weight model doesn't tell how such models differ; p holds only if they are alike. "
            "Give several draws",
            stacklevel=2,
        )
    labels = _labels(real, clusters)
    found = _find(real, draws, labels, np.random.default_rng(seed), resamples, level)
    names, shape = list(real), next(iter(real.values())).shape[1:]
    about = {
        **{"functions": names, "chance": CHANCE, "sure": SURE, "level": level, "seed": seed},
        **{"draws": found.null.draws, "null_heads": found.null.heads, "p_resolution": 1 / (1 + found.null.heads)},
        **(provenance or {}),
    }
    extras = {
        "function": np.where(np.isnan(found.selectivity[0]), "", np.array(names)[found.c_MF.argmax(axis=1)]),
        "strength": found.c_MF.max(axis=1),
        "excess": found.excess_MF.max(axis=1),
        "p": found.p_M,
        "q": false_discovery(found.p_M),
    }
    column = Column(*(values.reshape(shape) for values in found.selectivity))
    grids = {name: values.reshape(shape) for name, values in extras.items()}
    table = HeadTable.from_columns("specialisation", stack, {"selectivity": column}, about, squeeze=True, extras=grids)
    matrix = pd.DataFrame(found.c_MF, index=table.frame.index, columns=names)
    return Specialisation(matrix, table, _functions(found, names, shape))


class _Found(NamedTuple):
    """All results as arrays: `selectivity`, `[3,M]`, and `breadth`, `[3,F]`, are value, low and high."""

    null: RandomHeads
    excess_MF: Floats
    sure_MF: NDArray[np.bool_]
    c_MF: Floats
    selectivity: Floats
    breadth: Floats
    p_M: Floats


class _Scale(NamedTuple):
    """Numbers that turn scores beyond chance into c: each head's units of chance, b, and `least`."""

    unit_AF: Floats
    chance_F: Floats
    least_F: Floats

    def shares(self, beyond: Floats, *, shrunk: bool = True) -> Floats:
        """Return c, `[...,A,F]`, of scores less μ; if not shrunk, what exceeds b counts in full."""
        kept = _kept(beyond / self.unit_AF, self.chance_F)
        x = beyond * (kept if shrunk else kept > 0)
        return x / np.maximum(x.max(axis=-2, keepdims=True), self.least_F)


def _find(
    real: Mapping[str, Floats],
    draws: Sequence[Mapping[str, Floats]],
    labels: Mapping[str, NDArray[np.intp] | None],
    rng: np.random.Generator,
    resamples: int,
    level: float,
) -> _Found:
    of_functions = [means(values, labels[name]) for name, values in real.items()]
    null_means = [
        [means(draw[name], labels[name] if len(draw[name]) == len(real[name]) else None) for name in real]
        for draw in draws
    ]
    null = RandomHeads(null_means, CHANCE, rng)
    # A head that isn't known in a function doesn't do it.
    beyond_MF = np.nan_to_num(np.stack([each.mean for each in of_functions], axis=1) - null.centre)
    unit_MF = null.scale(np.stack([each.variance for each in of_functions], axis=1))
    p_MF = null.p_values(beyond_MF / unit_MF, unit_MF)
    sure_MF = false_discovery(p_MF) <= SURE
    active = np.flatnonzero(sure_MF.any(axis=1))
    least_F = LEAST * _kept(np.full(len(real), LEAST), np.minimum(null.chance, 0.9 * LEAST))
    scale = _Scale(unit_MF[active], null.chance, least_F * null.deviation)
    c_MF = np.zeros_like(beyond_MF)
    selectivity, breadth = np.full((3, len(c_MF)), np.nan), np.full((3, len(real)), np.nan)
    if len(active):
        c_MF[active] = scale.shares(beyond_MF[active])
        noise_RAF = _noise(of_functions, active, null.spread, resamples, rng)
        doubt = _Doubt(scale, beyond_MF[active], noise_RAF, level, _student(of_functions, level))
        selectivity[:, active] = doubt.selectivity(sure_MF[active])
        strict_MF = p_MF <= SURE / p_MF.size
        breadth[:] = doubt.breadth(sure_MF[active], strict_MF[active], len(c_MF))
    # A head can't be more surely selective than it does anything at all, nor a tail be trusted without end.
    least_M = np.clip(len(real) * p_MF.min(axis=1), (1 + null.heads) ** -2.0, 1)
    p_M = np.maximum(_p_values(beyond_MF / unit_MF, null, least_F), least_M)
    return _Found(null, beyond_MF / unit_MF, sure_MF, c_MF, selectivity, breadth, p_M)


def _kept(excess: Floats, chance: Floats) -> Floats:
    """Return the share of each standardised excess that shrinkage leaves."""
    larger = np.maximum(np.maximum(excess, chance), 1e-300)
    return np.where(excess > chance, 1 - (chance / larger) ** 2, 0.0)


class _Doubt(NamedTuple):
    """Indices without the bias of noise, and their bounds."""

    scale: _Scale
    beyond_AF: Floats
    noise_RAF: Floats
    level: float
    factor: float

    def selectivity(self, sure_AF: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """Return the selectivity of each head, `[A]`, and its bounds.

        They enclose two intervals, with noise in every score and only in those that count: noise in a score at 0 can
        only lower the index. The low one also allows that nothing beyond the threshold is chance, the high one that
        everything is but what surely isn't.
        """
        c_AF = self.scale.shares(self.beyond_AF)
        counting = self.scale.shares(self.beyond_AF + np.where(c_AF > 0, self.noise_RAF, 0))
        every = self.scale.shares(self.beyond_AF + self.noise_RAF)
        value = _selectivity(c_AF)
        corrected, low, high = self._bounds(value, _selectivity(counting), 1)
        _, least, most = self._bounds(value, _selectivity(every), 1)
        full = _selectivity(self.scale.shares(self.beyond_AF, shrunk=False))
        sure = _selectivity(c_AF * sure_AF)
        return corrected, np.minimum(np.minimum(low, least), full), np.maximum(np.maximum(high, most), sure)

    def breadth(
        self, sure_AF: NDArray[np.bool_], strict_AF: NDArray[np.bool_], heads: int
    ) -> tuple[Floats, Floats, Floats]:
        """Return the breadth of each function over the heads that surely do it, `[F]`, and its bounds.

        They enclose the intervals over the heads that pass Bonferroni's correction, and over all with c > 0.
        """
        c_AF = self.scale.shares(self.beyond_AF)
        noisy_RAF = self.scale.shares(self.beyond_AF + np.where(c_AF > 0, self.noise_RAF, 0))

        def over(counted_AF: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
            value = _breadth(c_AF * counted_AF)
            return self._bounds(value - 1, _breadth(noisy_RAF * counted_AF) - 1, heads - 1)

        (corrected, low, high), (_, strict_low, _), (_, _, wide_high) = map(over, (sure_AF, strict_AF, c_AF > 0))
        # A NaN low of the strict heads says that there are none.
        return corrected + 1, np.fmin(low, strict_low) + 1, np.maximum(high, wide_high) + 1

    def _bounds(self, value: Floats, noisy_R: Floats, most: float) -> tuple[Floats, Floats, Floats]:
        """Return an index from 0 to `most` without the bias of noise, and its bounds."""
        if not len(noisy_R):
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        noisy_R = np.where(np.isnan(noisy_R), value, noisy_R)
        mean = noisy_R.mean(axis=0)
        corrected = np.clip(2 * value - mean, 0, most)
        low, high = (
            np.clip(corrected + self.factor * (quantile - mean), 0, most)
            for quantile in np.quantile(noisy_R, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        )
        return corrected, np.minimum(low, corrected), np.maximum(high, corrected)


def _noise(
    of_functions: Sequence[Means],
    active: NDArray[np.intp],
    spread_F: Floats,
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """Return noise of the heads' mean scores, `[R,A,F]`.

    Functions with equally many examples (or clusters) share the signs and sizes of their noise, because they may be
    measured on one set of examples; if they aren't, their deviations are uncorrelated anyway.
    """
    noise_RAF = spread_F * rng.standard_normal((resamples, len(active), len(of_functions)))
    weights: dict[int, Floats] = {}
    for number, each in enumerate(of_functions):
        groups = len(each.deviations)
        if groups not in weights:
            weights[groups] = rng.standard_normal((resamples, groups))
        noise_RAF[..., number] += weights[groups] @ each.deviations[:, active]
    return noise_RAF


def _student(of_functions: Sequence[Means], level: float) -> float:
    """Return by how much Student's interval of the fewest examples is wider than the normal one."""
    from scipy import stats

    fewest = min(len(each.deviations) for each in of_functions)
    return float(stats.t.ppf((1 + level) / 2, fewest - 1) / stats.norm.ppf((1 + level) / 2))


def _p_values(excess_MF: Floats, null: RandomHeads, least_F: Floats) -> Floats:
    """Return the probability that a head of another random-weight model is as strong and selective, `[M]`."""

    def strength(excess: Floats, best_F: Floats) -> Floats:
        kept = excess * _kept(excess, null.chance)
        selectivity = np.nan_to_num(_selectivity(kept / best_F))
        return np.expm1(selectivity * np.log1p(kept.max(axis=-1)))

    best_F = (excess_MF * _kept(excess_MF, null.chance)).max(axis=0)
    tail = Tail(strength(null.excess, least_F), null.heads)
    strength_M = strength(excess_MF, np.maximum(best_F, least_F))
    return np.where(strength_M > 0, np.minimum(tail.reaching(strength_M), 1), 1.0)


def _functions(found: _Found, names: list[str], shape: Sequence[int]) -> pd.DataFrame:
    """Return the table of functions."""
    breadth_F, low_F, high_F = found.breadth
    best = [f"L{layer}H{head}" for layer, head in zip(*np.unravel_index(found.c_MF.argmax(axis=0), shape), strict=True)]
    columns = {
        "breadth": breadth_F,
        "breadth_low": low_F,
        "breadth_high": high_F,
        "share": breadth_F / len(found.c_MF),
        "heads": found.sure_MF.sum(axis=0),
        "best_head": np.where(np.isnan(breadth_F), "", best),
        "chance": found.null.centre,
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="function"))


def _read(
    scores: Mapping[str, ArrayLike], nulls: Mapping[str, ArrayLike | Sequence[ArrayLike]]
) -> tuple[dict[str, Floats], list[dict[str, Floats]]]:
    """Return the scores by function, and those of each draw by function."""
    if len(scores) < 2 or set(scores) != set(nulls):
        raise ValueError(f"expected two functions or more, each with its null; got {list(scores)} and {list(nulls)}")
    real = {name: _finite(name, values) for name, values in scores.items()}
    shapes = {name: x.shape[1:] for name, x in real.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"scores: expected the same layers and heads for all functions, got {shapes}")
    by_function = {name: _draws(name, nulls[name]) for name in scores}
    heads = {name: [draw.shape[1:] for draw in draws] for name, draws in by_function.items()}
    if any(shapes != next(iter(heads.values())) for shapes in heads.values()):
        raise ValueError(f"nulls: expected the same draws, of the same heads, for all functions, got {heads}")
    count = len(next(iter(by_function.values())))
    return real, [{name: draws[number] for name, draws in by_function.items()} for number in range(count)]


def _draws(name: str, values: ArrayLike | Sequence[ArrayLike]) -> list[Floats]:
    if isinstance(values, list | tuple) and values and all(np.ndim(draw) == 3 for draw in values):
        return [_finite(f"null of {name}", draw) for draw in values]
    array = np.asarray(values, np.float64)
    return [_finite(f"null of {name}", draw) for draw in (array if array.ndim == 4 else array[None])]


def _finite(name: str, values: ArrayLike) -> Floats:
    x = np.asarray(values, np.float64)
    if x.ndim != 3 or 0 in x.shape or np.isinf(x).any():
        raise ValueError(f"{name}: expected finite scores [examples, layers, heads], got shape {list(x.shape)}")
    return x


def _labels(
    real: Mapping[str, Floats], clusters: ArrayLike | Mapping[str, ArrayLike] | None
) -> dict[str, NDArray[np.intp] | None]:
    """Return the clusters of each function's examples as numbers from 0, or None."""
    given = clusters if isinstance(clusters, Mapping) else dict.fromkeys(real, clusters)
    if unknown := set(given) - set(real):
        raise ValueError(f"clusters: expected labels of {list(real)}, got {sorted(unknown)}")
    labels: dict[str, NDArray[np.intp] | None] = dict.fromkeys(real)
    for name, x in real.items():
        count = len(x)
        if (label := given.get(name)) is not None:
            if np.shape(label) != x.shape[:1]:
                raise ValueError(f"clusters of {name}: expected {len(x)} labels, got shape {list(np.shape(label))}")
            kinds, labels[name] = np.unique(np.asarray(label), return_inverse=True)
            count = len(kinds)
        if count < 2:
            raise ValueError(f"{name}: expected at least two examples (or clusters), got {count}: no spread is known")
    return labels


def _entropy(c: Floats, axis: int) -> Floats:
    total = c.sum(axis=axis, keepdims=True)
    p = c / np.where(total > 0, total, 1)
    return np.where(total.squeeze(axis) > 0, -(p * np.log(np.where(p > 0, p, 1))).sum(axis=axis), np.nan)


def _selectivity(c_MF: Floats) -> Floats:
    return 1 - _entropy(c_MF, -1) / np.log(c_MF.shape[-1])


def _breadth(c_MF: Floats) -> Floats:
    return np.exp(_entropy(c_MF, -2))
