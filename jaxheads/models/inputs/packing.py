"""Packed batches, in which several texts share an example: who can read them, and who can't."""

from typing import Any

from .batch import Batch


def check_packing(name: str, network: Any, batch: Batch, *, packed: bool) -> None:
    """Raise ValueError for a packed batch that the model, or who asks, can't read.

    Args:
        packed: whether who asks tells the texts of an example apart.
    """
    if batch.segments is None:
        return
    if not packed:
        raise ValueError(
            "this question reads an example as one text (its positions, its last token, its counterpart in another "
            "batch), and the batch is packed: several texts share an example. jh.run, measure, and ablate and "
            "importance of a loss take packed batches; here give text_batches(…, pack=False)"
        )
    kinds = {axis.kind for stack in network.stacks for axis in (stack.queries, stack.keys)}
    if kinds != {"tokens"} or not network.at_every_position:
        raise ValueError(
            f"{name} takes no packed batches: only models of tokens with an output at every position keep the texts of "
            "an example apart. Give text_batches(…, pack=False)"
        )
