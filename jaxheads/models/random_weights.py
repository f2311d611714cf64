"""Models of random weights: the null of an architecture that has learnt nothing."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import checked
from .model import Model


@checked()
def random_weights(model: Model, seed: int) -> Model:
    """Return the same architecture with every weight redrawn from a normal distribution of that tensor's own size.

    The size is the root mean square about zero, for each layer by itself. Norm scales, all biases and learnt sinks
    stay. So the streams, the scores and the norms are about as large as the real model's, and attention is about as
    sharp as chance alone can make it: a fresh initialisation, whose weights are far smaller, has nearly
    uniform patterns, and that null is beaten by heads that are merely sharp. What is destroyed is all
    agreement between weights: low rank, the match of queries with keys, composition between layers, and what
    embeddings hold of tokens and positions.

    The architecture's own behaviour stays, as it should: causal masks, rotary positions, and that a token has
    the same embedding at every position. The tokenizer is shared, not copied. One seed gives one set of weights.
    """

    def redraw(index: int, path: tuple[Any, ...], weight: Array) -> Array:
        if _is_kept(path, weight):
            return weight
        axes = tuple(range(1 if _is_stacked(path) else 0, weight.ndim))
        size = jnp.sqrt(jnp.mean(jnp.square(weight.astype(jnp.float32)), axis=axes, keepdims=True))
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), index), weight.shape, jnp.float32)
        return (size * noise).astype(weight.dtype)

    real_identity = model.identity  # not the model: that would keep the real weights in memory
    paths, structure = jax.tree_util.tree_flatten_with_path(model.network)
    leaves = [redraw(index, path, weight) for index, (path, weight) in enumerate(paths)]
    return replace(
        model,
        network=jax.tree.unflatten(structure, leaves),
        name=f"{model.name} with random weights",
        identity=lambda: f"random weights, seed {seed}, sizes of {real_identity()}",
    )


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]


def _is_kept(path: tuple[Any, ...], weight: Array) -> bool:
    """Whether a parameter stays: norm scales, gains, biases, sinks, and settings or random states (no weights)."""
    name = [name for name in _names(path) if name not in ("", "value")][-1]
    kept = ("scale", "bias", "gain", "sinks", "frequencies")
    return not jnp.issubdtype(weight.dtype, jnp.floating) or name in kept or name.startswith("b_")


def _is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the leading axis is layers: the weights in a stack's blocks."""
    return "blocks" in _names(path)
