"""Logit lens: the model's own head applied to the stream after each layer, or to one head's output.

Dimension key: E examples (B of a chunk), R rows that are read, I rows of all heads (N·R), L layers, N heads, D model
dimension, F features that the unembedding reads, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.network import Network, forward
from ...models.row_chunks import in_row_chunks
from ...models.stack import Stack, take_rows
from ...models.unembedding import COLUMNS_AT_ONCE, ROWS_AT_ONCE, rows_at_once
from ...objectives import Reads, loss
from ...programs import compiled
from ...tables import HeadTable
from ..per_example import mean_table, per_example
from .last_stream import direct_stack, direct_stacks

BY = (("layer",), ("layer", "head"))


@shares_options()
def logit_lens(
    model: Model,
    batch: Batch | Texts,
    answers: ArrayLike | None = None,
    *,
    by: Sequence[str] = ("layer",),
    **options: Unpack[Options],
) -> HeadTable:
    """Measure how near the stream is to the right token, layer by layer (nostalgebraist 2020).

    The stream goes through the model's own last norm and unembedding.

    Args:
        answers: the right token or class, one for all examples or one each `[B]`, where the model's head reads (a
            language model's at each example's last real token). When left out, each next token at each real position
            of a causal model; an example's numbers are then means over its positions.
        by: ("layer",), the last stream as each layer leaves it, without `stack`; or ("layer", "head"), the output of
            each head of a stack by itself.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        By layer, L + 1 rows, the first the input of layer 0, the last the model's own output: `log_probability` in
        nats; `rank`, the number of tokens with a larger logit; `top`, the share of positions where none has.
        By head: `logit`, the head's contribution to the right token's logit less the mean over the vocabulary, with the
        last norm's statistics frozen at those of the run (see `jh.direct_parts`) and biases and caps left out; `rank`
        among these.

    Raises:
        ValueError: for a model without logits; without answers, for one that is not causal; answers that are no tokens;
            unknown axes; by head, for models that `jh.direct_parts` refuses.
    """
    axes = tuple(by)
    one_of("by", axes, BY)
    model.check(batch)
    reads, batch = Lengths(model).read(None, _reads(model, batch, answers), batch)
    resources, stack, stream = Resources.of(options), options.get("stack"), model.network.streams[-1]
    if axes == ("layer",):
        if stack is not None:
            raise ValueError("by layer the last stream is read, whichever stacks write into it: leave stack out")
        name, names, run = stream.name, ("log_probability", "rank", "top"), _by_layer
    else:
        name = direct_stack(model, stack, direct_stacks(model)).name
        names, run = ("logit", "rank"), partial(_by_head, stack=name)

    def compute(examples: np.ndarray) -> dict[str, Array]:
        chunk, chunk_reads = resources.devices.examples((batch.take(examples), reads.take(examples)))
        return run(resources.network(model), chunk, chunk_reads)

    rows = reads.rows.shape[1]
    # Beside the stream of all layers, or all heads' z: some rows' features, and their logits of a few columns.
    row_numbers = rows * stream.layers * max(2 * stream.width, stream.heads * stream.head_size)
    at_once = min(rows * stream.heads, ROWS_AT_ONCE) * (2 * stream.width + COLUMNS_AT_ONCE)
    size = forward_bytes(stream, batch) + FLOAT * (row_numbers + at_once)
    values = per_example(
        "logit_lens", names, compute, model, batch, resources, example_bytes=size, identity=(reads, repr(axes), name)
    )
    about = {"by": list(axes), "examples": len(batch), "answers": "next tokens" if answers is None else "given"}
    return mean_table("logit_lens", model, name, values, about, options, batch, axes=axes, ranges=RANGES)


RANGES = {"log_probability": (-np.inf, 0.0), "rank": (0.0, np.inf), "top": (0.0, 1.0)}
"""The least and largest value of columns."""


def _reads(model: Model, batch: Batch, answers: ArrayLike | None) -> Reads:
    """Return the rows, their targets, and each target's weight in its example's mean."""
    if answers is None:
        return loss(name="a lens without answers").reads(model, batch)
    unembedding = model.network.unembedding
    if unembedding is None:
        raise ValueError(f"a logit lens needs logits; {model.name} {model.network.without_logits}")
    tokens = np.asarray(answers)
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.shape not in ((), (1,), (len(batch),)):
        raise ValueError(f"answers must be one token id or {len(batch)}, got {tokens.dtype} of shape {tokens.shape}")
    count = unembedding.weight.shape[0]
    if tokens.min() < 0 or tokens.max() >= count:
        raise ValueError(f"answers must lie in 0..{count - 1}, got {tokens.tolist()}")
    target_B1 = np.broadcast_to(tokens.reshape(-1), (len(batch),))[:, None].astype(np.int32)
    rows_BR = jnp.asarray(model.network.readout_positions(batch)).reshape(len(batch), -1)
    weight_B1 = jnp.ones(target_B1.shape, jnp.float32)
    shares_BR = model.network.readout_shares(batch)
    return Reads(rows_BR, None, jnp.asarray(target_B1), weight_B1, shares=shares_BR)


@compiled
def _by_layer(network: Network, batch: Batch, reads: Reads) -> dict[str, Array]:
    """Return the three columns by layer, `[B,L+1]` each."""
    stream, rows_BR = network.streams[-1], reads.rows
    last = stream.members[-1].name
    readers: dict[str, Any] = {
        stream.name: lambda seen: {site: take_rows(seen[site], rows_BR) for site in ("resid_pre", "resid_post")}
    }
    # with cross-attention, the layer's output is that of the cross-attention's stack
    readers.setdefault(last, lambda seen: {"resid_post": take_rows(seen["resid_post"], rows_BR)})
    kept = forward(network, batch, read=readers)[1]
    x_LBRD = jnp.concatenate([kept[stream.name]["resid_pre"][:1], kept[last]["resid_post"]])
    unembedding, target_BR, weight_BR = network.unembedding, reads.target, reads.weight
    assert unembedding is not None
    assert target_BR is not None
    assert weight_BR is not None

    def read(x_BRD: Array) -> dict[str, Array]:
        features = network.pooled_features(x_BRD, reads.shares)
        rank_BR = unembedding.rank(features, target_BR)
        columns = {"log_probability": unembedding.log_probability(features, target_BR)}
        columns |= {"rank": rank_BR.astype(jnp.float32), "top": (rank_BR == 0).astype(jnp.float32)}
        return {key: (values * weight_BR).sum(axis=1) for key, values in columns.items()}

    return {key: values_LB.T for key, values_LB in jax.lax.map(read, x_LBRD).items()}


@partial(compiled, static_argnames="stack")
def _by_head(network: Network, batch: Batch, reads: Reads, *, stack: str) -> dict[str, Array]:
    """Return the two columns by head, `[B,L,N]` each."""
    chosen = network.stack(stack)
    x_BTD, kept = forward(network, batch, read={stack: lambda seen: take_rows(seen["z"], reads.rows)})
    x_BRD = take_rows(x_BTD, reads.rows)
    layer = partial(_layer_by_head, network, chosen, x_BRD, reads)
    columns = jax.lax.map(layer, (jnp.arange(chosen.layers), kept[stack]))
    return {key: jnp.moveaxis(values_LBN, 1, 0) for key, values_LBN in columns.items()}


def _layer_by_head(
    network: Network, stack: Stack, x_BRD: Array, reads: Reads, layer: tuple[Array, Array]
) -> dict[str, Array]:
    """Return one layer's two columns, `[B,N]` each."""
    number, z_BRNH = layer
    assert reads.target is not None
    assert reads.weight is not None
    read, rows = partial(_rows_by_head, network, stack.block(number)), rows_at_once(len(z_BRNH) * stack.heads)
    # Each head has a row of its own for each position.
    columns = in_row_chunks(read, rows, z_BRNH, x_BRD, reads.target)
    return {key: (values_BRN * reads.weight[:, :, None]).sum(axis=1) for key, values_BRN in columns.items()}


def _rows_by_head(network: Network, block: Any, z_BRNH: Array, x_BRD: Array, target_BR: Array) -> dict[str, Array]:
    """Return the two columns of some rows, `[B,R,N]` each."""
    assert network.unembedding is not None
    added_NBRD = block.head_contribution(block.attention.per_head_output(z_BRNH), block.attention.output(z_BRNH)[None])
    features_NBRF = jax.vmap(lambda added: network.with_frozen_statistics(added, x_BRD))(added_NBRD)
    N, B, R, F = features_NBRF.shape
    features_BIF = jnp.moveaxis(features_NBRF, 0, 1).reshape(B, N * R, F)
    target_BI = jnp.tile(target_BR, (1, N))
    bare = network.unembedding._replace(bias=None, cap=None)
    logit_BI = jnp.einsum("bif,bif->bi", features_BIF, bare.weight[target_BI], preferred_element_type=jnp.float32)
    mean_BI = jnp.einsum("bif,f->bi", features_BIF, bare.weight.mean(axis=0), preferred_element_type=jnp.float32)
    columns = {"logit": logit_BI - mean_BI, "rank": bare.rank(features_BIF, target_BI).astype(jnp.float32)}
    return {key: jnp.moveaxis(values.reshape(B, N, R), 1, 2) for key, values in columns.items()}
