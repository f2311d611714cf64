"""Spearman's correlation beyond other variables.

Dimension key: W words (or other entries that are ranked), C controls.
"""

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from .base import Floats, finite_or_nan

TINY = 1e-9
"""Share of a row's size below which what is left of it is rounding."""


@checked()
def partial_rank_correlation(first: ArrayLike, second: ArrayLike, beyond: ArrayLike | None = None) -> Floats:
    """Compute Spearman's correlation of rows with one variable, beyond controls: `[...,W]` with `[W]` gives `[...]`.

    Ranks (ties share the mean of theirs) are regressed on the controls' ranks; the answer is Pearson's correlation of
    what is left. A variable that the controls explain has 0; one that is constant has NaN, as it has no rank. So do
    fewer entries than the controls leave a degree of freedom to.

    Args:
        beyond: the controls, `[C,W]`; none when left out.

    Raises:
        ValueError: for numbers that are not finite, or lengths that differ.
    """
    from scipy.stats import rankdata

    x, y = finite_or_nan(first, "first"), finite_or_nan(second, "second")
    W = x.shape[-1]
    controls_CW = np.zeros((0, W)) if beyond is None else finite_or_nan(beyond, "beyond", empty=True)
    if y.shape != (W,) or controls_CW.ndim != 2 or controls_CW.shape[1] != W:
        raise ValueError(
            f"second must be [{W}] and beyond [controls, {W}], as first ends in {W}; got shapes {list(y.shape)} and "
            f"{list(controls_CW.shape)}"
        )
    for name, values in (("first", x), ("second", y), ("beyond", controls_CW)):
        if np.isnan(values).any():
            raise ValueError(f"{name}: expected a finite number for each entry, got NaN: leave such entries out")

    def centred(values: Floats) -> Floats:
        return rankdata(values, axis=-1) - (W + 1) / 2

    # Constant controls, and those that others explain, are no directions of their own.
    _, sizes_C, basis_CW = np.linalg.svd(centred(controls_CW), full_matrices=False)
    basis_CW = basis_CW[sizes_C > TINY * W**1.5]
    if len(basis_CW) + 3 > W:
        return np.full(x.shape[:-1], np.nan)
    sides = []
    for values in (x, y):
        ranks = centred(values)
        size = np.linalg.norm(ranks, axis=-1, keepdims=True)
        unit = ranks / np.where(size > 0, size, np.nan)
        left = unit - unit @ basis_CW.T @ basis_CW
        rest = np.linalg.norm(left, axis=-1, keepdims=True)
        sides.append(np.where(rest > TINY, left / np.where(rest > TINY, rest, 1.0), unit * 0.0))
    return np.clip(sides[0] @ sides[1], -1.0, 1.0)
