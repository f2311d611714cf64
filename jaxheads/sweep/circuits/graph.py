"""The graph of a stream: its senders, its receivers, and the edges between them.

Dimension key: U senders, V receivers, R receivers of one layer, L layers, N heads, K key/value heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...arguments import among, at_least, checked
from ...models.model import Model
from ...models.stack import Stack
from ..cached_run import end_of


@checked(
    layers=at_least(1),
    heads=at_least(1),
    kv_heads=at_least(1),
    cross_heads=at_least(0),
    mlp_reads=among(("after", "beside", "none")),
    end=among(("logits", "memory")),
)
@dataclass(frozen=True)
class Graph:
    """Senders, receivers, and which of their pairs are edges, for one stream.

    Senders: "embed", then layer by layer its heads ("head 3.0" is head 0 of layer 3), those of the cross-attention that
    follows them in a decoder ("cross.head 3.0") and its MLP ("mlp 3"). A bias of the heads' common output is no
    sender's. Receivers: layer by layer the query inputs of its heads ("q 3.0"), the key and the value inputs of its
    key/value heads ("k 3.0", "v 3.0"), the query inputs of cross-attention ("cross.q 3.0") and the input of its MLP;
    last the end of the stream, "logits" or "memory". A receiver reads all senders before it; an MLP that reads the
    stream after its own layer's heads also reads these. Keys and values of cross-attention read another stream,
    unchanged.

    Attributes:
        mlp_reads: as a block has it: "after" the layer's heads, "beside" them (GPT-NeoX, GPT-J), or "none" without MLP.
        cross_heads: of a layer's cross-attention, which comes between its own heads and its MLP.
        end: the last receiver: the "logits", or as "memory" the stacks that follow.
    """

    layers: int
    heads: int
    kv_heads: int
    mlp_reads: str = "after"
    cross_heads: int = 0
    end: str = "logits"

    @classmethod
    @checked(end=among(("logits", "memory")))
    def of(cls, stack: Stack, end: str = "logits") -> "Graph":
        """Return the graph of a stack's stream.

        Raises:
            ValueError: if the stream is not the sum of what its nodes write, or is another stack's.
        """
        if stack.is_cross:
            raise ValueError(
                f"the heads of the {stack.name}-attention write to another stack's stream: ask about the edges of that "
                "stack, which has theirs as well"
            )
        for member in stack.members:
            if not member.blocks.additive:
                raise ValueError(
                    f"edges need a stream that is the sum of what heads and MLPs write; a "
                    f"{type(member.blocks).__name__} of the {member.name} is none. Ask about its nodes instead: patch, "
                    "ablate"
                )
        cross, mlp_reads = stack.cross, stack.members[-1].blocks.mlp_reads
        return cls(stack.layers, stack.heads, stack.kv_heads, mlp_reads, 0 if cross is None else cross.heads, end)

    @property
    def mlps(self) -> int:
        """The number of MLPs in a layer: 1 or 0."""
        return int(self.mlp_reads != "none")

    @property
    def senders_a_layer(self) -> int:
        """The number of heads and MLPs in a layer."""
        return self.heads + self.cross_heads + self.mlps

    @property
    def inputs_a_layer(self) -> int:
        """The number of query, key and value inputs of a layer's own heads."""
        return self.heads + 2 * self.kv_heads

    @property
    def receivers_a_layer(self) -> int:
        """The number of receivers in a layer, R: inputs of heads, and the MLP's."""
        return self.inputs_a_layer + self.cross_heads + self.mlps

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names of the senders, `[U]`."""
        names, counts = ["embed"], {"head": self.heads, "cross.head": self.cross_heads}
        for layer in range(self.layers):
            names += [f"{kind} {layer}.{head}" for kind, count in counts.items() for head in range(count)]
            names += [f"mlp {layer}"] * self.mlps
        return tuple(names)

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers, `[V]`."""
        names, counts = [], {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads, "cross.q": self.cross_heads}
        for layer in range(self.layers):
            names += [f"{kind} {layer}.{head}" for kind, count in counts.items() for head in range(count)]
            names += [f"mlp {layer}"] * self.mlps
        return (*names, self.end)

    @cached_property
    def exists(self) -> np.ndarray:
        """Whether a pair is an edge, bool `[U,V]`."""
        # Senders are in the order in which they write. So a receiver reads the first senders of the list, and only
        # their count differs: those of all earlier layers, and in its own layer the heads that have written before it.
        before_L = 1 + self.senders_a_layer * np.arange(self.layers)
        own, cross = self.inputs_a_layer, self.inputs_a_layer + self.cross_heads
        count_LR = np.repeat(before_L[:, None], self.receivers_a_layer, axis=1)
        count_LR[:, own:cross] += self.heads
        if self.mlp_reads == "after":
            count_LR[:, cross:] += self.heads + self.cross_heads
        count_V = np.append(count_LR, len(self.senders))
        return np.arange(len(self.senders))[:, None] < count_V[None]

    def parts(self) -> Iterator[tuple[str, int, slice]]:
        """Yield each kind of receivers ("attention", "cross", "mlp", "end") with its layer and its slice of all."""
        counts = {"attention": self.inputs_a_layer, "cross": self.cross_heads, "mlp": self.mlps}
        first = 0
        for layer in range(self.layers):
            for kind, count in counts.items():
                if count:
                    yield kind, layer, slice(first, first + count)
                first += count
        yield "end", self.layers, slice(first, first + 1)

    def fed(self) -> Iterator[range]:
        """Yield, for each receiver but the last, the senders that its input is part of."""
        N, K, cross = self.heads, self.kv_heads, self.inputs_a_layer + self.cross_heads
        for receiver in range(len(self.receivers) - 1):
            layer, index = divmod(receiver, self.receivers_a_layer)
            first = 1 + layer * self.senders_a_layer
            if N <= index < self.inputs_a_layer:
                # In grouped-query attention N / K heads read the same keys and values.
                k = (index - N) % K
                yield range(first + k * N // K, first + (k + 1) * N // K)
            else:
                # Queries of own heads, queries of cross-attention, the MLP: one sender each, in the order of senders.
                sender = index if index < N else index - 2 * K if index < cross else N + self.cross_heads
                yield range(first + sender, first + sender + 1)


def graph_of(model: Model, stack: Stack) -> Graph:
    """Return the graph of a stack's stream in its model, with the end that reads it.

    Raises:
        ValueError: where the ends of several streams are compared, and as `Graph.of` does.
    """
    if model.network.apart:
        raise ValueError(
            f"edges lead to where one stream is read; {model.name} compares the ends of several. Fix the others with "
            "jh.zero_shot, and ask about its model"
        )
    return Graph.of(stack, end_of(model.network, stack.name))
