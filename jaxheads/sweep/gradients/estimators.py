"""Estimators: first-order effects of patching every layer, position and head of a site, for one chunk of examples.

Dimension key: B examples of the chunk, L layers, T query positions, S key positions, N heads (K at `k` and `v`, 1 in
the stream).
"""

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
from ...models.sites import SITES, SiteEdit
from ...models.stack import Stack
from ...objectives import Reads
from ...programs import compiled
from ..cached_run import Value
from .backward import edit_weights, run_sites, slopes_by_position, weight_gradient
from .qk_fix import key_effects, row_effects

CONTRIBUTIONS = ("attn_out", "mlp_out")
"""The sites at which a layer adds to the stream."""


@dataclass(frozen=True)
class Estimator:
    """Estimates of one chunk of examples; both runs, and what else the estimates share, are computed when first needed.

    Each estimate is `[B,L,T,N]` float64: the effect of moving a site, in one layer, at one position of one head, to the
    other run's value.

    Attributes:
        base, other: the run that is edited and the one that values come from, on the devices.
        remat: as in `weight_gradient`.
    """

    network: Network
    stack: Stack
    site: str
    base: Batch
    other: Batch
    reads: Reads
    value: Value
    remat: bool
    devices: Devices

    @cached_property
    def objectives(self) -> np.ndarray:
        """The objective of the base run and of the other run, `[2,B]`."""
        return np.stack([fetch(run[0]).astype(np.float64) for run in (self._base_run, self._other_run)])

    def first_order(self, frozen: Sequence[SiteEdit] = ()) -> np.ndarray:
        """Return the difference of values times the gradient in the base run."""
        # The edit `x + weight * (other - base)` at weight 0 is the base run, and its slope is that product.
        edit = self._edit(self.site, self._difference, edit_weights(self.stack, self.site, self.base), "add")
        return slopes_by_position(self.site, self._gradient(edit, frozen))

    def along_path(self, fractions: Sequence[float]) -> np.ndarray:
        """Return the difference of values times the mean gradient at these fractions of the way to the other run."""
        # One layer moves at a time, as in a patch: with all layers moved at once, each would be derived in a run that
        # no patch makes, and a layer's estimates would no longer sum to the effect of patching it.
        return np.concatenate([self._along_path(layer, fractions) for layer in range(self.stack.layers)], axis=1)

    def through_pattern(self, frozen: Sequence[SiteEdit] = (), *, key_by_key: bool) -> np.ndarray:
        """Return the effect of patched queries or keys: exact up to the pattern, linear from there on.

        Args:
            key_by_key: patch one position's key at a time. Otherwise `k` is patched at all positions at once, and T
                stands for the queries' positions: then only sums over T have a meaning.
        """
        T, S = self.stack.queries.of(self.base).shape[1], self.stack.keys.of(self.base).shape[1]
        shape = self.stack.site_shape("pattern", len(self.base), T, S)
        # Adding `weight * 1` with a weight for each entry gives the gradient by the pattern itself.
        weights, ones = np.zeros((self.stack.layers, *shape), np.float32), np.ones((self.stack.layers, 1, 1, 1, 1))
        slope_LBNTS = self._gradient(self._edit("pattern", ones.astype(np.float32), weights, "add"), frozen)
        before, patched = self._patterns
        if self.site == "k" and key_by_key:
            effects_LBNT = key_effects(slope_LBNTS, before["scores"], patched["scores"], self.stack.sinks)
        else:
            effects_LBNT = row_effects(slope_LBNTS, before["pattern"], patched["pattern"])
        effects_BLTN = np.transpose(fetch(effects_LBNT).astype(np.float64), (1, 0, 3, 2))
        # A key/value head's effect is the sum over the query heads that share it, which lie side by side.
        heads = self.stack.heads_at(self.site)
        return effects_BLTN.reshape(*effects_BLTN.shape[:3], heads, -1).sum(axis=-1)

    def frozen_contributions(self, layer: int) -> tuple[SiteEdit, ...]:
        """Return edits that freeze what a layer adds to the stream, so that no gradient flows through the layer."""
        # Both contributions are replaced by their own values: the run stays as it is, only its derivative changes.
        # The stream beside them still carries gradients past the layer.
        return tuple(
            self._edit(site, values, self._ones_in((layer,), site)) for site, values in self._contributions.items()
        )

    @cached_property
    def _base_run(self) -> tuple[Array, dict[str, Array]]:
        return self._run(self.base, (self.site,))

    @cached_property
    def _other_run(self) -> tuple[Array, dict[str, Array]]:
        return self._run(self.other, (self.site,))

    @cached_property
    def _difference(self) -> Array:
        return _difference(self._other_run[1][self.site], self._base_run[1][self.site])

    @cached_property
    def _contributions(self) -> dict[str, Array]:
        # Beside cross-attention, a decoder's MLP belongs to the cross-attention's stack.
        return self._run(self.base, tuple(site for site in CONTRIBUTIONS if site in self.stack.sites))[1]

    @cached_property
    def _patterns(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Scores and patterns of the base run, and with the other run's queries or keys in each layer."""
        # All layers are patched in one run. The stream before every layer is set to the base run's, so that no layer's
        # patch reaches the next.
        base = self._run(self.base, ("resid_pre", "scores", "pattern"))[1]
        layers = range(self.stack.layers)
        reset = self._edit("resid_pre", base["resid_pre"], self._ones_in(layers, "resid_pre"))
        patch = self._edit(self.site, self._other_run[1][self.site], self._ones_in(layers, self.site))
        return base, self._run(self.base, ("scores", "pattern"), (reset, patch))[1]

    def _along_path(self, layer: int, fractions: Sequence[float]) -> np.ndarray:
        """Return the estimate of one layer, `[B,1,T,N]`."""
        in_layer = edit_weights(self.stack, self.site, self.base)
        in_layer[layer] = 1
        edits = [self._edit(self.site, self._difference, fraction * in_layer, "add") for fraction in fractions]
        slopes = [slopes_by_position(self.site, self._gradient(edit))[:, layer, None] for edit in edits]
        return np.mean(slopes, axis=0)

    def _ones_in(self, layers: Iterable[int], site: str) -> np.ndarray:
        """Return weights that are 1 in these layers, `[L,1,…]` with the site's axes."""
        here_L = np.isin(np.arange(self.stack.layers), list(layers)).astype(np.float32)
        return here_L.reshape(-1, *[1] * len(SITES[site]))

    def _edit(
        self, site: str, source: ArrayLike, weight: ArrayLike, operation: Literal["mix", "add"] = "mix"
    ) -> SiteEdit:
        """Return an edit of all layers."""
        layers: Any = np.arange(self.stack.layers, dtype=np.int32)
        return SiteEdit(layers, self._on_devices(weight), self._on_devices(source), site, self.stack.name, operation)

    def _on_devices(self, values: ArrayLike) -> Any:
        """Put the host's numbers `[L,B,…]` (B may be 1) where the examples are; arrays of JAX are there already."""
        if not isinstance(values, np.ndarray):
            return values
        place = self.devices.everywhere if values.shape[1] == 1 else partial(self.devices.examples, axis=1)
        return place(values)

    def _gradient(self, edit: SiteEdit, frozen: Sequence[SiteEdit] = ()) -> Array:
        static = {"value": self.value, "remat": self.remat}
        return weight_gradient(self.network, self.base, self.reads, edit, tuple(frozen), **static)[1]

    def _run(
        self, batch: Batch, sites: tuple[str, ...], edits: Sequence[SiteEdit] = ()
    ) -> tuple[Array, dict[str, Array]]:
        static = {"stack": self.stack.name, "sites": sites, "value": self.value}
        return run_sites(self.network, batch, self.reads, tuple(edits), **static)


@compiled
def _difference(other: Array, base: Array) -> Array:
    return other - base
