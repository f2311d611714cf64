"""Reports: everything that is asked of a model at once, written down for people."""

from .inputs import Question, prose, questions, repeats

__all__ = ["Question", "prose", "questions", "repeats"]
