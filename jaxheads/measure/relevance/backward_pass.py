"""Forward and backward pass from an objective to each stream's entry, with sites read on the way.

Sites are measured inside the backward pass: a watched site has beside it a slot, a number that is added nowhere, whose
"derivative" is `read(value, cotangent)` of the site. Values and cotangents need not leave their layer. The input of a
stream's first layer, its entry, can be mixed with a baseline: that blanks out a token, and is a step of integrated
gradients.

Dimension key: as in `models.attention.attend`; R rows read.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention.row_edits import BY_QUERIES, Edit, RowEdit
from ...models.inputs.attention_inputs import AttentionInputs
from ...models.inputs.batch import Batch
from ...models.inputs.query_rows import Take
from ...models.network import Network
from ...models.sites import ATTENTION_SITES, mixed
from ...models.stack import Stack, take_rows
from ...objectives import Reads, read_out
from ...programs import compiled
from .rules import RuledEdit, Rules, from_one, identity_rule, ruled_affine, with_rules

Read = Callable[[Array, Array], Any]
"""A function of a site's value and cotangent in one layer; it returns any pytree of float32 arrays."""


class Watch(NamedTuple):
    """A site that is read in the backward pass.

    `read` is compiled in: it must be one function object, not a new one for each call.
    """

    stack: str
    site: str
    read: Read


class EntryMix(NamedTuple):
    """A mix `(1 - share) * x + share * base` at a stream's entry; share `[B,T]`, base `[B,T,D]` or `[1,1,D]`."""

    base: Array | np.ndarray
    share: Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BackwardPass:
    """Results of a forward and a backward pass.

    Attributes:
        value: the objective, `[B]`.
        entry: by stream, the first layer's input, `[B,T,D]`, after mixing.
        gradient: by stream, the objective's derivative by the entry, or its cotangent by the rules, `[B,T,D]`.
        read: for each watch, the results of its `read`, layers first.
    """

    value: Array
    entry: dict[str, Array]
    gradient: dict[str, Array]
    read: tuple[Any, ...]


@contextmanager
def float64_allowed() -> Iterator[None]:
    """Let JAX compute in float64, whatever its configuration, for one block."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@partial(compiled, static_argnames=("value", "rules", "watch", "wide"))
def backward(
    network: Network,
    batch: Batch,
    reads: Reads,
    mixes: Mapping[str, EntryMix],
    *,
    value: Callable[[Array, Reads], Array],
    rules: Rules | None = None,
    watch: tuple[Watch, ...] = (),
    wide: bool = False,
) -> BackwardPass:
    """Run one forward and one backward pass; with rules, the backward pass propagates relevance.

    Layers are computed again on the way back: memory grows with the stream and one layer.

    Args:
        wide: compute both passes in float64, whatever the weights are stored in; only within `float64_allowed`.
    """
    if wide:
        network = jax.tree.map(_widened, network)
    slots = tuple(_slot(network, batch, site) for site in watch)
    zeros = {stack.name: jnp.zeros((*stack.queries.of(batch).shape, stack.width)) for stack in network.streams}

    def total(added: dict[str, Array], slots: tuple[Any, ...]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        value_B, entry = _run(network, batch, reads, mixes, value, rules, watch, slots, added)
        return value_B.sum(), (value_B, entry)

    (gradient, read), (value_B, entry) = jax.grad(total, argnums=(0, 1), has_aux=True)(zeros, slots)
    return BackwardPass(value_B, entry, gradient, read)


@partial(compiled, static_argnames="value")
def mixed_objective(
    network: Network,
    batch: Batch,
    reads: Reads,
    mixes: Mapping[str, EntryMix],
    *,
    value: Callable[[Array, Reads], Array],
) -> Array:
    """Return the objective `[B]` of a run whose streams' entries are mixed."""
    return _run(network, batch, reads, mixes, value, None, (), (), {})[0]


@compiled
def entries(network: Network, batch: Batch) -> dict[str, Array]:
    """Return each stream's entry, the input of its first layer, `[B,T,D]`, without running any layer."""
    by_stream: dict[str, Array] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        del context
        by_stream[stack.name] = x_BTD
        return x_BTD

    network.hidden(batch, run_stack)
    return by_stream


def _run(
    network: Network,
    batch: Batch,
    reads: Reads,
    mixes: Mapping[str, EntryMix],
    value: Callable[[Array, Reads], Array],
    rules: Rules | None,
    watch: tuple[Watch, ...],
    slots: tuple[Any, ...],
    added: Mapping[str, Array],
) -> tuple[Array, dict[str, Array]]:
    """Return the objective `[B]` and each stream's entry; `added` is summed to entries, for their derivative."""
    ruled, entry = with_rules(network, rules), {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        if stack.name in mixes:
            base_BTD, share_BT = (jnp.asarray(array, x_BTD.dtype) for array in mixes[stack.name])
            x_BTD = mixed(x_BTD, base_BTD, share_BT[..., None])
        entry[stack.name] = x_BTD
        if stack.name in added:
            x_BTD = x_BTD + added[stack.name].astype(x_BTD.dtype)
        return _run_layers(stack, x_BTD, context, rules, watch, slots)

    x_BRD = take_rows(ruled.hidden(batch, run_stack), reads.rows)
    return value(_read_out(ruled, x_BRD, reads, rules), reads), entry


def _run_layers(
    stack: Stack,
    x_BTD: Array,
    context: AttentionInputs,
    rules: Rules | None,
    watch: tuple[Watch, ...],
    slots: tuple[Any, ...],
) -> Array:
    names = {member.name for member in stack.members}
    stack_slots = {number: slots[number] for number, site in enumerate(watch) if site.stack in names}

    @partial(jax.checkpoint, prevent_cse=False)
    def step(x: Array, inputs: tuple[Array, Any, Any]) -> tuple[Array, None]:
        number, blocks, layer_slots = inputs
        layer = stack.scanned_layer(number, blocks)
        edits = {member.name: _edit(member.name, rules, watch, layer_slots) for member in stack.members}
        return stack.run_layer(layer, x, context, edits)[0], None

    return jax.lax.scan(step, x_BTD, (jnp.arange(stack.layers), stack.scanned, stack_slots))[0]


def _edit(stack: str, rules: Rules | None, watch: tuple[Watch, ...], slots: Mapping[int, Any]) -> Edit:
    """Return the edit that applies the rules and watches of one layer of one stack."""
    ruled = RuledEdit(rules)
    watched_sites = {watched.site for watched in watch if watched.stack == stack}

    def edit(site: str, value: Array, _: Take | None = None) -> Array:
        # a site is watched between its producer's rule and its consumer's: the cotangent there is the site's own
        value = ruled.after_producer(site, value)
        for number, watched in enumerate(watch):
            if (watched.stack, watched.site) == (stack, site):
                value = _watched(watched.read, value, slots[number])
        return ruled.before_consumer(site, value)

    # A watch reads a whole value: where it is of scores or patterns, attention must not run in blocks.
    if not BY_QUERIES.isdisjoint(watched_sites):
        return edit
    return RowEdit(edit, watched_sites if rules is None else {*ATTENTION_SITES, *watched_sites})


def _widened(weight: Array) -> Array:
    return weight.astype(jnp.float64) if jnp.issubdtype(weight.dtype, jnp.floating) else weight


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watched(read: Read, value: Array, slot: Any) -> Array:
    del read, slot
    return value


def _watched_backward(read: Read, value: Array, cotangent: Array) -> tuple[Array, Any]:
    return cotangent, read(value, cotangent)


_watched.defvjp(lambda _, value, slot: (value, value), _watched_backward)


def _slot(network: Network, batch: Batch, watch: Watch) -> Any:
    """Return zeros in the form of what a watch reads, layers first."""
    stack = network.stack(watch.stack)
    shape = stack.site_shape(watch.site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    site = jax.ShapeDtypeStruct(shape, jnp.float32)
    result = jax.eval_shape(watch.read, site, site)
    return jax.tree.map(lambda leaf: jnp.zeros((stack.layers, *leaf.shape), jnp.float32), result)


def _read_out(network: Network, x_BRD: Array, reads: Reads, rules: Rules | None) -> Array:
    """Read the output as `objectives.read_out`, by the rules where logits are read.

    Log-probabilities keep their derivative.
    """
    if rules is None or reads.target is not None:
        return read_out(network, x_BRD, reads)
    unembedding = network.unembedding
    assert unembedding is not None, "objectives check for logits when they say what they read"
    features, columns = network.pooled_features(x_BRD, reads.shares), reads.columns
    weight, bias = unembedding.weight, unembedding.bias
    subscripts = "brd,vd->brv"
    if columns is not None:
        weight, bias = weight[columns], None if bias is None else bias[columns][:, None]
        subscripts = "brd,bcd->brc"
    wide = jnp.promote_types(features.dtype, jnp.float32)
    bias = None if bias is None else bias.astype(wide)
    logits = ruled_affine(rules, subscripts, features.astype(wide), weight.astype(wide), bias)
    if unembedding.cap is not None:
        bounded = unembedding.cap * jnp.tanh(jax.lax.stop_gradient(logits) / unembedding.cap)
        logits = identity_rule(logits, bounded)
    return from_one(logits) if rules.start == "one" else logits
