"""The local learning coefficient, and its refinement to one head (Lau et al. 2023; Wang et al. 2024, arXiv 2410.02984).

λ̂ = nβ (E[L(w)] − L(w*)), nβ = n / log n, with w drawn about w* by stochastic gradient Langevin dynamics:
w ← w − ε/2 (nβ ∇L(w) + γ (w − w*)) + √ε · noise. It counts, in effect, the directions in which the loss rises: d/2 for
d quadratic directions, less for flatter ones.

A finite step makes λ̂ too large, and no number of draws mends that. Write g = nβ ∇L(w) + γ (w − w*) for the gradient
that a step reads, x = w − w*, and k for the number of parameters that move. Where the chain is stationary, |x|² has the
same mean before and after a step, so that E[x · g] = k + ε/4 E|g|². The exact posterior has E[x · g] = k: the second
term is the step's doing, noise of the batches included. A loss of degree p (2: quadratic) has λ̂ = E[x · nβ ∇L]/p, so
the bias is estimated as ε/4 E[nβ ∇L · g]/p, with p = E[x · nβ ∇L]/λ̂, at least 2. Without noise in the gradient this is
exact for a quadratic loss with any γ, and for any degree with γ = 0. It needs nothing beyond gradients that the chains
compute anyway, where a second run with half the step would double the cost, and show the bias only as a difference of
two noisy estimates. (SGLD's bias is of first order in ε: Vollmer, Zygalakis & Teh 2016, arXiv 1501.00438.)

Dimension key: C chains, D draws.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import at_least, between, checked, more_than
from ..checks import shown


class LLC(NamedTuple):
    """An estimate of λ with its chains.

    Attributes:
        value: λ̂.
        error: its standard error over chains; the step's bias is not in it.
        chains: λ̂ of each chain, `[C]`.
        trace: the mean loss along the chains, `[D]`. If it still rises, burn more draws or make ε smaller.
        bias: the part of λ̂ that is due to the finite step ε, to first order proportional to ε; see the module.
    """

    value: float
    error: float
    chains: np.ndarray
    trace: np.ndarray
    bias: float


@checked(n=at_least(2), step=more_than(0), pull=between(0), chains=at_least(2), burn=at_least(0), draws=at_least(1))
def llc(
    loss: Callable[[Any, Array], Array],
    parameters: Any,
    *,
    n: int,
    step: float = 1e-4,
    pull: float = 100.0,
    chains: int = 8,
    burn: int = 200,
    draws: int = 500,
    moving: Any = None,
    seed: int = 0,
) -> LLC:
    """Estimate λ̂ at `parameters`.

    A warning says that the step's bias exceeds the standard error, and names a smaller step.

    Args:
        loss: function `(parameters, key)` that returns the mean loss of a batch drawn with the key, nats.
        n: the number of samples in the data set of the loss.
        step: ε.
        pull: γ, which keeps chains near `parameters`.
        moving: a tree like `parameters` of ones and zeros: ones may move (weight refinement); all by default. See
            `head_only`.

    Raises:
        FloatingPointError: for a chain that diverges: ε is too large.
    """
    _check_loss(loss, parameters, moving)
    heat = n / np.log(n)
    mask = jax.tree.map(jnp.ones_like, parameters) if moving is None else moving

    def move(w: Any, key: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        data_key, noise_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(w, data_key)
        leaves, structure = jax.tree.flatten(w)
        keys = jax.tree.unflatten(structure, list(jax.random.split(noise_key, len(leaves))))

        def langevin(x: Array, g: Array, home: Array, m: Array, k: Array) -> Array:
            drift = step / 2 * (heat * g + pull * (x - home))
            return x + m * (step**0.5 * jax.random.normal(k, x.shape, x.dtype) - drift)

        def excess(x: Array, g: Array, home: Array, m: Array) -> Array:
            return step / 4 * heat * jnp.sum(m * g * (heat * g + pull * (x - home)))

        def product(x: Array, g: Array, home: Array, m: Array) -> Array:
            return heat * jnp.sum(m * g * (x - home))

        excesses, products = (
            sum(jax.tree.leaves(jax.tree.map(term, w, gradient, parameters, mask)), jnp.zeros(()))
            for term in (excess, product)
        )
        return jax.tree.map(langevin, w, gradient, parameters, mask, keys), (value, excesses, products)

    def chain(key: Array) -> tuple[Array, ...]:
        seen = jax.lax.scan(move, parameters, jax.random.split(key, burn + draws))[1]
        return tuple(values[burn:] for values in seen)

    keys = jax.random.split(jax.random.key(seed), chains + 1)
    losses_CD, excess_CD, product_CD = (np.asarray(values, np.float64) for values in jax.jit(jax.vmap(chain))(keys[1:]))
    if not np.isfinite(losses_CD).all():
        raise FloatingPointError(f"a chain left for infinity: make the step smaller than {step:g}, or the pull larger")
    # L(w*) is a mean over 64 batches: the noise of a single one would be multiplied by nβ.
    home = np.mean([float(jax.jit(loss)(parameters, key)) for key in jax.random.split(keys[0], 64)])
    lambda_C = heat * (losses_CD.mean(axis=1) - home)
    value, error = float(lambda_C.mean()), float(lambda_C.std(ddof=1) / np.sqrt(chains))
    degree = max(2.0, float(product_CD.mean()) / value) if value > 0 else 2.0
    bias = float(excess_CD.mean()) / degree
    _warn_of_bias(error, bias, step)
    return LLC(value, error, lambda_C, losses_CD.mean(axis=0), bias)


def _check_loss(loss: Callable[[Any, Array], Array], parameters: Any, moving: Any) -> None:
    """Raise ValueError unless the loss is one number, and the tree of what moves is like that of the parameters."""
    if not all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(parameters)):
        raise ValueError("parameters must be a tree of arrays")
    try:
        value = jax.eval_shape(loss, parameters, jax.random.key(0))
    except Exception as error:  # whatever a user's function raises
        words = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"loss must be a function (parameters, key) that returns a number; it raised {words}"
        ) from error
    if getattr(value, "shape", None) != () or value.dtype.kind != "f":
        raise ValueError(f"loss must return one real number, got {shown(value)}")
    if moving is not None and jax.tree.map(jnp.shape, moving) != jax.tree.map(jnp.shape, parameters):
        raise ValueError("moving must be a tree of ones and zeros like parameters, of the same shapes")


def _warn_of_bias(error: float, bias: float, step: float) -> None:
    if not bias > error:
        return
    warnings.warn(
        f"the step {step:g} makes the estimate too large by about {bias:.2g}, more than its standard error "
        f"{error:.2g}: try a step of {step * error / (2 * bias):.1g}, with more burn and draws in proportion",
        stacklevel=3,
    )


@checked()
def head_only(parameters: Any, layer: int, head: int) -> Any:
    """Mask one head's parameters for `llc(moving=…)`: ones at its W_Q, W_K, W_V, W_O, biases and sink, zeros elsewhere.

    Args:
        parameters: of a network whose layers are stacked.

    Raises:
        ValueError: for a head that these parameters do not have.
    """
    axes = {"W_Q": 2, "W_K": 2, "W_V": 2, "W_O": 1, "b_Q": 1, "b_K": 1, "b_V": 1, "sinks": 1}

    def mark(path: tuple[Any, ...], weight: Array) -> Array:
        names = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
        name = next((name for name in reversed(names) if name in axes), None)
        if name is None or layer >= weight.shape[0] or head >= weight.shape[axes[name]]:
            return jnp.zeros_like(weight)
        index = [slice(None)] * weight.ndim
        index[0], index[axes[name]] = slice(layer, layer + 1), slice(head, head + 1)
        return jnp.zeros_like(weight).at[tuple(index)].set(1)

    mask = jax.tree_util.tree_map_with_path(mark, parameters)
    if not any(float(leaf.sum()) for leaf in jax.tree.leaves(mask)):
        raise ValueError(f"these parameters have no head {layer}.{head} in stacked layers")
    return mask
