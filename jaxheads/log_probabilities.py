"""Objectives of log-probabilities: an answer of several tokens, and the divergence from the unedited run.

Dimension key: B batch, T positions, R rows read, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from .arguments import checked
from .checks import is_whole, shown
from .models.inputs.answers import answer_ids
from .models.inputs.appending import appended
from .models.inputs.batch import Batch
from .models.model import Model
from .models.network import Network, forward
from .models.sharding import fetch
from .models.stack import take_rows
from .programs import compiled, to_device
from .reads import Evaluated, Reads, gather_rows, needs_logits, positions_read, read_out, whole_positions

ANSWER = "answer tokens"
"""Mark of the tokens of a batch that are its answers."""

AT_ONCE = 16
"""Examples of which all log-probabilities of the unedited run are computed together."""


@dataclass(frozen=True, eq=False)
class AnswerLogProbability(Evaluated):
    """Objective of the log-probability of each example's answer, in nats; see `answer_log_probability`.

    Attributes:
        answers: texts or token ids, one for all examples or one for each; None where the batch holds them already.
    """

    unit: ClassVar[str] = "nats"
    answers: tuple[str | tuple[int, ...], ...] | None
    name: str

    range = (-np.inf, 0.0)

    def resolved(self, model: Model) -> Self:
        """Return the objective that reads the answers in the batch, where `completed` has put them."""
        del model
        return replace(self, answers=None)

    def completed(self, model: Model, batch: Batch) -> Batch:
        """Return the batch with its answers behind the last real tokens, marked as such.

        In an encoder–decoder they follow the decoder's input.

        Raises:
            ValueError: for another number of answers than of examples, or a text that the tokenizer does not know.
        """
        if self.answers is None:
            return batch
        if len(self.answers) not in (1, len(batch)):
            raise ValueError(f"answer must be one or {len(batch)}, one for each example; got {len(self.answers)}")
        self._check(model)
        known = {own: answer_ids(model, "answer", own) for own in self.answers if isinstance(own, str)}
        ids = [known[own] if isinstance(own, str) else list(own) for own in self.answers]
        end = getattr(model.tokenizer, "eos_token_id", None)
        rows = ids * len(batch) if len(ids) == 1 else ids
        return appended(batch, model.network.streams[-1].queries.kind, rows, mark=ANSWER, end=end)

    def reads(self, model: Model, batch: Batch) -> Reads:
        self._check(model)
        positions, marks = model.network.streams[-1].queries.of(batch), batch.marks or {}
        if ANSWER not in marks:
            raise ValueError(f"the batch of {self.name} holds no answers: give objective.completed(model, batch)")
        answer_BT = np.asarray(marks[ANSWER]).astype(bool) & np.asarray(positions.mask)
        rows_BR, real_BR = gather_rows(answer_BT)
        if not real_BR[:, 0].all() or (real_BR & (rows_BR == 0)).any():
            raise ValueError("each example needs an answer, and a token before it")
        target_BR = np.take_along_axis(np.asarray(positions.ids), rows_BR, axis=1)
        # A row predicts the token after it. Rows that only fill up have weight 0, and must be there.
        before_BR = np.maximum(rows_BR - 1, 0)
        return Reads(to_device(before_BR), None, to_device(target_BR), to_device(real_BR, np.float32))

    def _check(self, model: Model) -> None:
        needs_logits(model, self.name)
        if not model.causal or model.network.classes_of is not None:
            raise ValueError(
                f"{self.name} needs a causal decoder, which predicts token after token; {model.name} is none"
            )

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.weight is not None
        return (read * reads.weight).sum(axis=1)


@dataclass(frozen=True, eq=False)
class KLDivergence(Evaluated):
    """Objective of the divergence from the unedited run's answer, in nats; see `kl_divergence`."""

    unit: ClassVar[str] = "nats"
    positions: np.ndarray | None
    name: str

    range = (0.0, np.inf)
    effects = (0.0, np.inf)
    """The least and largest effect: of the unedited run the divergence is 0."""

    def reads(self, model: Model, batch: Batch) -> Reads:
        rows_BR, shares_BR = positions_read(model, batch, self.name, self.positions)
        reads = Reads(to_device(rows_BR, np.int32), shares=shares_BR)
        B, size = len(batch), min(AT_ONCE, len(batch))
        parts = []
        for start in range(0, B, size):
            # Chunks of one size compile once: the last repeats its last example.
            examples = np.minimum(np.arange(start, start + size), B - 1)
            chunk = fetch(_log_probabilities(model.network, batch.take(examples), reads.take(examples)))
            parts.append(chunk[: B - start])
        return replace(reads, unedited=np.concatenate(parts))

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        assert reads.unedited is not None
        edited_BRV = jax.nn.log_softmax(read.astype(jnp.float32), axis=-1)
        unedited_BRV = jnp.asarray(reads.unedited)
        return (jnp.exp(unedited_BRV) * (unedited_BRV - edited_BRV)).sum(axis=-1).mean(axis=1)


@checked()
def answer_log_probability(
    answer: str | Sequence[str] | Sequence[Sequence[int]], *, name: str = "answer_log_probability"
) -> AnswerLogProbability:
    """Return the objective of the log-probability of an answer of any length, the sum over its tokens, in nats.

    The answer is put behind each example's last real token before anything runs, where a causal decoder predicts it
    token after token (teacher forcing): the batch that is measured is longer than the one that was given.

        jh.ablate(model, "The capital of France is", jh.answer_log_probability(" Paris, of course"))

    Args:
        answer: one text for all examples or one for each, each with the space that it begins with in a text; or, for
            each, a list of token ids.
        name: name in tables.

    Raises:
        ValueError: for what is neither texts nor lists of token ids. An answer whose letters the tokenizer does not
            know, and a model that is no causal decoder, are refused when a model is asked.
    """
    answers = (answer,) if isinstance(answer, str) else tuple(answer)
    rows = tuple(own if isinstance(own, str) else tuple(own) if isinstance(own, Sequence) else () for own in answers)
    if not rows or not all(own and (isinstance(own, str) or all(map(is_whole, own))) for own in rows):
        raise ValueError(f"answer must be a text, or texts or lists of token ids, one for each; got {shown(answer)}")
    return AnswerLogProbability(rows, name)


@checked()
def kl_divergence(positions: ArrayLike | None = None, *, name: str = "kl_divergence") -> KLDivergence:
    """Return the objective Σ p log(p / q), in nats: p the unedited run's probabilities, q those of the edited run.

    It is how much an edit changes the answer, whatever the answer is (Conmy et al. 2023, section 3). It is 0 without an
    edit, where its gradient is 0 as well: gradient approximations at the unedited run see nothing. Of a pair of runs, p
    is that of the run which is edited. It costs one more run of the model, and the memory of all log-probabilities.

    Args:
        positions: as in `logit_difference`.
        name: name in tables.

    Raises:
        ValueError: for positions that are not integers.
    """
    return KLDivergence(None if positions is None else whole_positions(positions), name)


@compiled
def _log_probabilities(network: Network, batch: Batch, reads: Reads) -> Array:
    """Return all log-probabilities of an unedited run at the rows, float32 `[B,R,V]`."""
    logits_BRV = read_out(network, take_rows(forward(network, batch)[0], reads.rows), reads)
    return jax.nn.log_softmax(logits_BRV.astype(jnp.float32), axis=-1)
