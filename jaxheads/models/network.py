"""The base class of all families' modules, and the forward pass through it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jax import Array

from ..checks import one_of, shown
from ..precision import products
from .gathering import Gather, used
from .inputs.attention_inputs import AttentionInputs
from .inputs.batch import Batch
from .sites import SiteEdit
from .stack import Reader, Stack, take_rows
from .unembedding import Unembedding

RunStack = Callable[[Stack, Array, AttentionInputs], Array]
"""Function of a stack, its first stream and its attention inputs that returns the stream after the stack.

A network calls it for each of its `streams`. Cross-attention runs within the stack that it belongs to."""


_COMPUTES = {"hidden", "features", "pooled_features", "with_frozen_statistics", "output"}
"""Methods of networks that compute products."""


class Network(nnx.Module):
    """Base of every family's module: residual streams, run one after the other, and a head on the last of them."""

    config: Any
    gather: Gather | None = None
    """The place in use of weights outside of layers, where they rest in shares on a mesh; see `gathering`."""
    apart: ClassVar[bool] = False
    """Whether no stream reads another, so that a batch may have inputs for only one of them."""
    text_length: int | None = None
    """Length to which texts are padded with tokens that the model reads (SigLIP); None where padding is not read."""
    without_logits: ClassVar[str] = "has no such head"
    """End of the error message for an objective that needs logits, of a network without them."""

    def within_program(self) -> "Network":
        """Return this network as a compiled program uses it; layers gather their own weights when they run."""
        return used(self.gather, self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Programs of a user's own that call a network have full products of float32, too.
        for name in _COMPUTES & vars(cls).keys():
            setattr(cls, name, products()(vars(cls)[name]))

    @property
    def repeats_source(self) -> bool:
        """Whether the decoder of an encoder–decoder reads the encoder's text too, shifted by its start token."""
        return False

    @property
    def streams(self) -> tuple[Stack, ...]:
        """Stacks in the order they run, without those of cross-attention, which run within others."""
        raise NotImplementedError

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks, each followed by its cross-attention's."""
        return tuple(member for stack in self.streams for member in stack.members)

    def stack(self, name: str) -> Stack:
        """Return the stack of this name, or raise ValueError."""
        stacks = {stack.name: stack for stack in self.stacks}
        one_of("stack", name, stacks)
        return stacks[name]

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        """Embed the batch, run the stacks, and return the residual stream `[B,T,D]` after the last."""
        raise NotImplementedError

    def features(self, x_BTD: Array) -> Array:
        """Return what the checkpoint's head reads: (rows of) the stream, normed or transformed."""
        raise NotImplementedError

    def pooled_features(self, x_BRD: Array, shares_BR: Array | None) -> Array:
        """Return `features` of the rows `x`; with shares, those of a weighted mean of the rows, `[B,1,F]`.

        Args:
            shares_BR: the rows' shares, `readout_shares`, where a head reads a mean of positions; else None.
        """
        assert shares_BR is None, "a network with `readout_shares` has its own `pooled_features`"
        return self.features(x_BRD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        """Return `features` of `x`, a summand of the stream, with norm statistics of `whole`, the stream `[B,R,D]`.

        Linear in `x`. For `x = whole` it is `features(whole)` without its constant terms (biases).

        Raises:
            ValueError: for a head with a nonlinear transform, which is no sum over the stream's summands.
        """
        del x, whole
        raise ValueError(
            f"the head of {type(self).__name__} transforms the stream before it is read (a dense layer and its "
            "activation, or none at all): what it reads is no sum over heads. Use jh.ablate or jh.patch"
        )

    def embed_tokens(self, ids: Array) -> Array:
        """Return the embeddings `[…,D]` of token ids `[…]` in the last stream, without their positions' embeddings.

        Raises:
            ValueError: for a model whose positions are not tokens, or that norms the sum of both embeddings.
        """
        del ids
        raise ValueError(
            f"{type(self).__name__} has no embedding of tokens by themselves: its positions are no tokens, or a norm "
            "reads the sum of the tokens' and the positions' embeddings"
        )

    @property
    def unembedding(self) -> Unembedding | None:
        """Map from features to logits; None for a bare model, whose output is the features."""
        raise NotImplementedError

    @property
    def classes_of(self) -> Literal["example", "token", "answer"] | None:
        """What the logits are classes of: whole examples, tokens, or (2 classes) the first and last token of an answer.

        None where they are of a vocabulary's tokens, or where there are none.
        """
        return None if self.at_every_position or self.unembedding is None else "example"

    @property
    def at_every_position(self) -> bool:
        """Whether the output has a row for every position, not only for `readout_positions` (a classifier)."""
        return True

    def output(self, x_BTD: Array, batch: Batch) -> Array:
        """Return logits `[B,T,V]` (or, without a head, features) of the last stream, in its dtype.

        `[B,V]` in a network that is not `at_every_position`.
        """
        shares_BR = None
        if not self.at_every_position:
            shares_BR = self.readout_shares(batch)
            x_BTD = take_rows(x_BTD, self.readout_positions(batch).reshape(len(x_BTD), -1))
        features = self.pooled_features(x_BTD, shares_BR)
        out = features if self.unembedding is None else self.unembedding.logits(features).astype(features.dtype)
        return out if self.at_every_position else out[:, 0]

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of the position that the head reads by default: the last real one.

        `[B,R]` for a head that reads several positions together, from which `features` makes one row, `[B,1,F]`.
        """
        return self.streams[-1].queries.of(batch).last

    def readout_shares(self, batch: Batch) -> Array | None:
        """Return the share `[B,R]` of each position of `readout_positions` in the mean that the head reads.

        None for a head that reads no mean, or one of equal shares.
        """
        del batch
        return None

    def check(self, batch: Batch) -> None:
        """Raise ValueError if the batch breaks a rule of this family; `Model.check` has checked the common ones."""


def forward(
    network: Network, batch: Batch, edits: Sequence[SiteEdit] = (), read: Mapping[str, Reader] | None = None
) -> tuple[Array, dict[str, Any]]:
    """Return the stream `[B,T,D]` after the last stack, and by stack's name what its reader returned for each layer."""
    readings: dict[str, Any] = {}

    def run_stack(stack: Stack, x_BTD: Array, context: AttentionInputs) -> Array:
        x_BTD, readings_of_stack = stack.run(x_BTD, context, edits, read)
        readings.update(readings_of_stack)
        return x_BTD

    return network.hidden(batch, run_stack), readings


def check_network(name: str, value: object) -> None:
    """Raise ValueError unless an argument is a network, as `Model` holds it."""
    if not isinstance(value, Network):
        hint = f"; load a model by its name: jh.load({value!r})" if isinstance(value, str) else ""
        raise ValueError(f"{name} must be a Network, got {shown(value)}{hint}")
