"""What `experiments.genres` reads of the heads, as sums by document: shares of relations, scores of patterns, effects.

Dimension key: G documents, E sentences, L layers, N heads, R draws.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

import jaxheads as jh
from jaxheads.data import Sentence, Sentences
from jaxheads.statistics import Interval, mean_interval, rank_correlation

OFFSETS = tuple(offset for offset in range(-16, 17) if offset)
"""Fixed distances in words that a head's share is compared with, as in `jh.relations`."""


@dataclass(frozen=True)
class Sums:
    """Sums by document of what heads are read by, and how many words or sentences each is a sum of.

    Attributes:
        sums: `[G,…]`.
        counts: `[G,…]`, or `[G]` where all heads have as many.
    """

    sums: np.ndarray
    counts: np.ndarray

    def mean(self, documents: np.ndarray) -> np.ndarray:
        """Return the mean over all that some documents hold, `[…]`; NaN where they hold nothing."""
        count = self.counts[documents].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[documents].sum(axis=0) / _wide(count, self.sums.ndim - 1)

    def rows(self, documents: np.ndarray) -> np.ndarray:
        """Return one row a document, whose mean is the ratio of the sums and whose spread is that of a ratio.

        Linearised: Cochran 1977, section 6.3.
        """
        ratio, counts = self.mean(documents), _wide(self.counts[documents], self.sums.ndim)
        return ratio + (self.sums[documents] - ratio * counts) / counts.mean(axis=0)

    def head(self, layer: int, head: int) -> "Sums":
        """Return the sums of one head, `[G]`."""
        counts = self.counts if self.counts.ndim == 1 else self.counts[:, layer, head]
        return Sums(self.sums[:, layer, head], counts)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.sums + other.sums, self.counts + other.counts)

    def __sub__(self, other: "Sums") -> "Sums":
        # Of the same words: a share less the share of an offset.
        return Sums(self.sums - other.sums, self.counts)


def _wide(counts: np.ndarray, axes: int) -> np.ndarray:
    return np.reshape(counts, (*np.shape(counts), *(1,) * (axes - np.ndim(counts))))


def of_sentences(values: np.ndarray, documents: Sequence[str], order: Sequence[str]) -> Sums:
    """Return the sums by document of values of sentences `[E,…]`, NaN where a sentence has none."""
    place, known = {name: number for number, name in enumerate(order)}, np.isfinite(values)
    index = np.array([place[name] for name in documents])
    sums, counts = np.zeros((len(order), *values.shape[1:])), np.zeros((len(order), *values.shape[1:]))
    np.add.at(sums, index, np.where(known, values, 0))
    np.add.at(counts, index, known)
    return Sums(sums, counts)


def names_of(sentences: Sentences) -> list[str]:
    """Return the documents in the order of their first sentence."""
    return list(dict.fromkeys(str(one.document) for one in sentences))


def questions(
    one: Sentence, relation: str, direction: str, *, causal: bool, read: Collection[int] | None = None
) -> Mapping[int, set[int]]:
    """Return the words that a relation asks of (of those that are read), each with the words that are right."""
    asked: dict[int, set[int]] = {}
    for link in one.links["deprel"]:
        if (
            link.label != relation
            or link.head < 0
            or (read is not None and not {link.dependent, link.head} <= set(read))
        ):
            continue
        query, key = (link.dependent, link.head) if direction == "to head" else (link.head, link.dependent)
        if not causal or key < query:
            asked.setdefault(query, set()).add(key)
    return asked


def words_read(model: jh.Model, sentences: Sentences) -> list[set[int]]:
    """Return the words of each sentence that have a token: of two words in one piece, one has none."""
    rows = (row for batch in batches(model, sentences) for row in np.asarray(batch.words))
    return [set(row[row >= 0].tolist()) for row in rows]


def offsets(
    sentences: Sentences, relation: str, direction: str, *, causal: bool, read: Sequence[set[int]] | None = None
) -> Sums:
    """Return by document how many words each fixed offset is right for, `[G,O]`, and how many there are, `[G]`."""
    order = names_of(sentences)
    place = {name: number for number, name in enumerate(order)}
    sums, counts = np.zeros((len(order), len(OFFSETS))), np.zeros(len(order))
    for number, one in enumerate(sentences):
        document, own = place[str(one.document)], None if read is None else read[number]
        for query, keys in questions(one, relation, direction, causal=causal, read=own).items():
            counts[document] += 1
            sums[document] += [query + offset in keys for offset in OFFSETS]
    return Sums(sums, counts)


def hits(table: jh.HeadTable, name: str, counts: np.ndarray) -> Sums:
    """Return by document how many words each head is right for, of the rows of a table of `jh.relations`.

    Raises:
        ValueError: where the table counted other words.
    """
    number, words = table.metrics.index(name), int(table.grid(f"{name}_words").flat[0])
    if counts.sum() != words or table.per_example is None or len(table.per_example[number]) != len(counts):
        raise ValueError(f"{name}: the table counts {words} words, the sentences hold {counts.sum():.0f}")
    ratio, held = np.asarray(table.values[number], np.float64), counts > 0
    residual = np.nan_to_num(table.per_example[number] - ratio) * counts.sum() / held.sum()
    sums = np.where(held[:, None, None], ratio * counts[:, None, None] + residual, 0.0)
    # Hits are whole numbers: what rounding left is taken off.
    return Sums(np.round(sums), counts)


def interval(own: Sums, documents: np.ndarray, within: tuple[float, float] | None = None) -> Interval:
    """Return the mean of one head with its interval over documents."""
    rows = own.rows(documents)
    mean, low, high, n = mean_interval(rows, within=(-np.inf, np.inf))
    low, high = (low, high) if within is None else np.clip([low, high], *within)
    return Interval(mean, low, high, n)


def change(own: Sums, intact: Sums, documents: np.ndarray) -> Interval:
    """Return by how much a mean is above that of the intact text, paired by documents."""
    return mean_interval(own.rows(documents) - intact.rows(documents), within=(-np.inf, np.inf))


def rank(own: Sums, documents: np.ndarray, layer: int, head: int) -> int:
    """Return the place of a head among all, by its mean; 1 is the best."""
    mean = own.mean(documents)
    return 1 + int((mean > mean[layer, head]).sum())


def by_genre(genres: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each genre with which documents are of it."""
    for genre in dict.fromkeys(genres):
        yield genre, np.array([own == genre for own in genres])


def spread_between(own: Sums, genres: Sequence[str], seed: int, draws: int = 9999) -> dict[str, float]:
    """Return how far genres differ beyond documents: the variance's share, and p by permutation of documents.

    The share is R² of the genre in the documents' linearised rows, and `expected` its mean when documents have changed
    genres. `p` is the share of permutations with as large a share.
    """
    rows, held = own.rows(np.full(len(own.sums), True)), own.counts > 0
    rows, labels = (
        rows[held],
        np.unique([genre for genre, has in zip(genres, held, strict=True) if has], return_inverse=True)[1],
    )
    if np.ptp(rows) == 0 or len(set(labels.tolist())) < 2:
        return {"between": np.nan, "expected": np.nan, "p": np.nan}
    rng = np.random.default_rng(seed)
    orders = np.stack([labels, *(rng.permutation(labels) for _ in range(draws))])
    centred, size = rows - rows.mean(), np.bincount(labels)
    sums = np.stack([np.where(orders == genre, centred, 0).sum(axis=1) for genre in range(len(size))], axis=1)
    shares = (sums**2 / size).sum(axis=1) / (centred**2).sum()
    return {
        "between": float(shares[0]),
        "expected": float(shares[1:].mean()),
        "p": float((1 + (shares[1:] >= shares[0] - 1e-12).sum()) / (1 + draws)),
    }


def agreement(first: Sums, second: Sums, halves: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Return the rank correlation over heads of two readings, with the interval of its jackknife over documents.

    Documents that are drawn with replacement would make a reading noisier than it is, and its correlation smaller.
    """
    picks = tuple(np.flatnonzero(half) for half in halves)

    def correlation(first_G: np.ndarray, second_G: np.ndarray) -> float:
        own = rank_correlation(first.mean(first_G).reshape(-1), second.mean(second_G).reshape(-1))
        return np.nan if own is None else own

    value, spread = correlation(*picks), 0.0
    for side, own in enumerate(picks):
        left_out = [np.delete(own, place) for place in range(len(own))]
        without = np.array([correlation(*((rest, picks[1]) if side == 0 else (picks[0], rest))) for rest in left_out])
        # The two halves are independent: their variances add up.
        spread += (len(own) - 1) / len(own) * ((without - without.mean()) ** 2).sum()
    half = t.ppf(0.975, min(map(len, picks)) - 1) * np.sqrt(spread)
    low, high = np.clip([value - half, value + half], -1.0, 1.0)
    return {"agreement": value, "agreement_low": float(low), "agreement_high": float(high)}


def batches(model: jh.Model, sentences: Sentences, examples: int = 32) -> Iterator[jh.Batch]:
    """Yield batches of sentences in their order, so that changed sentences pair up with the intact ones."""
    for first in range(0, len(sentences), examples):
        yield model.encode(sentences[first : first + examples])


def moved_vectors(model: jh.Model, sentences: Sentences, reference: Sentences) -> np.ndarray:
    """Return how far the vector of each sentence turns when a head has its mean output, `[E,L,N]`: 1 − cosine.

    The vector is the mean of the last layer over a sentence's tokens; a head's mean is over the reference's tokens.
    """
    stack = model.stack()
    sums: Any = 0.0
    count = 0
    for batch in batches(model, reference):
        z_LBTNH = np.asarray(jh.run(model, batch, capture="z").seen["z"])
        mask = np.asarray(batch.mask)
        sums, count = sums + z_LBTNH[:, mask].sum(axis=1), count + mask.sum()
    mean_LNH = sums / count
    rows = []
    for batch in batches(model, sentences):
        plain = _vectors(model, batch, ())
        moved = np.zeros((len(batch), stack.layers, stack.heads))
        for layer, head in np.ndindex(stack.layers, stack.heads):
            edit = jh.replace_heads(model, [(layer, head)], mean_LNH[layer, None][None, None])
            own = _vectors(model, batch, edit)
            moved[:, layer, head] = 1 - (plain * own).sum(axis=1)
        rows.append(moved)
    return np.concatenate(rows)


def _vectors(model: jh.Model, batch: jh.Batch, edits: Any) -> np.ndarray:
    """Return the sentences' vectors, of length 1."""
    output, mask = np.asarray(jh.run(model, batch, edits=edits).output, np.float64), np.asarray(batch.mask)
    mean = (output * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
