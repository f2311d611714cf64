"""Senders, receivers, and the edges between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...models.stack import Stack


@dataclass(frozen=True)
class Graph:
    """Senders, receivers, and which of their pairs are edges: those of one stream.

    Senders: "embed", then layer by layer its heads ("head 3.0" is head 0 of layer 3), those of the cross-attention that
    follows them in a decoder ("cross.head 3.0") and its MLP ("mlp 3"). A bias of the heads' common output belongs to
    none of them. Receivers: layer by layer the query inputs of its heads ("q 3.0"), the key and the value inputs of
    its key/value heads ("k 3.0", "v 3.0"), the query inputs of cross-attention ("cross.q 3.0") and the input of its
    MLP; last the end of the stream, "logits" or "memory". Everyone hears everyone before; an MLP that reads the stream
    after its own layer's heads also hears these. Keys and values of cross-attention read another stream, as it is.

    Attributes:
        mlp_reads: as a block says it: "after" the layer's heads, "beside" them (GPT-NeoX, GPT-J), or "none" is there.
        cross_heads: of a layer's cross-attention, which comes between its own heads and its MLP.
        end: what reads the end of the stream: the "logits", or as "memory" the stacks that follow.
    """

    layers: int
    heads: int
    kv_heads: int
    mlp_reads: str = "after"
    cross_heads: int = 0
    end: str = "logits"

    @classmethod
    def of(cls, stack: Stack, end: str = "logits") -> "Graph":
        """The graph of a stack's stream.

        Raises:
            ValueError: if the stream is not the sum of what its nodes write, or is another stack's.
        """
        if stack.is_cross:
            raise ValueError(
                f"the heads of the {stack.name}-attention write to another stack's stream: ask about the edges of that "
                "stack, which has theirs as well"
            )
        for part in stack.members:
            if not part.blocks.additive:
                raise ValueError(
                    f"edges need a stream that is the sum of what heads and MLPs write; a {type(part.blocks).__name__} "
                    f"of the {part.name} is none. Ask about its nodes instead: patch, ablate"
                )
        cross, mlp_reads = stack.cross, stack.members[-1].blocks.mlp_reads
        return cls(stack.layers, stack.heads, stack.kv_heads, mlp_reads, 0 if cross is None else cross.heads, end)

    @property
    def mlps(self) -> int:
        """Of one layer: 1 or 0."""
        return int(self.mlp_reads != "none")

    @property
    def senders_a_layer(self) -> int:
        """Heads and the MLP."""
        return self.heads + self.cross_heads + self.mlps

    @property
    def inputs_a_layer(self) -> int:
        """Query, key and value inputs of its own heads."""
        return self.heads + 2 * self.kv_heads

    @property
    def receivers_a_layer(self) -> int:
        """R: inputs of heads, and the MLP's."""
        return self.inputs_a_layer + self.cross_heads + self.mlps

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names, `[U]`."""
        names, counts = ["embed"], {"head": self.heads, "cross.head": self.cross_heads}
        for layer in range(self.layers):
            names += [f"{kind} {layer}.{head}" for kind, count in counts.items() for head in range(count)]
            names += [f"mlp {layer}"] * self.mlps
        return tuple(names)

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Names, `[V]`."""
        names, counts = [], {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads, "cross.q": self.cross_heads}
        for layer in range(self.layers):
            names += [f"{kind} {layer}.{head}" for kind, count in counts.items() for head in range(count)]
            names += [f"mlp {layer}"] * self.mlps
        return (*names, self.end)

    @cached_property
    def exists(self) -> np.ndarray:
        """Which pairs are edges, bool `[U,V]`."""
        before_L = 1 + self.senders_a_layer * np.arange(self.layers)
        own, cross = self.inputs_a_layer, self.inputs_a_layer + self.cross_heads
        heard_LR = np.repeat(before_L[:, None], self.receivers_a_layer, axis=1)
        heard_LR[:, own:cross] += self.heads
        if self.mlp_reads == "after":
            heard_LR[:, cross:] += self.heads + self.cross_heads
        heard_V = np.append(heard_LR, len(self.senders))
        return np.arange(len(self.senders))[:, None] < heard_V[None]

    def parts(self) -> Iterator[tuple[str, int, slice]]:
        """Kinds of receivers, each with its layer and where they are among all: "attention", "cross", "mlp", "end"."""
        counts = {"attention": self.inputs_a_layer, "cross": self.cross_heads, "mlp": self.mlps}
        place = 0
        for layer in range(self.layers):
            for kind, count in counts.items():
                if count:
                    yield kind, layer, slice(place, place + count)
                place += count
        yield "end", self.layers, slice(place, place + 1)

    def fed(self) -> Iterator[range]:
        """For each receiver but the last, the senders that its input goes into."""
        N, K, cross = self.heads, self.kv_heads, self.inputs_a_layer + self.cross_heads
        for receiver in range(len(self.receivers) - 1):
            layer, place = divmod(receiver, self.receivers_a_layer)
            first = 1 + layer * self.senders_a_layer
            if N <= place < self.inputs_a_layer:
                k = (place - N) % K
                yield range(first + k * N // K, first + (k + 1) * N // K)
            else:
                own = place if place < N else place - 2 * K if place < cross else N + self.cross_heads
                yield range(first + own, first + own + 1)
