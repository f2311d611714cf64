"""Tokens whose logits a head raises most, at the places where it looks hardest.

Dimension key: B examples, L layers, N heads, R = N rows of one layer, M = L N heads, C contexts of a head, I places, D
model dimension, F features that the unembedding reads, V vocabulary, H head dimension.

A head's output at a place goes through the last norm, with that place's statistics frozen, to the unembedding (direct
logit attribution): what later layers make of it is left out.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...measure.weights.vocabulary import stack_of_last_stream
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack, take_rows
from ...models.unembedding import Unembedding
from ...programs import compiled

RAISED = 5
"""Tokens that are raised most, of each place."""

CHUNK = 4
"""Texts that run together."""

STANDS_OUT = 6.0
"""Standard deviations over the vocabulary by which a raised token exceeds the mean; 50,000 normal logits reach 4.3."""

PLACES = 128
"""Places whose logits are computed together."""


def raised_tokens(
    model: Model, stack: Stack, batches: Sequence[Batch], texts_MC: np.ndarray, queries_MC: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the tokens that each head raises most at its contexts, and by how much, `[M,C,RAISED]` twice.

    A logit is relative to the mean over the vocabulary, which changes no probability. It is NaN for a token that does
    not stand out: among tens of thousands, some are always above the others.

    Args:
        texts_MC, queries_MC: number of the text in the batches, and position in it, of each head's contexts; −1 for
            none.

    Raises:
        ValueError: for a model or a stack without logits over a vocabulary, or with a nonlinear head before them.
    """
    stack_of_last_stream(model, stack.name)
    unembedding = model.network.unembedding
    assert unembedding is not None, "stack_of_last_stream requires logits"
    features_MCF = None
    first = 0
    for batch in batches:
        for at in range(0, len(batch), CHUNK):
            chunk = batch.take(np.arange(at, min(at + CHUNK, len(batch))))
            # A head has one text at most once among its contexts.
            heads, contexts = np.nonzero((texts_MC >= first) & (texts_MC < first + len(chunk)))
            own = texts_MC[heads, contexts] - first
            rows_BM = np.zeros((len(chunk), len(texts_MC)), np.int32)
            rows_BM[own, heads] = queries_MC[heads, contexts]
            features_BMF = np.asarray(_features(model.network, chunk, jnp.asarray(rows_BM), stack=stack.name))
            if features_MCF is None:
                features_MCF = np.zeros((*texts_MC.shape, features_BMF.shape[-1]), features_BMF.dtype)
            features_MCF[heads, contexts] = features_BMF[own, heads]
            first += len(chunk)
    assert features_MCF is not None, "a stack's inputs have at least one batch"
    features_IF = features_MCF.reshape(texts_MC.size, -1)
    # All parts have one size, which takes one program.
    filled_IF = np.pad(features_IF, ((0, -len(features_IF) % PLACES), (0, 0)))
    parts = [_largest(unembedding, jnp.asarray(filled_IF[at : at + PLACES])) for at in range(0, len(filled_IF), PLACES)]
    logits, ids = (np.concatenate([np.asarray(part[which]) for part in parts])[: texts_MC.size] for which in (0, 1))
    return ids.reshape(*texts_MC.shape, RAISED), logits.reshape(*texts_MC.shape, RAISED)


@partial(compiled, static_argnames="stack")
def _features(network: Network, batch: Batch, rows_BM: Array, *, stack: str) -> Array:
    """Return what each head's output at one position of each example adds to the features, `[B,M,F]`."""
    chosen = network.stack(stack)
    B, N = len(rows_BM), chosen.heads
    rows_LBR = jnp.moveaxis(rows_BM.reshape(B, chosen.layers, N), 1, 0)
    own_11NN1 = jnp.eye(N, dtype=bool)[None, :, :, None]

    def read(seen: Sites) -> Array:
        block = chosen.block(seen["layer"])
        z_BRNH = take_rows(seen["z"], rows_LBR[seen["layer"]])
        attention = block.attention
        alone_BRD = attention.output(jnp.where(own_11NN1, z_BRNH, jnp.zeros_like(z_BRNH)))
        bias_BRD = attention.output(jnp.zeros_like(z_BRNH))
        added_1BRD = block.head_contribution((alone_BRD - bias_BRD)[None], attention.output(z_BRNH)[None])
        return added_1BRD[0]

    x_BTD, readings = forward(network, batch, (), {stack: read})
    added_BMD = jnp.moveaxis(readings[stack], 0, 1).reshape(B, chosen.layers * N, -1)
    return network.with_frozen_statistics(added_BMD.astype(x_BTD.dtype), take_rows(x_BTD, rows_BM))


@partial(compiled, static_argnames=())
def _largest(unembedding: Unembedding, features_IF: Array) -> tuple[Array, Array]:
    """Return the largest logits relative to their mean, NaN where they don't stand out, and tokens, `[I,RAISED]`."""
    logits_IV = unembedding._replace(bias=None, cap=None).logits(features_IF[None])[0]
    best_IR, index_IR = jax.lax.top_k(logits_IV, RAISED)
    above_IR = best_IR - logits_IV.mean(axis=1, keepdims=True)
    stands_out = above_IR > STANDS_OUT * logits_IV.std(axis=1, keepdims=True)
    return jnp.where(stands_out, above_IR, jnp.nan), index_IR
