"""Heads of an image–text model in words: TextSpan (Gandelsman et al. 2023, algorithm 1).

Dimension key: I images, D dimensions of the shared space, M texts, C chosen texts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class TextSpan(NamedTuple):
    """What a head says, text by text.

    Attributes:
        chosen: indices into the texts, in the order of how much they explain, `[C]`.
        deviation: the standard deviation of the data along each, when it was chosen, `[C]`.
        explained: share of the data's variance that the texts so far explain, from 0 to 1, `[C]`.
        reconstructed: the mean plus what lies along the chosen texts, `[I,D]`.
    """

    chosen: NDArray[np.int64]
    deviation: Floats
    explained: Floats
    reconstructed: Floats


def text_span(outputs: ArrayLike, texts: ArrayLike, count: int, *, rank: int | None = 80) -> TextSpan:
    """Choose the texts along which a head's outputs vary most, one after the other.

    Outputs are centred; texts are projected on the span of their first `rank` right singular vectors (the authors'
    code; the paper projects on the head's own span). Each time the text with the largest standard deviation of the
    outputs along it is taken (the norm of a text counts, as in the code), and removed from outputs and texts alike.

    Args:
        outputs: what a head writes for each image into the space of texts, `[I,D]`: z at CLS through W_O, the last
            norm's scale and the projection.
        texts: embeddings of descriptions, `[M,D]`.
        count: how many to choose; fewer come back where nothing is left.
        rank: None leaves texts as they are.

    Raises:
        ValueError: for shapes that do not fit, fewer than two images, no text, or numbers that are not finite.
    """
    data, pool = np.array(outputs, np.float64), np.array(texts, np.float64)
    fits = data.ndim == pool.ndim == 2 and data.shape[1] == pool.shape[1] and len(data) > 1 and len(pool) > 0
    if not fits or count < 1 or not (np.isfinite(data).all() and np.isfinite(pool).all()):
        raise ValueError(
            f"expected finite outputs [images, D] of two images or more and texts [M, D], and to choose at least one; "
            f"got {list(data.shape)}, {list(pool.shape)} and {count}"
        )
    mean = data.mean(axis=0)
    data -= mean
    whole, kept = data.copy(), np.zeros_like(data)
    if rank is not None:
        axes = np.linalg.svd(data, full_matrices=False)[2][:rank]
        pool = pool @ axes.T @ axes
    floor = 1e-9 * max(float(np.linalg.norm(pool, axis=1).max()), 1e-30)
    found: list[tuple[int, float, float]] = []
    for _ in range(count):
        spread = (data @ pool.T).std(axis=0)
        best = int(spread.argmax())
        length = float(np.linalg.norm(pool[best]))
        if length <= floor or spread[best] <= 1e-12 * max(1.0, np.abs(whole).max()):
            break
        axis = pool[best] / length
        along = np.outer(data @ axis, axis)
        kept, data = kept + along, data - along
        pool -= np.outer(pool @ axis, axis)
        explained = 1 - (data**2).sum() / (whole**2).sum()
        found.append((best, float(spread[best]), float(explained)))
    chosen, deviation, explained = (np.array([one[part] for one in found]) for part in range(3))
    return TextSpan(chosen.astype(np.int64), deviation.astype(float), explained.astype(float), mean + kept)
