"""Views of texts and of matrices: coloured tokens; numbers, or a word for each cell, over two axes.

Dimension key: T positions, R rows, C columns.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked
from .arrays import packed
from .stills import matrix_still, tokens_still
from .view import View

if TYPE_CHECKING:
    from ..plots import Picture


@checked()
def tokens(
    texts: Sequence[Sequence[str]],
    values: Sequence[ArrayLike],
    *,
    names: Sequence[str] | None = None,
    label: str = "value",
    title: str = "",
) -> View:
    """Show texts whose tokens are coloured by a number each; numbers below 0 are underlined as well.

    Args:
        texts: of each example, its tokens.
        values: of each example, a number for each token; NaN leaves the token out, as padding is.
        names: of the examples.
        label: what the numbers are.

    Raises:
        ValueError: for no text, or numbers that are not one a token.
    """
    rows = [np.asarray(own, np.float64) for own in values]
    names = [f"example {number}" for number in range(len(texts))] if names is None else names
    if not len(texts) or not len(texts) == len(rows) == len(names):
        raise ValueError(f"texts: expected one or more, with numbers and a name each, got {len(texts)}, {len(rows)}")
    for name, own, numbers in zip(names, texts, rows, strict=True):
        if numbers.shape != (len(own),):
            raise ValueError(f"values: {name} has {len(own)} tokens and numbers of shape {list(numbers.shape)}")
    payload = {
        "kind": "tokens",
        "title": title,
        "label": label,
        "rows": [
            {
                "name": name if len(texts) > 1 else "",
                "texts": [str(text) for text in own],
                "values": packed(numbers, 32),
            }
            for name, own, numbers in zip(names, texts, rows, strict=True)
        ],
    }

    def draw() -> "Picture":
        return tokens_still(texts, rows, label, title)

    return View(payload, draw, min(220 + 70 * len(texts), 700))


@checked()
def matrix(
    values: ArrayLike | Mapping[str, ArrayLike],
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    texts: Sequence[Sequence[str]] | None = None,
    axes: Sequence[str] = ("row", "column"),
    label: str = "",
    title: str = "",
) -> View:
    """Show a matrix `[R,C]`, or several by name, as pixels that pointer and arrow keys read.

    Args:
        values: numbers `[R,C]`, or such by name; NaN is left empty.
        rows, columns: their names; numbers when left out.
        texts: a word for each cell, `[R,C]`, such as the likeliest token at each layer and position.
        axes: what rows and columns are.
        label: what the numbers are; the matrix's own name when left out.

    Raises:
        ValueError: for no matrix, another number of axes, shapes that differ, or names and words of another number.
    """
    given = values if isinstance(values, Mapping) else {label or "value": values}
    grids = {name: np.asarray(own, np.float64) for name, own in given.items()}
    shapes = {own.shape for own in grids.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or 0 in shape:
        raise ValueError(f"values: expected one or more matrices of one shape, got {[list(own) for own in shapes]}")
    row_names = [str(own) for own in (range(shape[0]) if rows is None else rows)]
    column_names = [str(own) for own in (range(shape[1]) if columns is None else columns)]
    if (len(row_names), len(column_names)) != shape or len(axes) != 2:
        raise ValueError(
            f"rows, columns: expected {list(shape)} names and two axes, got {len(row_names)}, {len(column_names)}"
        )
    words = None if texts is None else [[str(word) for word in own] for own in texts]
    if words is not None and [len(own) for own in words] != [shape[1]] * shape[0]:
        raise ValueError(
            f"texts: expected a word for each cell {list(shape)}, got rows of {[len(own) for own in words]}"
        )
    down, across = axes
    payload = {
        "kind": "matrix",
        "title": title,
        "label": label,
        "layers": [{"name": name, "values": packed(own, 32)} for name, own in grids.items()],
        "rowNames": row_names,
        "columnNames": column_names,
        "texts": words,
        "down": str(down),
        "across": str(across),
    }

    def draw() -> "Picture":
        name, numbers = next(iter(grids.items()))
        return matrix_still(numbers, words, row_names, column_names, label or name, title, (str(down), str(across)))

    return View(payload, draw, 620)
