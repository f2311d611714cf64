"""Conversion between the two orders in which rotary positions pair a head's dimensions."""

import numpy as np


def halves_from_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows of a q or k projection from pairs (2i, 2i+1) to Hugging Face's pairs (i, i + H/2).

    `weight` is [heads·H, …]: a matrix [out, in] or a bias. Undoes the `permute` of llama.cpp's converter.
    """
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
