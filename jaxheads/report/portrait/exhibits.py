"""Attention of every head on a few inputs that can be looked at: texts, an image, a recording.

Dimension key: B examples, L layers, N heads, T query positions, S key positions, t and s their bins.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.answers import token_texts
from ...models.inputs.axes import Axis
from ...models.inputs.batch import Batch
from ...models.inputs.vocabulary import special_tokens
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack
from ...programs import compiled
from ..inputs import context_of, first_token, with_targets

LENGTH, REPEATED = 40, 16
"""Most tokens of a text, and of a text that is said twice."""

INPUTS = 2
"""Images or recordings."""

QUERY_CELLS, KEY_CELLS = 8, 16
"""Cells across an image, of the patches that look and of those that are looked at."""

QUERY_SPANS, KEY_SPANS = 40, 80
"""Spans of a recording, likewise."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Patterns of all heads on one input.

    Attributes:
        title: what the input is, in words.
        queries, keys: the positions that look and those that are looked at: texts of tokens, or words for bins.
        patterns: weights `[L,N,t,s]`; those of bins are summed over keys and averaged over queries.
        shape: by "queries" and "keys", rows and columns of cells behind the special positions, for an image.
        picture: the image as a data URI.
    """

    title: str
    queries: list[str]
    keys: list[str]
    patterns: np.ndarray
    shape: dict[str, tuple[int, int]]
    picture: str | None = None


@dataclass(frozen=True, eq=False)
class Bins:
    """Positions of an axis joined to bins that can be shown: labels, and which bin each position is in, `[T]`."""

    labels: list[str]
    of: np.ndarray
    shape: tuple[int, int] | None = None

    def matrix(self, mean: bool) -> np.ndarray:
        """Return `[t,T]` ones, or with `mean` the shares of the bin's positions."""
        ones = (self.of[None, :] == np.arange(len(self.labels))[:, None]).astype(np.float32)
        return ones / ones.sum(axis=1, keepdims=True) if mean else ones


def exhibits(model: Model, stack: Stack, batches: Sequence[Batch]) -> list[Exhibit]:
    """Return the patterns of every head on two or three of the inputs, short enough to be looked at."""
    first = batches[0]
    if first.pixels is None and first.features is None:
        chosen = _texts(model, batches)
    else:
        name = "recording" if first.pixels is None else "image"
        chosen = [(f"{name} {number + 1}", first.take([number])) for number in range(min(INPUTS, len(first)))]
    return [_exhibit(model, stack, title, batch) for title, batch in chosen]


def _texts(model: Model, batches: Sequence[Batch]) -> list[tuple[str, Batch]]:
    """Return the beginnings of two texts, and of a third one said twice."""
    rows = [
        np.asarray(batch.tokens)[row][np.asarray(batch.mask)[row]] for batch in batches for row in range(len(batch))
    ]
    start, (_, end) = first_token(model), special_tokens(model.tokenizer)
    lead = [] if start is None else [start]
    room = min(LENGTH, context_of(model)) - len(lead) - len(end)

    def body(number: int, size: int) -> list[int]:
        row = rows[number % len(rows)].tolist()
        return row[len(lead) : len(row) - len(end)][:size]

    third = len(rows) // 3
    twice = body(2 * third, max(1, min(REPEATED, room // 2)))
    texts = [
        ("one text, said twice", lead + twice + twice + end),
        ("a text", lead + body(0, room) + end),
        ("another text", lead + body(third, room) + end),
    ]
    made = []
    for title, tokens in texts:
        batch = Batch(np.array([tokens], np.int32), np.ones((1, len(tokens)), bool))
        reads_targets = any(stream.queries.kind == "targets" for stream in model.network.streams)
        made.append((title, with_targets(model, batch) if reads_targets else batch))
    return made


def _exhibit(model: Model, stack: Stack, title: str, batch: Batch) -> Exhibit:
    queries, keys = (
        _bins(model, axis, batch, cells, spans)
        for axis, cells, spans in ((stack.queries, QUERY_CELLS, QUERY_SPANS), (stack.keys, KEY_CELLS, KEY_SPANS))
    )
    patterns = _patterns(
        model.network,
        batch,
        jnp.asarray(queries.matrix(mean=True)),
        jnp.asarray(keys.matrix(mean=False)),
        stack=stack.name,
    )
    shape = {name: bins.shape for name, bins in (("queries", queries), ("keys", keys)) if bins.shape is not None}
    picture = None if batch.pixels is None or not shape else _picture(np.asarray(batch.pixels)[0])
    return Exhibit(title, queries.labels, keys.labels, np.asarray(patterns), shape, picture)


@partial(compiled, static_argnames="stack")
def _patterns(network: Network, batch: Batch, queries_tT: Array, keys_sS: Array, *, stack: str) -> Array:
    """Return the patterns of one example, binned, `[L,N,t,s]`."""

    def read(seen: Sites) -> Array:
        return jnp.einsum("tT,nTS,sS->nts", queries_tT, seen["pattern"][0].astype(jnp.float32), keys_sS)

    return forward(network, batch, (), {stack: read})[1][stack]


def _bins(model: Model, axis: Axis, batch: Batch, cells: int, spans: int) -> Bins:
    if axis.kind == "patches":
        return _cells(axis, batch, cells)
    if axis.kind == "frames":
        count = axis.count(batch)
        width = -(-count // spans)
        of = np.arange(count) // width
        return Bins([f"{100 * number // (of[-1] + 1)} %" for number in range(of[-1] + 1)], of)
    ids = np.asarray(axis.ids(batch))[0]
    if model.tokenizer is None:
        return Bins([str(number) for number in ids], np.arange(len(ids)))
    return Bins([str(text) for text in token_texts(model.tokenizer, ids)], np.arange(len(ids)))


def _cells(axis: Axis, batch: Batch, most: int) -> Bins:
    rows, columns = axis.grid(batch)
    down, across = (-(-size // -(-size // most)) for size in (rows, columns))
    row, column = np.indices((rows, columns)).reshape(2, -1)
    cell = row // -(-rows // most) * across + column // -(-columns // most)
    labels = [f"row {number // across + 1}, column {number % across + 1}" for number in range(down * across)]
    of = np.concatenate([np.arange(len(axis.specials)), len(axis.specials) + cell])
    return Bins([*axis.specials, *labels], of, (down, across))


def _picture(pixels_XYC: np.ndarray, side: int = 224) -> str:
    """Return an image as a data URI, its values stretched from the smallest to the largest."""
    from PIL import Image

    low, high = pixels_XYC.min(), pixels_XYC.max()
    scaled = (255 * (pixels_XYC - low) / max(float(high - low), 1e-9)).astype(np.uint8)
    image: Any = Image.fromarray(scaled if scaled.shape[-1] == 3 else np.repeat(scaled[..., :1], 3, axis=-1))
    file = io.BytesIO()
    image.resize((side, side)).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
