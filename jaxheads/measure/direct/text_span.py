"""Descriptions of an image–text model's heads in words: TextSpan (Gandelsman et al. 2023, algorithm 1).

Dimension key: I images, D dimensions of the shared space, M texts, C chosen texts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arguments import at_least, checked

Floats = NDArray[np.float64]


class TextSpan(NamedTuple):
    """Texts that describe a head, most explanatory first.

    Attributes:
        chosen: indices into the texts, in the order of choice, `[C]`.
        deviation: the standard deviation of the data along each text when it was chosen, `[C]`.
        explained: share of the data's variance that the texts up to this one explain, from 0 to 1, `[C]`.
        reconstructed: the mean plus the data's projection on the chosen texts, `[I,D]`.
    """

    chosen: NDArray[np.int64]
    deviation: Floats
    explained: Floats
    reconstructed: Floats


@checked(count=at_least(1), rank=at_least(1))
def text_span(outputs: ArrayLike, texts: ArrayLike, count: int, *, rank: int | None = 80) -> TextSpan:
    """Choose greedily the texts along which a head's outputs vary most.

    Outputs are centred; texts are projected on the span of the outputs' first `rank` right singular vectors (the
    authors' code; the paper projects on the head's own span). Each step chooses the text with the largest standard
    deviation of the outputs along it (the norm of a text counts, as in the code), and removes its direction from
    outputs and texts.

    Args:
        outputs: the head's output for each image in the space of texts, `[I,D]`: z at CLS through W_O, the last
            norm's scale and the projection.
        texts: embeddings of descriptions, `[M,D]`.
        count: how many to choose; fewer are returned once no variance is left.
        rank: number of singular vectors; None leaves texts as they are.

    Raises:
        ValueError: for shapes that do not fit, fewer than two images, no text, or numbers that are not finite.
    """
    rest, pool = np.array(outputs, np.float64), np.array(texts, np.float64)
    fits = rest.ndim == pool.ndim == 2 and rest.shape[1] == pool.shape[1] and len(rest) > 1 and len(pool) > 0
    if not fits or not (np.isfinite(rest).all() and np.isfinite(pool).all()):
        raise ValueError(
            "outputs must be finite numbers [images, D] of two images or more, and texts [M, D]; "
            f"got {list(rest.shape)} and {list(pool.shape)}"
        )
    mean = rest.mean(axis=0)
    rest -= mean
    centred, projection = rest.copy(), np.zeros_like(rest)
    if rank is not None:
        axes = np.linalg.svd(rest, full_matrices=False)[2][:rank]
        pool = pool @ axes.T @ axes
    # a text that is shorter has been projected out: its direction is rounding
    shortest = 1e-9 * max(float(np.linalg.norm(pool, axis=1).max()), 1e-30)
    chosen: list[int] = []
    deviation: list[float] = []
    explained: list[float] = []
    for _ in range(count):
        spread = (rest @ pool.T).std(axis=0)
        best = int(spread.argmax())
        length = float(np.linalg.norm(pool[best]))
        if length <= shortest or spread[best] <= 1e-12 * max(1.0, np.abs(centred).max()):
            break
        axis = pool[best] / length
        along = np.outer(rest @ axis, axis)
        projection, rest = projection + along, rest - along
        pool -= np.outer(pool @ axis, axis)
        chosen.append(best)
        deviation.append(float(spread[best]))
        explained.append(float(1 - (rest**2).sum() / (centred**2).sum()))
    return TextSpan(np.array(chosen, np.int64), np.array(deviation), np.array(explained), mean + projection)
