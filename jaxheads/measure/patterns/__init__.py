"""What a head's attention pattern looks like, in numbers: written for one head of one example, vmapped once.

A metric is a function `(pattern_TS, example) -> (value, counts)`. `value` is a mean over the queries that
count; `counts` says whether there are any, and where there are none the value is 0, never NaN. Only real
queries and real keys count. Positions are those of the model, counted over real tokens: "the previous token"
is the previous real one, also where padding lies between, and left padding equals no padding.

A metric says what it `needs` of the positions, and is not asked of a stack that lacks it: in cross-attention queries
and keys are different sequences, patches of an image have places but no order, and only tokens have ids.

Every example weighs the same in a table's mean, however long it is (as in Clark et al. 2019; Vig & Belinkov
2019 sum over the corpus, where long sentences weigh more).
"""

from .classes import CLASSES
from .detector import head_detector
from .example import Example, examples_of
from .metric import Metric, Scored, attention_to, evaluate, fits
from .positions import OFFSETS
from .registry import METRICS, VARIANTS, register, resolve
from .tokens import marked_share, retrieval, token_class

__all__ = [
    "CLASSES",
    "METRICS",
    "OFFSETS",
    "VARIANTS",
    "Example",
    "Metric",
    "Scored",
    "attention_to",
    "evaluate",
    "examples_of",
    "fits",
    "head_detector",
    "marked_share",
    "register",
    "resolve",
    "retrieval",
    "token_class",
]
