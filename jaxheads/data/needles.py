"""Facts and a question about one of them: prompts for retrieval heads (in the manner of Wu et al. 2024).

Dimension key: `B` examples, `T` positions. The wording is our own. Everything is NumPy on the host.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import at_least, checked
from .prompts import NAMES, OBJECTS, is_tokenizer, padded_tokens, single_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACT = "{name} has a {thing} at home."
QUESTION = "The thing that belongs to {name} is the {thing}"
"""No word that stands before the answer stands before it in the fact, so that repeating what came next isn't enough."""


@dataclass(frozen=True, eq=False)
class NeedlePrompts:
    """Texts that hold several facts, and end in the answer to a question about one.

    Attributes:
        texts: B strings (without the BOS); the last word is the answer.
        tokens: int32 `[B,T]`; `mask` bool `[B,T]`. All texts have one length.
        needle: bool `[B,T]`, the answer's token within its fact.
        answer: bool `[B,T]`, the position before the last, which predicts the answer.
    """

    texts: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray
    needle: np.ndarray
    answer: np.ndarray


@checked(examples=at_least(1), facts=at_least(2), tokenizer=is_tokenizer)
def needle_prompts(
    tokenizer: "PreTrainedTokenizerBase", *, examples: int, seed: int, bos: bool, facts: int = 6
) -> NeedlePrompts:
    """Draw texts of several facts of one form, with a question and its answer: `jh.retrieval("needle", "answer")`.

    Only names and things that are one token of this tokenizer after a space are used.

    Args:
        facts: how many a text has, of which one is asked for; a head that looks at any thing is right 1 / facts times.
        bos: whether the tokenizer's BOS comes first.

    Raises:
        ValueError: for too few such words, or a tokenizer without the BOS that is asked for.
    """
    names = single_tokens(tokenizer, NAMES.split(), "names")
    things = single_tokens(tokenizer, OBJECTS.split(), "objects")
    if facts > (most := min(len(names), len(things))):
        raise ValueError(f"facts: expected at most {most}, for which there are names and things; got {facts}")
    rng = np.random.default_rng(seed)
    texts, answers = [], []
    for _ in range(examples):
        owners, owned = (rng.choice(list(words), facts, replace=False) for words in (names, things))
        asked = int(rng.integers(facts))
        stated = [FACT.format(name=name, thing=thing) for name, thing in zip(owners, owned, strict=True)]
        texts.append(" ".join(["Remember:", *stated, QUESTION.format(name=owners[asked], thing=owned[asked])]))
        answers.append(things[str(owned[asked])])
    tokens, mask = padded_tokens(tokenizer, texts, bos)
    is_answer = mask & (tokens == np.array(answers)[:, None])
    lengths = mask.sum(axis=1)
    at_end = np.arange(tokens.shape[1]) == lengths[:, None] - 1
    if (is_answer.sum(axis=1) != 2).any() or not is_answer[at_end].all():
        raise ValueError("this tokenizer joins names or things with their neighbours, so positions can't be given")
    return NeedlePrompts(tuple(texts), tokens, mask, is_answer & ~at_end, np.roll(at_end, -1, axis=1))
