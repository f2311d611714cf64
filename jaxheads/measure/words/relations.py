"""What each head's attention has in common with gold relations between words: heads, dependents, antecedents.

Dimension key: B examples, E sentences, G groups of documents, L layers, N heads, W words (special tokens among them),
t query words of a block, P pairs, R relations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...execution.cost import FLOAT
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.network import Network, forward
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ...statistics import mean_interval
from ...tables import Column, HeadTable
from ..example_chunks import choose_chunks, run_examples
from ..patterns.word_pooling import OverWords, Words, check_over
from .documents import Documents
from .gold import Pairs, Relation, best_offsets, column_names


@dataclass(frozen=True)
class PairReader:
    """A `RowReader` of patterns over words: for each relation and direction the hits of the arg-max, and the mass.

    Attributes:
        pairs: queries, keys and relations of the pairs, `[B,2,P]` each, as `Pairs` has them.
        words_BW: which positions are words, and not special tokens or padding.
        heads, relations: N and R.
    """

    pairs: tuple[Array, Array, Array]
    words_BW: Array
    heads: int
    relations: int

    def start(self) -> Array:
        """Return the sums of no rows, `[B,N,2,R,2]`."""
        return jnp.zeros((len(self.words_BW), self.heads, 2, self.relations, 2))

    def add(self, sums: Array, sites: Mapping[str, Array], first: Array | int) -> Array:
        """Return the sums with those of the query rows from `first` on."""
        pattern_BNtW = sites["pattern"]
        B, N, t, W = pattern_BNtW.shape
        own_tW = (first + jnp.arange(t))[:, None] == jnp.arange(W)[None]
        others_BtW = self.words_BW[:, None] & ~own_tW[None]
        # Attention to a word itself and to special tokens is out (Clark et al. 2019, section 4.2).
        others_BNtW = jnp.where(others_BtW[:, None], pattern_BNtW, 0.0)
        # A word that looks at no other word has no arg-max: nothing is right, and not the first word either.
        choice_BNt = jnp.where(others_BNtW.max(axis=-1) > 0, others_BNtW.argmax(axis=-1), -1)
        query, key, label = self.pairs
        row = query - first
        inside = (query >= 0) & (row >= 0) & (row < t)
        row, key = jnp.clip(row, 0, t - 1), jnp.maximum(key, 0)
        b, n = jnp.arange(B).reshape(B, 1, 1, 1), jnp.arange(N).reshape(1, N, 1, 1)
        row_B12P, key_B12P = row[:, None], key[:, None]
        hit = choice_BNt[b, n, row_B12P] == key_B12P
        read = jnp.stack([hit.astype(jnp.float32), pattern_BNtW[b, n, row_B12P, key_B12P]], axis=-1)
        member = jnp.where(inside[..., None], jax.nn.one_hot(label, self.relations), 0.0)[:, None]
        return sums + jnp.einsum("bndpc,bmdpr->bndrc", read, member)

    def finish(self, sums: Array) -> Array:
        """Return the sums over all rows: hits and mass, `[B,N,2,R,2]`."""
        return sums


@shares_options()
def relations(
    model: Model,
    sentences: Sentences,
    labels: str = "deprel",
    *,
    half: Literal[0, 1] | None = None,
    least: int = 20,
    **options: Unpack[Options],
) -> HeadTable:
    """Compare each head's attention between words with gold relations: one row a head, columns by relation.

    A word's arg-max among the other words (special tokens and the word itself are out) is right if it is the word's
    gold head, or one of its gold dependents (Clark et al. 2019, section 4.2; Voita et al. 2019, section 5.2). Of a
    causal model only the relations to an earlier word count. Patterns over words are made within the forward pass, and
    none is kept.

    Args:
        labels: "deprel": by relation; "coref": from a mention to its antecedents, by the mention's kind; the name of a
            label of words ("upos"): from a word with this label to its head.
        half: count the sentences of one half of the documents alone: a head that half 0 chose has its value from
            half 1. Halves are drawn by `seed`.
        least: relations with fewer words than this in a direction are left out.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        For each relation and direction ("nsubj_to_head", "nsubj_to_dependent"): the share of words whose arg-max is
        right; `_gain`, by how much it is above the best fixed offset; `_mass`, the attention to what is right; each
        with its interval, over documents. `_base` is the share of the best fixed offset, which for each half of the
        documents the other half chose; `_offset` that of all; `_words` the number of words. Shares are over words.
        `.per_example` has a row for each document (or sentence without one): values whose mean is the share and
        whose spread is that of a ratio (linearised; Cochran 1977, section 6.3), NaN without such a word. `.clusters`
        numbers these documents, in the order of their first sentence.

    Raises:
        ValueError: for labels that the sentences lack, a stack whose positions are not tokens, no relation with
            `least` words, or fewer than 4 documents.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    check_over("words", stack, model.name)
    if least < 0:
        raise ValueError(f"least must be a number of words, 0 or more, got {least}")
    relation, batches = Relation.of(sentences, labels), SentenceBatches(model, sentences)
    sums = RelationSums(Documents.of(sentences, options.get("seed", 0)))
    label = f"relations of {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(len(batches.kept), label, resources.progress) as advance:
        for indices, batch in batches:
            words = Words.of(batch)
            pairs = Pairs.of(batch, words, relation, causal=stack.causal)

            def add(
                examples: np.ndarray, read: np.ndarray, indices: np.ndarray = indices, pairs: Pairs = pairs
            ) -> None:
                sums.add(indices[examples], read, pairs.counts[examples], pairs.offsets[examples])
                advance(len(examples))

            given = (batch.model_inputs, words.of_tokens, words.numbers >= 0, pairs.queries, pairs.keys, pairs.labels)
            size = len(relation.names)

            def compute(examples: np.ndarray, given: Any = given, size: int = size) -> Array:
                taken = (given[0].take(examples), *(array[examples] for array in given[1:]))
                placed = (resources.devices.examples(part) for part in taken)
                return _program()(resources.network(model), *placed, stack=stack.name, relations=size)

            example_bytes = words.pattern_bytes(stack.heads) + 4 * FLOAT * stack.heads * pairs.queries[0].size
            run_examples(
                choose_chunks(resources, model, stack, batch, example_bytes=example_bytes),
                len(batch),
                compute,
                add,
                resources=resources,
                journal=resources.journal("relations", model, given, stack.name, relation, int(indices[0])),
                first=int(indices[0]),
            )
    details = provenance(
        model,
        stack=stack.name,
        labels=labels,
        half=half,
        sentences=len(batches.kept),
        left_out_as_too_long=len(batches.left_out),
        only_earlier_words=stack.causal,
        files=dict(sentences.files),
        level=options.get("level", 0.95),
        seed=options.get("seed", 0),
    )
    return sums.table(relation, stack.name, details, half=half, least=least, level=options.get("level", 0.95))


@cache
def _program() -> Any:
    return compiled(_read, static_argnames=("stack", "relations"))


def _read(
    network: Network,
    batch: Any,
    word_BT: Array,
    words_BW: Array,
    queries_B2P: Array,
    keys_B2P: Array,
    labels_B2P: Array,
    *,
    stack: str,
    relations: int,
) -> Array:
    """Return hits and mass, `[B,L,N,2,R,2]`."""
    heads = network.stack(stack).heads
    reader = PairReader((queries_B2P, keys_B2P, labels_B2P), words_BW, heads, relations)
    pooled = OverWords(reader, word_BT, (len(word_BT), heads, words_BW.shape[1]))
    return forward(network, batch, (), {stack: pooled})[1][stack].swapaxes(0, 1)


@dataclass
class RelationSums:
    """Sums of hits, mass and words by group of documents, in bounded memory.

    Attributes:
        documents: the groups, and their halves.
    """

    documents: Documents
    _sums: tuple[np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)

    @property
    def half_G(self) -> np.ndarray:
        """The half that each group belongs to."""
        return self.documents.half_G

    def add(self, indices: np.ndarray, read: np.ndarray, counts: np.ndarray, offsets: np.ndarray) -> None:
        """Add some sentences: their indices, hits and mass `[B,L,N,2,R,2]`, queries `[B,2,R]` and `[B,2,R,O]`."""
        parts = (read, counts, offsets)
        if self._sums is None:
            room = [np.zeros((len(self.half_G), *part.shape[1:]), np.float32) for part in parts]
            self._sums = (room[0], room[1], room[2])
        for whole, part in zip(self._sums, parts, strict=True):
            np.add.at(whole, self.documents.group_E[indices], part)

    def table(
        self,
        relation: Relation,
        stack: str,
        details: Mapping[str, Any],
        *,
        half: int | None,
        least: int,
        level: float,
    ) -> HeadTable:
        """Return the table of all that was added."""
        assert self._sums is not None, "there is a sentence"
        read, counts, offsets = self._sums
        base_G2R, offset_2R = best_offsets(offsets, self.half_G)
        own = np.full(len(self.half_G), True) if half is None else self.half_G == half
        columns: dict[str, Column] = {}
        extras: dict[str, np.ndarray] = {}
        few = []
        for name, at in column_names(relation).items():
            count_G = counts[own][:, *at]
            if count_G.sum() < max(least, 1):
                few.append(name)
                continue
            hits_GLN, mass_GLN = np.moveaxis(read[own][:, :, :, *at], -1, 0).astype(np.float64)
            base_G = base_G2R[own][:, *at]
            columns[name] = share(hits_GLN, count_G, level, (0.0, 1.0))
            columns[f"{name}_gain"] = share(hits_GLN - base_G[:, None, None], count_G, level, (-1.0, 1.0))
            columns[f"{name}_mass"] = share(mass_GLN, count_G, level, (0.0, 1.0))
            shape = hits_GLN.shape[1:]
            extras[f"{name}_base"] = np.full(shape, base_G.sum() / count_G.sum())
            extras[f"{name}_offset"] = np.full(shape, offset_2R[at])
            extras[f"{name}_words"] = np.full(shape, int(count_G.sum()))
        if not columns:
            raise ValueError(f"no relation has least={least} words in these sentences; give more, or a smaller least")
        details = {**details, "too_few_words": few, "documents": int(own.sum())}
        # Each row is a cluster by itself: documents with one such word have the same row, and are no copies.
        groups = np.flatnonzero(own)
        return HeadTable.from_columns("relations", stack, columns, details, extras=extras, clusters=groups)


def share(hits_GLN: np.ndarray, count_G: np.ndarray, level: float, within: tuple[float, float]) -> Column:
    """Return the ratio of two sums over groups with its interval, linearised; groups that count nothing are NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_LN = hits_GLN.sum(axis=0) / count_G.sum()
        counts = count_G > 0
        residual = (hits_GLN - ratio_LN * count_G[:, None, None]) * (counts.sum() / count_G.sum())
    rows = np.where(counts[:, None, None], ratio_LN + residual, np.nan)
    mean, low, high, n = mean_interval(rows, level=level)
    return Column(mean, np.clip(low, *within), np.clip(high, *within), n, rows, range=within)
