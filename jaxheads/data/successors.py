"""Series of words with an order: what a successor head steps through (Gould et al. 2023). The lists are our own."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import checked
from .prompts import is_tokenizer, token_after_space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SERIES: dict[str, str] = {
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "months": "January February March April May June July August September October November December",
    "numbers": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "ordinals": "first second third fourth fifth sixth seventh eighth ninth tenth",
    "letters": "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "digits": " ".join(map(str, range(1, 31))),
    "Roman numerals": "II III IV V VI VII VIII IX X XI XII",
}
"""Words in their order, by series; a word of two series is in the first alone."""


@checked(tokenizer=is_tokenizer)
def successor_pairs(tokenizer: "PreTrainedTokenizerBase") -> dict[str, np.ndarray]:
    """Return pairs of a word and its successor that are one token each after a space, token ids `[P,2]` by series.

    Series with fewer than three such pairs are left out. No token is in two series.
    """
    pairs: dict[str, np.ndarray] = {}
    taken: set[int] = set()
    for name, words in SERIES.items():
        ids = [token_after_space(tokenizer, word) for word in words.split()]
        ids = [None if token in taken else token for token in ids]
        steps = [step for step in pairwise(ids) if None not in step]
        if len(steps) > 2:
            pairs[name] = np.array(steps, np.int64)
            taken |= {token for token in ids if token is not None}
    return pairs
