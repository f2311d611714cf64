"""Text to question a model with: prose, streams of it, repeated random tokens, indirect-object prompts."""

from jaxheads.data.prompts import IOIPrompts, ioi_prompts
from jaxheads.data.prose import passages
from jaxheads.data.streams import array_batches, text_batches
from jaxheads.data.synthetic import RepeatedTokens, repeated_tokens

__all__ = [
    "IOIPrompts",
    "RepeatedTokens",
    "array_batches",
    "ioi_prompts",
    "passages",
    "repeated_tokens",
    "text_batches",
]
