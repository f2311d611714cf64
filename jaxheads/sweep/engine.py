"""The engine: from an edited `z` to the objective, computing only what the edit can change.

Layers before the edit are not run: their result is the clean run's cached stream. Attention of the edited layer is not
run: an edited `z` enters the stream by one product with W_O. The later layers run once for all edited copies together,
in one loop whose start is traced, so that one compilation serves every layer. Of the last layer only the rows that the
objective reads are computed, and of the unembedding only the columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ..models.attention import unchanged
from ..models.batch import Batch, Context
from ..models.model import Network, forward
from ..models.stack import Stack, take_rows
from ..objectives import Reads, read_out

Value = Callable[[Array, Reads], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clean:
    """What a sweep needs of the unedited run.

    Attributes:
        value: the objective `[B]`.
        resid_pre: the stream before each layer, `[L,B,T,D]`.
        z: every head's output, `[L,B,T,N,H]`.
    """

    value: Array
    resid_pre: Array
    z: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bank:
    """Values to put in place of a head's output: `values[layer, index[b, t], head]`.

    Attributes:
        values: `[L,P,N,H]`, of P stand-ins.
        index: which of them each position gets, `[B,T]`.
    """

    values: Array
    index: Array


@partial(jax.jit, static_argnames=("stack", "value"))
def run_clean(network: Network, batch: Batch, reads: Reads, *, stack: str, value: Value) -> Clean:
    """The unedited run, with the cache that edited runs start from."""
    x_BTD, kept = forward(network, batch, read=lambda seen: {site: seen[site] for site in ("resid_pre", "z")})
    return Clean(value(read_out(network, take_rows(x_BTD, reads.rows), reads), reads), **kept[stack])


@partial(jax.jit, static_argnames=("stack", "value"))
def replace_each_head(
    network: Network,
    batch: Batch,
    reads: Reads,
    clean: Clean,
    bank: Bank,
    layer: int | Array,
    heads_G: Array,
    *,
    stack: str,
    value: Value,
) -> Array:
    """The objective `[G,B]` with each of G heads of one layer replaced in turn; `layer` and `heads` are traced."""
    G, B = heads_G.shape[0], batch.tokens.shape[0]
    z_BTNH = clean.z[layer]
    stand_in_BTNH = bank.values[layer][bank.index].astype(z_BTNH.dtype)
    chosen_GN = heads_G[:, None] == jnp.arange(z_BTNH.shape[2])[None]
    z_GBTNH = jnp.where(chosen_GN[:, None, None, :, None], stand_in_BTNH[None], z_BTNH[None])
    z_FTNH = z_GBTNH.reshape(G * B, *z_BTNH.shape[1:])
    x_FTD = jnp.tile(clean.resid_pre[layer], (G, 1, 1))
    many, reads = _tile(batch, G), reads.repeat(G)

    def through(here: Stack, x: Array, context: Context) -> Array:
        final = here.name == network.stacks[-1].name
        if here.name == stack:
            return _after_edit(here, x_FTD, z_FTNH, context, layer, reads.rows if final else None)
        x = here.run(x, context)[0]
        return take_rows(x, reads.rows) if final else x

    return value(read_out(network, network.hidden(many, through), reads), reads).reshape(G, B)


def _after_edit(
    stack: Stack, x_BTD: Array, z_BTNH: Array, context: Context, layer: int | Array, rows_BR: Array | None
) -> Array:
    """The stream after the stack, given layer `layer`'s input and edited `z`; only its `rows` if they are given."""
    edited, last = stack.block(layer), stack.layers - 1
    if rows_BR is None:
        x_BTD = edited.write(x_BTD, z_BTNH, unchanged)[0]
        return stack.resume(x_BTD, context, layer + 1, stack.layers)

    def in_the_last(x_BTD: Array, z_BTNH: Array) -> Array:
        return edited.write(take_rows(x_BTD, rows_BR), take_rows(z_BTNH, rows_BR), unchanged)[0]

    def before_it(x_BTD: Array, z_BTNH: Array) -> Array:
        x_BTD = edited.write(x_BTD, z_BTNH, unchanged)[0]
        return stack.last_rows(stack.resume(x_BTD, context, layer + 1, last), context, rows_BR)

    return jax.lax.cond(layer == last, in_the_last, before_it, x_BTD, z_BTNH)


def _tile(batch: Batch, times: int) -> Batch:
    return jax.tree.map(lambda field: jnp.tile(field, (times, 1)), batch)
