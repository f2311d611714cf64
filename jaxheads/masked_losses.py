"""Objective of a masked language model: the loss of tokens that are masked, by all others.

Dimension key: B batch, T positions, R rows read.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked
from .checks import booleans
from .models.inputs.batch import Batch
from .models.model import Model
from .programs import to_device
from .reads import Evaluated, Reads, gather_rows, needs_logits

TARGET = "masked token"
"""Mark of the positions that are read: the token that was masked, plus 1; 0 where none was."""


@dataclass(frozen=True, eq=False)
class MaskedLoss(Evaluated):
    """Objective of each example's mean cross-entropy of its masked tokens, in nats; see `masked_loss`.

    Attributes:
        where: which tokens are masked, `[B,T]`; None where the batch has them masked already.
    """

    unit: ClassVar[str] = "nats"
    where: np.ndarray | None
    name: str

    range = (0.0, np.inf)

    def resolved(self, model: Model) -> Self:
        """Return the objective that reads the masked tokens in the batch, where `completed` has marked them."""
        del model
        return replace(self, where=None)

    def completed(self, model: Model, batch: Batch) -> Batch:
        """Return the batch with the chosen tokens masked, and marked with what they were.

        Raises:
            ValueError: for a model that predicts no masked tokens, `where` of another shape than the tokens, or an
                example without a token to mask.
        """
        if self.where is None:
            return batch
        _check(model, self.name)
        tokens_BT, mask_BT = np.asarray(batch.tokens), np.asarray(batch.mask)
        if self.where.shape != tokens_BT.shape:
            raise ValueError(f"where must have the shape of tokens {tokens_BT.shape}, got {self.where.shape}")
        hidden_BT = self.where & mask_BT & ~np.isin(tokens_BT, model.tokenizer.all_special_ids)
        empty = np.flatnonzero(~hidden_BT.any(axis=1))
        if empty.size:
            raise ValueError(f"where must choose a token in each example; {empty[:8].tolist()} have none that is real")
        names = ("mask", "token_types", "segments", "words", "clusters", "labels")
        fields: dict[str, Any] = {name: getattr(batch, name) for name in names}
        tokens = np.where(hidden_BT, model.tokenizer.mask_token_id, tokens_BT)
        marks = {**(batch.marks or {}), TARGET: np.where(hidden_BT, tokens_BT + 1, 0)}
        return Batch(tokens, **fields, marks=marks)

    def reads(self, model: Model, batch: Batch) -> Reads:
        _check(model, self.name)
        if TARGET not in (batch.marks or {}):
            raise ValueError(f"the batch of {self.name} has no masked tokens: give objective.completed(model, batch)")
        assert batch.marks is not None
        target_BT = np.asarray(batch.marks[TARGET])
        rows_BR, real_BR = gather_rows(target_BT > 0)
        weight_BR = real_BR / real_BR.sum(axis=1, keepdims=True)
        target_BR = np.maximum(np.take_along_axis(target_BT, rows_BR, axis=1) - 1, 0)
        return Reads(
            to_device(rows_BR, np.int32), None, to_device(target_BR, np.int32), to_device(weight_BR, np.float32)
        )

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return -(read * reads.weight).sum(axis=1)


@checked()
def masked_loss(where: ArrayLike, *, name: str = "masked_loss") -> MaskedLoss:
    """Return the objective of a masked language model's loss: the mean of −log p over an example's masked tokens.

    The batch that is asked about holds the whole text; before anything runs, the chosen tokens are masked, all those of
    an example together (Devlin et al. 2019, section 3.1, without their random tokens).

        jh.ablate(model, batch, jh.masked_loss(np.asarray(batch.words) == 3))  # the fourth word of each sentence

    Args:
        where: which tokens are masked, bool `[B,T]`. Padding and special tokens are never masked.
        name: name in tables.

    Raises:
        ValueError: for what is not bool. A model without a head for masked tokens, another shape, and an example
            without a token to mask are refused when a model is asked.
    """
    return MaskedLoss(booleans("where", where), name)


def predicts_masked(model: Model) -> bool:
    """Whether a model predicts the tokens that are masked: not causal, with logits over words and a mask token."""
    network = model.network
    logits = network.unembedding is not None and network.classes_of is None
    return logits and not model.causal and getattr(model.tokenizer, "mask_token_id", None) is not None


def _check(model: Model, name: str) -> None:
    needs_logits(model, name)
    if not predicts_masked(model):
        raise ValueError(
            f"{name} needs a masked language model, whose tokenizer has a mask token; {model.name} is none: a causal "
            "model has jh.loss, a classifier jh.class_loss"
        )
