"""Objectives of classifiers: logits, losses, probabilities and accuracies of classes, and of answers to questions.

A class is named by its number or by its name in `model.labels`.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked
from .class_reads import (
    answer_ends,
    class_reads,
    labels_given,
    number_reads,
    problem_of,
    refuse_scores,
    stated_problem,
    with_truth_values,
)
from .models.inputs.batch import Batch
from .models.model import Model
from .models.network import Network, forward
from .models.stack import take_rows
from .programs import compiled
from .reads import Evaluated, Reads, read_out


@dataclass(frozen=True, eq=False)
class ClassLogit(Evaluated):
    """Objective of the logit of each example's class; see `class_logit`."""

    labels: np.ndarray | None
    positions: np.ndarray | None
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        labels = np.zeros(1, int) if self.labels is None else self.labels
        reads = class_reads(model, batch, self.name, labels, self.positions)
        return reads if self.labels is not None else replace(reads, expected=_most_likely(model.network, batch, reads))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        return _mean(_of_labels(read, reads), reads).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class ClassLoss(Evaluated):
    """Objective of the loss that a classifier is trained on; see `class_loss`."""

    labels: np.ndarray
    positions: np.ndarray | None
    name: str

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest value of a loss."""
        return 0.0, np.inf

    def reads(self, model: Model, batch: Batch) -> Reads:
        if getattr(model.config, "head", None) == "choices":
            raise ValueError(
                f"{self.name}: {model.name} scores choices, each an example of its own: use jh.class_logit"
            )
        if problem_of(model, self.labels) == "regression":
            return number_reads(model, batch, self.name, self.labels)
        if problem_of(model, self.labels) == "several labels":
            return replace(number_reads(model, batch, self.name, self.labels, truth=True), columns=None)
        return with_truth_values(model, class_reads(model, batch, self.name, self.labels, self.positions))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """Return squared errors where columns are listed, else cross-entropies of classes or of truth values."""
        wide, expected = read.astype(jnp.float32), reads.expected
        assert expected is not None
        if reads.columns is not None:
            return jnp.square(wide[:, 0] - expected).mean(axis=1)
        if jnp.issubdtype(expected.dtype, jnp.integer):
            return -_mean(_of_labels(jax.nn.log_softmax(wide), reads), reads)
        logits = wide[:, 0] if reads.weight is None else wide[..., 0]
        nats = -expected * jax.nn.log_sigmoid(logits) - (1 - expected) * jax.nn.log_sigmoid(-logits)
        return nats.mean(axis=1) if reads.weight is None else _mean(nats, reads)


@dataclass(frozen=True, eq=False)
class ClassProbability(Evaluated):
    """Objective of the probability of each example's class; see `class_probability`."""

    labels: np.ndarray
    positions: np.ndarray | None
    name: str

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest probability."""
        return 0.0, 1.0

    def reads(self, model: Model, batch: Batch) -> Reads:
        refuse_scores(model, self.name)
        reads = with_truth_values(model, class_reads(model, batch, self.name, self.labels, self.positions))
        if stated_problem(model) == "multi_label_classification" and reads.expected is not None:
            return replace(reads, columns=reads.expected, expected=None)
        return reads

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """Return sigmoids of single columns, and of truth values, else softmaxes."""
        wide = read.astype(jnp.float32)
        if reads.expected is None:
            return jax.nn.sigmoid(wide[:, 0, 0])
        if jnp.issubdtype(reads.expected.dtype, jnp.integer):
            return _mean(_of_labels(jax.nn.softmax(wide), reads), reads)
        return _mean(jax.nn.sigmoid(jnp.where(reads.expected > 0, wide[..., 0], -wide[..., 0])), reads)


@dataclass(frozen=True, eq=False)
class ClassAccuracy(Evaluated):
    """Objective of how often the class is right; see `class_accuracy`."""

    labels: np.ndarray
    positions: np.ndarray | None
    name: str
    flat = True

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest share."""
        return 0.0, 1.0

    def reads(self, model: Model, batch: Batch) -> Reads:
        refuse_scores(model, self.name)
        return with_truth_values(model, class_reads(model, batch, self.name, self.labels, self.positions))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.expected is not None
        if jnp.issubdtype(reads.expected.dtype, jnp.integer):
            right = jnp.argmax(read, axis=-1) == reads.expected
        else:
            right = (read[..., 0] > 0) == (reads.expected > 0)
        return _mean(right.astype(jnp.float32), reads)


@dataclass(frozen=True, eq=False)
class AnswerLogit(Evaluated):
    """Objective of the logit of an answer: of its first token as a start, plus of its last as an end."""

    start: np.ndarray
    end: np.ndarray
    name: str

    def reads(self, model: Model, batch: Batch) -> Reads:
        ends = [answer_ends(model, batch, self.name, positions) for positions in (self.start, self.end)]
        return Reads(jnp.stack(ends, axis=1))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        del reads
        return (read[:, 0, 0] + read[:, 1, 1]).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class AnswerLoss(Evaluated):
    """Objective of the loss that a model of answers is trained on; see `answer_loss`."""

    start: np.ndarray
    end: np.ndarray
    name: str

    @property
    def range(self) -> tuple[float, float]:
        """The least and largest value of a cross-entropy."""
        return 0.0, np.inf

    def reads(self, model: Model, batch: Batch) -> Reads:
        right_B2 = jnp.stack([answer_ends(model, batch, self.name, ends) for ends in (self.start, self.end)], axis=1)
        real_BT = model.network.streams[-1].queries.of(batch).mask
        rows_BT = jnp.broadcast_to(jnp.arange(real_BT.shape[1], dtype=jnp.int32), real_BT.shape)
        return Reads(rows_BT, weight=real_BT.astype(jnp.float32), expected=right_B2)

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        assert reads.expected is not None
        wide_BT2 = read.astype(jnp.float32)
        real_BT1 = reads.weight[..., None] > 0
        nats_BT2 = -jax.nn.log_softmax(jnp.where(real_BT1, wide_BT2, jnp.finfo(jnp.float32).min), axis=1)
        return jnp.take_along_axis(nats_BT2, reads.expected[:, None], axis=1)[:, 0].mean(axis=1)


@checked()
def class_logit(labels: Any = None, positions: ArrayLike | None = None, *, name: str = "class_logit") -> ClassLogit:
    """Return the objective of the logit of a class.

    Args:
        labels: the class, by its number or its name in `model.labels`: one for all examples, or one for each, `[B]`.
            When left out, each example's most likely class, which costs a run of the model. For a model that labels
            tokens, also a class for each token, `[B,T]`, -100 or None where there is none: the value is then their
            mean.
        positions: for a model that labels tokens, the token whose label is asked for, an index into the padded batch,
            one for all examples or `[B]`. Left out for `[B,T]` labels.
        name: name in tables.

    Raises:
        ValueError: for labels that are neither numbers nor names, or positions that are not integers.
    """
    known = None if labels is None else labels_given("labels", labels)
    return ClassLogit(known, _positions("positions", positions), name)


@checked()
def class_loss(labels: Any, positions: ArrayLike | None = None, *, name: str = "class_loss") -> ClassLoss:
    """Return the objective of the loss that a classifier is trained on, as `transformers` computes it.

    That is the cross-entropy of the class, in nats. It is the squared error for a model with one label
    (or the `problem_type` "regression"), whose `labels` are numbers; the mean binary cross-entropy where an example may
    have several labels, `[B,classes]` of 0 and 1. For a model that labels tokens it is the mean over the labelled ones.

    Args:
        labels, positions, name: as in `class_logit`.

    Raises:
        ValueError: as `class_logit` raises.
    """
    return ClassLoss(labels_given("labels", labels, numbers=True), _positions("positions", positions), name)


@checked()
def class_probability(
    labels: Any, positions: ArrayLike | None = None, *, name: str = "class_probability"
) -> ClassProbability:
    """Return the objective of the probability of a class, from 0 to 1: a softmax over the classes.

    It is a sigmoid where classes don't exclude each other (`problem_type` "multi_label_classification") and for
    ELECTRA's discriminator.

    Args:
        labels, positions, name: as in `class_logit`.

    Raises:
        ValueError: as `class_logit` raises.
    """
    return ClassProbability(labels_given("labels", labels), _positions("positions", positions), name)


@checked()
def class_accuracy(labels: Any, positions: ArrayLike | None = None, *, name: str = "class_accuracy") -> ClassAccuracy:
    """Return the objective of whether a class has the largest logit, 1 or 0; over tokens the share that is right.

    Its derivative is 0 everywhere, so that questions that differentiate refuse it.

    Args:
        labels, positions, name: as in `class_logit`.

    Raises:
        ValueError: as `class_logit` raises.
    """
    return ClassAccuracy(labels_given("labels", labels), _positions("positions", positions), name)


@checked()
def answer_logit(start: ArrayLike, end: ArrayLike, *, name: str = "answer_logit") -> AnswerLogit:
    """Return the objective of the logit of an answer to a question, logit(start) + logit(end).

    Args:
        start, end: first and last token of the answer, indices into the padded batch, one for all examples or `[B]`.
        name: name in tables.

    Raises:
        ValueError: for positions that are not integers.
    """
    return AnswerLogit(_required("start", start), _required("end", end), name)


@checked()
def answer_loss(start: ArrayLike, end: ArrayLike, *, name: str = "answer_loss") -> AnswerLoss:
    """Return the objective of the mean cross-entropy of an answer's start and end over the real tokens, in nats.

    Args:
        start, end, name: as in `answer_logit`.

    Raises:
        ValueError: for positions that are not integers.
    """
    return AnswerLoss(_required("start", start), _required("end", end), name)


def _mean(values_BR: Array, reads: Reads) -> Array:
    """Return each example's mean over its rows: that of its only row where rows have no weight."""
    return values_BR[:, 0] if reads.weight is None else (values_BR * reads.weight).sum(axis=1)


def _of_labels(values_BRC: Array, reads: Reads) -> Array:
    """Return the values of the expected classes, `[B,R]`."""
    assert reads.expected is not None
    return jnp.take_along_axis(values_BRC, reads.expected[..., None], axis=2)[..., 0]


@compiled
def _most_likely(network: Network, batch: Batch, reads: Reads) -> Array:
    """Return the class with the largest logit in each row that is read, `[B,R]`."""
    logits_BRC = read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads)
    return jnp.argmax(logits_BRC, axis=-1).astype(jnp.int32)


def _positions(name: str, values: ArrayLike | None) -> np.ndarray | None:
    return None if values is None else _required(name, values)


def _required(name: str, values: ArrayLike) -> np.ndarray:
    array = np.atleast_1d(np.asarray(values))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a whole number or one for each example, got {values!r}")
    return array
