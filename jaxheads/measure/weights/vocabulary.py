"""From the vocabulary into the stream and back: what tokens bring in, and the directions that raise their logits.

Dimension key: V vocabulary, C tokens of a piece of it, D model dimension, F what the unembedding reads.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from ...models.model import Model
from ...models.network import Network
from ...models.norms import unit_stream
from ...models.stack import Stack

PIECE = 2048
"""Tokens gone through at a time."""


def last_stack(model: Model, stack: str | None, *, logits: bool = True) -> Stack:
    """A stack of the last stream, of a model that has logits if they are asked for.

    Raises:
        ValueError: otherwise, saying why.
    """
    members = [one.name for one in model.network.streams[-1].members]
    part = model.stack(stack)
    if part.name not in members:
        raise ValueError(
            f"the {part.name} of {model.name} does not write into the stream that logits are read off; "
            f"stacks that do: {', '.join(members)}"
        )
    if logits and model.network.unembedding is None:
        raise ValueError(f"this needs logits over a vocabulary; {model.name} {model.network.without_logits}")
    return part


def vocabulary(model: Model) -> Iterator[Array]:
    """All token ids, a piece at a time.

    Raises:
        ValueError: for a model that reads no tokens.
    """
    V = getattr(model.config, "vocab_size", None)
    if V is None:
        raise ValueError(f"{model.name} has no vocabulary: its positions are no tokens")
    for start in range(0, V, PIECE):
        yield jnp.arange(start, min(start + PIECE, V))


def raising(network: Network, rows_CF: Array, stream: Array, *, norms: bool = True) -> Array:
    """From rows of the unembedding `[C,F]` to directions in the stream `[C,D]`.

    Args:
        stream: anything of the stream's size and dtype, `[…,D]`.
        norms: as the last norm makes them of a stream of unit variance; or as they are, for which F must be D.
    """
    if not norms:
        return rows_CF
    unit_11D = unit_stream(jnp.zeros((1, 1, stream.shape[-1]), stream.dtype))
    held_11F, back = jax.vjp(lambda part: network.with_frozen_statistics(part, unit_11D), unit_11D)
    return jax.vmap(lambda row_F: back(row_F[None, None].astype(held_11F.dtype))[0][0, 0])(rows_CF)
