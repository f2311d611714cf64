"""Inputs of models: prose, streams of batches, repeated random tokens, indirect-object prompts, speech."""

from ..models.inputs.sentences import Link, Sentence, Sentences
from . import tasks
from .process_share import process_share
from .prompts import IOIPrompts, ioi_prompts
from .prose import passages
from .readers.conllu import conllu
from .speech import Spoken, two_cities
from .streams import array_batches, ordinary_tokens, text_batches
from .synthetic import RepeatedTokens, repeated_tokens

__all__ = [
    "IOIPrompts",
    "Link",
    "RepeatedTokens",
    "Sentence",
    "Sentences",
    "Spoken",
    "array_batches",
    "conllu",
    "ioi_prompts",
    "ordinary_tokens",
    "passages",
    "process_share",
    "repeated_tokens",
    "tasks",
    "text_batches",
    "two_cities",
]
