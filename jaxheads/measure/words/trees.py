"""Trees of words made of scores, and scores of trees.

Dimension key: W words.
"""

from typing import Literal

import numpy as np

from ...extras import extra
from ...models.inputs.sentences import Sentence

Method = Literal["max", "mst"]
"""How heads are chosen: each word's best, or the best tree."""


def gold_heads(sentence: Sentence) -> np.ndarray:
    """Return each word's head, -1 for the root.

    Raises:
        ValueError: with file and line, for a sentence without a tree, or with several roots.
    """
    where = f"{sentence.source}: " if sentence.source else ""
    if sentence.heads is None:
        raise ValueError(f"{where}the sentence has no tree (links named 'deprel'): give a treebank")
    heads = np.array(sentence.heads)
    if (heads < 0).sum() != 1:
        raise ValueError(f"{where}a tree has one root, got {int((heads < 0).sum())}: give single sentences")
    return heads


def heads_of(scores_WW: np.ndarray, root: int, method: Method) -> np.ndarray:
    """Return each word's head by the scores of its candidates, with the root given (-1: no head).

    Args:
        scores_WW: the score of each word (row) to have each other one (column) as its head.
        root: the word without a head.
        method: "max": each word's best candidate, which need not make a tree; a word whose scores are all 0 has none
            (-1). "mst": the tree of the largest sum (Chu & Liu 1965; Edmonds 1967).
    """
    scores_WW = np.array(scores_WW, np.float64)
    np.fill_diagonal(scores_WW, -np.inf)
    heads_W = scores_WW.argmax(axis=1)
    heads_W[root] = -1
    if method == "max":
        return np.where(scores_WW.max(axis=1) > 0, heads_W, -1)
    # Where the best candidates make a tree, it is the best one.
    return heads_W if _is_tree(heads_W) else _best_tree(scores_WW, root)


def _is_tree(heads_W: np.ndarray) -> bool:
    """Whether every word's chain of heads ends at the root."""
    reached_W = heads_W < 0
    for _ in range(len(heads_W)):
        reached_W = reached_W | reached_W[heads_W]
    return bool(reached_W.all())


def _best_tree(scores_WW: np.ndarray, root: int) -> np.ndarray:
    nx = extra("networkx", 'method="mst"')
    graph, words = nx.DiGraph(), range(len(scores_WW))
    graph.add_weighted_edges_from(
        (head, word, scores_WW[word, head]) for word in words for head in words if word not in (head, root)
    )
    heads_W = np.full(len(scores_WW), -1)
    for head, word in nx.maximum_spanning_arborescence(graph).edges:
        heads_W[word] = head
    return heads_W
