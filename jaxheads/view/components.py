"""Nodes of a graph from the names of a stream's components: "embed", "head 3.0", "mlp 3", "q 3.0", "logits"."""

import re
from collections.abc import Sequence
from typing import Any

_NAME = re.compile(r"(?P<kind>[a-z.]+)(?: (?P<layer>\d+)(?:\.(?P<head>\d+))?)?")
_ROWS = {"head": 0, "cross.head": 1, "mlp": 2}
"""Places of a layer's components, in the order in which they write."""

READS = {"q": "queries", "k": "keys", "v": "values"}


def component_graph(
    senders: Sequence[str], receivers: Sequence[str]
) -> tuple[list[dict[str, Any]], list[int], list[int], list[str]]:
    """Return nodes, the node of each sender and of each receiver, and what each receiver reads as.

    A head's queries, keys and values are read by the head's node. Where several heads share keys and values, these
    are a node of their own, which names the heads.
    """
    nodes, numbers = [], {}

    def number(name: str, row: int, column: int, **about: Any) -> int:
        if name not in numbers:
            numbers[name] = len(nodes)
            nodes.append({"name": name, "row": row, "column": column, **about})
        return numbers[name]

    own = [_sender(name, number) for name in senders]
    read, kinds = [], []
    for name in receivers:
        kind, layer, head = _parts(name)
        prefix, _, side = kind.rpartition(".")
        if side not in READS:
            read.append(_sender(name, number))
            kinds.append("")
            continue
        heads, groups = (sum(other.startswith(f"{own} {layer}.") for other in receivers) for own in ("q", side))
        if side == "q" or groups == heads:
            read.append(_sender(f"{prefix}.head {layer}.{head}" if prefix else f"head {layer}.{head}", number))
        else:
            first, last = head * heads // groups, (head + 1) * heads // groups - 1
            note = f"{READS[side]} of heads {layer}.{first} to {layer}.{last}"
            read.append(number(name, 1 + 3 * layer, first, note=note))
        kinds.append(side)
    return nodes, own, read, kinds


def _sender(name: str, number: Any) -> int:
    kind, layer, head = _parts(name)
    if layer < 0:
        return number(name, 0 if kind == "embed" else 1 << 20, 0)
    row = 1 + 3 * layer + _ROWS.get(kind, 2)
    if head < 0:
        return number(name, row, 0)
    return number(name, row, head, short=name.removeprefix("head "), layer=layer, head=head)


def _parts(name: str) -> tuple[str, int, int]:
    """Return kind, layer and head of a component, -1 where it has none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"expected the name of a component, such as 'head 3.0' or 'mlp 3', got {name!r}")
    return match["kind"], int(match["layer"] or -1), int(match["head"] or -1)
