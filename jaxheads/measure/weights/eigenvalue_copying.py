"""Copying by eigenvalues: whether a head's OV circuit raises the token that it looks at.

Dimension key: V vocabulary, C tokens of a piece of it, D model dimension, H head dimension.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...provenance import environment
from ...tables import Column, HeadTable
from .factored import ov_circuit
from .vocabulary import last_stack, raising, vocabulary

EMBEDDINGS = ("raw", "effective")


def eigenvalue_copying(
    model: Model,
    *,
    embedding: Literal["raw", "effective"] = "raw",
    norms: bool = True,
    stack: str | None = None,
) -> HeadTable:
    """How far each head's full OV circuit `W_E W_V W_O W_U` raises the token that it looks at (Elhage et al. 2021,
    "Summarizing OV/QK matrices"): `Σ λ / Σ |λ|` over its eigenvalues, from −1 to 1.

    1 for a head that copies (every token raises itself), −1 for one that lowers what it looks at, cos θ for a rotation
    by θ, about 0 for random weights. A scale of the whole changes nothing. The eigenvalues that are not 0 are those of
    `W_O (W_U W_E) W_V`, `[H,H]`: no matrix of V × V is made.

    Args:
        embedding: "raw" is what tokens bring into the stream; "effective" adds what the first layer's MLP writes of
            it, which in GPT-2 tells tokens apart better than the embedding, to which the unembedding is tied.
        norms: take norms' scales in: the layers' (see `jh.ov_circuit`) and the last one's.
        stack: the only one when left out.

    Returns:
        Column `copying`, without interval: it is a number of the weights. NaN for a head that writes nothing.

    Raises:
        ValueError: for an unknown embedding; for a model without logits, with a head that transforms the stream (BERT),
            or whose positions are no tokens; "effective" where the first layer has no MLP of its own that adds to the
            stream after attention; a stack that does not write into the last stream, or reads another (cross).
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}; got {embedding!r}")
    part, first = last_stack(model, stack), model.network.streams[-1]
    if part.is_cross:
        raise ValueError("in cross-attention values read another sequence's stream, not the tokens that are raised")
    if embedding == "effective" and not (first.blocks.additive and first.blocks.mlp_reads == "after"):
        raise ValueError(
            f"an effective embedding is the raw one with what the first layer's MLP adds; in {model.name} there is no "
            "such MLP that reads the stream after attention and adds to it as it is. Use embedding='raw'"
        )
    pieces = [_across(model.network, ids, first, embedding, norms) for ids in vocabulary(model)]
    roots = ov_circuit(model, norms=norms, stack=stack).eigenvalues(sum(pieces[1:], pieces[0]))
    size = np.abs(roots).sum(axis=-1)
    scores = roots.sum(axis=-1).real / np.where(size > 0, size, np.nan)
    about = {"model": model.name, "weights": model.identity(), "embedding": embedding, "norms": norms}
    about |= environment()
    return HeadTable.from_columns("eigenvalue_copying", part.name, {"copying": Column(scores)}, about, squeeze=True)


@partial(jax.jit, static_argnames=("embedding", "norms"))
def _across(network: Network, ids_C: Array, first: Stack, embedding: str, norms: bool) -> Array:
    """`W_U W_E` of some tokens, from the stream that they are read off (rows) to the one they make, `[D,D]`."""
    assert network.unembedding is not None, "last_stack has seen to it"
    words_CD = network.embed_tokens(ids_C)
    if embedding == "effective":
        block: Any = first.block(0)
        words_CD = words_CD + block.feed_forward(words_CD[None])[0]
    reads_CD = raising(network, network.unembedding.weight[ids_C], words_CD, norms=norms)
    return jnp.einsum("cd,ce->de", reads_CD.astype(jnp.float32), words_CD.astype(jnp.float32))
