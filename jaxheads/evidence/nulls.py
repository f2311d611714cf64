"""Nulls made of data: labels that are right for no token. `random_weights` makes those of models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import at_least, checked
from ..checks import one_of
from ..models.inputs.batch import Batch
from ..models.inputs.sentences import Sentences

SHUFFLES = 200
"""Most draws of one shuffle of pairs; the one that leaves the fewest pairs as they were is taken."""


@checked(first=at_least(0))
def shuffled_marks(batch: Batch, seed: int, *, first: int = 0) -> Batch:
    """Return the same examples with their marks shuffled among the real positions of each example.

    This is the null of attention to a class of tokens, and of alignment with a relation: labels that carry no
    information. Of marks of tokens each example keeps as many of each value; of marks of pairs each query keeps as
    many, because the keys of an example are permuted together. Positions are those of tokens, or of targets where there
    are no tokens.

    Args:
        first: the number of the batch's first example in its stream: each example draws by the seed and its own number.

    Raises:
        ValueError: for a batch without marks, or marks that are not of its tokens' (or targets') length.
    """
    if not batch.marks:
        raise ValueError("the batch has no marks to shuffle: Batch(…, marks={…})")
    real_BS = np.asarray(batch.mask if batch.tokens is not None else batch.target_mask)
    order_BS = np.tile(np.arange(real_BS.shape[1]), (len(real_BS), 1))
    for number, (order, real) in enumerate(zip(order_BS, real_BS, strict=True), first):
        order[real] = np.random.default_rng((seed, number)).permutation(order[real])
    shuffled = {}
    for name, mark in batch.marks.items():
        if mark.shape[-1] != real_BS.shape[1]:
            raise ValueError(f"the mark {name!r} has {mark.shape[-1]} keys, the batch {real_BS.shape[1]} positions")
        index = order_BS if mark.ndim == 2 else order_BS[:, None, :]
        shuffled[name] = np.take_along_axis(np.asarray(mark), index, axis=-1)
    return batch.marked(shuffled)


@checked()
def shuffled_links(sentences: Sentences, seed: int, links: str = "deprel") -> Sentences:
    """Return the sentences with another's links each, of a sentence with as many words: the null of `jh.relations`.

    Lengths of dependencies, their directions and the words' places stay; which word depends on which is no longer so.
    Trees go around within each length, so that none stays where it was. Labels of words stay, too. A sentence whose
    length no other has is left out.

    Args:
        links: the name of the links.

    Raises:
        ValueError: for links that no sentence has, or without two sentences of one length.
    """
    one_of("links", links, dict.fromkeys(name for one in sentences for name in one.links))
    lengths: dict[int, list[int]] = {}
    for index, one in enumerate(sentences):
        if links in one.links:
            lengths.setdefault(len(one.words), []).append(index)
    rng, donors = np.random.default_rng(seed), {}
    for _, alike in sorted(lengths.items()):
        order = rng.permutation(alike).tolist()
        if len(order) > 1:
            donors |= dict(zip(order, [*order[1:], order[0]], strict=True))
    if not donors:
        raise ValueError("there are no two sentences of one length, whose links could change places: give more")
    made = [
        replace(sentences[own], links={**sentences[own].links, links: sentences[donors[own]].links[links]})
        for own in sorted(donors)
    ]
    return Sentences(tuple(made), sentences.files, sentences.label_names)


@checked()
def shuffled_pairs(pairs: ArrayLike | Sequence[tuple[str, str]], seed: int) -> np.ndarray:
    """Return pairs whose targets have changed places, so that no source has one of its own: the null of `token_maps`.

    A head that raises the same tokens whatever it attends to scores on it as on the real pairs.

    Args:
        pairs: sources and targets, `[P,2]`, token ids or strings.

    Raises:
        ValueError: for another shape, or where a source's own targets are more than half of all.
    """
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < 2:
        raise ValueError(f"pairs must be sources and targets, [P,2] of two pairs or more; got {list(array.shape)}")
    # Sources side by side, each source's targets in random order: a turn by the most frequent source's count moves
    # every target to another source. Targets that two sources share may still come back: those draw again.
    own = {tuple(row) for row in array.tolist()}
    rng = np.random.default_rng(seed)
    sources, number, counts = np.unique(array[:, 0], return_inverse=True, return_counts=True)
    if 2 * counts.max() > len(array):
        raise ValueError(
            f"pairs: {counts.max()} of {len(array)} have the source {sources[counts.argmax()]}, and no other's targets "
            "are as many: give more pairs of other sources"
        )
    best, fewest = array, len(array) + 1
    for _ in range(SHUFFLES):
        order = np.lexsort((rng.random(len(array)), rng.permutation(len(sources))[number]))
        shuffled = array.copy()
        shuffled[order, 1] = np.roll(array[order, 1], counts.max())
        kept = sum(tuple(row) in own for row in shuffled.tolist())
        if kept < fewest:
            best, fewest = shuffled, kept
        if not kept:
            break
    return best
