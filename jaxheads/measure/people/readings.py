"""Words that people read, a number of each from their reading, and what is known of the words anyway.

Dimension key: W words of a sentence, C controls.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...arguments import checked
from ...checks import finite, is_number, shown
from ...execution.sentence_batches import SentenceBatches
from ...extras import extra
from ...models.inputs.sentences import Sentence, Sentences
from ...models.model import Model

Words = Sentences | Sequence[Sequence[str]]
"""Sentences, or a list of words for each."""

Controls = Mapping[str, Sequence[ArrayLike]]
"""Numbers of each word of each sentence, by name."""


def sentences_of(words: Words, documents: Sequence[str] | None = None) -> Sentences:
    """Return words as sentences, with a space after each word.

    Raises:
        ValueError: for no sentence, words that are not texts, or documents that are not one for each sentence.
    """
    if not isinstance(words, Sentences):
        if isinstance(words, str) or not len(words):
            raise ValueError(f"words must be jaxheads.data.Sentences or a list of words for each, got {shown(words)}")
        sentences = []
        for number, own in enumerate(words):
            if isinstance(own, str) or not len(own) or not all(isinstance(word, str) and word.strip() for word in own):
                raise ValueError(f"words[{number}] must be a list of words that are not empty, got {shown(own)}")
            sentences.append(Sentence(tuple(own), source=f"words[{number}]"))
        words = Sentences(tuple(sentences))
    if documents is None:
        return words
    if len(documents) != len(words):
        raise ValueError(f"documents must be one for each of {len(words)} sentences, got {len(documents)}")
    named = [
        Sentence(one.words, one.spaces, one.labels, one.links, one.properties, str(document), one.source)
        for one, document in zip(words, documents, strict=True)
    ]
    return Sentences(tuple(named), words.files, words.label_names)


def numbers_of(name: str, values: Sequence[ArrayLike], sentences: Sentences) -> list[np.ndarray]:
    """Return one number for each word of each sentence, float64 `[W]`; NaN for a word without one.

    Raises:
        ValueError: for other lengths than the sentences', or infinity; the message names the sentence.
    """
    if isinstance(values, str | Mapping) or not hasattr(values, "__len__") or len(values) != len(sentences):
        count = len(values) if hasattr(values, "__len__") else "none"
        raise ValueError(f"{name} must be an array for each of {len(sentences)} sentences, got {count}")
    arrays = []
    for number, (own, sentence) in enumerate(zip(values, sentences, strict=True)):
        if isinstance(own, str) or not all(is_number(value) for value in np.ravel(np.asarray(own, object))):
            raise ValueError(f"{name}[{number}] must be numbers, got {shown(own)}")
        array = np.asarray(own, np.float64)
        if array.shape != (len(sentence.words),):
            raise ValueError(
                f"{name}[{number}] must be a number for each of its {len(sentence.words)} words "
                f"({sentence.text[:40]!r}), got shape {list(array.shape)}"
            )
        finite_part = array[~np.isnan(array)]
        for value in finite_part[np.isinf(finite_part)][:1]:
            finite(f"{name}[{number}]", float(value))
        arrays.append(array)
    return arrays


@checked()
def word_controls(words: Words, *, language: str = "en", model: Model | None = None) -> dict[str, list[np.ndarray]]:
    """Return what is known of each word without any attention: by name, an array of each sentence's words.

    Give them as `beyond` to `human` or `reading_times`, with controls of your own beside them.

    Args:
        words: sentences, as lists of words or `jaxheads.data.Sentences`.
        language: of the frequencies.
        model: adds "pieces", the number of pieces that the model's tokenizer cuts a word into: what a word receives is
            the sum of theirs.

    Returns:
        "length", in characters, with punctuation; "log_frequency", wordfreq's Zipf scale (the log to base 10 of the
        times that a word occurs in a thousand million; 0 for a word that its list lacks); "position", the word's
        index. "pieces" are NaN in sentences that are longer than the model's context.

    Raises:
        ValueError: for a language that wordfreq lacks, or a model without a fast tokenizer.
    """
    sentences = sentences_of(words)
    check_language(language)
    controls = [_known(one, language) for one in sentences]
    columns = {name: [own[name] for own in controls] for name in controls[0]}
    return columns if model is None else {**columns, "pieces": _pieces(model, sentences)}


def _known(sentence: Sentence, language: str) -> dict[str, np.ndarray]:
    wordfreq = extra("wordfreq", "The frequency of words")
    frequency = [wordfreq.zipf_frequency(word, language) for word in sentence.words]
    length = [len(word) for word in sentence.words]
    columns = {"length": length, "log_frequency": frequency, "position": np.arange(len(sentence.words))}
    return {name: np.asarray(column, np.float64) for name, column in columns.items()}


def _pieces(model: Model, sentences: Sentences) -> list[np.ndarray]:
    counts = [np.full(len(one.words), np.nan) for one in sentences]
    for indices, batch in SentenceBatches(model, sentences):
        words_BT = np.where(np.asarray(batch.mask), np.asarray(batch.words), -1)
        for index, words_T in zip(indices.tolist(), words_BT, strict=True):
            counts[index] = np.bincount(words_T[words_T >= 0], minlength=len(counts[index])).astype(np.float64)
    return counts


def controls_of(sentences: Sentences, beyond: Controls | None, language: str) -> list[dict[str, np.ndarray]]:
    """Return the controls of each sentence: the given ones, or length, log frequency and position."""
    if beyond is None:
        return [_known(one, language) for one in sentences]
    columns = {name: numbers_of(f"beyond[{name!r}]", values, sentences) for name, values in beyond.items()}
    return [{name: arrays[number] for name, arrays in columns.items()} for number in range(len(sentences))]


def check_language(language: str) -> None:
    """Raise ValueError for a language of which wordfreq has no list."""
    if language not in (known := extra("wordfreq", "The frequency of words").available_languages()):
        raise ValueError(f"language: wordfreq has lists of {', '.join(sorted(known))}; got {language!r}")
