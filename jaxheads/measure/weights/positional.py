"""Where heads look by position alone, read off the weights.

Dimension key: T positions, D model dimension, L layers, N heads.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention import unchanged
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...provenance import environment
from ...tables import Column, HeadTable
from .vocabulary import vocabulary

CONTENTS = ("none", "mean")


def positional_kernel(
    model: Model,
    offset: int = 1,
    *,
    content: Literal["none", "mean"] | None = None,
    positions: int = 32,
    stack: str | None = None,
) -> HeadTable:
    """How much each head looks `offset` positions back (1: at the previous token) where it sees positions only.

    A stream that carries nothing but a position, `x_t = c + p_t`, goes through each layer's own reading: its norm,
    projections, rotary turns, biases by distance, window. With learnt positions and `content="none"` the scores are
    `P W_Q W_Kᵀ Pᵀ` times the scale. Rotary positions turn what they are given: c is then the mean of all tokens'
    embeddings, and the score of a query and a key δ apart is `(c W_Q) R(δ) (c W_K)ᵀ` times the scale, a function of δ
    alone. ALiBi and relative biases count as they are.

    Nothing of other layers is in it: of later layers it says what a head would do with the positions alone.

    Args:
        offset: how far the key lies before the query, at least 0.
        content: c is 0 ("none") or the "mean" word. When left out "none", if places have vectors (learnt, sinusoidal),
            and else "mean".
        positions: how many there are; an early query has few keys to choose from, so the number counts.
        stack: the only one when left out: self-attention over tokens, of the first stream.

    Returns:
        Columns without interval: `attention`, the mean over queries `t >= offset` of the softmax at `t - offset`, from
        0 to 1; `kernel`, the mean over the same queries of the score there, less the mean score of all keys that the
        query sees, in units of the score. `kernel` is NaN where a window hides the offset.

    Raises:
        ValueError: for an unknown content; an offset or a number of positions that does not fit the model;
            cross-attention or a stack of no tokens; a model whose tokens and places enter through one norm (BERT).
    """
    part = model.stack(stack)
    _check(model, part, offset, positions, content)
    places_TD, context = _positions(model, part, positions)
    learnt = bool(np.abs(np.asarray(places_TD, np.float32)).max() > 0)
    chosen = content or ("none" if learnt else "mean")
    x_TD = places_TD if chosen == "none" else places_TD + _mean_word(model).astype(places_TD.dtype)[None]
    attention_LN, kernel_LN = _kernels(part, x_TD, context, offset)
    about = {"model": model.name, "weights": model.identity(), "offset": offset, "content": chosen}
    about |= {"positions": positions, **environment()}
    columns = {"attention": Column(np.asarray(attention_LN)), "kernel": Column(np.asarray(kernel_LN))}
    return HeadTable.from_columns("positional_kernel", part.name, columns, about)


def _check(model: Model, part: Stack, offset: int, positions: int, content: str | None) -> None:
    if part.is_cross or part.queries.kind != "tokens" or model.network.streams[0].name != part.name:
        raise ValueError(f"a positional kernel is of self-attention over tokens in the first stream; got {part.name}")
    if content is not None and content not in CONTENTS:
        raise ValueError(f"content must be one of {', '.join(CONTENTS)}; got {content!r}")
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and positions > context:
        raise ValueError(f"{model.name} takes up to {context} positions; got {positions}")
    if not 0 <= offset < positions:
        raise ValueError(f"offset must lie in 0..{positions - 1}, the positions there are; got {offset}")


def _positions(model: Model, part: Stack, positions: int) -> tuple[Array, AttentionInputs]:
    """What each position brings into the stream, `[T,D]`, and what a layer knows of positions."""
    needed = {axis.kind for stack in model.network.stacks for axis in (stack.queries, stack.keys)}
    tokens = np.zeros((1, positions), int)
    batch = Batch(tokens, targets=np.zeros((1, 1), int)) if "targets" in needed else Batch(tokens)
    seen: dict[str, tuple[Array, AttentionInputs]] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        seen[stack.name] = x_BTD, context
        return x_BTD

    model.network.hidden(batch, run_stack)
    x_1TD, context = seen[part.name]
    return x_1TD[0] - model.network.embed_tokens(batch.tokens)[0], context


def _mean_word(model: Model) -> Array:
    """The mean over the vocabulary of what tokens bring into the stream, `[D]`, in float32."""
    sums = [_sum_of_words(model.network, ids) for ids in vocabulary(model)]
    return sum(sums[1:], sums[0]) / model.config.vocab_size


@jax.jit
def _sum_of_words(network: Network, ids_C: Array) -> Array:
    return network.embed_tokens(ids_C).astype(jnp.float32).sum(axis=0)


@partial(jax.jit, static_argnames="offset")
def _kernels(stack: Stack, x_TD: Array, context: AttentionInputs, offset: int) -> tuple[Array, Array]:
    """`attention` and `kernel`, `[L,N]` each."""
    at_T = jnp.arange(offset, len(x_TD))

    def layer(number: Array) -> tuple[Array, Array]:
        block = stack.block(number)
        q = block.queries(x_TD[None], context.queries)
        k, v = block.keys_values(x_TD[None], context.own_keys)
        seen = block.attention.attend(q, k, v, context, unchanged)[1]
        pattern_NTS, scores_NTS = (seen[site][0].astype(jnp.float32) for site in ("pattern", "scores"))
        sees_NTS = seen["scores"][0] > jnp.finfo(q.dtype).min
        mean_NT = jnp.where(sees_NTS, scores_NTS, 0).sum(axis=-1) / sees_NTS.sum(axis=-1).astype(jnp.float32)
        above_NTS = jnp.where(sees_NTS, scores_NTS - mean_NT[..., None], jnp.nan)
        attention_N, kernel_N = (each[:, at_T, at_T - offset].mean(axis=1) for each in (pattern_NTS, above_NTS))
        return attention_N, kernel_N

    return jax.lax.map(layer, jnp.arange(stack.layers))
