"""Copying by eigenvalues: whether a head's OV circuit raises the logit of the token it attends to.

Dimension key: V vocabulary, C tokens of a chunk of it, D model dimension, H head dimension.
"""

from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...checks import one_of
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack
from ...programs import compiled
from ...provenance import provenance
from ...tables import Column, HeadTable
from .factored import ov_circuit
from .vocabulary import logit_directions, stack_of_last_stream, token_chunks

EMBEDDINGS = ("raw", "effective")


@checked()
def eigenvalue_copying(
    model: Model,
    *,
    embedding: Literal["raw", "effective"] = "raw",
    norms: bool = True,
    stack: str | None = None,
) -> HeadTable:
    """Score how far each head's full OV circuit raises the token it attends to: `Σ λ / Σ |λ|`, from −1 to 1.

    The λ are the eigenvalues of `W_E W_V W_O W_U` (Elhage et al. 2021, "Summarizing OV/QK matrices"). The score is 1
    for a head that copies (every token raises itself), −1 for one that lowers the token it attends to, cos θ for a
    rotation by θ, about 0 for random weights; scaling the circuit leaves it as it is. The eigenvalues that are not 0
    are those of `W_O (W_U W_E) W_V`, `[H,H]`: no matrix of V × V is made.

    Args:
        embedding: "raw" is the tokens' embeddings in the stream; "effective" adds the first layer's MLP output of
            them, which in GPT-2 separates tokens better than the embedding, to which the unembedding is tied.
        norms: include norms' scales: the layers' (see `jh.ov_circuit`) and the last one's.
        stack: whose heads; the only stack when left out.

    Returns:
        Column `copying`, without interval: it is a property of the weights. NaN for a head that writes nothing.

    Raises:
        ValueError: for an unknown embedding; for a model without logits, with a head that transforms the stream (BERT),
            or whose positions are no tokens; "effective" where the first layer has no MLP of its own that adds to the
            stream after attention; a stack that does not write into the last stream, or reads another (cross).
    """
    one_of("embedding", embedding, EMBEDDINGS)
    chosen, first = stack_of_last_stream(model, stack), model.network.streams[-1]
    if chosen.is_cross:
        raise ValueError("in cross-attention values read another sequence's stream, not the tokens that are raised")
    if embedding == "effective" and not (first.blocks.additive and first.blocks.mlp_reads == "after"):
        raise ValueError(
            f"an effective embedding is the raw one plus the first layer's MLP output of it; {model.name} has no such "
            "MLP that reads the stream after attention and adds to it as it is. Use embedding='raw'"
        )
    chunks = [_unembed_embed(model.network, ids, first, embedding, norms) for ids in token_chunks(model)]
    eigenvalues = ov_circuit(model, norms=norms, stack=stack).eigenvalues(sum(chunks[1:], chunks[0]))
    size = np.abs(eigenvalues).sum(axis=-1)
    scores = eigenvalues.sum(axis=-1).real / np.where(size > 0, size, np.nan)
    about = provenance(model, embedding=embedding, norms=norms)
    return HeadTable.from_columns("eigenvalue_copying", chosen.name, {"copying": Column(scores)}, about, squeeze=True)


@partial(compiled, static_argnames=("embedding", "norms"))
def _unembed_embed(network: Network, ids_C: Array, first: Stack, embedding: str, norms: bool) -> Array:
    """Return `W_U W_E` summed over a chunk of tokens, `[D,D]`: rows are read for logits, columns are written."""
    assert network.unembedding is not None, "stack_of_last_stream requires logits"
    words_CD = network.embed_tokens(ids_C)
    if embedding == "effective":
        block: Any = first.block(0)
        words_CD = words_CD + block.feed_forward(words_CD[None])[0]
    directions_CD = logit_directions(network, network.unembedding.weight[ids_C], words_CD, norms=norms)
    return jnp.einsum("cd,ce->de", directions_CD.astype(jnp.float32), words_CD.astype(jnp.float32))
