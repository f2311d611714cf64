"""A tokenizer's vocabulary: the special tokens that it puts around a text, and the tokens that texts are made of."""

import re
import threading
from typing import Any

import numpy as np

_NO_TEXT = re.compile(
    r"\W{1,4}(unused|reserved|extra|placeholder|control|special|dummy|pad)\w*?\d+\W{0,4}|madeupword\d+", re.IGNORECASE
)
"""Names of tokens that hold a place for later ("[unused7]", "<|reserved_special_token_3|>", "madeupword0001")."""

_BROKEN = "\N{REPLACEMENT CHARACTER}"


TOKENIZING = threading.RLock()
"""Held while a tokenizer works: a fast one keeps the settings of its last call, which threads would change."""


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text of its own ([CLS] and [SEP] of BERT's)."""
    for text in ("a", "1", "."):
        with TOKENIZING:
            whole = list(tokenizer(text, verbose=False)["input_ids"])
            bare = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for start in range(len(whole) - len(bare) + 1) if bare else ():
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    return [], []


def ordinary_tokens(tokenizer: Any, vocabulary: int) -> np.ndarray:
    """Return the ids below `vocabulary` that texts are made of, int32, sorted; all of them without a tokenizer.

    Left out are special and added tokens, tokens that are reserved for later use, parts of a character, and ids without
    a token, with which the tables of many models are padded.
    """
    if tokenizer is None:
        return np.arange(vocabulary, dtype=np.int32)
    left_out = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    names = {token: name for name, token in tokenizer.get_vocab().items() if 0 <= token < vocabulary}
    ids = [token for token in sorted(names) if token not in left_out and not _NO_TEXT.fullmatch(names[token])]
    texts = tokenizer.batch_decode([[token] for token in ids])
    return np.array([token for token, text in zip(ids, texts, strict=True) if _BROKEN not in text], np.int32)
