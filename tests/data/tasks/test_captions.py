import math
from typing import Any

import jax
import numpy as np
import pytest

from jaxheads.data.tasks import Captions
from jaxheads.data.tasks.captions import ATTRIBUTES

from .laws import Host, drawn

TASK = Captions()
SHAPES = {"xxx xxx xxx": "square", ".x. xxx .x.": "plus", "x.x .x. x.x": "cross", "xxx x.x xxx": "ring"}
COLOURS = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow"}


def described(image: Any) -> list[str]:
    """What is in a picture, read off its pixels."""
    ink = image.any(axis=-1)
    [colour] = {tuple(pixel) for pixel in image[ink].astype(int).tolist()}
    corners = [(row, column) for row in range(0, 16, 4) for column in range(0, 16, 4)]
    filled = {(row, column): ink[row : row + 4, column : column + 4] for row, column in corners}
    filled = {corner: cell for corner, cell in filled.items() if cell.any()}
    shapes = set()
    for cell in filled.values():
        rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
        glyph = cell[rows[0] : rows[0] + 3, columns[0] : columns[0] + 3]
        shapes.add(SHAPES[" ".join("".join("x" if on else "." for on in row) for row in glyph)])
    [shape] = shapes
    [quarter] = {(row >= 8, column >= 8) for row, column in filled}
    position = ("lower" if quarter[0] else "upper") + ("-right" if quarter[1] else "-left")
    return [("one", "two", "three")[len(filled) - 1], COLOURS[colour], shape, position]


def captions(sample: Host) -> list[list[str]]:
    return [[TASK.words[token] for token in row] for row in sample.batch["tokens"]]


def test_every_caption_says_what_is_in_its_image():
    sample = drawn(TASK, 192)
    texts = captions(sample)
    assert len({tuple(words) for words in texts}) == 192 == math.prod(map(len, ATTRIBUTES.values()))
    for image, words, objects in zip(sample.batch["pixels"], texts, sample.marks["object"], strict=True):
        assert words == ["[bos]", *described(image), "[eos]"]
        cells = image.any(axis=-1).reshape(4, 4, 4, 4).any(axis=(1, 3)).reshape(-1)
        assert (objects == [False, *cells]).all()
    for at, name in enumerate(ATTRIBUTES, start=1):
        assert (np.flatnonzero(sample.marks[name][0]) == at).all()


def test_shapes_are_shaken():
    sample = drawn(TASK, 192)
    other = drawn(TASK, 192, seed=1)
    order = [captions(other).index(words) for words in captions(sample)]
    assert (sample.batch["pixels"] != other.batch["pixels"][order]).any(axis=(1, 2, 3)).mean() > 0.8


def test_the_controls_texts_are_others():
    sample = drawn(TASK.control(), 192)
    texts = captions(sample)
    matches = [words[1:-1] == described(image) for image, words in zip(sample.batch["pixels"], texts, strict=True)]
    # One belongs to its image by chance, on average.
    assert sum(matches) < 8
    assert len({tuple(words) for words in texts}) == 192
    assert (TASK.optimum, TASK.control().optimum) == (0, math.log(64))
    assert TASK.anchors["uniform"] == math.log(64)


def test_no_more_than_there_are():
    with pytest.raises(ValueError, match="from 1 to 192 examples, for no caption comes twice; got 193"):
        TASK.sample(jax.random.key(0), 193)
    with pytest.raises(ValueError, match="from 1 to 192 examples; got 0"):
        Captions(examples=0)
