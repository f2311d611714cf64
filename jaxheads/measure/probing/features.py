"""Features that a probe reads of each layer, and the sums over units that the forward pass makes of them.

Dimension key: B examples, U units, W words, T tokens (S of keys), L layers, N heads, H head dimension, D model
dimension, F features, X features with the constant 1 behind them, C classes of all tasks, K classes of one task.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ...models.inputs.batch import Batch
from ...models.network import Network, forward
from ...models.stack import Stack
from ...programs import compiled

Of = Literal["z", "pattern", "resid_post"]
"""Site that is probed: a head's output, its attention by offset, or the stream after a layer."""

OFFSETS = 8
"""Attention to words farther away than this number is one feature."""


class Inputs(NamedTuple):
    """Examples with their units, as arrays of NumPy or, on devices, of JAX.

    Attributes:
        batch: what the model reads.
        shares: the share of each token in its unit, `[B,U,T]`; of patterns, in its word.
        classes: the class of each unit in each task, `[B,U,tasks]`; negative where it does not count.
        words: which token belongs to which word, `[B,W,T]`; for patterns alone.
    """

    batch: Batch
    shares: Any
    classes: Any
    words: Any


class Probe(NamedTuple):
    """A linear probe of every head, or the center of its features alone.

    Attributes:
        center: what is subtracted from features, `[L,N,F]`; sums of squares keep their digits.
        weights: a linear score of each class of all tasks, `[L,N,X,C]`; None for moments.
    """

    center: Any
    weights: Any = None


def feature_count(stack: Stack, of: Of) -> int:
    """Return F, the number of a head's features (of the stream: of a layer)."""
    return {"z": stack.head_size, "resid_post": stack.width, "pattern": 2 * OFFSETS + 3}[of]


def columns(stack: Stack, of: Of) -> int:
    """Return the number of probes in a layer: one a head, or one of the stream."""
    return 1 if of == "resid_post" else stack.heads


def features(seen: Mapping[str, Array], inputs: Inputs, of: Of) -> Array:
    """Return the features of each unit, `[B,U,N,F]`."""
    if of == "pattern":
        return _offsets(seen["pattern"].astype(jnp.float32), inputs)
    values = seen[of].astype(jnp.float32)
    return jnp.einsum("but,btnf->bunf", inputs.shares, values if of == "z" else values[:, :, None])


def _offsets(pattern_BNTS: Array, inputs: Inputs) -> Array:
    """Return each word's attention to the words at each offset, to words farther away, and to what is no word.

    A single unit is the mean over its words.
    """
    words_BWS = inputs.words
    from_words = jnp.einsum("bwt,bnts->bnws", inputs.shares, pattern_BNTS)
    pooled_BNWV = jnp.einsum("bnws,bvs->bnwv", from_words, words_BWS)
    W = words_BWS.shape[1]
    keys_WO = jnp.arange(W)[:, None] + jnp.arange(-OFFSETS, OFFSETS + 1)[None]
    inside_WO = (keys_WO >= 0) & (keys_WO < W)
    near_BNWO = jnp.take_along_axis(pooled_BNWV, jnp.clip(keys_WO, 0, W - 1)[None, None], axis=-1)
    near_BNWO = jnp.where(inside_WO[None, None], near_BNWO, 0.0)
    to_words, whole = pooled_BNWV.sum(axis=-1), from_words.sum(axis=-1)
    far = to_words - near_BNWO.sum(axis=-1)
    features_BNWF = jnp.concatenate([near_BNWO, far[..., None], (whole - to_words)[..., None]], axis=-1)
    features_BWNF = jnp.moveaxis(features_BNWF, 1, 2)
    if inputs.classes.shape[1] == W:
        return features_BWNF
    present_BW = (inputs.shares.sum(axis=-1) > 0).astype(jnp.float32)
    mean_BNF = jnp.einsum("bw,bwnf->bnf", present_BW, features_BWNF)
    return mean_BNF[:, None] / jnp.maximum(present_BW.sum(axis=1), 1.0)[:, None, None, None]


def _rows(seen: Mapping[str, Array], inputs: Inputs, probe: Probe, of: Of) -> tuple[Array, Array]:
    """Return the centred features with a constant behind them, 0 where a unit does not count, and what counts."""
    layer = seen["layer"]
    rows_BUNF = features(seen, inputs, of) - probe.center[layer][None, None]
    counts_BU = (inputs.classes[..., 0] >= 0).astype(jnp.float32)
    rows_BUNX = jnp.concatenate([rows_BUNF, jnp.ones((*rows_BUNF.shape[:-1], 1))], axis=-1)
    return rows_BUNX * counts_BU[..., None, None], counts_BU


def _one_hot(inputs: Inputs, size: int) -> Array:
    """Return which class each unit has in each task, `[B,U,C]`, the tasks side by side."""
    hot = jax.nn.one_hot(inputs.classes, size)
    return hot.reshape(*hot.shape[:2], -1)


def _moments(network: Network, inputs: Inputs, probe: Probe, *, stack: str, of: Of, size: int) -> Array:
    """Return sums over units of products of features with each other and with classes, `[L,N,X,X+C]`."""

    def read(seen: Mapping[str, Array]) -> Array:
        rows_BUNX, _ = _rows(seen, inputs, probe, of)
        squares = jnp.einsum("bunx,buny->nxy", rows_BUNX, rows_BUNX)
        return jnp.concatenate([squares, jnp.einsum("bunx,buc->nxc", rows_BUNX, _one_hot(inputs, size))], axis=-1)

    return forward(network, inputs.batch, read={stack: read})[1][stack]


def _gradient(network: Network, inputs: Inputs, probe: Probe, *, stack: str, of: Of, size: int) -> Array:
    """Return the gradient of the summed log-likelihood by the weights of a softmax a task, `[L,N,X,C]`."""

    def read(seen: Mapping[str, Array]) -> Array:
        rows_BUNX, counts_BU = _rows(seen, inputs, probe, of)
        scores_BUNTK = _scores(seen, rows_BUNX, probe, size)
        hot = _one_hot(inputs, size) * counts_BU[..., None]
        chances = jax.nn.softmax(scores_BUNTK, axis=-1).reshape(*scores_BUNTK.shape[:3], -1)
        missed = hot[:, :, None] - chances * counts_BU[..., None, None]
        return jnp.einsum("bunx,bunc->nxc", rows_BUNX, missed)

    return forward(network, inputs.batch, read={stack: read})[1][stack]


def _right(network: Network, inputs: Inputs, probe: Probe, *, stack: str, of: Of, size: int) -> Array:
    """Return for each unit and task whether the class with the largest score is its class, `[B,L,N,U,tasks]`."""

    def read(seen: Mapping[str, Array]) -> Array:
        rows_BUNX, _ = _rows(seen, inputs, probe, of)
        best_BUNT = _scores(seen, rows_BUNX, probe, size).argmax(axis=-1)
        return jnp.moveaxis(best_BUNT == inputs.classes[:, :, None], 2, 1)

    return jnp.moveaxis(forward(network, inputs.batch, read={stack: read})[1][stack], 0, 1)


def _scores(seen: Mapping[str, Array], rows_BUNX: Array, probe: Probe, size: int) -> Array:
    """Return the scores of each task's classes, `[B,U,N,tasks,K]`."""
    scores_BUNC = jnp.einsum("bunx,nxc->bunc", rows_BUNX, probe.weights[seen["layer"]])
    return scores_BUNC.reshape(*scores_BUNC.shape[:3], -1, size)


@cache
def program(kind: Literal["moments", "gradient", "right"]) -> Any:
    """Return a compiled program: of `Network`, `Inputs`, `Probe` and the names `stack`, `of` and `size`."""
    function = {"moments": _moments, "gradient": _gradient, "right": _right}[kind]
    return compiled(function, static_argnames=("stack", "of", "size"))
