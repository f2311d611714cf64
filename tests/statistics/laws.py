"""Random numbers, laws with known means, and how often intervals cover, for tests of statistics."""

import math

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

numbers = st.floats(-1e6, 1e6, width=32)
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=numbers | st.just(np.nan))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def covered(interval, truth):
    """The share of cells whose interval holds the truth."""
    return np.mean((interval.low <= truth) & (truth <= interval.high))


# Laws and their means.
LAWS = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "share of attention": (lambda rng, shape: rng.beta(0.3, 2, shape), 0.3 / 2.3),
    "lognormal": (lambda rng, shape: np.exp(rng.standard_normal(shape)), math.exp(0.5)),
    "t of 3": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
}
