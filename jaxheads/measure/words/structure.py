"""What heads look at between the words of sentences: parts of speech, dependencies, distances, offsets, rare words.

Dimension key: B sentences, T tokens (words, in a pattern between words), S key words, W words, O offsets, M metrics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...checks import one_of
from ...execution.resources import Options, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...extras import extra
from ...models.inputs.batch import Batch
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...tables import HeadTable
from ..patterns.example import Example
from ..patterns.metric import ByRows, Metric, Quotient, mean_sums
from ..patterns.positions import OFFSETS
from ..patterns.scoring import measure
from ..patterns.word_pooling import Words, check_over

WORD, LINKED, RAREST = "word", "linked", "rarest"
"""Marks: of what is a word and not a special token, of pairs that the tree joins, of a sentence's rarest word."""

FREQUENT = 500
"""Sentences whose rarest word is among this number of frequent ones do not count (Voita et al. 2019, section 5.3)."""


def _pairs(example: Example) -> Array:
    """Return the pairs of words that count, bool `[T,S]`: the first position is out, as in Vig & Belinkov (2019)."""
    keys_S = example.raw_mark(WORD).astype(bool) & (example.key_positions > 0)
    return example.pairs & example.query_mark(WORD)[:, None] & keys_S[None, :]


def _share(pattern_TS: Array, example: Example, mark: str) -> Quotient:
    """Return Σ A · mark and Σ A over pairs of words."""
    A_TS = jnp.where(_pairs(example), pattern_TS, 0.0)
    return (A_TS * example.mark(mark)).sum(), A_TS.sum()


def _distance(pattern_TS: Array, example: Example) -> Quotient:
    """Return Σ A |i − j| and Σ A over pairs of words."""
    A_TS = jnp.where(_pairs(example), pattern_TS, 0.0)
    return (A_TS * example.distances).sum(), A_TS.sum()


def _choice(pattern_TS: Array, example: Example) -> tuple[Array, Array]:
    """Return the word that each word looks at most, itself left out, and whether there is one to look at."""
    others_TS = example.pairs & example.query_mark(WORD)[:, None] & example.raw_mark(WORD).astype(bool)[None, :]
    others_TS &= example.offsets != 0
    choice_T = jnp.where(others_TS, pattern_TS, -1.0).argmax(axis=1)
    return choice_T, others_TS.any(axis=1)


def _at_offset(pattern_TS: Array, example: Example, offsets: tuple[int, ...]) -> Quotient:
    """Return for each offset how many words look there most, and how many have a word there, `[O]` each."""
    choice_T, counts_T = _choice(pattern_TS, example)
    offset_T = example.key_positions[choice_T] - example.positions
    words_S = example.raw_mark(WORD).astype(bool) & example.keys
    first = jnp.where(words_S, example.key_positions, len(words_S)).min()
    last = jnp.where(words_S, example.key_positions, -1).max()
    offsets_O1 = jnp.asarray(offsets, jnp.int32)[:, None]
    key_OT = example.positions[None, :] + offsets_O1
    exists_OT = counts_T[None, :] & (key_OT >= first) & (key_OT <= last)
    return jax.vmap(mean_sums)((offset_T[None, :] == offsets_O1).astype(jnp.float32), exists_OT)


def _at_rarest(pattern_TS: Array, example: Example) -> Quotient:
    """Return how many words look most at the rarest word, and how many could; that word itself is none of them."""
    choice_T, counts_T = _choice(pattern_TS, example)
    rarest_S = example.raw_mark(RAREST).astype(bool)
    counts_T &= rarest_S.any() & ~example.query_mark(RAREST)
    return mean_sums(rarest_S[choice_T].astype(jnp.float32), counts_T)


@shares_options(without=("clusters",))
def structure(
    model: Model,
    sentences: Sentences,
    *,
    tags: str = "upos",
    language: str | None = None,
    **options: Unpack[Options],
) -> HeadTable:
    """Measure what each head looks at between words: parts of speech, dependencies, distance, offsets, rare words.

    Patterns between words are made within the forward pass, and none is kept. Special tokens neither give nor receive;
    attention to the first position is left out, where idle heads rest (Vig & Belinkov 2019, section 4).

    Args:
        tags: the name of the labels of words whose shares are measured.
        language: of the words, as the package `wordfreq` names it ("en"); for `rare_word`, which is left out without.
        options: shared by all questions: stack, level, seed, memory, devices, progress, resume.

    Returns:
        For each tag `<tag>_share`, the share of attention to words with it, Σ A · tag / Σ A (section 4.2);
        `dependency_alignment`, the share of attention between words that the tree joins, in either direction (DepAl,
        section 4.3); `distance`, the mean distance in words. `positional_share` is the share of words whose largest
        weight, among the other words, is at the best fixed offset, `positional_offset` (Voita et al. 2019, section
        5.1: a head is positional from 0.9 up). `rare_word` is the share of words that look most at the sentence's
        rarest word, of sentences whose rarest word is not among the 500 most frequent ones (section 5.3). Each column
        but `positional_share` has its value of even attention to all visible words beside it, as `_base`.
        Every sentence weighs the same. Rows of `.per_example` are the sentences that fit the context, in their order.

    Raises:
        ValueError: for sentences without these tags, or a stack whose positions are not tokens.
        MissingExtraError: with a language, without the package `wordfreq`.
    """
    stack = model.stack(options.get("stack"))
    check_over("words", stack, model.name)
    one_of("tags", tags, list(dict.fromkeys(name for one in sentences for name in one.labels)))
    marked = _Marked(SentenceBatches(model, sentences), tags, sentences.names(tags), language, causal=stack.causal)
    trees = any("deprel" in one.links for one in sentences)
    table = measure(model, marked, _metrics(marked.names, trees, language is not None), over="words", **options)
    order = np.concatenate(marked.order)
    frame = table.frame.assign(**{f"{name}_base": np.nanmean(rows) for name, rows in marked.bases.items()})
    about = {
        "tags": tags,
        "language": language,
        "files": dict(sentences.files),
        "left_out_as_too_long": len(marked.batches.left_out),
    }
    fields: dict[str, Any] = {"name": "structure", "frame": frame, "provenance": {**table.provenance, **about}}
    if table.per_example is not None:
        fields["per_example"] = table.per_example[:, np.argsort(order)]
        fields["clusters"] = None if table.clusters is None else table.clusters[np.argsort(order)]
    return replace(table, **fields)


def _metrics(tags: tuple[str, ...], trees: bool, rare: bool) -> list[Metric]:
    share, one = (0.0, 1.0), (WORD,)
    metrics = [
        Metric(f"{tag}_share", ByRows(_share), (("mark", _mark(tag)),), marks=(WORD, _mark(tag)), range=share)
        for tag in tags
    ]
    if trees:
        linked = (("mark", LINKED),)
        metrics.append(Metric("dependency_alignment", ByRows(_share), linked, marks=(WORD, LINKED), range=share))
    metrics.append(Metric("distance", ByRows(_distance), needs="places", marks=one, range=(0.0, np.inf), unit="words"))
    metrics.append(
        Metric(
            "positional_share",
            ByRows(_at_offset),
            (("offsets", tuple(offset for offset in OFFSETS if offset)),),
            tuple(offset for offset in OFFSETS if offset),
            "positional_offset",
            "order",
            marks=one,
            range=share,
        )
    )
    return [*metrics, Metric("rare_word", ByRows(_at_rarest), marks=(WORD, RAREST), range=share)] if rare else metrics


def _mark(tag: str) -> str:
    return f"tag {tag}"


@dataclass(eq=False)
class _Marked:
    """Batches of sentences with the marks that the metrics read; what even attention has is noted as they come.

    Attributes:
        order: indices of the sentences, by batch.
        bases: by column, the value of even attention for each sentence.
    """

    batches: SentenceBatches
    tags: str
    names: tuple[str, ...]
    language: str | None
    causal: bool
    order: list[np.ndarray] = field(default_factory=list)
    bases: dict[str, list[float]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Batch]:
        for indices, batch in self.batches:
            marked = batch.marked(self._marks(batch, indices))
            self.order.append(indices)
            self._note_bases(Words.of(marked).batch(marked))
            yield marked

    def _marks(self, batch: Batch, indices: np.ndarray) -> dict[str, np.ndarray]:
        labels, words_BT = batch.labels, np.asarray(batch.words)
        assert labels is not None, "sentences are encoded with their labels"
        is_word_BT, at_BT = words_BT >= 0, np.maximum(words_BT, 0)
        marks: dict[str, np.ndarray] = {WORD: is_word_BT}
        tag_BT = np.full(words_BT.shape, -1)
        if self.tags in labels:
            tag_BT = np.where(is_word_BT, np.take_along_axis(np.asarray(labels[self.tags]), at_BT, axis=1), -1)
        marks |= {_mark(tag): tag_BT == number for number, tag in enumerate(self.names)}
        # A word that shares all its pieces with another has none, and still a place in the tree.
        W = max(len(self.batches.sentences[index].words) for index in indices.tolist())
        linked_BWW = np.zeros((len(batch), W, W), bool)
        for example, links in enumerate(np.asarray(labels["deprel"]) if "deprel" in labels else ()):
            low, high = links[links[:, 1] >= 0, :2].T
            linked_BWW[example, low, high] = linked_BWW[example, high, low] = True
        rows = np.arange(len(batch))[:, None, None]
        both_BTT = is_word_BT[:, :, None] & is_word_BT[:, None, :]
        marks[LINKED] = linked_BWW[rows, at_BT[:, :, None], at_BT[:, None, :]] & both_BTT
        if self.language is not None:
            rarest = [_rarest(self.batches.sentences[index].words, self.language) for index in indices.tolist()]
            marks[RAREST] = np.array([np.isin(words_T, own) for words_T, own in zip(words_BT, rarest, strict=True)])
        return marks

    def _note_bases(self, batch: Batch) -> None:
        """Note the value of even attention over the visible words, for each sentence of a batch over words."""
        marks = {name: np.asarray(mark).astype(bool) for name, mark in (batch.marks or {}).items()}
        index_S = np.arange(batch.tokens.shape[1])
        distance_SS = np.abs(index_S[:, None] - index_S)
        for example, mask_S in enumerate(np.asarray(batch.mask)):
            words_S = marks[WORD][example] & mask_S
            visible_SS = index_S[:, None] >= index_S if self.causal else np.ones(distance_SS.shape, bool)
            even_SS = (words_S[:, None] & visible_SS).astype(float) / np.maximum(visible_SS @ mask_S, 1)[:, None]
            A_SS = even_SS * (words_S & (np.cumsum(mask_S) > 1))
            values = {f"{tag}_share": (A_SS * marks[_mark(tag)][example]).sum() for tag in self.names}
            values |= {"dependency_alignment": (A_SS * marks[LINKED][example]).sum()}
            values |= {"distance": (A_SS * distance_SS).sum()}
            if total := A_SS.sum():
                self._note({name: value / total for name, value in values.items()})
            if RAREST in marks:
                rarest_S = marks[RAREST][example]
                others_SS = words_S[:, None] & words_S & visible_SS & (distance_SS > 0)
                counts_S = others_SS.any(axis=1) & ~rarest_S & rarest_S.any()
                if counts_S.any():
                    shares_S = (others_SS & rarest_S).sum(axis=1) / np.maximum(others_SS.sum(axis=1), 1)
                    self._note({"rare_word": shares_S[counts_S].mean()})

    def _note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.bases.setdefault(name, []).append(float(value))


def _rarest(words: tuple[str, ...], language: str) -> list[int]:
    """Return the indices of a sentence's rarest word (all of equals); none where it is a frequent one."""
    frequencies = {
        index: _frequency(word.lower(), language) for index, word in enumerate(words) if any(map(str.isalpha, word))
    }
    least = min(frequencies.values(), default=1.0)
    return [index for index, frequency in frequencies.items() if frequency == least < _frequent(language)]


@cache
def _frequency(word: str, language: str) -> float:
    return extra("wordfreq", "rare_word").word_frequency(word, language)


@cache
def _frequent(language: str) -> float:
    """Return the frequency of the least frequent of the words that are called frequent."""
    wordfreq = extra("wordfreq", "rare_word")
    return wordfreq.word_frequency(wordfreq.top_n_list(language, FREQUENT)[-1], language)
