"""Views of attention: patterns of one head or of many, on their tokens.

Dimension key: G heads, T query positions, S key positions, L layers, N heads of a layer.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import checked
from .arrays import as_numbers, packed
from .sides import Tokens, one_side
from .stills import attention_still
from .view import View

if TYPE_CHECKING:
    from ..plots import Picture

Head = tuple[int, int]

EXACT = 1 << 21
"""Numbers up to which patterns have 16 bits; above it 8 bits keep a file of all heads small."""


@checked()
def attention(
    patterns: Any,
    tokens: Sequence[str] | Tokens | None = None,
    *,
    keys: Sequence[str] | Tokens | None = None,
    heads: Sequence[Head] | None = None,
    notes: Mapping[Head, str] | None = None,
    chosen: Head | None = None,
    stack: str = "",
    title: str = "",
) -> View:
    """Show attention patterns on their tokens: all heads as thumbnails, one head as text, lines and matrix.

    Colours show the square root of a weight, so that small ones can be seen; numbers are the weights themselves.

    Args:
        patterns: of one text, `[L,N,T,S]` of all heads, `[G,T,S]` of those named by `heads`, or `[T,S]` of one; or a
            run that captured its patterns, which then brings its tokens (see `Run.view` for other examples).
        tokens: texts of the queries, and of the keys unless `keys` has others.
        keys: texts of the keys, of cross-attention.
        heads: (layer, head) of each pattern; of `[L,N,T,S]` those that are shown, in this order.
        notes: by (layer, head), what is known of a head, such as its role with its score.
        chosen: the head that is opened first.
        stack: name of the heads' stack.

    Raises:
        ValueError: for another shape, weights outside 0 to 1, a head that is not there, or tokens of another number.
    """
    if hasattr(patterns, "seen") and tokens is None and keys is None:
        return patterns.view(stack or None, heads=heads, notes=notes, chosen=chosen)
    patterns_GTS, named = _named_patterns(patterns, heads)
    G, T, S = patterns_GTS.shape
    queries = one_side(tokens, T, "tokens")
    if keys is None and S != T:
        raise ValueError(f"keys: the pattern has {T} queries and {S} keys, so keys need texts of their own")
    sides = {"queries": queries, "keys": queries if keys is None else one_side(keys, S, "keys")}
    first = named[0] if chosen is None else (int(chosen[0]), int(chosen[1]))
    if first not in named:
        raise ValueError(f"chosen: expected one of the {G} heads that are shown, got {first}")
    bits = 16 if patterns_GTS.size <= EXACT else 8
    shown = [
        {
            "layer": layer,
            "head": head,
            "note": (notes or {}).get((layer, head), ""),
            "pattern": packed(pattern_TS, bits, power=2, deflated=True),
        }
        for (layer, head), pattern_TS in zip(named, patterns_GTS, strict=True)
    ]
    payload = {
        "kind": "attention",
        "title": title,
        "stack": stack,
        "self": keys is None,
        "chosen": named.index(first),
        "heads": shown,
        **{name: list(side.texts) for name, side in sides.items()},
        "parts": {name: list(side.parts) for name, side in sides.items() if side.parts is not None},
        "pictures": {
            name: side.backdrop.payload()
            for name, side in sides.items()
            if side.backdrop is not None and (name == "queries" or keys is not None)
        },
    }
    if any(side.words is not None for side in sides.values()):
        payload["words"] = {name: _words(side) for name, side in sides.items()}

    def draw() -> "Picture":
        return attention_still(patterns_GTS, named, sides["queries"].texts, sides["keys"].texts, title)

    return View(payload, draw, 760 if G > 1 else 620)


def _words(side: Tokens) -> list[int]:
    return list(range(len(side))) if side.words is None else [int(word) for word in side.words]


def _named_patterns(patterns: Any, heads: Sequence[Head] | None) -> tuple[np.ndarray, list[Head]]:
    """Return patterns `[G,T,S]` and the head of each."""
    values = as_numbers("patterns", patterns).astype(np.float32)
    named = None if heads is None else [(int(layer), int(head)) for layer, head in heads]
    if values.ndim not in (2, 3, 4) or not values.size:
        raise ValueError(f"patterns: expected [T,S], [heads,T,S] or [L,N,T,S], got {list(values.shape)}")
    if not np.isfinite(values).all() or values.min() < -1e-5 or values.max() > 1 + 1e-5:
        raise ValueError("patterns: expected attention weights from 0 to 1, got other numbers")
    values = np.clip(values, 0, 1)
    if values.ndim == 4:
        grid = [(layer, head) for layer in range(values.shape[0]) for head in range(values.shape[1])]
        chosen = grid if named is None else named
        if missing := [own for own in chosen if own not in set(grid)]:
            raise ValueError(f"heads: the patterns have {values.shape[0]} × {values.shape[1]} heads; got {missing}")
        return np.stack([values[own] for own in chosen]), chosen
    values = values[None] if values.ndim == 2 else values
    if named is None and len(values) == 1:
        named = [(0, 0)]
    if named is None or len(named) != len(values):
        count = 0 if named is None else len(named)
        raise ValueError(f"heads: expected (layer, head) of each of {len(values)} patterns, got {count}")
    return values, named
