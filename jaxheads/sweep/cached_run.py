"""The unedited run: what is kept of it, and which part of it an edited copy goes on from.

Dimension key: B examples of a chunk, T query positions, R rows that the objective reads, L layers, D model dimension.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jax import Array

from ..models.inputs.attention_inputs import AttentionInputs
from ..models.inputs.batch import Batch
from ..models.network import Network
from ..models.stack import Sites, Stack, take_rows
from ..objectives import Reads, read_out

Value = Callable[[Array, Reads], Array]
"""An objective's `value`: `[B]` from what was read."""

STARTS = 4
"""Start columns are rounded down to at most this many values: each is a compilation."""


class CachedRun(NamedTuple):
    """A run, with the sites that were kept of it.

    Attributes:
        last: the model's last stream after its last layer, `[B,T,D]`.
        end: the stream that sites were kept of, after its last layer.
        kept: values by stack and site, layers first.
        done: by stack, the streams `[B,T,D]` that were finished before that one began.
    """

    last: Array
    end: Array
    kept: dict[str, dict[str, Array]]
    done: dict[str, Array]


def run_cached(network: Network, batch: Batch, sites: Mapping[str, tuple[str, ...]]) -> CachedRun:
    """Run the model unedited and keep these sites, by stack, of the stacks on one stream."""

    def keep(values: Sites, wanted: tuple[str, ...]) -> dict[str, Array]:
        return {site: values[site] for site in wanted}

    readers = {name: partial(keep, wanted=wanted) for name, wanted in sites.items()}
    done: dict[str, Array] = {}
    ends: list[Array] = []
    kept: dict[str, dict[str, Array]] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, values = stack.run(x_BTD, context, read=readers)
        kept.update(values)
        if values:
            ends.append(x_BTD)
        # Streams that were finished before are inputs of the edited one: edited runs take them as they are.
        elif not ends:
            done[stack.name] = x_BTD
        return x_BTD

    last_BTD = network.hidden(batch, run_stack)
    return CachedRun(last_BTD, ends[0], kept, done)


def objective_values(
    network: Network,
    batch: Batch,
    reads: Reads,
    stream: Callable[[Stack, Array, AttentionInputs], Array | None],
    value: Value,
) -> Array:
    """Return the objective `[B]` of a run whose streams are known in part.

    Args:
        stream: gives the stream after a stack, or None where the stack is to be run.
    """

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        known = stream(stack, x_BTD, context)
        if known is not None:
            return known
        # A later stream is run whole, and read as the objective reads it if it is the last.
        x_BTD, rows_BR = stack.run(x_BTD, context)[0], rows_read(network, stack, reads)
        return x_BTD if rows_BR is None else take_rows(x_BTD, rows_BR)

    return value(read_out(network, network.hidden(batch, run_stack), reads), reads)


def rows_read(network: Network, stack: Stack, reads: Reads) -> Array | None:
    """Return the rows `[B,R]` that the objective reads after a stack; None for all, where other streams follow."""
    return reads.rows if stack.name == network.streams[-1].name else None


def stream_of(network: Network, name: str) -> Stack:
    """Return the stack on whose stream the named one is: itself, or the one that its cross-attention goes with."""
    return next(stack for stack in network.streams if name in [member.name for member in stack.members])


def end_of(network: Network, stack: str) -> str:
    """Return what reads the end of a stack's stream: the "logits", or as "memory" the stacks that follow."""
    return "logits" if stream_of(network, stack).name == network.streams[-1].name else "memory"


def start_column(column: np.ndarray | int, positions: int) -> np.ndarray:
    """Round a column down to a multiple of a width that leaves at most STARTS values."""
    # A start is a shape, hence a compilation: a few columns computed in vain cost less than one more program.
    width = max(4, -(-positions // STARTS))
    return np.asarray(column) // width * width
