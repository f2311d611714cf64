"""Numbers of heads' attention patterns: `measure`, the metrics, and what a metric of one's own is made of.

A metric is a function `(pattern_TS, example) -> (value, counts)` of one head of one example, vmapped once. `value` is a
mean over the queries that count; `counts` is whether any does, and where none does the value is 0, never
NaN. Only real queries and real keys count. Positions are those of the model, counted over real tokens: "the previous
token" is the previous real one, also where padding lies between, and left padding equals no padding.

All metrics here are `ByRows`: they read a pattern some query rows at a time, of which only sums are kept. Memory then
grows with the length of a text and not with its square. A metric of one's own may be so, too; a plain function needs
the whole pattern.

A metric `needs` certain properties of the positions, and is not computed for a stack that lacks them: in
cross-attention queries and keys are different sequences, patches of an image have distances but no order, and only
tokens have ids.

Every example weighs the same in a table's mean, however long it is (as in Clark et al. 2019; Vig & Belinkov 2019 sum
over the corpus, where long sentences weigh more).

Where heads have learnt sinks (GPT-OSS), rows of patterns sum to less than 1. Weights are then read as they are, as
shares of all attention, the sink's included: `confidence`, `previous_token`, `first_token` (and `sink`, which is about
the first token), `duplicate_token`, `induction`, `token_class`. `distance`, `marked_share`, `variability` and
`pattern_class` divide by the attention that keys get. `entropy` and the divergences of `compare_heads` take the sink as
one more key. `positional_share`, `retrieval` and alignments read the largest key alone. With `of="norms"` rows keep
their sums. `learnt_sink` measures what goes to the sink.
"""

from .alignment import alignment_error_rate
from .detector import head_detector
from .example import Example, examples_of
from .given_patterns import measure_patterns
from .metric import (
    ByRows,
    Metric,
    Quotient,
    Scored,
    attention_sums,
    attention_to,
    evaluate,
    fits,
    mean,
    mean_sums,
)
from .pattern_class import CLASSES
from .positions import OFFSETS
from .registry import METRICS, VARIANTS, register, resolve
from .scoring import measure
from .tokens import marked_share, retrieval, token_class
from .variability import variability
from .word_pooling import WordPattern, pool_words

__all__ = [
    "CLASSES",
    "METRICS",
    "OFFSETS",
    "VARIANTS",
    "ByRows",
    "Example",
    "Metric",
    "Quotient",
    "Scored",
    "WordPattern",
    "alignment_error_rate",
    "attention_sums",
    "attention_to",
    "evaluate",
    "examples_of",
    "fits",
    "head_detector",
    "marked_share",
    "mean",
    "mean_sums",
    "measure",
    "measure_patterns",
    "pool_words",
    "register",
    "resolve",
    "retrieval",
    "token_class",
    "variability",
]
