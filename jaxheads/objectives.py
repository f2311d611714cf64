"""What an intervention is objective_values by: a number for each example, and what it takes to compute it.

An objective says beforehand which rows of the last layer and which columns of the unembedding it reads, so that a
sweep computes no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .models.inputs.batch import Batch
from .models.model import Model
from .models.network import Network, forward
from .models.stack import take_rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reads:
    """What an objective needs of a batch's output; the leading axis is always the examples.

    Attributes:
        rows: positions read, `[B,R]`.
        columns: vocabulary columns whose logits are read, `[B,C]`, or None for all of them.
        target: the token whose log-probability is read at each row, `[B,R]`, or None for logits.
        weight: each row's share in its example's value, `[B,R]`, or None.
    """

    rows: Array
    columns: Array | None = None
    target: Array | None = None
    weight: Array | None = None

    def repeat(self, times: int) -> "Reads":
        """The same for the batch `times` times over."""
        return jax.tree.map(lambda field: jnp.tile(field, (times, *(1,) * (field.ndim - 1))), self)

    def take(self, examples: ArrayLike) -> "Reads":
        """The same for these examples of the batch."""
        index = np.asarray(examples)
        return jax.tree.map(lambda field: field[index], self)


class Objective(Protocol):
    """One number an example. `value` is static: it is compiled in, and all data reaches it through `reads`."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def reads(self, model: Model, batch: Batch) -> Reads:
        """What is needed of this batch's output; raises ValueError if the model can't give it."""
        ...

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """`[B]` from what was read, in the form that `read_out` gives it."""
        ...


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """logit(right) − logit(wrong) at one position of each example; see `logit_difference`."""

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
    """One token's logit at one position of each example; see `logit`."""

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
    """Mean next-token cross-entropy of each example, in nats; see `loss`."""

    where: np.ndarray | None
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        _needs_logits(model, self.name)
        if not model.causal:
            raise ValueError(f"a next-token loss needs a causal decoder; {model.name} is an encoder")
        side = model.network.streams[-1].queries.of(batch)
        mask_BT = np.asarray(side.mask)
        counted_BT = mask_BT[:, 1:] & mask_BT[:, :-1]
        if self.where is not None:
            if self.where.shape != mask_BT.shape:
                raise ValueError(f"where must have the shape of tokens {mask_BT.shape}, got {self.where.shape}")
            counted_BT &= self.where[:, 1:]
        counts_B = counted_BT.sum(axis=1)
        if not counts_B.all():
            nothing = np.flatnonzero(counts_B == 0)[:8].tolist()
            raise ValueError(f"a loss needs a token to predict after a real one; examples {nothing} have none")
        rows_BR, weight_BR = _gathered(counted_BT)
        target_BR = np.take_along_axis(np.asarray(side.ids), rows_BR + 1, axis=1)
        return Reads(jnp.asarray(rows_BR), None, jnp.asarray(target_BR), jnp.asarray(weight_BR))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return -(read * reads.weight).sum(axis=1)


@dataclass(frozen=True, eq=False)
class ProbabilityDifference:
    """Σ sign · p(token) at one position of each example; see `probability_difference`."""

    tokens: np.ndarray
    signs: np.ndarray
    positions: np.ndarray | None
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        tokens_BC, signs_BC = (
            np.broadcast_to(part, (len(batch), part.shape[-1])) if len(part) in (1, len(batch)) else None
            for part in (self.tokens, self.signs)
        )
        if tokens_BC is None or signs_BC is None:
            raise ValueError(f"tokens and signs must be for all examples alike or for each of {len(batch)}")
        named = {f"token {column}": tokens_BC[:, column] for column in range(tokens_BC.shape[1])}
        rows_BR = _columns(model, batch, self.name, named, self.positions).rows
        if rows_BR.shape[1] > 1:
            raise ValueError(f"the head of {model.name} reads several positions together: give logits, not positions")
        rows_BC = jnp.broadcast_to(rows_BR, tokens_BC.shape)
        return Reads(rows_BC, None, jnp.asarray(tokens_BC, jnp.int32), jnp.asarray(signs_BC, jnp.float32))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return (jnp.exp(read) * reads.weight).sum(axis=1)


def read_out(network: Network, x_BRD: Array, reads: Reads) -> Array:
    """What the objective reads of the stream at its rows: its targets' log-probabilities `[B,R]`, or its columns'
    logits `[B,R,C]`, or all logits `[B,R,V]`."""
    unembedding = network.unembedding
    assert unembedding is not None, "objectives check for logits when they say what they read"
    features = network.features(x_BRD)
    if reads.target is not None:
        return unembedding.log_probability(features, reads.target)
    return unembedding.logits(features, reads.columns)


def logit_difference(
    right: ArrayLike, wrong: ArrayLike, positions: ArrayLike | None = None, *, name: str = "logit_difference"
) -> LogitDifference:
    """logit(right) − logit(wrong), the metric of Wang et al. 2022 (section 2).

    Args:
        right: token id of the right answer, or class, one for all examples or one for each, `[B]`.
        wrong: of the wrong answer, likewise.
        positions: where the logits are read, an index into the padded batch, one for all or `[B]`; where the model's
            head reads when left out: a language model's at each example's last real token, a classifier's at CLS.
    """
    where = None if positions is None else _numbers("positions", positions)
    return LogitDifference(_numbers("right", right), _numbers("wrong", wrong), where, name)


def logit(token: ArrayLike | None = None, positions: ArrayLike | None = None, *, name: str = "logit") -> Logit:
    """The logit of one token: what relevance is propagated from (Voita et al. 2019, section 4: the top one).

    Args:
        token: its id, or a class, one for all examples or one for each, `[B]`; each example's most likely when left
            out, which takes a run of the model.
        positions: as in `logit_difference`.
    """
    which = None if token is None else _numbers("token", token)
    where = None if positions is None else _numbers("positions", positions)
    return Logit(which, where, name)


def probability_difference(
    tokens: ArrayLike, signs: ArrayLike, positions: ArrayLike | None = None, *, name: str = "probability_difference"
) -> ProbabilityDifference:
    """Σ sign · p(token), from −1 to 1: of the years above a year less those below, as in Hanna et al. 2023 (section
    2.2), whose code's metric is the negative. Their sharpness has signs 1 and −1 at the years after and before, 0
    elsewhere.

        years = [model.tokenizer(f"{y:02d}")["input_ids"][-1] for y in range(100)]
        above = jh.probability_difference(years, np.where(np.arange(100) > given[:, None], 1, -1))

    Args:
        tokens: ids, `[C]` or `[B,C]`.
        signs: their weights, of the same shapes.
        positions: as in `logit_difference`.

    Raises:
        ValueError: for tokens and signs of different numbers, or ids that are not whole.
    """
    ids, weights = np.atleast_2d(np.asarray(tokens)), np.atleast_2d(np.asarray(signs, np.float32))
    if ids.ndim != 2 or ids.shape[1] != weights.shape[1] or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"expected token ids and a sign for each, [C] or [examples, C]; got {ids.dtype} of {list(ids.shape)} and "
            f"{list(weights.shape)}"
        )
    where = None if positions is None else _numbers("positions", positions)
    return ProbabilityDifference(ids, weights, where, name)


def loss(where: ArrayLike | None = None, *, name: str = "loss") -> Loss:
    """Next-token cross-entropy in nats, per example the mean over its predicted tokens.

    Args:
        where: which tokens count as predicted, bool `[B,T]`; every real token with a real one before it when left
            out.
    """
    return Loss(None if where is None else np.asarray(where).astype(bool), name)


def _columns(
    model: Model, batch: Batch, name: str, tokens: Mapping[str, np.ndarray], positions: np.ndarray | None
) -> Reads:
    """Logits of some tokens, by what they are called, at one position of each example."""
    _needs_logits(model, name)
    side = model.network.streams[-1].queries.of(batch)
    B, T = side.shape
    columns_BC = np.stack([_each(key, ids, B) for key, ids in tokens.items()] or [np.zeros(B, np.int32)], axis=1)
    vocabulary = model.network.unembedding.weight.shape[0]
    if columns_BC.min() < 0 or columns_BC.max() >= vocabulary:
        raise ValueError(f"{' and '.join(tokens)} must be token ids in 0..{vocabulary - 1}, got {columns_BC.tolist()}")
    rows_BR = np.asarray(model.network.readout_positions(batch)).reshape(B, -1)
    if positions is not None:
        if rows_BR.shape[1] > 1:
            raise ValueError(f"the head of {model.name} reads {rows_BR.shape[1]} positions together: give none")
        rows_BR = _each("positions", positions, B)[:, None]
    if rows_BR.min() < 0 or rows_BR.max() >= T:
        raise ValueError(f"positions must lie in 0..{T - 1}, got {rows_BR[:, 0].tolist()}")
    padding = np.flatnonzero(~np.take_along_axis(np.asarray(side.mask), rows_BR, axis=1).all(axis=1))
    if padding.size:
        raise ValueError(f"a {name.replace('_', ' ')} can't be read at padding, as in examples {padding[:8].tolist()}")
    return Reads(jnp.asarray(rows_BR, jnp.int32), jnp.asarray(columns_BC, jnp.int32))


@jax.jit
def _most_likely(network: Network, batch: Batch, reads: Reads) -> Array:
    """The token `[B,1]` with the largest logit at the first row."""
    logits_BRV = read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads)
    return jnp.argmax(logits_BRV[:, 0], axis=-1).astype(jnp.int32)[:, None]


def _gathered(counted_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[B,R]` of the counted positions, padded by repeating one with weight 0, and weights that sum to 1."""
    counts_B = counted_BT.sum(axis=1)
    rows_BR = np.argsort(~counted_BT, axis=1, kind="stable")[:, : counts_B.max()].astype(np.int32)
    real_BR = np.arange(rows_BR.shape[1])[None] < counts_B[:, None]
    return rows_BR, (real_BR / counts_B[:, None]).astype(np.float32)


def _needs_logits(model: Model, name: str) -> None:
    if model.network.unembedding is None:
        raise ValueError(f"{name} needs logits over a vocabulary; {model.name} {model.network.without_logits}")


def _numbers(name: str, given: ArrayLike) -> np.ndarray:
    array = np.atleast_1d(np.asarray(given))
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be a whole number or one for each example, got {given!r}")
    return array


def _each(name: str, numbers: np.ndarray, examples: int) -> np.ndarray:
    if len(numbers) not in (1, examples):
        raise ValueError(f"{name} must be one number or {examples}, one for each example; got {len(numbers)}")
    return np.broadcast_to(numbers, (examples,))
