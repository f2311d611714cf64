"""Objective of minimal pairs: by how much a model prefers a right sentence to a wrong one (BLiMP).

Both sentences of a pair share an example, as packed texts that do not attend to each other: an edit is made in both,
and its effect on their difference is one number.

Dimension key: B batch, T positions, R rows read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from .arguments import checked
from .models.inputs.batch import Batch
from .models.inputs.sentences import Sentences
from .models.model import Model
from .programs import to_device
from .reads import Evaluated, Reads, gather_rows, needs_logits

SIGN, TARGET = "sign of the pair", "token of the pair"
"""Marks of the positions that are read: 1 in the right sentence, -1 in the wrong one; and the token that is scored."""


class _Text(NamedTuple):
    """One text of an example: its tokens and types, and at the positions that are read the token that is scored."""

    ids: np.ndarray
    types: np.ndarray
    targets: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class MinimalPair(Evaluated):
    """Objective log p(right sentence) − log p(wrong sentence), in nats; see `minimal_pair`.

    Attributes:
        bad: the wrong sentences; None where the batch holds them already.
    """

    unit: ClassVar[str] = "nats"
    packed: ClassVar[bool] = True
    counterparts: ClassVar[bool] = True
    bad: Any
    name: str

    def resolved(self, model: Model) -> Self:
        """Return the objective that reads the pairs in the batch, where `completed` has put them."""
        del model
        return replace(self, bad=None)

    def completed(self, model: Model, batch: Batch) -> Batch:
        """Return the batch with the wrong sentence of each pair behind the right one, each a text of its own.

        For a model that is not causal, a text is a copy of the sentence with one of its tokens masked.

        Raises:
            ValueError: for another number of wrong sentences than of right ones; pairs that begin with different
                tokens, where a causal model predicts no first token; no mask token where one is needed.
        """
        if self.bad is None:
            return batch
        _check(model, self.name)
        bad = self.bad if isinstance(self.bad, Batch) else self._encoded(model, batch)
        if len(bad) != len(batch):
            raise ValueError(f"bad must be {len(batch)} sentences, one for each right one; got {len(bad)}")
        if batch.segments is not None or bad.segments is not None:
            raise ValueError("a pair is of two texts, and these examples hold several: leave pack out")
        if model.causal:
            first, other = (np.array([ids[0] for ids, _ in _sentences(own)]) for own in (batch, bad))
            differing = np.flatnonzero(first != other)
            if differing.size:
                raise ValueError(
                    f"pairs {differing[:8].tolist()} differ in their first token, which a causal model does not "
                    "predict: encode both with a token before it, model.encode(…, bos=True)"
                )
        pairs = zip(_sentences(batch), _sentences(bad), strict=True)
        return _packed([(list(_texts(model, *right)), list(_texts(model, *wrong))) for right, wrong in pairs], batch)

    def _encoded(self, model: Model, batch: Batch) -> Batch:
        """Return the wrong sentences as a batch: with a token before the first where the right ones have it."""
        start = getattr(model.tokenizer, "bos_token_id", None)
        first = {int(ids[0]) for ids, _ in _sentences(batch)}
        return model.encode(self.bad, bos=True if start is not None and first == {start} else None)

    def reads(self, model: Model, batch: Batch) -> Reads:
        _check(model, self.name)
        marks = batch.marks or {}
        if SIGN not in marks or TARGET not in marks:
            raise ValueError(f"the batch of {self.name} holds no pairs: give objective.completed(model, batch)")
        sign_BT, target_BT = (np.asarray(marks[name]) for name in (SIGN, TARGET))
        rows_BR, real_BR = gather_rows((sign_BT != 0) & np.asarray(batch.mask))
        weight_BR = np.take_along_axis(sign_BT, rows_BR, axis=1) * real_BR
        target_BR = np.take_along_axis(target_BT, rows_BR, axis=1) * real_BR
        return Reads(
            to_device(rows_BR, np.int32), None, to_device(target_BR, np.int32), to_device(weight_BR, np.float32)
        )

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return (read * reads.weight).sum(axis=1)


@dataclass(frozen=True, eq=False)
class MinimalPairAccuracy(MinimalPair):
    """Objective 1 where the right sentence is more likely than the wrong one, else 0; see `minimal_pair`."""

    unit: ClassVar[str] = "share"
    flat = True
    range = (0.0, 1.0)

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        return (MinimalPair.value(read, reads) > 0).astype(jnp.float32)


@checked()
def minimal_pair(
    bad: Batch | Sentences | Sequence[str], *, accuracy: bool = False, name: str = "minimal_pair"
) -> MinimalPair:
    """Return the objective log p(right) − log p(wrong) of pairs of sentences (Warstadt et al. 2020, section 3).

    The batch that is asked about holds the right sentences; before anything runs, the wrong ones are put beside them.
    Of a causal model, log p is the sum over all tokens but the first. Of a masked model it is the
    pseudo-log-likelihood, the sum over tokens of their log-probability where they alone are masked (Salazar et al.
    2020, equation 2), each in a copy of the sentence; special tokens are not masked.

        pairs = jh.data.pairs("blimp/regular_plural_subject_verb_agreement_1.jsonl")
        good = model.encode(pairs.good, bos=True)
        jh.ablate(model, good, jh.minimal_pair(pairs.bad))

    Args:
        bad: the wrong sentences, in the order of the right ones.
        accuracy: whether the value is 1 where the difference is above 0, else 0, whose mean is BLiMP's accuracy; it
            can't be differentiated.
        name: name in tables.

    Raises:
        ValueError: for what are no sentences. Pairs that do not fit each other, and a model without logits over a
            vocabulary, are refused when a model is asked.
    """
    return (MinimalPairAccuracy if accuracy else MinimalPair)(bad, name)


def _check(model: Model, name: str) -> None:
    needs_logits(model, name)
    if model.network.classes_of is not None or {axis.queries.kind for axis in model.network.stacks} != {"tokens"}:
        raise ValueError(
            f"{name} needs a language model, or a masked one, of one sequence of tokens; {model.name} is none"
        )


def _sentences(batch: Batch) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the real tokens of each example, with their types."""
    fields = (np.asarray(field) for field in (batch.tokens, batch.token_types, batch.mask))
    for ids, types, mask in zip(*fields, strict=True):
        yield ids[mask], types[mask]


def _texts(model: Model, ids: np.ndarray, types: np.ndarray) -> Iterator[_Text]:
    """Yield the texts that a sentence is read in: itself, or its copies with one token masked."""
    if model.causal:
        counts = np.arange(len(ids)) < len(ids) - 1
        yield _Text(ids, types, np.append(ids[1:], 0), counts)
        return
    mask = getattr(model.tokenizer, "mask_token_id", None)
    if mask is None:
        raise ValueError(f"the pseudo-log-likelihood of {model.name} needs a tokenizer with a mask token")
    special = np.isin(ids, model.tokenizer.all_special_ids)
    for position in np.flatnonzero(~special):
        here = np.arange(len(ids)) == position
        yield _Text(np.where(here, mask, ids), types, ids, here)


def _packed(pairs: Sequence[tuple[list[_Text], list[_Text]]], batch: Batch) -> Batch:
    """Return a batch of pairs: the texts of each one after the other."""
    rows = []
    for right, wrong in pairs:
        texts = [*right, *wrong]
        if not texts or not right or not wrong:
            raise ValueError("each sentence of a pair needs a token that is no special one")
        signs = [1] * len(right) + [-1] * len(wrong)
        rows.append(
            (
                np.concatenate([text.ids for text in texts]),
                np.concatenate([text.types for text in texts]),
                np.repeat(np.arange(len(texts)), [len(text.ids) for text in texts]),
                np.concatenate([text.targets for text in texts]),
                np.concatenate([text.counts * sign for text, sign in zip(texts, signs, strict=True)]),
            )
        )
    T = max(len(row[0]) for row in rows)
    ids, types, segments, targets, signs = (
        np.stack([np.pad(row[field], (0, T - len(row[field]))) for row in rows]).astype(np.int32) for field in range(5)
    )
    mask = np.stack([np.arange(T) < len(row[0]) for row in rows])
    marks = {SIGN: signs, TARGET: targets}
    return Batch(ids, mask, types, segments=segments, clusters=batch.clusters, marks=marks)
