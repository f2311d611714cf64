"""Inputs of models: prose, streams of batches, repeated random tokens, indirect-object and few-shot prompts, speech."""

from ..models.inputs.sentences import Link, Sentence, Sentences
from . import tasks
from .corrupted import corrupted
from .few_shot import FewShot, few_shot
from .needles import NeedlePrompts, needle_prompts
from .process_share import process_share
from .prompts import IOIPrompts, ioi_prompts
from .prose import passages
from .readers.brackets import brackets
from .readers.columns import columns
from .readers.conllu import conllu
from .readers.iob import iob
from .readers.minimal_pairs import MinimalPairs, pairs
from .speech import Spoken, two_cities
from .streams import array_batches, ordinary_tokens, sentence_batches, text_batches
from .successors import successor_pairs
from .synthetic import RepeatedTokens, repeated_tokens

__all__ = [
    "FewShot",
    "IOIPrompts",
    "MinimalPairs",
    "NeedlePrompts",
    "Link",
    "RepeatedTokens",
    "Sentence",
    "Sentences",
    "Spoken",
    "array_batches",
    "brackets",
    "columns",
    "conllu",
    "corrupted",
    "few_shot",
    "iob",
    "ioi_prompts",
    "needle_prompts",
    "pairs",
    "ordinary_tokens",
    "passages",
    "process_share",
    "repeated_tokens",
    "sentence_batches",
    "successor_pairs",
    "tasks",
    "text_batches",
    "two_cities",
]
