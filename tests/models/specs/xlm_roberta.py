"""XLM-RoBERTa."""

from .roberta import spec

SPEC = spec("XLMRoberta")
