"""The learning coefficient in closed form: w², w⁴, w⁶ and two quadratic directions."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxheads.train.llc import LLC, head_only, llc
from jaxheads.train.runs import Runs

from .toy import CONFIG, Counting


def of(power: int, dimensions: int, **options) -> float:
    start = {"w": jnp.zeros(dimensions)}
    estimate = llc(
        lambda w, key: (w["w"] ** power).sum(), start, n=10_000, pull=0.0, chains=16, burn=2000, draws=8000, **options
    )
    return estimate.value


@pytest.mark.parametrize(
    ("power", "dimensions", "step", "expected"),
    [(2, 1, 2e-5, 1 / 2), (4, 1, 2e-4, 1 / 4), (6, 1, 1e-3, 1 / 6), (2, 2, 2e-5, 1.0)],
)
def test_closed_forms(power: int, dimensions: int, step: float, expected: float):
    assert of(power, dimensions, step=step) == pytest.approx(expected, rel=0.12)


def quadratic(step: float) -> LLC:
    """Estimate the coefficient 1/2 of w² from many samples."""
    start = {"w": jnp.zeros(1)}
    return llc(lambda w, key: (w["w"] ** 2).sum(), start, n=100_000, pull=0.0, step=step, burn=2000, draws=8000)


def test_a_step_whose_bias_exceeds_the_error_warns_and_names_a_smaller_step():
    with pytest.warns(UserWarning, match=r"the step 2e-05 makes the estimate too large by about 0\.04.*try a step of"):
        estimate = quadratic(2e-5)
    # Closed form: the stationary variance is 1 / (h (1 − εh/4)), with h = 2 nβ.
    closed = 0.5 / (1 - 2e-5 * 2 * 100_000 / np.log(100_000) / 4) - 0.5
    assert estimate.bias == pytest.approx(closed, rel=0.05)
    assert estimate.value - estimate.bias == pytest.approx(0.5, abs=2 * estimate.error)
    assert abs(estimate.value - 0.5) > 2 * estimate.error


def test_a_small_step_does_not_warn_and_covers_the_closed_form():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = quadratic(1e-6)
    assert estimate.bias < estimate.error
    assert abs(estimate.value - 0.5) < 2 * estimate.error


def test_only_what_may_move_is_counted():
    start = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    moving = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    estimate = llc(
        lambda w, key: (w["a"] ** 2).sum() + (w["b"] ** 2).sum(),
        start,
        n=10_000,
        step=2e-5,
        pull=0.0,
        chains=16,
        burn=2000,
        draws=6000,
        moving=moving,
    )
    assert estimate.value == pytest.approx(3 / 2, rel=0.12)
    assert estimate.error < 0.2


def test_one_head_of_a_network():
    runs = Runs(CONFIG, Counting(), ({"seed": 0},), 4)
    parameters = jax.tree.map(lambda leaf: leaf[0], runs.start().parameters)
    mask = head_only(parameters, 1, 0)
    assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask)) == 4 * 16 * 8
    with pytest.raises(ValueError, match=r"no head 1\.2"):
        head_only(parameters, 1, 2)


def test_a_step_that_is_too_large_is_told_of():
    with pytest.raises(FloatingPointError, match="make the step smaller than 1"):
        of(4, 1, step=1.0)
