"""Text to question a model with: prose, repeated random tokens, indirect-object prompts."""

from jaxheads.data.prompts import IOIPrompts, ioi_prompts
from jaxheads.data.prose import passages
from jaxheads.data.synthetic import RepeatedTokens, repeated_tokens

__all__ = ["IOIPrompts", "RepeatedTokens", "ioi_prompts", "passages", "repeated_tokens"]
