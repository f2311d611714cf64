"""Objectives: a number for each example, by which interventions are judged.

An objective lists in advance which rows (positions) of the last stream and which columns of the unembedding it reads,
so that a sweep computes no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked
from .checks import all_finite, booleans
from .models.inputs.batch import Batch
from .models.model import Model
from .models.network import Network, forward
from .models.stack import take_rows
from .programs import compiled, to_device
from .reads import Objective, Reads, needs_logits, needs_tokens, read_out


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """Objective logit(right) − logit(wrong) at one position of each example; see `logit_difference`."""

    unit: ClassVar[str] = "logits"
    right: np.ndarray
    wrong: np.ndarray
    positions: np.ndarray | None
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        return _columns(model, batch, self.name, {"right": self.right, "wrong": self.wrong}, self.positions)

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        del reads
        return (read[:, 0, 0] - read[:, 0, 1]).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class Logit:
    """Objective of one token's logit at one position of each example; see `logit`."""

    unit: ClassVar[str] = "logits"
    token: np.ndarray | None
    positions: np.ndarray | None
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        if self.token is not None:
            return _columns(model, batch, self.name, {"token": self.token}, self.positions)
        whole = _columns(model, batch, self.name, {}, self.positions)
        return replace(whole, columns=_most_likely(model.network, batch, replace(whole, columns=None)))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        del reads
        return read[:, 0, 0].astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class Loss:
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
        rows_BR, weight_BR = _gather(counted_BT)
        target_BR = np.take_along_axis(np.asarray(positions.ids), rows_BR + 1, axis=1)
        return Reads(to_device(rows_BR), None, to_device(target_BR), to_device(weight_BR))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return -(read * reads.weight).sum(axis=1)


@dataclass(frozen=True, eq=False)
class ProbabilityDifference:
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

    def reads(self, model: Model, batch: Batch) -> Reads:
        tokens_BC, signs_BC = (
            np.broadcast_to(array, (len(batch), array.shape[-1])) if len(array) in (1, len(batch)) else None
            for array in (self.tokens, self.signs)
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
    """Return the least and largest difference between two values of an objective."""
    low, high = range_of(objective)
    return low - high, high - low


@checked()
def logit_difference(
    right: ArrayLike, wrong: ArrayLike, positions: ArrayLike | None = None, *, name: str = "logit_difference"
) -> LogitDifference:
    """Return the objective logit(right) − logit(wrong) of Wang et al. 2022 (section 2).

    Args:
        right: token id (or class) of the right answer, one for all examples or `[B]`.
        wrong: token id (or class) of the wrong answer, one for all examples or `[B]`.
        positions: positions where the logits are read, indices into the padded batch, one for all examples or `[B]`.
            When left out, those that the model's head reads: for a language model each example's last real token, for
            a classifier CLS.
        name: name in tables.

    Raises:
        ValueError: for token ids or positions that are not integers.
    """
    indices = None if positions is None else _integers("positions", positions)
    return LogitDifference(_integers("right", right), _integers("wrong", wrong), indices, name)


@checked()
def logit(token: ArrayLike | None = None, positions: ArrayLike | None = None, *, name: str = "logit") -> Logit:
    """Return the objective of one token's logit, from which relevance is propagated (Voita et al. 2019, section 4).

    Args:
        token: its id (or class), one for all examples or `[B]`. When left out, each example's most likely token, as
            Voita et al. take it, which costs a run of the model.
        positions: as in `logit_difference`.
        name: name in tables.

    Raises:
        ValueError: for token ids or positions that are not integers.
    """
    ids = None if token is None else _integers("token", token)
    indices = None if positions is None else _integers("positions", positions)
    return Logit(ids, indices, name)


@checked()
def probability_difference(
    tokens: ArrayLike, signs: ArrayLike, positions: ArrayLike | None = None, *, name: str = "probability_difference"
) -> ProbabilityDifference:
    """Return the objective Σ sign · p(token), from −1 to 1 for signs 1 and −1.

    Hanna et al. 2023 (section 2.2) take the probability of the years above a year minus that of the others; the metric
    in their code is its negative. Their sharpness has sign 1 for the next year, −1 for the previous one, else 0.

        years = [model.tokenizer(f"{y:02d}")["input_ids"][-1] for y in range(100)]
        above = jh.probability_difference(years, np.where(np.arange(100) > year[:, None], 1, -1))

    Args:
        tokens: token ids, `[C]` or `[B,C]`.
        signs: the weight of each token, `[C]` or `[B,C]`.
        positions: as in `logit_difference`.
        name: name in tables.

    Raises:
        ValueError: for different numbers of tokens and signs, or ids or positions that are not integers.
    """
    ids, weights = np.atleast_2d(np.asarray(tokens)), np.atleast_2d(np.asarray(signs, np.float32))
    if ids.ndim != 2 or ids.shape[1] != weights.shape[1] or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"expected token ids and a sign for each, [C] or [examples, C]; got {ids.dtype} of {list(ids.shape)} and "
            f"{list(weights.shape)}"
        )
    all_finite("signs", weights)
    indices = None if positions is None else _integers("positions", positions)
    return ProbabilityDifference(ids, weights, indices, name)


@checked()
def loss(where: ArrayLike | None = None, *, name: str = "loss") -> Loss:
    """Return the objective of next-token cross-entropy in nats, averaged over each example's predicted tokens.

    Args:
        where: which tokens count as predicted, bool `[B,T]`. When left out, every real token that follows a real one.
        name: name in tables.
    """
    return Loss(None if where is None else booleans("where", where), name)


def _columns(
    model: Model, batch: Batch, name: str, tokens: Mapping[str, np.ndarray], positions: np.ndarray | None
) -> Reads:
    """Return reads of the logits of `tokens` (ids by the argument's name) at one position of each example."""
    needs_logits(model, name)
    last_stream = model.network.streams[-1].queries.of(batch)
    B, T = last_stream.shape
    columns_BC = np.stack([_per_example(key, ids, B) for key, ids in tokens.items()] or [np.zeros(B, np.int32)], axis=1)
    vocabulary = model.network.unembedding.weight.shape[0]
    if columns_BC.min() < 0 or columns_BC.max() >= vocabulary:
        raise ValueError(f"{' and '.join(tokens)} must be token ids in 0..{vocabulary - 1}, got {columns_BC.tolist()}")
    rows_BR = np.asarray(model.network.readout_positions(batch)).reshape(B, -1)
    if positions is not None:
        if rows_BR.shape[1] > 1:
            raise ValueError(f"the head of {model.name} reads {rows_BR.shape[1]} positions together: give none")
        rows_BR = _per_example("positions", positions, B)[:, None]
    if rows_BR.min() < 0 or rows_BR.max() >= T:
        raise ValueError(f"positions must lie in 0..{T - 1}, got {rows_BR[:, 0].tolist()}")
    real_BR, shares_BR = np.take_along_axis(np.asarray(last_stream.mask), rows_BR, axis=1), None
    if positions is None and (shares_BR := model.network.readout_shares(batch)) is not None:
        real_BR = real_BR | (np.asarray(shares_BR) == 0)
    padding = np.flatnonzero(~real_BR.all(axis=1))
    if padding.size:
        raise ValueError(f"a {name.replace('_', ' ')} can't be read at padding, as in examples {padding[:8].tolist()}")
    return Reads(to_device(rows_BR, np.int32), to_device(columns_BC, np.int32), shares=shares_BR)


@compiled
def _most_likely(network: Network, batch: Batch, reads: Reads) -> Array:
    """Return the token `[B,1]` with the largest logit at the first row."""
    logits_BRV = read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads)
    return jnp.argmax(logits_BRV[:, 0], axis=-1).astype(jnp.int32)[:, None]


def _gather(counted_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices `[B,R]` of the counted positions, padded by others with weight 0, and weights that sum to 1."""
    counts_B = counted_BT.sum(axis=1)
    rows_BR = np.argsort(~counted_BT, axis=1, kind="stable")[:, : counts_B.max()].astype(np.int32)
    real_BR = np.arange(rows_BR.shape[1])[None] < counts_B[:, None]
    return rows_BR, (real_BR / counts_B[:, None]).astype(np.float32)


def _integers(name: str, values: ArrayLike) -> np.ndarray:
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be a whole number or one for each example, got {values!r}")
    return array


def _per_example(name: str, numbers: np.ndarray, examples: int) -> np.ndarray:
    if len(numbers) not in (1, examples):
        raise ValueError(f"{name} must be one number or {examples}, one for each example; got {len(numbers)}")
    return np.broadcast_to(numbers, (examples,))
