"""Cost: floating point operations and bytes of a question, read off the parameters' shapes before anything runs.

The formulae of memory are here, side by side: a forward pass, an edited copy, a gradient, a run over edges. A question
adds only the bytes of what it alone holds, such as a metric's patterns or another run's values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ..models.inputs.batch import Batch
from ..models.inputs.query_rows import block_rows
from ..models.model import Model
from ..models.network import Network
from ..models.stack import Stack
from ..models.unembedding import COLUMNS_AT_ONCE, ROWS_AT_ONCE
from ..objectives import Reads

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Cost:
    """Operations and memory of a question.

    Attributes:
        flops: floating point operations of matrix products (a multiply and an add are two).
        bytes: memory at the peak, of each device: weights, the unedited run's cache, and the activations of one chunk
            of work.
        whole: operations of as many whole forward passes with all logits: what a loop over edited copies would cost.
    """

    flops: float
    bytes: int
    whole: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both questions, one after the other."""
        return Cost(self.flops + other.flops, max(self.bytes, other.bytes), self.whole + other.whole)

    def seconds(self, flops_a_second: float) -> float:
        """Return the time that the operations take at this rate."""
        return self.flops / flops_a_second


@dataclass(frozen=True)
class CostModel:
    """Floating point operations of a model's components, per token unless said otherwise, and bytes per example.

    Attributes:
        layers, positions: of the edited stack and of its queries.
        queries, keys_values, attention, output, mlp: operations in one of its layers; `attention` looks at all
            positions. Keys and values of cross-attention are computed once for all copies, and not counted.
        beside: operations in one layer of the other stack on the same stream, if there is one.
        follows: whether that other stack's layer comes after the edited stack's.
        final: whether the edited stream is the model's last one.
        earlier, beyond: operations of one example's streams before the edited one, and after it.
        rows: positions that the objective reads.
        columns: operations to read one of them.
        vocabulary: operations to read all logits of a position.
        cached: bytes of the unedited run's cache, of one example.
        anchors: bytes of its products with weights, see `anchors`, of one example.
        copied: bytes of the activations of one edited copy of one example.
        widest: numbers of a token at the widest point of a layer.
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
    cached: int
    anchors: int
    copied: int
    widest: int

    @classmethod
    def of(cls, model: Model, stack: Stack, batch: Batch, reads: Reads) -> "CostModel":
        """Read the costs off the parameters' shapes."""
        network = model.network
        streams = network.streams
        index = next(i for i, stream in enumerate(streams) if stack.name in [member.name for member in stream.members])
        stream, T = streams[index], stack.queries.count(batch)
        vocabulary = 0 if network.unembedding is None else network.unembedding.weight.shape[0]
        if reads.target is not None or reads.columns is None:
            columns = vocabulary
        else:
            columns = reads.columns.shape[1]
        queries, keys_values, attention, output, mlp = _layer_flops(stack, batch)
        width = streams[-1].width
        return cls(
            layers=stack.layers,
            positions=T,
            queries=queries,
            keys_values=keys_values,
            attention=attention,
            output=output,
            mlp=mlp,
            beside=sum(sum(_layer_flops(member, batch)) for member in stream.members if member.name != stack.name),
            follows=stack.name == stream.name,
            final=index == len(streams) - 1,
            earlier=sum(_stream_flops(stream, batch) for stream in streams[:index]),
            beyond=sum(_stream_flops(stream, batch) for stream in streams[index + 1 :]),
            rows=reads.rows.shape[1],
            columns=2 * width * columns,
            vocabulary=2 * width * vocabulary,
            cached=FLOAT * stack.layers * T * (len(stream.members) * stack.width + stack.heads * stack.head_size),
            anchors=FLOAT * T * sum(member.layers * _products(member) for member in stream.members),
            copied=copy_bytes(streams[index:], batch, reads, vocabulary),
            widest=_widest(stack),
        )

    @property
    def layer_of_one(self) -> int:
        """Operations of a whole layer, one token."""
        return self.queries + self.keys_values + self.attention + self.output + self.mlp + self.beside

    def layer(self, tokens: int) -> int:
        """Return the operations of a whole layer."""
        return tokens * self.layer_of_one

    def after(self, site: str) -> int:
        """Return the operations that follow a site in its own layer, one token."""
        attend, write = self.attention, self.output + self.mlp
        following = {
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
        return following.get(site, 0) + self.follows * self.beside

    def unedited(self, examples: int) -> float:
        """Return the operations of unedited runs, read as the objective does."""
        return examples * (self._run + self.rows * self.columns)

    def forward(self, examples: int) -> float:
        """Return the operations of whole forward passes with all logits (of a model that is read at all positions)."""
        return examples * (self._run + self.positions * self.vocabulary)

    @property
    def _run(self) -> int:
        """Operations of one example's whole run, without its logits."""
        return self.earlier + self.positions * self.layers * self.layer_of_one + self.beyond


def forward_flops(streams: Sequence[Stack], batch: Batch) -> int:
    """Return the operations of one example's forward pass through these streams, without what is read of its end."""
    return sum(_stream_flops(stream, batch) for stream in streams)


def pattern_entries(streams: Sequence[Stack], batch: Batch) -> int:
    """Return how many entries all patterns of one example have in these streams."""
    stacks = [stack for stream in streams for stack in stream.members]
    return sum(stack.layers * stack.heads * stack.queries.count(batch) * stack.keys.count(batch) for stack in stacks)


def forward_bytes(stack: Stack, batch: Batch) -> int:
    """Return the activations of one example's forward pass at the widest point of a layer, in bytes."""
    return FLOAT * _layer_floats(stack, batch, max(axis.count(batch) for axis in {stack.queries, stack.keys}))


def copy_bytes(streams: Iterable[Stack], batch: Batch, reads: Reads, vocabulary: int) -> int:
    """Return the activations of one edited copy of one example, in bytes: of its streams, or of reading the output."""
    widest = max(_layer_floats(stream, batch, stream.queries.count(batch)) for stream in streams)
    if reads.target is not None:
        columns = min(COLUMNS_AT_ONCE, vocabulary)
    else:
        columns = vocabulary if reads.columns is None else reads.columns.shape[1]
    return FLOAT * max(widest, 2 * columns * reads.rows.shape[1])


def gradient_bytes(network: Network, batch: Batch, reads: Reads, *, remat: bool) -> int:
    """Return the activations of one example's forward and backward pass, in bytes.

    Args:
        remat: whether only the stream between layers is kept, and all else computed again on the way back.
    """
    unembedding = network.unembedding
    assert unembedding is not None, "objectives check for logits when they say what they read"
    stored, widest = 0, 0
    for stack in network.stacks:
        T, width = stack.queries.count(batch), stack.width
        products = _products(stack)
        stored += stack.layers * T * (width + (0 if remat else products))
        widest = max(widest, T * (6 * width + 3 * products) + 4 * _scores(stack, batch))
    columns = unembedding.weight.shape[0] if reads.columns is None else reads.columns.shape[1]
    rows = reads.rows.shape[1] if reads.target is None else min(reads.rows.shape[1], ROWS_AT_ONCE)
    return FLOAT * (stored + max(widest, 6 * rows * columns))


def edge_bytes(stack: Stack, batch: Batch, *, copy_streams: int, example_streams: int) -> tuple[int, int]:
    """Return the bytes that a run over edges holds for one example, and for each edited copy of it.

    Args:
        copy_streams, example_streams: how many streams `[T,D]` each of the two holds.
    """
    T, D = stack.queries.count(batch), stack.width
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks))
    token = copy_streams * D + 6 * D + 3 * widest + 3 * stack.heads * stack.head_size
    return FLOAT * T * example_streams * D, FLOAT * (T * token + 3 * _scores(stack, batch))


def _layer_flops(stack: Stack, batch: Batch) -> tuple[int, int, int, int, int]:
    """Return the operations of queries, keys and values, attention, output and MLP of one layer, one token."""
    N, K, H, D = stack.heads, stack.kv_heads, stack.head_size, stack.width
    kernels = [leaf for name, leaf in _kernels(stack) if not name.startswith("attention.")]
    mlp = 2 * sum(leaf.size // len(leaf) for leaf in kernels)
    keys_values = 0 if stack.is_cross else 4 * D * K * H
    return 2 * D * N * H, keys_values, 4 * N * H * stack.keys.count(batch), 2 * N * H * D, mlp


def _stream_flops(stream: Stack, batch: Batch) -> int:
    """Return the operations of one example's whole stream, with what cross-attention reads of another."""
    tokens = stream.queries.count(batch)
    own = stream.layers * tokens * sum(sum(_layer_flops(member, batch)) for member in stream.members)
    cross = [member for member in stream.members if member.is_cross]
    return own + sum(
        4 * stack.width * stack.kv_heads * stack.head_size * stack.keys.count(batch) * stack.layers for stack in cross
    )


def _kernels(stack: Stack) -> list[tuple[str, jax.Array]]:
    """Return the weights that multiply, of all layers, by name: those with two axes or more in a layer."""
    leaves = jax.tree_util.tree_leaves_with_path(stack.blocks)
    named = [(".".join(_path_words(path)), leaf) for path, leaf in leaves]
    return [(name, leaf) for name, leaf in named if leaf.ndim > 2]


def _products(stack: Stack) -> int:
    """Return how many numbers the products with a layer's weights give, of one token."""
    # Of experts one at a time is computed, and computed again on the way back.
    mlp = sum(leaf.shape[-1] for name, leaf in _kernels(stack) if not name.startswith("attention."))
    return stack.width + (stack.heads + 2 * stack.kv_heads) * stack.head_size + mlp


def _path_words(path: Sequence[Any]) -> list[str]:
    words = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
    return [word for word in words if word not in ("", "value")]


def _layer_floats(stack: Stack, batch: Batch, positions: int) -> int:
    """Return the activations that an example needs at the widest point of a layer."""
    width = stack.width
    widest = _widest(stack)
    scores = max(_scores(member, batch) for member in stack.members)
    return positions * (4 * width + 3 * widest + 3 * stack.heads * stack.head_size) + 3 * scores


def _widest(stack: Stack) -> int:
    """Return how many numbers the widest product of a layer gives, of one token."""
    return max((leaf.shape[-1] for leaf in jax.tree.leaves(stack.blocks)), default=stack.width)


def _scores(stack: Stack, batch: Batch) -> int:
    """Return how many scores of an example attention computes together: all, or those of a block of query rows."""
    T, S = stack.queries.count(batch), stack.keys.count(batch)
    return stack.heads * block_rows(1, stack.heads, T, S) * S
