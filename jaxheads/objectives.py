"""Objectives: a number for each example, by which interventions are judged.

An objective lists in advance which rows (positions) of the last stream and which columns of the unembedding it reads,
so that a sweep computes no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked
from .checks import all_finite, booleans
from .models.inputs.answers import Accepted, Answers, accepted_ids, answer_id, read_answers, resolve_answers
from .models.inputs.batch import Batch
from .models.model import Model
from .models.network import Network, forward
from .models.stack import take_rows
from .programs import compiled, to_device
from .reads import (
    Evaluated,
    Objective,
    Reads,
    gather_rows,
    needs_logits,
    needs_tokens,
    positions_read,
    read_out,
    whole_positions,
)


@dataclass(frozen=True, eq=False)
class LogitDifference(Evaluated):
    """Objective logit(right) − logit(wrong) at one position of each example; see `logit_difference`."""

    unit: ClassVar[str] = "logits"
    right: np.ndarray | Accepted
    wrong: np.ndarray | Accepted
    positions: np.ndarray | None
    name: str

    def resolved(self, model: Model) -> Self:
        """Return the objective with this model's ids for its texts."""
        right, wrong = (resolve_answers(model, name, getattr(self, name)) for name in ("right", "wrong"))
        return replace(self, right=right, wrong=wrong)

    def reads(self, model: Model, batch: Batch) -> Reads:
        return _columns(model, batch, self.name, {"right": self.right, "wrong": self.wrong}, self.positions)

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        return _accepted_logit(read, reads, 0) - _accepted_logit(read, reads, 1)


@dataclass(frozen=True, eq=False)
class Logit(Evaluated):
    """Objective of one token's logit at one position of each example; see `logit`."""

    unit: ClassVar[str] = "logits"
    token: np.ndarray | Accepted | None
    positions: np.ndarray | None
    name: str

    def resolved(self, model: Model) -> Self:
        """Return the objective with this model's ids for its texts."""
        return self if self.token is None else replace(self, token=resolve_answers(model, "token", self.token))

    def reads(self, model: Model, batch: Batch) -> Reads:
        if self.token is not None:
            return _columns(model, batch, self.name, {"token": self.token}, self.positions)
        whole = _columns(model, batch, self.name, {}, self.positions)
        return replace(whole, columns=_most_likely(model.network, batch, replace(whole, columns=None)))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        return _accepted_logit(read, reads, 0)


@dataclass(frozen=True, eq=False)
class Loss(Evaluated):
    """Objective of each example's mean next-token cross-entropy, in nats; see `loss`."""

    unit: ClassVar[str] = "nats"
    packed: ClassVar[bool] = True
    where: np.ndarray | None
    name: str

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest value of a cross-entropy."""
        return 0.0, np.inf

    def reads(self, model: Model, batch: Batch) -> Reads:
        needs_logits(model, self.name)
        needs_tokens(model, self.name)
        if not model.causal:
            raise ValueError(f"a next-token loss needs a causal decoder; {model.name} is an encoder")
        positions = model.network.streams[-1].queries.of(batch)
        mask_BT = np.asarray(positions.mask)
        counted_BT = mask_BT[:, 1:] & mask_BT[:, :-1]
        if positions.segments is not None:
            texts_BT = np.asarray(positions.segments)
            counted_BT &= texts_BT[:, 1:] == texts_BT[:, :-1]
        if self.where is not None:
            if self.where.shape != mask_BT.shape:
                raise ValueError(f"where must have the shape of tokens {mask_BT.shape}, got {self.where.shape}")
            counted_BT &= self.where[:, 1:]
        counts_B = counted_BT.sum(axis=1)
        if not counts_B.all():
            empty = np.flatnonzero(counts_B == 0)[:8].tolist()
            raise ValueError(f"a loss needs a token to predict after a real one; examples {empty} have none")
        vocabulary, highest = (
            model.network.unembedding.weight.shape[0],
            np.asarray(positions.ids)[:, 1:][counted_BT].max(),
        )
        if highest >= vocabulary:
            raise ValueError(
                f"{model.name} has logits of 0..{vocabulary - 1} only: it can't predict the token {highest}"
            )
        rows_BR, real_BR = gather_rows(counted_BT)
        weight_BR = (real_BR / counts_B[:, None]).astype(np.float32)
        target_BR = np.take_along_axis(np.asarray(positions.ids), rows_BR + 1, axis=1)
        return Reads(to_device(rows_BR), None, to_device(target_BR), to_device(weight_BR))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return -(read * reads.weight).sum(axis=1)


@dataclass(frozen=True, eq=False)
class ProbabilityDifference(Evaluated):
    """Objective Σ sign · p(token) at one position of each example; see `probability_difference`."""

    unit: ClassVar[str] = "probability"
    tokens: np.ndarray
    signs: np.ndarray
    positions: np.ndarray | None
    name: str

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest value: probabilities of different tokens add up to 1 at most."""
        return min(0.0, float(self.signs.min())), max(0.0, float(self.signs.max()))

    def resolved(self, model: Model) -> Self:
        """Return the objective with this model's ids for its texts."""
        if self.tokens.dtype.kind != "U":
            return self
        texts, index = np.unique(self.tokens, return_inverse=True)
        ids = np.array([answer_id(model, "tokens", str(text)) for text in texts])
        return replace(self, tokens=ids[index].reshape(self.tokens.shape))

    def reads(self, model: Model, batch: Batch) -> Reads:
        tokens_BC, signs_BC = (
            np.broadcast_to(array, (len(batch), array.shape[-1])) if len(array) in (1, len(batch)) else None
            for array in (self.resolved(model).tokens, self.signs)
        )
        if tokens_BC is None or signs_BC is None:
            raise ValueError(f"tokens and signs must be for all examples alike or for each of {len(batch)}")
        named = {f"token {column}": tokens_BC[:, column] for column in range(tokens_BC.shape[1])}
        rows_BR = _columns(model, batch, self.name, named, self.positions).rows
        if rows_BR.shape[1] > 1:
            raise ValueError(f"the head of {model.name} reads several positions together: give logits, not positions")
        rows_BC = jnp.broadcast_to(rows_BR, tokens_BC.shape)
        return Reads(rows_BC, None, to_device(tokens_BC, np.int32), to_device(signs_BC, np.float32))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return (jnp.exp(read) * reads.weight).sum(axis=1)


def range_of(objective: Objective) -> tuple[float, float]:
    """Return the least and largest value that an objective can have, infinite where it has no `range`."""
    return getattr(objective, "range", (-np.inf, np.inf))


def effect_range(objective: Objective) -> tuple[float, float]:
    """Return the least and largest difference between two values of an objective, or its `effects` if it has them."""
    low, high = range_of(objective)
    return getattr(objective, "effects", (low - high, high - low))


@checked()
def logit_difference(
    right: Answers, wrong: Answers, positions: ArrayLike | None = None, *, name: str = "logit_difference"
) -> LogitDifference:
    """Return the objective logit(right) − logit(wrong) of Wang et al. 2022 (section 2).

        jh.logit_difference(" Mary", " John")                        # one for all examples
        jh.logit_difference([" Mary", " Anna"], [" John", " Tom"])   # one for each
        jh.logit_difference([[" Paris", " paris"]], " Rome")         # accepted ones, in a list for each, or for all

    Args:
        right: the right answer: a token id (or class), or a text that is one token, with the space that it begins with
            in a text. One for all examples or one for each, or for each a list of all that are accepted. Their logit
            is log Σ exp(logit): the difference is then the log odds that any of the right ones, not of the wrong ones,
            is the answer.
        wrong: the wrong answer, as `right`.
        positions: positions where the logits are read, indices into the padded batch, one for all examples or `[B]`.
            When left out, those that the model's head reads: for a language model each example's last real token, for
            a classifier CLS.
        name: name in tables.

    Raises:
        ValueError: for answers or positions that are not of these kinds. A text of several tokens, or of none that the
            model knows, is refused when a model is asked; the message shows its pieces.
    """
    indices = None if positions is None else whole_positions(positions)
    return LogitDifference(read_answers("right", right), read_answers("wrong", wrong), indices, name)


@checked()
def logit(token: Answers | None = None, positions: ArrayLike | None = None, *, name: str = "logit") -> Logit:
    """Return the objective of one token's logit, from which relevance is propagated (Voita et al. 2019, section 4).

    Args:
        token: its id (or class) or text, as an answer of `logit_difference`. When left out, each example's most likely
            token, as Voita et al. take it, which costs a run of the model.
        positions: as in `logit_difference`.
        name: name in tables.

    Raises:
        ValueError: as `logit_difference`.
    """
    indices = None if positions is None else whole_positions(positions)
    return Logit(None if token is None else read_answers("token", token), indices, name)


@checked()
def probability_difference(
    tokens: Answers, signs: ArrayLike, positions: ArrayLike | None = None, *, name: str = "probability_difference"
) -> ProbabilityDifference:
    """Return the objective Σ sign · p(token), from −1 to 1 for signs 1 and −1.

    Hanna et al. 2023 (section 2.2) take the probability of the years above a year minus that of the others; the metric
    in their code is its negative. Their sharpness has sign 1 for the next year, −1 for the previous one, else 0.

        years = [f"{y:02d}" for y in range(100)]
        above = jh.probability_difference(years, np.where(np.arange(100) > year[:, None], 1, -1))

    Args:
        tokens: token ids, or texts that are one token each, `[C]` or `[B,C]`.
        signs: the weight of each token, `[C]` or `[B,C]`.
        positions: as in `logit_difference`.
        name: name in tables.

    Raises:
        ValueError: for different numbers of tokens and signs, or ids or positions that are not integers.
    """
    ids, weights = np.atleast_2d(np.asarray(tokens)), np.atleast_2d(np.asarray(signs, np.float32))
    if ids.ndim != 2 or ids.shape[1] != weights.shape[1] or ids.dtype.kind not in "iuU":
        raise ValueError(
            f"tokens: expected token ids or texts, and a sign for each, [C] or [examples, C]; got {ids.dtype} of "
            f"{list(ids.shape)} and {list(weights.shape)}"
        )
    all_finite("signs", weights)
    indices = None if positions is None else whole_positions(positions)
    return ProbabilityDifference(ids, weights, indices, name)


@checked()
def loss(where: ArrayLike | None = None, *, name: str = "loss") -> Loss:
    """Return the objective of next-token cross-entropy in nats, averaged over each example's predicted tokens.

    Args:
        where: which tokens count as predicted, bool `[B,T]`. When left out, every real token that follows a real one.
        name: name in tables.
    """
    return Loss(None if where is None else booleans("where", where), name)


def _accepted_logit(read: Array, reads: Reads, part: int) -> Array:
    """Return the logit of what is accepted, `[B]`: of one part of the columns, which have weights part + 1."""
    logits_BC = read[:, 0].astype(jnp.float32)
    if reads.weight is None:
        return logits_BC[:, part]
    return jax.nn.logsumexp(logits_BC, axis=1, b=(reads.weight == part + 1).astype(jnp.float32))


def _columns(
    model: Model,
    batch: Batch,
    name: str,
    answers: Mapping[str, np.ndarray | Accepted],
    positions: np.ndarray | None,
) -> Reads:
    """Return reads of the logits of answers (by the argument's name) at one position of each example.

    Where several are accepted, a column's weight is the number of its argument, from 1; 0 where it counts for none.
    """
    rows_BR, shares_BR = positions_read(model, batch, name, positions)
    B, vocabulary = len(rows_BR), model.network.unembedding.weight.shape[0]
    columns, parts = [], []
    for number, (key, values) in enumerate(answers.items()):
        ids_BA, counted_BA = accepted_ids(key, resolve_answers(model, key, values), B)
        columns.append(ids_BA)
        parts.append(np.where(counted_BA, number + 1, 0))
    columns_BC = np.concatenate(columns or [np.zeros((B, 1), np.int32)], axis=1)
    if columns_BC.min() < 0 or columns_BC.max() >= vocabulary:
        raise ValueError(f"{' and '.join(answers)} must be token ids in 0..{vocabulary - 1}, got {columns_BC.tolist()}")
    one_each = all(part_BA.shape[1] == 1 for part_BA in parts)
    weight = None if one_each else to_device(np.concatenate(parts, axis=1), np.float32)
    return Reads(to_device(rows_BR, np.int32), to_device(columns_BC, np.int32), weight=weight, shares=shares_BR)


@compiled
def _most_likely(network: Network, batch: Batch, reads: Reads) -> Array:
    """Return the token `[B,1]` with the largest logit at the first row."""
    logits_BRV = read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads)
    return jnp.argmax(logits_BRV[:, 0], axis=-1).astype(jnp.int32)[:, None]
