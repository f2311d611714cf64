"""Damage to files, as Hypothesis draws it: bytes flipped, sizes made hostile, ends cut off, stretches moved."""

import json
import struct
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, 1, 2, 0x7F, 0xFF, 2**15, 2**16 - 1, 10**8, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 10**7, 2**31, 2**63, 10**30, 0.0, 0.5, -1.5, 1e-50, 1e300),
    *(float("nan"), float("inf"), float("-inf"), "", "8", "x" * 300, "\ud800", "a\0b", "../config.json"),
    *([], [1], ["x"], [[]], [None], {}, {"a": 1}, {"": {}}, {"rope_type": "yarn"}, {"rope_type": []}),
)
"""What a field of JSON may hold instead."""


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int = 4096) -> bytes:
    """Return the content after one to four damages, most of them within the first or last `head` bytes."""
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        size = len(content)
        near = st.integers(0, min(size, head) - 1)
        at = draw(st.one_of(near, near, near.map(lambda place, size=size: size - 1 - place), st.integers(0, size - 1)))
        kind = draw(st.sampled_from(("flip", "flip", "number", "number", "cut", "remove", "repeat", "insert", "move")))
        length = draw(st.integers(1, 64))
        if kind == "flip":
            content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
        elif kind == "number":
            width = draw(st.sampled_from((1, 2, 4, 8)))
            number = struct.pack("<Q", draw(st.sampled_from(NUMBERS)))[:width]
            content = content[:at] + number + content[at + width :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "remove":
            content = content[:at] + content[at + length :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + length] * draw(st.integers(2, 50)) + content[at + length :]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=40)) + content[at:]
        else:
            source = draw(st.integers(0, size - 1))
            content = content[:at] + content[source : source + length] + content[at + length :]
    return content


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a JSON object with one to three of its values, at any depth, replaced, removed or named twice."""
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        if not (places := _places(value)):
            break
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("set", "set", "set", "remove", "add", "deep")))
        if kind == "set":
            holder[key] = draw(st.sampled_from(VALUES))
        elif kind == "remove":
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[
                draw(st.sampled_from(("head_dim", "x", "", "auto_map", "quantization_config", "jaxheads_heads")))
            ] = draw(st.sampled_from(VALUES))
        elif kind == "deep":
            holder[key] = json.loads("[" * 300 + "]" * 300)
    text = json.dumps(value)
    if draw(st.integers(0, 9)) == 0:
        twice = text[:-1] + ', "vocab_size": 9, "vocab_size": 9}'
        text = draw(st.sampled_from(("[" * 10**5, twice, "1" * 5000, "\ufeff" + text, text * 2)))
    return text.encode("utf-8", errors="surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """List where the values of a JSON value lie, each as what holds it, and its key there."""
    places: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        places += [(value, key), *(_places(inner) if len(places) < 500 else ())]
    return places
