"""Forward passes that keep keys and values: of a prompt, then of one new position after the other.

Keys and values are kept before their edits. An edit holds at all positions, and is made again over all keys.

Dimension key: B examples, P positions of the prompt, S columns of the text that is written, U keys of cross-attention,
K key/value heads, H head dimension, L layers, D model dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..models.blocks import Block
from ..models.inputs.attention_inputs import AttentionInputs
from ..models.inputs.batch import Batch
from ..models.inputs.query_rows import QueryBlock
from ..models.network import Network
from ..models.sites import SiteEdit, editor
from ..models.stack import KeysValues, Layer, Stack, computed_keys

Kept = tuple[Array, Array]
"""Keys and values of all layers, each `[L,B,S,K,H]`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys, values and streams that later positions read.

    Attributes:
        own: keys and values of the last stream's self-attention, `[L,B,S,K,H]`; columns that are not written yet are 0.
        cross: those of its cross-attention, `[L,B,U,K,H]`, or None.
        streams: the stream after each stack that runs before the last, by its name.
    """

    own: Kept
    cross: Kept | None
    streams: dict[str, Array]


def read_prompt(network: Network, batch: Batch, edits: Sequence[SiteEdit], columns: int) -> Cache:
    """Run the prompt and return its cache, with room for `columns` positions."""
    last, streams = network.streams[-1], dict[str, Array]()
    kept: dict[str, Kept] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        if stack.name == last.name:
            x_BTD, of_stacks = _run_keeping(stack, x_BTD, context, edits)
            kept.update(of_stacks)
            return x_BTD
        streams[stack.name] = stack.run(x_BTD, context, edits)[0]
        return streams[stack.name]

    network.hidden(batch, run_stack)
    keys_LBPKH, values_LBPKH = kept[last.name]
    room = [(0, 0), (0, 0), (0, columns - keys_LBPKH.shape[2]), (0, 0), (0, 0)]
    own = jnp.pad(keys_LBPKH, room), jnp.pad(values_LBPKH, room)
    return Cache(own, None if last.cross is None else kept[last.cross.name], streams)


def _run_keeping(
    stack: Stack, x_BTD: Array, context: AttentionInputs, edits: Sequence[SiteEdit]
) -> tuple[Array, dict[str, Kept]]:
    """Run a stack; return the stream after it, and the keys and values of each of its members before their edits."""
    names = [member.name for member in stack.members]

    def step(x: Array, numbered: tuple[Array, Layer | None]) -> tuple[Array, dict[str, Kept]]:
        number, scanned = numbered
        kept: dict[str, Kept] = {}

        def keeping(name: str) -> KeysValues:
            def keys_values(block: Block, x: Array, context: AttentionInputs) -> Kept:
                kept[name] = computed_keys(block, x, context)
                return kept[name]

            return keys_values

        edit_of = {name: editor(edits, name, number, context=own) for name, own in stack.contexts(context).items()}
        layer, keys_of = stack.scanned_layer(number, scanned), {name: keeping(name) for name in names}
        return stack.run_layer(layer, x, context, edit_of, keys_of=keys_of)[0], kept

    return jax.lax.scan(step, x_BTD, (jnp.arange(stack.layers), stack.scanned))


def attention_inputs(network: Network, batch: Batch, cache: Cache) -> AttentionInputs:
    """Return what the last stream's attention reads beside it, for all columns."""
    contexts: list[AttentionInputs] = []

    def run_last(x_BSD: Array, context: AttentionInputs) -> Array:
        contexts.append(context)
        return x_BSD

    _to_last(network, batch, cache, run_last)
    return contexts[0]


def run_next(
    network: Network,
    batch: Batch,
    cache: Cache,
    context: AttentionInputs,
    column: Array,
    edits: Sequence[SiteEdit],
    sites: Mapping[str, Sequence[str]],
) -> tuple[Array, Cache, dict[str, dict[str, Array]]]:
    """Run one column of the last stream over the columns before it.

    Args:
        batch: all columns, with the ids of those up to this one.
        context: `attention_inputs` of the batch.
        sites: sites to read, by stack.

    Returns:
        The stream `[B,1,D]` after the last layer, the cache with this column, and the sites' values, layers first.
    """
    stack, rows = network.streams[-1], list[Array]()
    take = QueryBlock(column, 1, context.keys.shape[1])

    def run_last(x_BSD: Array, _: AttentionInputs) -> Array:
        # Only this row of the embedded text is used: XLA computes no other.
        rows.append(take(x_BSD, 1))
        return x_BSD

    _to_last(network, batch, cache, run_last)
    of_row = replace(context.taking(take), own_keys=take(context.own_keys, 1))

    def step(carry: tuple[Array, Kept], numbered: tuple[Array, Layer | None, Kept | None]) -> tuple[Any, Any]:
        (x, own), (number, scanned, cross) = carry, numbered
        new: list[Array] = []

        def extended(block: Block, x: Array, context: AttentionInputs) -> Kept:
            first = (number, 0, column, 0, 0)
            pairs = zip(own, computed_keys(block, x, context), strict=True)
            new.extend(jax.lax.dynamic_update_slice(all_layers, row[None], first) for all_layers, row in pairs)
            keys, values = (jax.lax.dynamic_index_in_dim(array, number, 0, keepdims=False) for array in new)
            return keys, values

        keys_of: dict[str, KeysValues] = {stack.name: extended}
        if stack.cross is not None and cross is not None:
            keys_of[stack.cross.name] = lambda block, x, context: cross
        edit_of = {name: editor(edits, name, number, context=inputs) for name, inputs in stack.contexts(of_row).items()}
        x, seen = stack.run_layer(stack.scanned_layer(number, scanned), x, of_row, edit_of, keys_of=keys_of)
        read = {name: {site: seen[name][site] for site in wanted} for name, wanted in sites.items()}
        return (x, (new[0], new[1])), read

    layers = jnp.arange(stack.layers), stack.scanned, cache.cross
    (x_B1D, own), read = jax.lax.scan(step, (rows[0], cache.own), layers)
    return x_B1D, replace(cache, own=own), read


def _to_last(network: Network, batch: Batch, cache: Cache, run_last: Callable[[Array, AttentionInputs], Array]) -> None:
    """Call `run_last` with the stream that the last stack reads, where the stacks before it have run."""
    last = network.streams[-1]

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        return run_last(x_BTD, context) if stack.name == last.name else cache.streams[stack.name]

    network.hidden(batch, run_stack)
