"""Analysis of variance of a full grid of factors with replicates.

Dimension key: one axis a factor, `R` replicates.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..arguments import checked
from .base import finite_or_nan


@checked()
def analysis_of_variance(values: ArrayLike, factors: Sequence[str], *, order: int = 2) -> pd.DataFrame:
    """Analyse a balanced design of fixed effects (Montgomery 2017, section 5.4).

    A factor's sum of squares is that of its levels' means about the grand mean; an interaction's is that of the joint
    means about the sum of all effects of fewer factors. Interactions above `order` go to the residual, with the
    replicates.

    Args:
        values: an axis for each factor, of two levels or more, and a last one of replicates (seeds, two or more).
        factors: names of the axes.
        order: the largest number of factors of an interaction.

    Returns:
        A row for each effect ("heads", "heads × depth", …, "residual"): `df`, `squares`, `share` of the total sum of
        squares (η²), `F` and its `p` (NaN if all values are equal, and for the residual).

    Raises:
        ValueError: for NaN or infinity, too few levels, replicates or names, or an order below 1.
    """
    from scipy import stats

    x, names = finite_or_nan(values, "values"), list(factors)
    if np.isnan(x).any() or x.ndim != len(names) + 1 or not names or min(x.shape) < 2:
        raise ValueError(
            f"values: expected finite numbers with an axis for each of the factors {names} and one of replicates, "
            f"two or more of each, got shape {list(x.shape)}{' with NaN' if np.isnan(x).any() else ''}"
        )
    if order < 1:
        raise ValueError(f"order: expected at least 1, got {order}")
    effects = _effects(x, min(order, len(names)))
    total = float(((x - x.mean()) ** 2).sum())
    rows = [
        (" × ".join(names[axis] for axis in axes), int(np.prod([x.shape[axis] - 1 for axis in axes])), squares)
        for axes, squares in effects.items()
    ]
    residual_df = x.size - 1 - sum(df for _, df, _ in rows)
    rows.append(("residual", residual_df, max(0.0, total - sum(squares for *_, squares in rows))))
    table = pd.DataFrame(rows, columns=["effect", "df", "squares"]).set_index("effect")
    table["share"] = table["squares"] / total if total > 0 else np.nan
    noise = table.loc["residual", "squares"] / residual_df  # type: ignore[operator]
    ratio = (table["squares"] / table["df"]).to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        F = np.where(table.index == "residual", np.nan, ratio / noise)
    table["F"], table["p"] = F, stats.f.sf(F, table["df"], residual_df)
    return table


def _effects(x: np.ndarray, order: int) -> dict[tuple[int, ...], float]:
    """Return the sum of squares of each main effect and interaction, by the axes of its factors."""
    effects: dict[tuple[int, ...], np.ndarray] = {(): np.full([1] * x.ndim, x.mean())}
    squares = {}
    for size in range(1, order + 1):
        for axes in combinations(range(x.ndim - 1), size):
            others = tuple(axis for axis in range(x.ndim) if axis not in axes)
            smaller = (effects[subset] for subset in effects if set(subset) < set(axes))
            effects[axes] = x.mean(axis=others, keepdims=True) - sum(smaller)
            squares[axes] = float((effects[axes] ** 2).sum() * x.size / effects[axes].size)
    return squares
