"""Reading of patterns block by block of queries, within attention, so that no pattern is ever whole."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax import Array


@runtime_checkable
class RowReader(Protocol):
    """Reader of one layer's patterns that gets some query rows at a time, and keeps running sums.

    Attention calls `add` once for each block of query rows, in order, and drops the block. Short inputs come as one
    block. The methods are traced; sums keep their shapes and dtypes.
    """

    def start(self) -> Any:
        """Return the running sums before the first block, a pytree of arrays."""
        ...

    def add(self, sums: Any, sites: Mapping[str, Array], first: Array | int) -> Any:
        """Return the sums with those of the query rows from `first` on.

        Args:
            sites: "pattern" `[B,N,t,S]` of the rows `first` to `first + t`. Rows beyond the last query fill up the last
                block: they see no key, and count for nothing. "q", "k" and "v" are whole, and "layer" is the layer's
                number.
        """
        ...

    def finish(self, sums: Any) -> Any:
        """Return what is kept of the layer, any pytree of arrays."""
        ...


class InLayer(NamedTuple):
    """A reader of rows in one layer, whose number is among the sites that it gets."""

    reader: RowReader
    layer: Array

    def start(self) -> Any:
        return self.reader.start()

    def add(self, sums: Any, sites: Mapping[str, Array], first: Array | int) -> Any:
        names = "q", "k", "v", "pattern"
        return self.reader.add(sums, {name: sites[name] for name in names} | {"layer": self.layer}, first)

    def finish(self, sums: Any) -> Any:
        return self.reader.finish(sums)
