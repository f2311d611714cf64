"""Compiled programs that write: the prompt's, and that of some steps at once.

Dimension key: B examples, S columns of prompt and text, V vocabulary, W steps of a segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ..models.inputs.batch import Batch
from ..models.network import Network
from ..models.sites import SiteEdit
from ..programs import compiled
from .cached import Cache, attention_inputs, read_prompt, run_next
from .choosing import Sampling, next_tokens
from .prompts import with_fields

SEGMENT = 16
"""Steps of a program: after them the host looks whether all texts have ended."""

Sites = tuple[tuple[str, str, str], ...]
"""Name, stack and site of what is captured."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Texts that are being written.

    Attributes:
        cache: of all columns that have run.
        ids: prompt and text, `[B,S]`.
        done: which texts have ended, `[B]`.
    """

    cache: Cache
    ids: Array
    done: Array


@dataclass(frozen=True)
class Steps:
    """Settings of a segment's program.

    Attributes:
        count: W, the number of steps.
        field: the batch's field that is written.
        sampling: how tokens are chosen; None for the likeliest.
        ends: token ids that end a text.
        padding: the id behind a text's end.
        sites: what is captured.
        logits: whether logits are returned.
    """

    count: int
    field: str
    sampling: Sampling | None
    ends: tuple[int, ...]
    padding: int
    sites: Sites
    logits: bool


@partial(compiled, static_argnames=("columns", "copies"))
def begin(network: Network, read: Batch, ids: Array, edits: Sequence[SiteEdit], columns: int, copies: bool) -> State:
    """Run the prompt, under each copy's edits where there are copies, on a leading axis of all arrays."""

    def state(edits: Sequence[SiteEdit]) -> State:
        # A copy: what a segment donates must be none of its other arguments.
        return State(read_prompt(network, read, edits, columns), jnp.copy(ids), jnp.zeros(len(ids), bool))

    return jax.vmap(state)(edits) if copies else state(edits)


@partial(compiled, static_argnames=("steps", "copies"), donate_argnames=("state",))
def go_on(
    network: Network,
    whole: Batch,
    state: State,
    edits: Sequence[SiteEdit],
    key: Array,
    numbers_B: Array,
    column: Array,
    step: Array,
    steps: Steps,
    copies: bool,
) -> tuple[State, dict[str, Array]]:
    """Write the tokens of a segment.

    Args:
        column: of the first query, the last column that has an id.
        step: the number of the first step.

    Returns:
        The state, and by name what each step gives, `[W,…]`: "tokens" `[W,B]`, "logits" `[W,B,V]`, captured sites
        `[W,L,…]`; copies have their axis before all.
    """

    def write(state: State, edits: Sequence[SiteEdit]) -> tuple[State, dict[str, Array]]:
        return _write(network, whole, state, edits, key, numbers_B, column, step, steps)

    return jax.vmap(write)(state, edits) if copies else write(state, edits)


def _write(
    network: Network,
    whole: Batch,
    state: State,
    edits: Sequence[SiteEdit],
    key: Array,
    numbers_B: Array,
    column: Array,
    step: Array,
    steps: Steps,
) -> tuple[State, dict[str, Array]]:
    unembedding = network.unembedding
    assert unembedding is not None, "a model without logits is refused"
    context = attention_inputs(network, whole, state.cache)
    wanted: dict[str, list[str]] = {}
    for _, stack, site in steps.sites:
        wanted.setdefault(stack, []).append(site)

    def one(state: State, number: Array) -> tuple[State, dict[str, Array]]:
        here = column + number
        batch = with_fields(whole, {steps.field: state.ids})
        x_B1D, cache, read = run_next(network, batch, state.cache, context, here, edits, wanted)
        logits_BV = unembedding.logits(network.features(x_B1D))[:, 0]
        token_B = next_tokens(logits_BV, steps.sampling, key, numbers_B, step + number).astype(state.ids.dtype)
        token_B = jnp.where(state.done, jnp.asarray(steps.padding, token_B.dtype), token_B)
        done = state.done
        if steps.ends:
            done = done | (token_B[:, None] == jnp.asarray(steps.ends, token_B.dtype)[None]).any(axis=1)
        ids = jax.lax.dynamic_update_slice(state.ids, token_B[:, None], (0, here + 1))
        out = {"tokens": token_B, **{name: read[stack][site] for name, stack, site in steps.sites}}
        if steps.logits:
            out["logits"] = logits_BV
        return State(cache, ids, done), out

    return jax.lax.scan(one, state, jnp.arange(steps.count))


def marked_done(state: State, done: Array) -> State:
    """Return the state with other texts ended."""
    return replace(state, done=done)
