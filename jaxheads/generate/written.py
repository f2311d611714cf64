"""Objectives of the text that a model writes, by which its heads are judged.

Dimension key: B examples, C edited copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from ..arguments import at_least, checked
from ..checks import one_of, shown
from ..execution.resources import Resources
from ..models.inputs.batch import Batch, Texts
from ..models.model import Model
from ..reads import Reads
from .beams import Beams
from .choosing import Sampling
from .prompts import check_prompts
from .scores import SCORES, Score
from .stops import Stop, Stops
from .writer import Writer
from .writing import Edits, as_edits, texts_of

References = str | Sequence[str] | Sequence[Sequence[str]]
"""One text for all examples, one for each, or for each a list of those that are accepted."""


@dataclass(frozen=True, eq=False)
class Written:
    """Objective of a score of the text that a model writes; see `written`."""

    score: Score
    references: tuple[tuple[str, ...], ...]
    steps: int
    sampling: Sampling | Beams | None
    stop: Stop
    name: str
    unit: str
    range: tuple[float, float]
    seed: int = 0

    def reads(self, model: Model, batch: Batch) -> Reads:
        """Raise ValueError: no part of one forward pass is what this objective reads."""
        raise ValueError(
            f"{self.name} scores the text that {model.name} writes, which no single run of the batch gives: ask "
            "jh.ablate, or call the objective itself, objective(model, batch, edits)"
        )

    @staticmethod
    def value(read: Array, reads: Reads) -> Array:
        """Return nothing: `reads` has refused."""
        raise NotImplementedError

    def check(self, model: Model, batch: Batch) -> None:
        """Raise ValueError for a model that does not write or has no tokenizer, or another number of references."""
        if model.tokenizer is None:
            raise ValueError(f"{self.name} reads texts, and {model.name} has no tokenizer ({model.no_tokenizer})")
        check_prompts(model, batch, self.steps, ())
        self.writer(model).check()
        if len(self.references) not in (1, len(batch)):
            raise ValueError(
                f"references must be one or {len(batch)}, one for each example; got {len(self.references)}"
            )

    def writer(self, model: Model, copies: int | None = None) -> Writer:
        """Return what writes the texts."""
        stops = Stops.of(model, self.stop)
        return Writer(model, self.steps, stops, self.sampling, seed=self.seed, copies=copies)

    def scores(self, model: Model, arrays: dict[str, np.ndarray], examples: np.ndarray) -> np.ndarray:
        """Return the scores of what was written, `[B]`, or `[C,B]` of copies.

        Args:
            arrays: "tokens" and "lengths", as the writer has them.
            examples: indices of the examples, whose references count.
        """
        texts = texts_of(model.tokenizer, arrays["tokens"], arrays["lengths"])
        rows = [texts] if arrays["lengths"].ndim == 1 else texts
        alone = len(self.references) == 1
        references = [self.references[0 if alone else example] for example in examples]
        values = np.array([[self.score(*pair) for pair in zip(row, references, strict=True)] for row in rows], float)
        return values[0] if arrays["lengths"].ndim == 1 else values

    @checked()
    def __call__(self, model: Model, batch: Batch | Texts, edits: Edits = ()) -> np.ndarray:
        """Return the score of each example's text, `[B]`, written under edits.

        Raises:
            ValueError: for a model that does not write or has no tokenizer, prompts that it can't continue, another
                number of references than of examples, or an edit that holds at some positions only.
        """
        own = as_edits(edits)
        self.check(model, batch)
        check_prompts(model, batch, self.steps, own)
        writer = self.writer(model)
        arrays = writer.write(writer.prompts(batch), own, Resources())
        return self.scores(model, arrays, np.arange(len(batch)))


@checked(steps=at_least(1))
def written(
    score: str | Score,
    references: References,
    steps: int,
    *,
    sample: Sampling | Beams | None = None,
    stop: Stop = None,
    seed: int = 0,
    name: str | None = None,
) -> Written:
    """Return the objective of how good the text is that a model writes, for `jh.ablate`.

    `jh.ablate(model, prompts, jh.written("chrf", references, 40))` has the model write each text anew without each
    head. The log-probability of a reference needs no writing: `jh.answer_log_probability(references)`.

    Args:
        score: "exact" (the text is a reference), "contains" (a reference is in it), "chrf" or "bleu" (0 to 100, of
            each text), "rouge1", "rouge2" or "rougeL" (0 to 1), "wer" (word error rate, where less is better); or a
            function of a text and the references that are accepted for it.
        references: one text for all examples, one for each, or for each a list of those that are accepted.
        steps: the number of tokens to write, at most.
        sample, stop, seed: as `jh.generate` has them.
        name: in tables; made of the score when left out.

    Raises:
        ValueError: for a score that is not known, or references that are no texts, or blank.
        MissingExtraError: when a text is scored, without the package that "chrf", "bleu", "rouge…" or "wer" needs.
    """
    if isinstance(score, str):
        one_of("score", score, SCORES)
        known = SCORES[score]
        of, label, unit, span = known.of, score, known.unit, known.range
    else:
        of, label, unit, span = score, getattr(score, "__name__", "score"), "", (-np.inf, np.inf)
    accepted = _references(references)
    return Written(of, accepted, steps, sample, stop, name or f"{label} of {steps} tokens", unit, span, seed)


def _references(references: Any) -> tuple[tuple[str, ...], ...]:
    """Return references by example, each with those that are accepted."""
    rows = [references] if isinstance(references, str) else list(references)
    accepted = tuple((row,) if isinstance(row, str) else tuple(row) for row in rows)
    if not accepted or not all(row and all(isinstance(own, str) and own.strip() for own in row) for row in accepted):
        raise ValueError(
            f"references must be texts that are not blank, one for all examples, one for each, or a list for each; got "
            f"{shown(references)}"
        )
    return accepted
