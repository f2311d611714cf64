"""What a family's module is, and the one forward pass through it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from .inputs.batch import AttentionInputs, Batch
from .sites import SiteEdit
from .stack import Reader, Stack, take_rows
from .unembedding import Unembedding

RunStack = Callable[[Stack, Array, AttentionInputs], Array]
"""How a network has its stacks run: it is given stack, stream and context, and gives the stream after the stack, and
after the cross-attention that goes with it."""


class Network(nnx.Module):
    """What every family's module is. Residual streams are run one after the other; the last one is read."""

    config: Any
    apart: ClassVar[bool] = False
    """Whether the streams read nothing of each other, so that each can run on its own part of a batch."""
    without_logits: ClassVar[str] = "has no such head"
    """What is said of a network without logits when an objective needs them."""

    @property
    def streams(self) -> tuple[Stack, ...]:
        """The stacks in the order they run, but for those of cross-attention, which run within others."""
        raise NotImplementedError

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks, those of cross-attention after the stack that they go with."""
        return tuple(member for stack in self.streams for member in stack.members)

    def stack(self, name: str) -> Stack:
        """Return the stack of this name; raises KeyError where there is none (`Model.stack` explains it to users)."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        raise KeyError(name)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Embed the batch and send it through the stacks: the residual stream `[B,T,D]` after the last."""
        raise NotImplementedError

    def features(self, x_BTD: Array) -> Array:
        """What the checkpoint's own head reads of (rows of) the stream: normed, or transformed."""
        raise NotImplementedError

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        """`features` of a part of the stream, where norms hold the statistics of the whole (`[B,R,D]` both): linear in
        the part, and of the whole `features` itself but for what is added whatever the stream.

        Raises:
            ValueError: for a head that transforms the stream, so that it is no sum over its parts.
        """
        del x, whole
        raise ValueError(
            f"the head of {type(self).__name__} transforms the stream before it is read (a dense layer and its "
            "activation, or none at all): what it reads is no sum over heads. Use jh.ablate or jh.patch"
        )

    def embed_tokens(self, ids: Array) -> Array:
        """What tokens bring into the last stream by themselves, wherever they stand: `[…,D]` of ids `[…]`.

        Raises:
            ValueError: for a model whose positions are no tokens, or whose tokens enter together with their places.
        """
        del ids
        raise ValueError(
            f"{type(self).__name__} has no embedding of tokens by themselves: its positions are no tokens, or a norm "
            "takes tokens and places together"
        )

    @property
    def unembedding(self) -> Unembedding | None:
        """The head's map from features to logits; None for a bare model, whose output the features are."""
        raise NotImplementedError

    @property
    def at_every_position(self) -> bool:
        """Whether the output is of every position, or only of what `answer` names (a classifier's)."""
        return True

    def output(self, x_BTD: Array, batch: Batch) -> Array:
        """From the last stream: logits `[B,T,V]`, or the features of a model without a head; in the stream's dtype.
        `[B,V]` where it is not of every position."""
        if not self.at_every_position:
            x_BTD = take_rows(x_BTD, self.readout_positions(batch).reshape(len(x_BTD), -1))
        features = self.features(x_BTD)
        out = features if self.unembedding is None else self.unembedding.logits(features).astype(features.dtype)
        return out if self.at_every_position else out[:, 0]

    def readout_positions(self, batch: Batch) -> Array:
        """Index `[B]` of the position that is read where nothing else is said: the last real one. `[B,R]` where the
        head reads several together: of these `features` then makes one row, `[B,1,F]`."""
        return self.streams[-1].queries.of(batch).last

    def check(self, batch: Batch) -> None:
        """Raise ValueError for what only this family can know to be wrong with a batch."""


def forward(
    network: Network, batch: Batch, edits: Sequence[SiteEdit] = (), read: Mapping[str, Reader] | None = None
) -> tuple[Array, dict[str, Any]]:
    """The stream `[B,T,D]` after the last stack, and by stack's name what its reader kept of each layer."""
    kept: dict[str, Any] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, found = stack.run(x_BTD, context, edits, read)
        kept.update(found)
        return x_BTD

    return network.hidden(batch, run_stack), kept
