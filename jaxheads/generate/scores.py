"""Scores of a written text beside references: each a number for one text."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..extras import extra

Score = Callable[[str, Sequence[str]], float]
"""Function of a text and the references that are accepted for it that returns a number."""


@dataclass(frozen=True)
class TextScore:
    """A score by name.

    Attributes:
        of: the number for a text and its references; more is better but for `wer`.
        range: its least and largest value.
        unit: its unit, in words for pictures.
    """

    of: Score
    range: tuple[float, float]
    unit: str


def exact(text: str, references: Sequence[str]) -> float:
    """Return 1 where the text is one of the references, apart from spaces around it; else 0."""
    return float(text.strip() in [reference.strip() for reference in references])


def contains(text: str, references: Sequence[str]) -> float:
    """Return 1 where one of the references is in the text; else 0."""
    return float(any(reference.strip() in text for reference in references))


def chrf(text: str, references: Sequence[str]) -> float:
    """Return chrF, the F2 score of character n-grams up to 6, 0 to 100 (Popović 2015; sacrebleu)."""
    return extra("sacrebleu", "the score chrf").sentence_chrf(text, list(references)).score


def bleu(text: str, references: Sequence[str]) -> float:
    """Return BLEU of one sentence, smoothed and of its own lengths of n-grams, 0 to 100 (sacrebleu)."""
    return extra("sacrebleu", "the score bleu").sentence_bleu(text, list(references)).score


def wer(text: str, references: Sequence[str]) -> float:
    """Return the word error rate beside the nearest reference, 0 for equal words; case counts (jiwer)."""
    rate = extra("jiwer", "the score wer").wer
    return min(float(rate(reference, text)) for reference in references)


def _rouge(kind: str, text: str, references: Sequence[str]) -> float:
    return _rouge_scorer(kind).score_multi(list(references), text)[kind].fmeasure


@functools.cache
def _rouge_scorer(kind: str) -> Any:
    return extra("rouge_score.rouge_scorer", f"the score {kind}").RougeScorer([kind])


_SHARE, _HUNDRED = (0.0, 1.0), (0.0, 100.0)

SCORES: dict[str, TextScore] = {
    "exact": TextScore(exact, _SHARE, "share of texts"),
    "contains": TextScore(contains, _SHARE, "share of texts"),
    "chrf": TextScore(chrf, _HUNDRED, "chrF"),
    "bleu": TextScore(bleu, _HUNDRED, "sentence BLEU"),
    **{
        kind: TextScore(functools.partial(_rouge, kind), _SHARE, f"{kind.upper()} F1")
        for kind in ("rouge1", "rouge2", "rougeL")
    },
    "wer": TextScore(wer, (0.0, np.inf), "word error rate"),
}
"""Scores by name: ROUGE is the F1 score of words, pairs of words, and the longest common subsequence (Lin 2004)."""
