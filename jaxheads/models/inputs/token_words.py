"""The word of a sentence that each token of its text belongs to."""

from collections.abc import Sequence

import numpy as np

from .sentences import Sentence


def words_of_tokens(sentence: Sentence, spans: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int]:
    """Return the index of the word that each token belongs to, -1 for special tokens.

    A token that covers parts of two words ("don" of "do" and "n't") belongs to the one that it has more characters of,
    the first of equals; one of spaces alone to the word that follows it. So a word may be left without a token: no
    number is taken of it.

    Args:
        spans: the characters of `sentence.text` that each token covers, first and beyond the last.
        special: 1 for special tokens, which cover nothing.
    """
    word_of_character = np.full(len(sentence.text) + 1, -1)
    start = 0
    for index, word in enumerate(sentence.words):
        word_of_character[start : start + len(word)] = index
        start += len(word) + (sentence.spaces is None or sentence.spaces[index])
    words = []
    for (first, last), is_special in zip(spans, special, strict=True):
        covered = word_of_character[first:last]
        covered = covered[covered >= 0]
        if is_special:
            words.append(-1)
        elif covered.size:
            numbers, counts = np.unique(covered, return_counts=True)
            words.append(int(numbers[counts.argmax()]))
        else:
            following = word_of_character[last:]
            words.append(int(following[following >= 0][0]) if (following >= 0).any() else len(sentence.words) - 1)
    return words
