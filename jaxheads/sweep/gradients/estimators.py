"""Some examples of a pair of runs, and how the objective of one answers to the other's values: the terms of AtP*."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...execution.devices import Devices
from ...models.inputs.batch import Batch
from ...models.network import Network
from ...models.sharding import fetch
from ...models.sites import SiteEdit
from ...models.stack import Stack
from ...objectives import Reads
from ..exact.engine import Value
from .backward import amount_gradient, amounts, capture, per_cell
from .qk_fix import keys_moved, rows_moved

WRITES = ("attn_out", "mlp_out")
"""A layer's contributions to the stream."""


@dataclass(frozen=True)
class Piece:
    """Some examples of the run that is edited and their counterparts in the other.

    `batch` is `this` as it is on the host; `this` and `other` are on the devices.

    All estimates are `[B,L,T,N]` float64: of moving one layer's site at one position of one head (N is K at `k` and
    `v`, 1 in the stream) to the other run's value.
    """

    network: Network
    stack: Stack
    site: str
    batch: Batch
    this: Batch
    other: Batch
    reads: Reads
    value: Value
    thrifty: bool
    devices: Devices

    @cached_property
    def unedited(self) -> np.ndarray:
        """The objective `[B]` of the run that is edited."""
        return fetch(self._this[0]).astype(np.float64)

    @cached_property
    def whole(self) -> np.ndarray:
        """The objective `[B]` of the other run."""
        return fetch(self._other[0]).astype(np.float64)

    def straight(self, held: Sequence[SiteEdit] = ()) -> np.ndarray:
        """First order: difference of values times gradient, in the run that is edited."""
        edit = self._edit(self.site, self._difference, amounts(self.stack, self.site, self.batch), "add")
        return per_cell(self.site, self._gradient(edit, held))

    def along(self, shares: Sequence[float]) -> np.ndarray:
        """The same with gradients averaged over points on the way from a layer's values to those of the other run."""
        return np.concatenate([self._layer_along(layer, shares) for layer in range(self.stack.layers)], axis=1)

    def through_pattern(self, held: Sequence[SiteEdit] = (), *, one_by_one: bool) -> np.ndarray:
        """Of queries or keys: patterns made anew, and only what follows them to first order.

        Args:
            one_by_one: patch one position's key at a time. Otherwise `k` is patched at all positions at once, and T
                stands for the queries' positions: only the sum over them means something.
        """
        asking, seen = self.stack.queries.of(self.batch), self.stack.keys.of(self.batch)
        shape = self.stack.site_shape("pattern", *asking.shape, seen.shape[1])
        zeros = np.zeros((self.stack.layers, *shape), np.float32)
        slope_LBNTS = self._gradient(self._edit("pattern", np.ones_like(zeros[:, :1, :1, :1, :1]), zeros, "add"), held)
        before, after = self._patterns
        if self.site == "k" and one_by_one:
            moved_LBNT = keys_moved(slope_LBNTS, before["scores"], after["scores"])
        else:
            moved_LBNT = rows_moved(slope_LBNTS, before["pattern"], after["pattern"])
        moved_BLTN = np.transpose(fetch(moved_LBNT).astype(np.float64), (1, 0, 3, 2))
        heads = self.stack.kv_heads if self.site == "k" else self.stack.heads
        return moved_BLTN.reshape(*moved_BLTN.shape[:3], heads, -1).sum(axis=-1)

    def without(self, layer: int) -> tuple[SiteEdit, ...]:
        """Edits that hold what a layer writes into the stream at what it is: nothing is derived through it."""
        return tuple(self._edit(site, values, self._in((layer,), 4)) for site, values in self._written.items())

    @cached_property
    def _this(self) -> tuple[Array, dict[str, Array]]:
        return self._run(self.this, (self.site,))

    @cached_property
    def _other(self) -> tuple[Array, dict[str, Array]]:
        return self._run(self.other, (self.site,))

    @cached_property
    def _difference(self) -> Array:
        return self._other[1][self.site] - self._this[1][self.site]

    @cached_property
    def _written(self) -> dict[str, Array]:
        return self._run(self.this, WRITES)[1]

    @cached_property
    def _patterns(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Scores and patterns of the run that is edited, and with the other run's queries or keys in each layer: the
        stream before every layer is held then, so that no layer's patch reaches the next."""
        before = self._run(self.this, ("resid_pre", "scores", "pattern"))[1]
        everywhere = range(self.stack.layers)
        held = self._edit("resid_pre", before["resid_pre"], self._in(everywhere, 4))
        patch = self._edit(self.site, self._other[1][self.site], self._in(everywhere, 5))
        return before, self._run(self.this, ("scores", "pattern"), (held, patch))[1]

    def _layer_along(self, layer: int, shares: Sequence[float]) -> np.ndarray:
        here = amounts(self.stack, self.site, self.batch)
        here[layer] = 1
        edits = [self._edit(self.site, self._difference, share * here, "add") for share in shares]
        return np.mean([per_cell(self.site, self._gradient(edit))[:, layer, None] for edit in edits], axis=0)

    def _in(self, layers: Iterable[int], rank: int) -> np.ndarray:
        """Amounts that are 1 in some layers."""
        here_L = np.isin(np.arange(self.stack.layers), list(layers)).astype(np.float32)
        return here_L.reshape(-1, *[1] * (rank - 1))

    def _edit(
        self, site: str, source: ArrayLike, weight: ArrayLike, operation: Literal["mix", "add"] = "mix"
    ) -> SiteEdit:
        """Of all layers."""
        layers: Any = np.arange(self.stack.layers, dtype=np.int32)
        return SiteEdit(layers, self._placed(weight), self._placed(source), site, self.stack.name, operation)

    def _placed(self, values: ArrayLike) -> Any:
        """Numbers `[L,B,…]` (B may be 1) of the host, on the devices as examples are; others are there already."""
        if not isinstance(values, np.ndarray):
            return values
        place = self.devices.everywhere if values.shape[1] == 1 else partial(self.devices.examples, axis=1)
        return place(values)

    def _gradient(self, edit: SiteEdit, held: Sequence[SiteEdit] = ()) -> Array:
        named = {"value": self.value, "thrifty": self.thrifty}
        return amount_gradient(self.network, self.this, self.reads, edit, tuple(held), **named)[1]

    def _run(
        self, batch: Batch, sites: tuple[str, ...], edits: Sequence[SiteEdit] = ()
    ) -> tuple[Array, dict[str, Array]]:
        named = {"stack": self.stack.name, "sites": sites, "value": self.value}
        return capture(self.network, batch, self.reads, tuple(edits), **named)
