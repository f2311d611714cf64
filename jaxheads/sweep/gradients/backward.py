"""Gradients by the amount of an edit: how the objective changes as a site's values begin to move.

An edit's amount (its weight) is differentiated, not the activation: what comes back has one number for each thing that
can be moved by itself, the slope at which the very edit that a sweep makes sets out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from jax import Array

from ...execution.batching import Chunks, even, matmul_tokens, up
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.sites import SITES, SiteEdit, has_heads
from ...models.stack import Stack, take_rows
from ...objectives import Reads, read_out
from ..exact.engine import Value
from ..exact.work import Resources


@partial(jax.jit, static_argnames=("stack", "sites", "value"))
def capture(
    network: Network,
    batch: Batch,
    reads: Reads,
    edits: Sequence[SiteEdit] = (),
    *,
    stack: str,
    sites: tuple[str, ...],
    value: Value,
) -> tuple[Array, dict[str, Array]]:
    """The objective `[B]` of a run, and some sites of a stack, each with a leading layer axis."""
    x_BTD, kept = forward(network, batch, edits, {stack: lambda seen: {site: seen[site] for site in sites}})
    return value(read_out(network, take_rows(x_BTD, reads.rows), reads), reads), kept[stack]


@partial(jax.jit, static_argnames=("value", "thrifty"))
def amount_gradient(
    network: Network,
    batch: Batch,
    reads: Reads,
    edit: SiteEdit,
    held: Sequence[SiteEdit] = (),
    *,
    value: Value,
    thrifty: bool = False,
) -> tuple[Array, Array]:
    """The objective `[B]`, and its derivative by every amount in `edit.weight`, taken at these amounts.

    Examples of a batch do not touch each other: the gradient of their sum holds each one's own.

    Args:
        held: edits that are made as well, after that one; nothing is derived by them.
        thrifty: keep only the stream between layers for the way back. Otherwise what products with weights gave is
            kept as well, and only what lies between them is done again: of GPT-2 small that is a third of the memory
            that keeping everything takes, and on CPU no slower.
    """
    policies = jax.checkpoint_policies
    policy = policies.nothing_saveable if thrifty else policies.dots_with_no_batch_dims_saveable

    def total(weight: Array) -> tuple[Array, Array]:
        edits = (replace(edit, weight=weight), *held)

        def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
            return stack.run(x_BTD, context, edits, wrap=partial(jax.checkpoint, policy=policy, prevent_cse=False))[0]

        rows_BRD = take_rows(network.hidden(batch, run_stack), reads.rows)
        value_B = value(read_out(network, rows_BRD, reads), reads)
        return value_B.sum(), value_B

    gradient, value_B = jax.grad(total, has_aux=True)(edit.weight)
    return value_B, gradient


def amounts(stack: Stack, site: str, batch: Batch) -> np.ndarray:
    """For an edit's weight: one amount, 0, for each layer, example, position and head of a site."""
    *axes, _ = stack.site_shape(site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    return np.zeros((stack.layers, *axes, 1), np.float32)


def per_cell(site: str, slopes: Array) -> np.ndarray:
    """What came back for `amounts`, as `[B,L,T,N]` float64; N is 1 at a site without heads."""
    found = fetch(slopes).astype(np.float64)[..., 0]
    if SITES[site] == "BNTS":
        found = np.swapaxes(found, 2, 3)
    return np.moveaxis(found if has_heads(site) else found[..., None], 0, 1)


@dataclass(frozen=True)
class Pieces:
    """How many examples are derived at a time, and whether `thrifty`."""

    chunks: Chunks
    thrifty: bool


def choose_pieces(
    network: Network, stack: Stack, batch: Batch, reads: Reads, room: Resources, beside: int = 0
) -> Pieces:
    """The largest pieces whose way there and back fits the budget of each device; never less than one example.

    Args:
        beside: numbers (of 4 bytes) that an example needs in each layer, beside the gradient's own.
    """
    T, devices = max(one.queries.count(batch) for one in network.streams), room.devices.multiples[0]
    for thrifty in (False, True):
        floats = gradient_floats(network, batch, reads, thrifty=thrifty) + stack.layers * beside
        most = room.memory // (4 * floats)
        if most:
            break
    together = devices * max(1, min(most, matmul_tokens() // T))
    return Pieces(Chunks(up(even(len(batch), together), devices), 1, room.devices.multiples), thrifty)


def gradient_floats(network: Network, batch: Batch, reads: Reads, *, thrifty: bool) -> int:
    """The numbers that `amount_gradient` holds at once for one example, about."""
    R, unembedding = reads.rows.shape[1], network.unembedding
    assert unembedding is not None, "objectives check for logits when they say what they read"
    kept, widest = 0, 0
    for stack in network.stacks:
        T, S, model = stack.queries.count(batch), stack.keys.count(batch), stack.width
        products = model + (stack.heads + 2 * stack.kv_heads) * stack.head_size
        products += sum(leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks) if leaf.ndim == 3)
        kept += stack.layers * T * (model + (0 if thrifty else products))
        widest = max(widest, T * (6 * model + 3 * products + 4 * stack.heads * S))
    columns = unembedding.weight.shape[0] if reads.columns is None else reads.columns.shape[1]
    return kept + max(widest, 6 * R * columns)
