"""Stacks that write into the stream that is read, and so have direct effects on the output."""

from collections.abc import Sequence

from ...models.model import Model
from ...models.stack import Stack


def direct_stacks(model: Model) -> tuple[Stack, ...]:
    """Return the stacks whose heads add to the stream that is read.

    Raises:
        ValueError: for layers that norm the stream itself: it is no sum over heads then.
    """
    members = model.network.streams[-1].members
    for stack in members:
        if not stack.blocks.residual:
            raise ValueError(
                f"the {stack.name} of {model.name} norms the stream itself after adding to it (post-norm): the final "
                "stream is no sum over heads, even with frozen statistics. Use jh.ablate, jh.patch or jh.attribute"
            )
    return members


def direct_stack(model: Model, stack: str | None, members: Sequence[Stack]) -> Stack:
    """Return the stack of this name, the model's only one if None, which must be among `members`.

    Raises:
        ValueError: for a stack of another stream, or None where the model has several.
    """
    chosen = model.stack(stack)
    if chosen.name not in [member.name for member in members]:
        raise ValueError(
            f"the {chosen.name} of {model.name} writes into another stream than the one that is read, which it reaches "
            "through cross-attention only: it has no direct effect"
        )
    return chosen
