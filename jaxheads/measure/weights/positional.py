"""Attention by position alone, computed from the weights.

Dimension key: T positions, D model dimension, L layers, N heads.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...checks import one_of
from ...models.attention.row_edits import unchanged
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...programs import compiled
from ...provenance import provenance
from ...tables import Column, HeadTable
from .vocabulary import token_chunks

CONTENTS = ("none", "mean")


@checked()
def positional_kernel(
    model: Model,
    offset: int = 1,
    *,
    content: Literal["none", "mean"] | None = None,
    positions: int = 32,
    stack: str | None = None,
) -> HeadTable:
    """Measure how much each head attends `offset` positions back when the stream carries positions alone.

    The stream `x_t = c + p_t` goes through each layer's norm, projections, rotary positions, biases by distance and
    window. With learnt positions and `content="none"` the scores are `P W_Q W_Kᵀ Pᵀ` times the scale. Rotary positions
    rotate whatever vector is there: c is then the mean of all tokens' embeddings, and the score of a query and a key δ
    apart is `(c W_Q) R(δ) (c W_K)ᵀ` times the scale, a function of δ alone. ALiBi and relative biases count as they
    are. No other layer's output is included: a later layer's number is what its head would do with positions alone.

    Args:
        offset: how far the key is before the query, at least 0; 1 is the previous token.
        content: c is 0 ("none") or the "mean" embedding. When left out "none", if positions have vectors (learnt,
            sinusoidal), and else "mean".
        positions: T; an early query has few keys to choose from, so results depend on it.
        stack: self-attention over tokens, of the first stream; the only stack when left out.

    Returns:
        Columns without interval: `attention`, the mean over queries `t >= offset` of the softmax at `t - offset`, from
        0 to 1; `kernel`, the mean over these queries of the score at `t - offset` less the mean score of all keys that
        the query sees, in units of the score. `kernel` is NaN where a window hides the offset.

    Raises:
        ValueError: for an unknown content; an offset or a number of positions that does not fit the model;
            cross-attention or a stack of no tokens; a model whose tokens and positions enter through one norm (BERT).
    """
    chosen = model.stack(stack)
    _check(model, chosen, offset, positions, content)
    positions_TD, context = _position_vectors(model.network, chosen.name, positions)
    has_vectors = bool(np.abs(np.asarray(positions_TD, np.float32)).max() > 0)
    content = content or ("none" if has_vectors else "mean")
    x_TD = positions_TD if content == "none" else positions_TD + _mean_embedding(model).astype(positions_TD.dtype)[None]
    attention_LN, kernel_LN = _kernels(chosen, x_TD, context, offset)
    about = provenance(model, offset=offset, content=content, positions=positions)
    columns = {"attention": Column(np.asarray(attention_LN)), "kernel": Column(np.asarray(kernel_LN))}
    return HeadTable.from_columns("positional_kernel", chosen.name, columns, about)


def _check(model: Model, stack: Stack, offset: int, positions: int, content: str | None) -> None:
    if stack.is_cross or stack.queries.kind != "tokens" or model.network.streams[0].name != stack.name:
        raise ValueError(f"a positional kernel is of self-attention over tokens in the first stream; got {stack.name}")
    if content is not None:
        one_of("content", content, CONTENTS)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and positions > context:
        raise ValueError(f"{model.name} takes up to {context} positions; got {positions}")
    if not 0 <= offset < positions:
        raise ValueError(f"offset must lie in 0..{positions - 1}, within the positions; got {offset}")


@partial(compiled, static_argnames=("name", "positions"))
def _position_vectors(network: Network, name: str, positions: int) -> tuple[Array, AttentionInputs]:
    """Return each position's own vector in the stream, `[T,D]`, and the inputs of the attention layers of a stack."""
    needed = {axis.kind for stack in network.stacks for axis in (stack.queries, stack.keys)}
    tokens = np.zeros((1, positions), int)
    batch = Batch(tokens, targets=np.zeros((1, 1), int)) if "targets" in needed else Batch(tokens)
    inputs: dict[str, tuple[Array, AttentionInputs]] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        inputs[stack.name] = x_BTD, context
        return x_BTD

    network.hidden(batch, run_stack)
    x_1TD, context = inputs[name]
    return x_1TD[0] - network.embed_tokens(batch.tokens)[0], context


def _mean_embedding(model: Model) -> Array:
    """Return the mean over the vocabulary of the tokens' embeddings in the stream, `[D]`, in float32."""
    sums = [_sum_of_embeddings(model.network, ids) for ids in token_chunks(model)]
    return sum(sums[1:], sums[0]) / model.config.vocab_size


@compiled
def _sum_of_embeddings(network: Network, ids_C: Array) -> Array:
    return network.embed_tokens(ids_C).astype(jnp.float32).sum(axis=0)


@partial(compiled, static_argnames="offset")
def _kernels(stack: Stack, x_TD: Array, context: AttentionInputs, offset: int) -> tuple[Array, Array]:
    """Return `attention` and `kernel`, `[L,N]` each."""
    queries_T = jnp.arange(offset, len(x_TD))

    def layer(number: Array) -> tuple[Array, Array]:
        block = stack.block(number)
        q = block.queries(x_TD[None], context.queries)
        k, v = block.keys_values(x_TD[None], context.own_keys)
        seen = block.attention.attend(q, k, v, context, unchanged)[1]
        pattern_NTS, scores_NTS = (seen[site][0].astype(jnp.float32) for site in ("pattern", "scores"))
        # masked scores are finite, the dtype's lowest number
        visible_NTS = seen["scores"][0] > jnp.finfo(q.dtype).min
        count_NT = visible_NTS.sum(axis=-1).astype(jnp.float32)
        mean_NT = jnp.where(visible_NTS, scores_NTS, 0).sum(axis=-1) / count_NT
        above_NTS = jnp.where(visible_NTS, scores_NTS - mean_NT[..., None], jnp.nan)
        attention_N, kernel_N = (
            by_head[:, queries_T, queries_T - offset].mean(axis=1) for by_head in (pattern_NTS, above_NTS)
        )
        return attention_N, kernel_N

    return jax.lax.map(layer, jnp.arange(stack.layers))
