"""Models that do nothing on purpose: what a head's score must beat."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..models.inputs.batch import Batch
from ..models.model import Model


def random_weights(model: Model, seed: int) -> Model:
    """The same architecture with every weight redrawn from a normal distribution of that tensor's own size.

    The size is the root mean square about zero, for each layer by itself. Norm scales and all biases stay. So
    the streams, the scores and the norms are about as large as the real model's, and attention is about as
    sharp as chance alone can make it: a fresh initialisation, whose weights are far smaller, has nearly
    uniform patterns, and that null is beaten by heads that are merely sharp. What is destroyed is all
    agreement between weights: low rank, the match of queries with keys, composition between layers, and what
    embeddings say of tokens and positions.

    What the architecture does by itself stays, as it should: causal masks, rotary positions, and that a token
    has the same embedding wherever it stands. The tokenizer is shared, not copied. The same seed gives the
    same weights.
    """

    def drawn(index: int, path: tuple[Any, ...], weight: Array) -> Array:
        if _is_kept(path, weight):
            return weight
        own = tuple(range(1 if _is_stacked(path) else 0, weight.ndim))
        size = jnp.sqrt(jnp.mean(jnp.square(weight.astype(jnp.float32)), axis=own, keepdims=True))
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), index), weight.shape, jnp.float32)
        return (size * noise).astype(weight.dtype)

    of_the_real = model.identity  # not the model: that would keep the real weights in memory
    paths, structure = jax.tree_util.tree_flatten_with_path(model.network)
    leaves = [drawn(index, path, weight) for index, (path, weight) in enumerate(paths)]
    return replace(
        model,
        network=jax.tree.unflatten(structure, leaves),
        name=f"{model.name} with random weights",
        identity=lambda: f"random weights, seed {seed}, sizes of {of_the_real()}",
    )


def shuffled_marks(batch: Batch, seed: int) -> Batch:
    """The same examples with their marks dealt anew among the real positions: what attention to a class of tokens, or
    alignment with a relation, is where the labels say nothing.

    Of marks of tokens each example keeps as many of each value; of marks of pairs each query keeps as many, for the
    keys of an example change places together. Positions are those of tokens, or of targets where there are no tokens.

    Raises:
        ValueError: for a batch without marks, or marks that are not of its tokens' (or targets') length.
    """
    if not batch.marks:
        raise ValueError("the batch has no marks to shuffle: Batch(…, marks={…})")
    real_BS = np.asarray(batch.mask if batch.tokens is not None else batch.target_mask)
    rng = np.random.default_rng(seed)
    order_BS = np.tile(np.arange(real_BS.shape[1]), (len(real_BS), 1))
    for order, real in zip(order_BS, real_BS, strict=True):
        order[real] = rng.permutation(order[real])
    found = {}
    for name, mark in batch.marks.items():
        if mark.shape[-1] != real_BS.shape[1]:
            raise ValueError(f"the mark {name!r} has {mark.shape[-1]} keys, the batch {real_BS.shape[1]} positions")
        index = order_BS if mark.ndim == 2 else order_BS[:, None, :]
        found[name] = np.take_along_axis(np.asarray(mark), index, axis=-1)
    return batch.marked(found)


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]


def _is_kept(path: tuple[Any, ...], weight: Array) -> bool:
    """Norm scales, gains, biases, and what is no weight at all (settings of layers, the state of a random stream)."""
    own = [name for name in _names(path) if name not in ("", "value")][-1]
    kept = ("scale", "bias", "gain", "frequencies")
    return not jnp.issubdtype(weight.dtype, jnp.floating) or own in kept or own.startswith("b_")


def _is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the leading axis is layers: the weights in a stack's blocks."""
    return "blocks" in _names(path)
