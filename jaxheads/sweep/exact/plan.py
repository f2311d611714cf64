"""What a question needs recomputed, and what that costs: known before anything runs.

A plan is a pure description: the first layer that changes, the first position that can change, the copies that are
edited there, and what the objective reads of them. The engine executes plans; a sweep is plans plus a reduction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ...execution.batching import Chunks, even, matmul_tokens, up
from ...models.inputs.axes import Positions
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...models.unembedding import PIECE
from ...objectives import Reads
from .engine import Site, stream_of

BUCKETS = 4
"""Starting positions are rounded down to at most this many values: each is a compilation."""

FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """What a sweep costs.

    Attributes:
        flops: floating point operations of matrix products (a multiply and an add are two).
        bytes: memory at the peak: weights, the clean run's cache, and the activations of one piece of work.
        whole: floating point operations of as many whole forward passes, all logits read: what is saved.
    """

    flops: float
    bytes: int
    whole: float

    def __add__(self, other: "Cost") -> "Cost":
        """Of both, one after the other."""
        return Cost(self.flops + other.flops, max(self.bytes, other.bytes), self.whole + other.whole)

    def seconds(self, flops_a_second: float) -> float:
        """How long it takes at this rate."""
        return self.flops / flops_a_second


@dataclass(frozen=True, eq=False)
class Plan:
    """Edited copies that share what need not be recomputed.

    Attributes:
        site: stack, site, first position that can change, and whether later layers are edited as well.
        layer: the first layer that any copy edits.
        heads: bool `[C,L,N]`, which heads each of C copies edits; see `engine.Cells`.
        position: `[C]`, counted over real tokens; -1 for all.
        cells: where each copy's result belongs among all of the sweep, `[C]`.
    """

    site: Site
    layer: int
    heads: np.ndarray
    position: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def flops(self, sizes: "Sizes", examples: int) -> float:
        """Of this plan's copies of so many examples, by what the copies change."""
        tokens = sizes.positions - self.site.first
        rows = min(sizes.rows, tokens) if sizes.final else tokens
        layers = sizes.layers - self.layer - 1
        copies = len(self) * examples
        read = sizes.beyond + (rows if sizes.final else sizes.rows) * sizes.columns
        if layers == 0:
            return copies * (sizes.after(self.site.site) * rows + read)
        inside = (layers - 1) * sizes.layer(tokens)
        last = sizes.keys_values * tokens + (sizes.layer_of_one - sizes.keys_values) * rows
        return copies * (sizes.after(self.site.site) * tokens + inside + last + read)


@dataclass(frozen=True)
class Sizes:
    """Floating point operations of a model's parts, of one token where nothing else is said.

    Attributes:
        layers, positions: of the edited stack and of its queries.
        queries, keys_values, attention, output, mlp: of one of its layers; `attention` looks at all positions. Keys and
            values of cross-attention are made once for all copies, and not counted.
        beside: of one layer of the other stack on the same stream, if there is one; `follows`: whether it comes after.
        final: whether the edited stream is the last one.
        earlier, beyond: of one example's streams before the edited one, and after it.
        rows: positions that the objective reads; `columns`: what reading one costs.
        vocabulary: what reading all logits of a position costs.
        weights: bytes of all parameters.
        cached: bytes of the clean run's cache, of one example.
        copied: bytes of activations of one edited copy of one example.
    """

    layers: int
    positions: int
    queries: int
    keys_values: int
    attention: int
    output: int
    mlp: int
    beside: int
    follows: bool
    final: bool
    earlier: int
    beyond: int
    rows: int
    columns: int
    vocabulary: int
    weights: int
    cached: int
    copied: int

    @classmethod
    def of(cls, model: Model, stack: Stack, batch: Batch, reads: Reads) -> "Sizes":
        """Read off the parameters' shapes."""
        network = model.network
        stream, T = stream_of(network, stack.name), stack.queries.count(batch)
        place = [one.name for one in network.streams].index(stream.name)
        others = [member for member in stream.members if member.name != stack.name]
        vocabulary = 0 if network.unembedding is None else network.unembedding.weight.shape[0]
        if reads.target is not None or reads.columns is None:
            columns = vocabulary
        else:
            columns = reads.columns.shape[1]
        queries, keys_values, attention, output, mlp = _parts(stack, batch)
        widest = max(one.queries.count(batch) * _floats_a_token(one, batch) for one in network.streams[place:])
        return cls(
            layers=stack.layers,
            positions=T,
            queries=queries,
            keys_values=keys_values,
            attention=attention,
            output=output,
            mlp=mlp,
            beside=sum(sum(_parts(other, batch)) for other in others),
            follows=stack.name == stream.name,
            final=place == len(network.streams) - 1,
            earlier=sum(_stream(one, batch) for one in network.streams[:place]),
            beyond=sum(_stream(one, batch) for one in network.streams[place + 1 :]),
            rows=reads.rows.shape[1],
            columns=2 * network.streams[-1].width * columns,
            vocabulary=2 * network.streams[-1].width * vocabulary,
            weights=sum(leaf.nbytes for leaf in jax.tree.leaves(network)),
            cached=FLOAT * stack.layers * T * (len(stream.members) * stack.width + stack.heads * stack.head_size),
            copied=FLOAT * max(widest, _floats_read(reads, vocabulary)),
        )

    @property
    def layer_of_one(self) -> int:
        """A whole layer, one token."""
        return self.queries + self.keys_values + self.attention + self.output + self.mlp + self.beside

    def layer(self, tokens: int) -> int:
        """A whole layer."""
        return tokens * self.layer_of_one

    def after(self, site: str) -> int:
        """What follows a site in its own layer, one token."""
        attend, write = self.attention, self.output + self.mlp
        parts = {
            "resid_pre": self.layer_of_one - self.beside,
            "q": attend + write,
            "k": attend + write,
            "v": attend // 2 + write,
            "scores": attend // 2 + write,
            "pattern": attend // 2 + write,
            "z": write,
            "attn_out": self.mlp,
            "resid_mid": self.mlp,
        }
        return parts.get(site, 0) + self.follows * self.beside

    @property
    def _run(self) -> int:
        """One example's whole run, without its logits."""
        return self.earlier + self.positions * self.layers * self.layer_of_one + self.beyond

    def unedited(self, examples: int) -> float:
        """Unedited runs, read as the objective does."""
        return examples * (self._run + self.rows * self.columns)

    def forward(self, examples: int) -> float:
        """Whole forward passes with all logits (of a model that is read at all positions)."""
        return examples * (self._run + self.positions * self.vocabulary)


@dataclass(frozen=True)
class SweepPlan:
    """All that a sweep is going to do.

    Attributes:
        steps: each is a group of edited copies with one start.
        sizes: of the model and the batch.
        examples: of the batch.
        pieces: examples and edited copies run together.
        sources: how many values each copy is given, one after the other.
        runs: how many times the examples are run to have them, beside the unedited run.
    """

    steps: tuple[Plan, ...]
    sizes: Sizes
    examples: int
    pieces: Chunks
    sources: int = 1
    runs: int = 0

    def cost(self) -> Cost:
        """Floating point operations and peak memory, the unedited run and those that give the sources included."""
        clean = (1 + self.runs) * self.sizes.unedited(self.examples)
        flops = clean + self.sources * sum(step.flops(self.sizes, self.examples) for step in self.steps)
        copies = self.pieces.examples * min(self.pieces.copies, max(map(len, self.steps)))
        memory = self.sizes.weights + 2 * self.pieces.examples * self.sizes.cached + copies * self.sizes.copied
        whole = self.sizes.forward(self.examples) * (1 + self.sources * sum(map(len, self.steps)))
        return Cost(float(flops), int(memory), float(whole))


def first_columns(side: Positions, causal: bool) -> np.ndarray:
    """For each position (counted over real ones), the first column at which any example has it, rounded down to one of
    a few: from there on a causal stack can change. Zeros where it is not causal."""
    T, positions = side.shape[1], np.asarray(side.positions)
    if not causal:
        return np.zeros(T, int)
    there = np.asarray(side.mask)[:, :, None] & (positions[:, :, None] == np.arange(T))
    first = np.where(there.any(axis=(0, 1)), there.any(axis=0).argmax(axis=0), T - 1)
    return bucket(first, T)


def bucket(column: np.ndarray | int, positions: int) -> np.ndarray:
    """Rounded down to a multiple of a width that leaves at most BUCKETS values."""
    width = max(4, -(-positions // BUCKETS))
    return np.asarray(column) // width * width


def _parts(stack: Stack, batch: Batch) -> tuple[int, int, int, int, int]:
    """Queries, keys and values, attention, output and MLP of one layer, one token."""
    N, K, H, D = stack.heads, stack.kv_heads, stack.head_size, stack.width
    mlp = 2 * sum(size for name, size in _kernels(stack) if not name.startswith("attention."))
    keys_values = 0 if stack.is_cross else 4 * D * K * H
    return 2 * D * N * H, keys_values, 4 * N * H * stack.keys.count(batch), 2 * N * H * D, mlp


def _stream(stack: Stack, batch: Batch) -> int:
    """A whole stream of one example, what cross-attention reads of another included."""
    tokens = stack.layers * stack.queries.count(batch) * sum(sum(_parts(one, batch)) for one in stack.members)
    read = [one for one in stack.members if one.is_cross]
    return tokens + sum(
        4 * one.width * one.kv_heads * one.head_size * one.keys.count(batch) * one.layers for one in read
    )


def _kernels(stack: Stack) -> list[tuple[str, int]]:
    """Names and sizes, in one layer, of what is multiplied by: weights of two axes or more."""
    leaves = jax.tree_util.tree_leaves_with_path(stack.blocks)
    named = [(".".join(_words(path)), leaf) for path, leaf in leaves]
    return [(name, leaf.size // len(leaf)) for name, leaf in named if leaf.ndim > 2]


def _words(path: Sequence[Any]) -> list[str]:
    words = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
    return [word for word in words if word not in ("", "value")]


def forward_pieces(stack: Stack, batch: Batch, *, memory: int, multiple: int = 1) -> Iterator[np.ndarray]:
    """The batch's examples in pieces that whole runs of the model have room for, each split over `multiple` devices."""
    T = max(one.count(batch) for one in {stack.queries, stack.keys})
    together = max(1, min(matmul_tokens() // T, memory // (FLOAT * T * _floats_a_token(stack, batch))))
    return Chunks(up(even(len(batch), multiple * together), multiple), 1).example_pieces(len(batch))


def _floats_a_token(stack: Stack, batch: Batch) -> int:
    """Activations a token needs at the widest point of a layer."""
    model = stack.width
    widest = max((leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks)), default=model)
    keys = max(member.keys.count(batch) for member in stack.members)
    return 4 * model + 3 * widest + 3 * stack.heads * (keys + stack.head_size)


def _floats_read(reads: Reads, vocabulary: int) -> int:
    """Activations that reading the output of one example needs."""
    if reads.target is not None:
        columns = min(PIECE, vocabulary)
    else:
        columns = vocabulary if reads.columns is None else reads.columns.shape[1]
    return 2 * columns * reads.rows.shape[1]
