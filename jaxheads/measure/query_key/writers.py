"""Writers of a stream: what each embedding, head, MLP and bias has added to it, with the statistics of norms frozen.

A norm whose statistics are constants is linear up to its bias, so that every stream is a sum over what was written
before it: in pre-norm layers the summands stay as they are, in post-norm layers each goes through the norms alone.

Dimension key: B examples, R rows, P writers, L layers, N heads, D model dimension.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd
from jax import Array

from ...models.attention.lazy_sites import LazySites
from ...models.attention.row_edits import at_sites
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.inputs.query_rows import rows_of_examples
from ...models.network import Network
from ...models.stack import Stack, take_rows

SITES = ("resid_pre", "z", "attn_out", "mlp_out", "resid_post")
"""Sites of a layer from which its writers are made."""


class Streams(NamedTuple):
    """One forward pass, as far as it is asked about.

    Attributes:
        last: the last stream, `[B,T,D]`.
        kept: by stack's name the sites at chosen rows, with a leading layer axis.
        inputs: by stack's name what its attention reads beside the stream.
    """

    last: Array
    kept: dict[str, dict[str, Array]]
    inputs: dict[str, AttentionInputs]


def run_streams(network: Network, batch: Batch, read: dict[str, Callable[[LazySites], dict[str, Array]]]) -> Streams:
    """Run a network and keep what the readers return of each stack's layers."""
    kept: dict[str, Any] = {}
    inputs: dict[str, AttentionInputs] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        inputs[stack.name] = context
        if stack.cross is not None and context.cross is not None:
            inputs[stack.cross.name] = context.cross
        x_BTD, readings = stack.run(x_BTD, context, (), read)
        kept.update(readings)
        return x_BTD

    return Streams(network.hidden(batch, run_stack), kept, inputs)


def at_rows(seen: LazySites, rows_BR: Array) -> dict[str, Array]:
    """Select the rows of a layer's sites from which writers are made."""
    return {site: take_rows(seen[site], rows_BR) for site in SITES if site in seen}


def scores_at(seen: LazySites, site: str, queries_BR: Array, keys_BR: Array) -> Array:
    """Return scores or weights of pairs of a query and a key, `[B,N,R]`."""
    rows_BNRS = seen.of_queries(site)(rows_of_examples(queries_BR))
    return jnp.take_along_axis(rows_BNRS, keys_BR[:, None, :, None], axis=3)[..., 0]


def stream_of(network: Network, stack: str) -> Stack:
    """Return the stack whose stream a stack reads: that of self-attention for a cross-attention."""
    return next(own for own in network.streams if stack in [member.name for member in own.members])


def writer_names(stream: Stack) -> pd.DataFrame:
    """Return the writers of a stream in order: part ("embedding", "head", "bias", "mlp"), stack, layer, head.

    Layer and head are -1 where they do not apply.
    """
    rows = [("embedding", "", -1, -1)]
    for layer in range(stream.layers):
        for stack in stream.members:
            rows += [("head", stack.name, layer, head) for head in range(stack.heads)]
            rows += [("bias", stack.name, layer, -1)]
            rows += [("mlp", stack.name, layer, -1)] if "mlp_out" in stack.sites else []
    return pd.DataFrame(rows, columns=["part", "stack", "layer", "head"])


def writer_count(stack: Stack) -> int:
    """Return the number of writers of one layer."""
    return stack.heads + 1 + ("mlp_out" in stack.sites)


def first_streams(stream: Stack, kept: dict[str, dict[str, Array]]) -> Array:
    """Return the writers before the first layer, `[P,B,R,D]`: the embedding, and zeros for all others."""
    embedding_BRD = kept[stream.name]["resid_pre"][0].astype(jnp.float32)
    count = 1 + stream.layers * sum(map(writer_count, stream.members))
    return jnp.zeros((count, *embedding_BRD.shape)).at[0].set(embedding_BRD)


def through_block(block: Any, frozen: Any, writers_PBRD: Array, seen: dict[str, Array], first: Array) -> Array:
    """Return the writers after one block, its own among them from number `first` on.

    Args:
        block: the block; `frozen` is the same one with the statistics of its norms frozen.
        seen: its sites at the rows.
    """
    output_1BRD = block.attention.output(seen["z"])[None]
    added_NBRD = block.head_contribution(block.attention.per_head_output(seen["z"]), output_1BRD).astype(jnp.float32)
    x, attended = seen["resid_pre"], seen["attn_out"]
    written = seen.get("mlp_out", jnp.zeros_like(x))

    def write(x: Array, attended: Array, written: Array) -> Array:
        edit = at_sites(lambda site, _: attended if site == "attn_out" else written, ("attn_out", "mlp_out"))
        return frozen.write(x, seen["z"], edit)[0]

    def image(*parts: Array) -> Array:
        tangents = tuple(part.astype(x.dtype) for part in parts)
        return jax.jvp(write, (x, attended, written), tangents)[1].astype(jnp.float32)

    if block.residual:
        # Additions alone: what was written before stays as it is.
        mlp_BRD, bias_BRD = written.astype(jnp.float32), attended.astype(jnp.float32) - added_NBRD.sum(axis=0)
    else:
        zero = jnp.zeros_like(x)
        added_NBRD = jax.vmap(lambda added: image(zero, added, zero))(added_NBRD)
        writers_PBRD = jax.vmap(lambda writer: image(writer, zero, zero))(writers_PBRD)
        mlp_BRD = image(zero, zero, written)
        # The rest is what no input changes: biases of the output and of norms.
        parts_BRD = writers_PBRD.sum(axis=0) + added_NBRD.sum(axis=0) + mlp_BRD
        bias_BRD = seen["resid_post"].astype(jnp.float32) - parts_BRD
    own = [added_NBRD, bias_BRD[None], *([mlp_BRD[None]] if "mlp_out" in seen else [])]
    return jax.lax.dynamic_update_slice_in_dim(writers_PBRD, jnp.concatenate(own), first, 0)


def through_layers(
    network: Network, frozen: Network, stream: Stack, kept: dict[str, dict[str, Array]], read: Callable[..., Any]
) -> Any:
    """Return what `read` returns of each block of a stream, by stack's name, with a leading layer axis.

    Args:
        frozen: the network with the statistics of its norms frozen.
        kept: as `run_streams` returns it, of readers that select `at_rows`.
        read: function of the stack, the layer's number, its frozen block and the writers `[P,B,R,D]` that it reads.
    """
    frozen_stream = frozen.stack(stream.name)

    def step(writers_PBRD: Array, layer: tuple[Array, Any]) -> tuple[Array, dict[str, Any]]:
        number, seen = layer
        results, first = {}, 1 + number * sum(map(writer_count, stream.members))
        for stack, frozen_stack in zip(stream.members, frozen_stream.members, strict=True):
            own = frozen_stack.block(number)
            results[stack.name] = read(stack, number, own, writers_PBRD)
            writers_PBRD = through_block(stack.block(number), own, writers_PBRD, seen[stack.name], first)
            first = first + writer_count(stack)
        return writers_PBRD, results

    sites = {
        stack.name: {site: kept[stack.name][site] for site in SITES if site in kept[stack.name]}
        for stack in stream.members
    }
    return jax.lax.scan(step, first_streams(stream, kept), (jnp.arange(stream.layers), sites))[1]
