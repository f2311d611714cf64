"""Dependency trees that a head's attention makes, beside trees that need no model.

Dimension key: B sentences of a batch, G groups of documents, K parsers, W words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd

from ...checks import one_of
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...progress import progress as show_progress
from ...provenance import provenance
from ..patterns.word_pooling import check_over
from .documents import Documents
from .gold import DIRECTIONS, OFFSETS
from .relations import share
from .trees import Method, gold_heads, heads_of
from .word_patterns import read_patterns

BASELINES = ("right_branching", "left_branching", "offset")
"""Parsers without a model: every head is the next word; the word before; the word at the best fixed offset."""


@dataclass(frozen=True, eq=False)
class Parse:
    """Trees of sentences, and how many of their words have their gold head.

    Attributes:
        uas: the unlabelled attachment score, from 0 to 1: the share of words with the right head. The gold root is
            given and does not count.
        uas_low, uas_high: its interval, over documents.
        words: the number of words that count.
        frame: by parser, `uas uas_low uas_high uas_n`, and `gain gain_low gain_high`, by how much `model` is above it;
            the first row is `model`, the others are `right_branching`, `left_branching` and `offset`.
        heads: by index of the sentence, the head that each word was given; -1 for the root, and for none. Sentences
            that were left out have none here.
        provenance: plain JSON values.
        weights: of `parsing_probe`, its weights of each head, `[2,L,N]`; else None.
    """

    uas: float
    uas_low: float
    uas_high: float
    words: int
    frame: pd.DataFrame
    heads: dict[int, np.ndarray]
    provenance: dict[str, Any]
    weights: np.ndarray | None = None


@shares_options()
def parse(
    model: Model,
    sentences: Sentences,
    head: tuple[int, int],
    method: Method = "max",
    *,
    direction: Literal["to_head", "to_dependent"] = "to_head",
    half: Literal[0, 1] | None = None,
    **options: Unpack[Options],
) -> Parse:
    """Parse sentences by the attention of one head between their words (Raganato & Tiedemann 2018; Htut et al. 2019).

    The root is the gold one, and all other words count. Attention to the word itself and to special tokens is out.
    A causal model's head gives a word no head that comes later; these words count as all others.

    Args:
        head: layer and head.
        method: "max" gives each word the head that it looks at most; "mst" makes the tree of the largest sum of
            attention (Chu–Liu–Edmonds, by networkx).
        direction: "to_head": a word's head is what it looks at; "to_dependent": what looks at it.
        half: parse the sentences of one half of the documents alone, as in `relations`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a head that there is not, a sentence without a tree or with several roots, fewer than 4
            documents, or a stack whose positions are not tokens.
        MissingExtraError: without networkx, for "mst".
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    check_over("words", stack, model.name)
    one_of("method", method, get_args(Method))
    one_of("direction", direction, DIRECTIONS)
    layer, number = head
    if not (0 <= layer < stack.layers and 0 <= number < stack.heads):
        raise ValueError(f"head must be (layer, head) within {stack.layers} × {stack.heads}, got {head}")
    documents = Documents.of(sentences, options.get("seed", 0))
    gold = [gold_heads(one) for one in sentences]
    own = range(len(sentences)) if half is None else np.flatnonzero(documents.half_E == half).tolist()
    batches, parsed = SentenceBatches(model, sentences.take(own)), {}
    with show_progress(len(batches.kept), f"parsing by head {layer}.{number}", resources.progress) as advance:
        for indices, batch in batches:

            def add(examples: np.ndarray, pattern_BWW: np.ndarray, indices: np.ndarray = indices) -> None:
                for index, pattern_WW in zip(indices[examples].tolist(), pattern_BWW, strict=True):
                    sentence, W = own[index], len(gold[own[index]])
                    scores_WW = pattern_WW[:W, :W] if direction == "to_head" else pattern_WW[:W, :W].T
                    parsed[sentence] = heads_of(scores_WW, int(gold[sentence].argmin()), method)
                advance(len(examples))

            read_patterns(resources, model, stack, batch, (layer, number), add, int(indices[0]))
    about = provenance(
        model,
        stack=stack.name,
        head=[layer, number],
        method=method,
        direction=direction,
        half=half,
        sentences=len(parsed),
        left_out_as_too_long=len(batches.left_out),
        files=dict(sentences.files),
        level=options.get("level", 0.95),
        seed=options.get("seed", 0),
    )
    return scored(parsed, gold, documents, options.get("level", 0.95), about)


def scored(
    parsed: dict[int, np.ndarray],
    gold: Sequence[np.ndarray],
    documents: Documents,
    level: float,
    about: dict[str, Any],
) -> Parse:
    """Return the scores of trees beside those of parsers without a model; each offset is chosen by the other half."""
    G = len(documents.half_G)
    best = [
        _best_offset([gold[index] for index in np.flatnonzero(documents.half_E != half).tolist()]) for half in (0, 1)
    ]
    hits_G1K, count_G = np.zeros((G, 1, 1 + len(BASELINES))), np.zeros(G)
    for index, heads_W in parsed.items():
        right_W, group = gold[index], documents.group_E[index]
        place_W, counted_W = np.arange(len(right_W)), right_W >= 0
        offset = best[documents.half_G[group]]
        guesses = (heads_W, place_W + 1, place_W - 1, place_W + offset)
        hits_G1K[group, 0] += [(guess_W == right_W)[counted_W].sum() for guess_W in guesses]
        count_G[group] += counted_W.sum()
    if not count_G.any():
        raise ValueError("no sentence has a word beside its root: there is nothing to parse")
    scores = share(hits_G1K, count_G, level, (0.0, 1.0))
    gains = share(hits_G1K[:, :, :1] - hits_G1K, count_G, level, (-1.0, 1.0))
    columns = {
        f"{name}{end}": np.asarray(getattr(column, field))[0]
        for name, column in (("uas", scores), ("gain", gains))
        for end, field in (("", "mean"), ("_low", "low"), ("_high", "high"), ("_n", "n"))
    }
    frame = pd.DataFrame(columns, index=pd.Index(["model", *BASELINES], name="parser")).drop(columns="gain_n")
    uas, low, high = frame.loc["model", ["uas", "uas_low", "uas_high"]].astype(float)
    about = {**about, "offsets": {"half 0": best[0], "half 1": best[1]}}
    return Parse(uas, low, high, int(count_G.sum()), frame, parsed, about)


def _best_offset(gold: Sequence[np.ndarray]) -> int:
    """Return the offset from a word to its head that is most frequent."""
    offsets = np.concatenate([np.flatnonzero(own >= 0) * -1 + own[own >= 0] for own in gold])
    return max(OFFSETS, key=lambda offset: int((offsets == offset).sum()))
