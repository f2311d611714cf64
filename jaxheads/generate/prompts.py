"""Prompts with their last tokens in one column, so that all examples write the same columns.

Dimension key: B examples, T positions as a user gives them, P columns of the prompt, S columns of prompt and text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..execution.batching import rounded_size
from ..execution.lengths import lengthened
from ..models.inputs.batch import Batch
from ..models.model import Model, check_edit
from ..models.sites import SITES, SiteEdit
from ..programs import to_device

LONGEST = 512
"""The longest prompt that is padded to a power of two."""

_MASKS = {"tokens": "mask", "targets": "target_mask"}


@dataclass(frozen=True)
class Prompts:
    """Prompts that are padded on the left to a few lengths, with room for the text that follows.

    Attributes:
        read: the prompts without their last column, which the first step runs; ids, mask and all that the model reads.
        whole: prompts and room, `[B,S]`; columns that are not written yet hold the id 0, and count as real.
        field: the name of the ids that are written, "tokens" or "targets".
        length: P, the number of the prompt's columns.
    """

    read: Batch
    whole: Batch
    field: str
    length: int

    @classmethod
    def of(cls, model: Model, batch: Batch, columns: int) -> "Prompts":
        """Return a batch's prompts with room for `columns` tokens."""
        field = model.network.streams[-1].queries.kind
        ids_BT, mask_BT = np.asarray(getattr(batch, field)), np.asarray(getattr(batch, _MASKS[field]))
        longest = int(mask_BT.sum(axis=1).max())
        length = _rounded(longest)
        batch = batch.model_inputs
        ids_BS, mask_BS = _on_the_left(ids_BT, mask_BT, length, columns)
        fields: dict[str, Any] = {field: ids_BS, _MASKS[field]: mask_BS}
        if field == "tokens":
            assert batch.token_types is not None
            fields["token_types"] = _on_the_left(np.asarray(batch.token_types), mask_BT, length, columns)[0]
        elif batch.tokens is not None:
            batch = lengthened(batch, tokens=_rounded(batch.tokens.shape[1]))
        read = {name: values[:, : length - 1] for name, values in fields.items()}
        return cls(with_fields(batch, read), with_fields(batch, fields), field, length)

    def take(self, examples: np.ndarray) -> "Prompts":
        """Return the prompts of these examples."""
        return replace(self, read=self.read.take(examples), whole=self.whole.take(examples))

    def written(self, tokens_BT: np.ndarray, lengths_B: np.ndarray) -> Batch:
        """Return prompts and what was written behind them as one batch; what follows a text's end is padding."""
        columns = self.length + tokens_BT.shape[1]
        mask_BS = np.array(getattr(self.whole, _MASKS[self.field]))[:, :columns]
        ids_BS = np.array(getattr(self.whole, self.field))[:, :columns]
        ids_BS[:, self.length :] = tokens_BT
        mask_BS[:, self.length :] = np.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        fields = {self.field: ids_BS, _MASKS[self.field]: mask_BS}
        if self.field == "tokens":
            fields["token_types"] = np.asarray(self.whole.token_types)[:, :columns]
        return with_fields(self.whole, fields)


def with_fields(batch: Batch, more: dict[str, Any]) -> Batch:
    """Return a batch with other arrays in some fields."""
    fields = {key.name: value for key, value in batch.tree_flatten_with_keys()[0]}
    # On the host these are arrays of NumPy; within a program they are traced.
    placed = {name: to_device(value) if isinstance(value, np.ndarray) else value for name, value in more.items()}
    return Batch.tree_unflatten(None, (fields | placed).values())


def check_prompts(model: Model, batch: Batch, steps: int, edits: Sequence[SiteEdit]) -> None:
    """Check that a model writes, and that it can continue a batch under these edits.

    Raises:
        ValueError: for a model without logits of a later token, a prompt without a token, one that leaves no room for
            the steps, or an edit that holds at some positions only.
    """
    network = model.network
    if not model.causal or network.unembedding is None or network.classes_of is not None:
        raise ValueError(
            f"{model.name} does not write: text needs a model whose last stream sees no later positions, with logits "
            "of a vocabulary (a causal language model, an encoder–decoder or Whisper)"
        )
    model.check(batch)
    axis = network.streams[-1].queries
    positions, context = axis.of(batch), model.config.max_position_embeddings
    if (empty := np.flatnonzero(~np.asarray(positions.mask).any(axis=1))).size:
        raise ValueError(f"every prompt needs a token to continue; these have none: {empty[:8].tolist()}")
    if context is not None and positions.longest + steps > context:
        raise ValueError(
            f"{model.name} takes up to {context} {axis.kind}; the longest prompt has {positions.longest}, and "
            f"{steps} steps are too many: expected at most {max(0, context - positions.longest)}"
        )
    for edit in edits:
        check_edit(model, batch, edit)
        _check_positions(edit)


def _check_positions(edit: SiteEdit) -> None:
    """Raise ValueError for an edit that differs between positions, or has a query read later ones."""
    for name, array in (("weight", edit.weight), ("source", edit.source)):
        sizes = dict(zip(SITES[edit.site], array.shape[1:], strict=True))
        if any(sizes.get(letter, 1) != 1 for letter in "TS"):
            raise ValueError(
                f"{name} of an edit at {edit.site} has an axis of positions, and text that is being written has new "
                "ones at every step: give an edit that holds at all positions (without positions=)"
            )
    if edit.site == "pattern" and np.asarray(edit.source).any():
        raise ValueError(
            "an edit of pattern to anything but 0 has a query read later tokens, which are not written yet; edit "
            "scores, which are masked again"
        )


def _on_the_left(
    values_BT: np.ndarray, mask_BT: np.ndarray, length: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return real values at the end of `length` columns, with `columns` of room behind, and which columns are real."""
    B = len(values_BT)
    moved_BS, real_BS = np.zeros((B, length + columns), np.int32), np.ones((B, length + columns), bool)
    for example in range(B):
        real = values_BT[example, mask_BT[example]]
        moved_BS[example, length - len(real) : length] = real
        real_BS[example, : length - len(real)] = False
    return moved_BS, real_BS


def _rounded(size: int) -> int:
    """Return the next of a few lengths, from 2 on: powers of two, then four to each doubling."""
    larger = max(2, 1 << (size - 1).bit_length())
    return larger if larger <= LONGEST else rounded_size(size, larger)
