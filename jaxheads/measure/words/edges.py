"""Edges between the tokens of related words, for knock-outs.

Dimension key: B examples, T tokens.
"""

from typing import Literal

import numpy as np

from ...arguments import checked
from ...checks import one_of
from ...models.inputs.batch import Batch
from ..patterns.word_pooling import Words
from .gold import DIRECTIONS, Pairs, Relation


@checked()
def relation_edges(
    batch: Batch,
    relation: str | None = None,
    *,
    labels: str = "deprel",
    direction: Literal["to_head", "to_dependent"] = "to_head",
) -> np.ndarray:
    """Return the edges from words to what a gold relation joins them with, between their tokens, bool `[B,T,T]`.

        jh.knock_out(model, batch, objective, edges=jh.relation_edges(batch, "nsubj", direction="to_dependent"))

    An edge goes from every piece of the querying word (row) to every piece of the other (column).

    Args:
        batch: sentences with their labels, as `model.encode` makes it of `jaxheads.data.Sentences`.
        relation: the relation's name; all of `labels` when left out.
        labels: the name of links ("deprel", "coref"), or of words' labels, as in `relations`.
        direction: "to_head": dependents look at their heads (mentions at their antecedents); or "to_dependent".

    Raises:
        ValueError: for a batch without labels, or a relation that they do not have.
    """
    if batch.labels is None:
        raise ValueError("the batch has no labels: encode jaxheads.data.Sentences")
    one_of("labels", labels, [*batch.labels.links, *batch.labels.words])
    one_of("direction", direction, DIRECTIONS)
    names = tuple(name for name in batch.labels.names[labels] if name != "root" or labels not in batch.labels.links)
    if relation is not None:
        one_of("relation", relation, names)
    links, of_words = (labels, None) if labels in batch.labels.links else ("deprel", labels)
    if links not in batch.labels.links:
        raise ValueError(f"labels={labels!r} are of words, whose relation is that to their heads: give a treebank")
    words = Words.of(batch)
    pairs = Pairs.of(batch, words, Relation(links, of_words, names if relation is None else (relation,)), causal=False)
    edges_BTT = np.zeros((*words.of_tokens.shape, words.of_tokens.shape[1]), bool)
    number = DIRECTIONS.index(direction)
    for example, tokens_T in enumerate(words.of_tokens):
        for query, key in zip(pairs.queries[example, number], pairs.keys[example, number], strict=True):
            if query >= 0:
                edges_BTT[example] |= (tokens_T == query)[:, None] & (tokens_T == key)
    return edges_BTT
