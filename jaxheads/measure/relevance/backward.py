"""From an objective back to the stream's entry, and what is read on the way.

Measuring inside the backward pass: a site that is watched has beside it a slot, a number that is added nowhere; its
"derivative" is whatever `read(value, cotangent)` makes of the site's value and of the cotangent that reaches it.
Neither leaves its layer. What comes in at the stream's entry may be moved towards a base: that is blanking out a token,
and a step of integrated gradients.

Dimension key: as in `models.attention`; R rows read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.attention import Edit
from ...models.inputs.batch import AttentionInputs, Batch
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Layer, Stack, take_rows
from ...objectives import Objective, Reads, read_out
from .rules import RuledEdit, Rules, from_one, identity_rule, ruled_affine, with_rules

Read = Callable[[Array, Array], Any]
"""From a site's value and its cotangent in one layer to what is kept: any pytree of float32 arrays."""


class Watch(NamedTuple):
    """What is read where; `read` is a function that is defined once, for it is compiled in."""

    stack: str
    site: str
    read: Read


class Moved(NamedTuple):
    """Where a stream's entry moves: `(1 - share) * x + share * base`; share `[B,T]`, base `[B,T,D]` or `[1,1,D]`."""

    base: Array
    share: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Found:
    """What a way there and back gave.

    Attributes:
        value: the objective, `[B]`.
        entry: by stream, what its first layer read, `[B,T,D]`, after it was moved.
        slope: by stream, the objective's derivative by it (or what the rules make of it).
        read: for each watch, layers first.
    """

    value: Array
    entry: dict[str, Array]
    slope: dict[str, Array]
    read: tuple[Any, ...]


@partial(jax.jit, static_argnames=("value", "rules", "watch"))
def backward(
    network: Network,
    batch: Batch,
    reads: Reads,
    moved: Mapping[str, Moved],
    *,
    value: Callable[[Array, Reads], Array],
    rules: Rules | None = None,
    watch: tuple[Watch, ...] = (),
) -> Found:
    """One way there and back. Layers are run again on the way back: memory grows with the stream and one layer."""
    slots = tuple(_slot(network, batch, one) for one in watch)
    zeros = {stack.name: jnp.zeros((*stack.queries.of(batch).shape, stack.width)) for stack in network.streams}

    def total(added: dict[str, Array], slots: tuple[Any, ...]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        value_B, entry = _run(network, batch, reads, moved, value, rules, watch, slots, added)
        return value_B.sum(), (value_B, entry)

    (slope, read), (value_B, entry) = jax.grad(total, argnums=(0, 1), has_aux=True)(zeros, slots)
    return Found(value_B, entry, slope, read)


@partial(jax.jit, static_argnames="value")
def objective_of(
    network: Network,
    batch: Batch,
    reads: Reads,
    moved: Mapping[str, Moved],
    *,
    value: Callable[[Array, Reads], Array],
) -> Array:
    """The objective `[B]` of streams that are moved."""
    return _run(network, batch, reads, moved, value, None, (), (), {})[0]


@jax.jit
def entries(network: Network, batch: Batch) -> dict[str, Array]:
    """By stream, what its first layer reads, `[B,T,D]`. No layer is run."""
    found: dict[str, Array] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        del context
        found[stack.name] = x_BTD
        return x_BTD

    network.hidden(batch, run_stack)
    return found


def _run(
    network: Network,
    batch: Batch,
    reads: Reads,
    moved: Mapping[str, Moved],
    value: Callable[[Array, Reads], Array],
    rules: Rules | None,
    watch: tuple[Watch, ...],
    slots: tuple[Any, ...],
    added: Mapping[str, Array],
) -> tuple[Array, dict[str, Array]]:
    """The objective `[B]`, and what each stream's first layer read."""
    ruled, entry = with_rules(network, rules), {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        if stack.name in moved:
            base, share_BT = moved[stack.name]
            share_BT1 = share_BT.astype(x_BTD.dtype)[..., None]
            x_BTD = (1 - share_BT1) * x_BTD + share_BT1 * base.astype(x_BTD.dtype)
        entry[stack.name] = x_BTD
        if stack.name in added:
            x_BTD = x_BTD + added[stack.name].astype(x_BTD.dtype)
        return _through_layers(stack, x_BTD, context, rules, watch, slots)

    x_BRD = take_rows(ruled.hidden(batch, run_stack), reads.rows)
    return value(_read_out(ruled, x_BRD, reads, rules), reads), entry


def _through_layers(
    stack: Stack,
    x_BTD: Array,
    context: AttentionInputs,
    rules: Rules | None,
    watch: tuple[Watch, ...],
    slots: tuple[Any, ...],
) -> Array:
    own = {number: slots[number] for number, one in enumerate(watch) if one.stack in {m.name for m in stack.members}}

    @partial(jax.checkpoint, prevent_cse=False)
    def step(x: Array, at: tuple[Array, Any, Any]) -> tuple[Array, None]:
        number, blocks, here = at
        layer = blocks if stack.sharing is None else stack.layer(number)
        edits = {member.name: _edit(member.name, rules, watch, here) for member in stack.members}
        return stack.run_layer(layer, x, context, edits)[0], None

    stacked = Layer(stack.blocks, None if stack.cross is None else stack.cross.blocks)
    blocks = stacked if stack.sharing is None else None
    return jax.lax.scan(step, x_BTD, (jnp.arange(stack.layers), blocks, own))[0]


def _edit(stack: str, rules: Rules | None, watch: tuple[Watch, ...], slots: Mapping[int, Any]) -> Edit:
    """Rules and watches of one layer of one stack. A site is watched between the rule of what made it and that of what
    reads it: the cotangent that is seen is the site's own share."""
    ruled = RuledEdit(rules)

    def edit(site: str, value: Array) -> Array:
        value = ruled.arriving(site, value)
        for number, one in enumerate(watch):
            if (one.stack, one.site) == (stack, site):
                value = _watched(one.read, value, slots[number])
        return ruled.leaving(site, value)

    return edit


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watched(read: Read, value: Array, slot: Any) -> Array:
    del read, slot
    return value


def _watched_backward(read: Read, value: Array, g: Array) -> tuple[Array, Any]:
    return g, read(value, g)


_watched.defvjp(lambda _, value, slot: (value, value), _watched_backward)


def _slot(network: Network, batch: Batch, watch: Watch) -> Any:
    """Zeros of what is read, layers first."""
    [stack] = [one for one in network.stacks if one.name == watch.stack]
    shape = stack.site_shape(watch.site, *stack.queries.of(batch).shape, stack.keys.count(batch))
    site = jax.ShapeDtypeStruct(shape, jnp.float32)
    kept = jax.eval_shape(watch.read, site, site)
    return jax.tree.map(lambda one: jnp.zeros((stack.layers, *one.shape), jnp.float32), kept)


def _read_out(network: Network, x_BRD: Array, reads: Reads, rules: Rules | None) -> Array:
    """`read_out`, by the rules where logits are read. Log-probabilities keep their derivative."""
    if rules is None or reads.target is not None:
        return read_out(network, x_BRD, reads)
    unembedding = network.unembedding
    assert unembedding is not None, "objectives check for logits when they say what they read"
    features, columns = network.features(x_BRD), reads.columns
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


@dataclass(frozen=True)
class Question:
    """An objective asked of a batch.

    Attributes:
        moved: by stream, where its entry is moved to, for all of the batch's examples.
        memory: bytes for what is held at once, about.
    """

    model: Model
    batch: Batch
    objective: Objective
    reads: Reads
    moved: Mapping[str, Moved]
    memory: int

    @staticmethod
    def of(model: Model, batch: Batch, objective: Objective, memory: int) -> "Question":
        """Raises ValueError where the model can't take the batch or give the objective."""
        model.check(batch)
        return Question(model, batch, objective, objective.reads(model, batch), {}, memory)

    def backward(self, *, rules: Rules | None = None, watch: tuple[Watch, ...] = ()) -> Found:
        """There and back, all examples at once; arrays are NumPy's."""
        network, value = self.model.network, self.objective.value
        found = backward(network, self.batch, self.reads, self.moved, value=value, rules=rules, watch=watch)
        return jax.tree.map(partial(np.asarray, dtype=np.float32), found)

    def value(self) -> np.ndarray:
        """The objective `[E]`, float64."""
        parts = []
        for real, piece in self.pieces():
            one = objective_of(piece.model.network, piece.batch, piece.reads, piece.moved, value=piece.objective.value)
            parts.append(np.asarray(one, np.float64)[:real])
        return np.concatenate(parts)

    def moving(self, moved: Mapping[str, Moved]) -> "Question":
        """The same of streams that are moved."""
        return replace(self, moved=moved)

    def pieces(self, beside: int = 0) -> Iterator[tuple[int, "Question"]]:
        """The same of some examples after others, as many as fit the budget: how many are new, and the question. Pieces
        have one length, so that they compile once: the last is filled up with its last example.

        Args:
            beside: numbers that an example keeps in each layer beside the stream.
        """
        count, size = len(self.batch), self._size(beside)
        for start in range(0, count, size):
            examples = np.minimum(np.arange(start, start + size), count - 1)
            moved = {
                name: Moved(base if len(base) == 1 else base[examples], share[examples])
                for name, (base, share) in self.moved.items()
            }
            piece = replace(self, batch=self.batch.take(examples), reads=self.reads.take(examples), moved=moved)
            yield min(size, count - start), piece

    def _size(self, beside: int) -> int:
        held, widest = 0, 0
        for stack in self.model.network.stacks:
            T, S, D = stack.queries.count(self.batch), stack.keys.count(self.batch), stack.width
            inner = sum(leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks) if leaf.ndim == 3)
            held += stack.layers * (T * D + beside)
            widest = max(widest, T * (8 * D + 4 * inner + 6 * stack.heads * S))
        unembedding, R = self.model.network.unembedding, self.reads.rows.shape[1]
        assert unembedding is not None, "the objective has checked it"
        columns = len(unembedding.weight) if self.reads.columns is None else self.reads.columns.shape[1]
        most = max(1, self.memory // (4 * (held + widest + 4 * R * columns)))
        return -(-len(self.batch) // -(-len(self.batch) // min(most, len(self.batch))))
