"""Maps between vocabulary and stream: the embeddings of tokens, and the directions that raise their logits.

Dimension key: V vocabulary, C tokens of a chunk of it, D model dimension, F features that the unembedding reads.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from ...models.model import Model
from ...models.network import Network
from ...models.norms import unit_stream
from ...models.stack import Stack

CHUNK = 2048
"""Most tokens that are processed together."""


def stack_of_last_stream(model: Model, stack: str | None, *, logits: bool = True) -> Stack:
    """Return a stack that writes into the stream that logits are read off.

    Args:
        stack: its name; the model's only stack when left out.
        logits: refuse a model without logits.

    Raises:
        ValueError: for a stack of another stream, or a model without logits.
    """
    members = [member.name for member in model.network.streams[-1].members]
    chosen = model.stack(stack)
    if chosen.name not in members:
        raise ValueError(
            f"the {chosen.name} of {model.name} does not write into the stream that logits are read off; "
            f"stacks that do: {', '.join(members)}"
        )
    if logits and model.network.unembedding is None:
        raise ValueError(f"this needs logits over a vocabulary; {model.name} {model.network.without_logits}")
    if logits and model.network.classes_of is not None:
        raise ValueError(f"this needs logits over a vocabulary; {model.name} is a classifier")
    return chosen


def token_chunks(model: Model) -> Iterator[Array]:
    """Yield all token ids, a chunk at a time.

    Raises:
        ValueError: for a model that reads no tokens.
    """
    V = getattr(model.config, "vocab_size", None)
    if V is None:
        raise ValueError(f"{model.name} has no vocabulary: its positions are no tokens")
    for start in range(0, V, CHUNK):
        yield jnp.arange(start, min(start + CHUNK, V))


def logit_directions(network: Network, rows_CF: Array, stream: Array, *, norms: bool = True) -> Array:
    """Map rows of the unembedding `[C,F]` to directions in the stream `[C,D]` that raise these logits.

    Args:
        stream: any array `[…,D]` of the stream's width and dtype.
        norms: pull rows back through the last norm, linearised at a stream of unit variance; otherwise rows are
            returned as they are, and F must be D.
    """
    if not norms:
        return rows_CF
    unit_11D = unit_stream(jnp.zeros((1, 1, stream.shape[-1]), stream.dtype))
    features_11F, pull_back = jax.vjp(lambda x_11D: network.with_frozen_statistics(x_11D, unit_11D), unit_11D)
    return jax.vmap(lambda row_F: pull_back(row_F[None, None].astype(features_11F.dtype))[0][0, 0])(rows_CF)
