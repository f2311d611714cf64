"""Sites of a layer with their axes, and edits as data: a mix or an addition at one site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .attention.row_edits import BY_QUERIES, RowEdit
from .attention.row_reader import RowReader
from .inputs.attention_inputs import AttentionInputs
from .inputs.query_rows import Take, taken

SITES: Mapping[str, str] = MappingProxyType(
    {
        "resid_pre": "BTD",
        "q": "BTNH",
        "k": "BSKH",
        "v": "BSKH",
        "scores": "BNTS",
        "pattern": "BNTS",
        "z": "BTNH",
        "attn_out": "BTD",
        "resid_mid": "BTD",
        "mlp_out": "BTD",
        "resid_post": "BTD",
    }
)
"""Axes of each site in one layer, in the order of the forward pass; letters as in `attention.attend`.

A family may lack sites, see `Stack.sites`."""

Positions = tuple[Array, Array]
"""Positions of queries `[B,T]` and of keys `[B,S]`."""

ATTENTION_SITES = tuple(site for site, axes in SITES.items() if "D" not in axes)
"""Sites within attention, whose values belong to single heads."""


def has_heads(site: str) -> bool:
    """Return whether the values at a site belong to single heads (not to the residual stream)."""
    return site in ATTENTION_SITES


def is_of_keys(site: str) -> bool:
    """Return whether a site has key positions and key/value heads."""
    return "K" in SITES[site]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SiteEdit:
    """One change at one site of one stack; site, stack and operation are static, arrays are traced.

    In layer `layers[e]` the site's value x becomes `(1 - w) * x + w * s` ("mix") or `x + w * s` ("add") with
    `w = weight[e]` and `s = source[e]`. A mix is exact at both ends: at 1 it replaces even what is not finite. Layers
    that are not listed stay as they are. A "window" at scores hides from each query the keys at a distance of `w` or
    more, but those of the first `s` positions; 0 hides none.

    Attributes:
        layers: layer numbers, int `[E]`, each at most once.
        weight: float `[E, …]`, after the first axis the site's axes at full rank, size 1 where it broadcasts.
        source: values, with axes as in `weight`.
        site: the site's name.
        stack: the stack's name.
        operation: "mix", "add" or "window".
    """

    layers: Array
    weight: Array
    source: Array
    site: str = field(metadata={"static": True})
    stack: str = field(metadata={"static": True})
    operation: Literal["mix", "add", "window"] = field(default="mix", metadata={"static": True})

    def _within(self, layer: Array, positions: Positions | None = None) -> "LayerEdit":
        """Return the edit in `layer`; one that changes nothing if that is none of the edit's layers."""
        listed_E = self.layers == layer
        index = jnp.argmax(listed_E)
        # The layer is traced, so a layer that is not listed gets weight 0 instead of a branch.
        weight = jnp.where(listed_E.any(), self.weight[index], jnp.zeros_like(self.weight[index]))
        return LayerEdit(weight, self.source[index], self.site, self.operation, positions)

    def apply(self, x: Array, layer: Array) -> Array:
        """Return the site's whole value in `layer`, changed if that is one of the edit's layers."""
        return self._within(layer).apply(x, None)


class LayerEdit(NamedTuple):
    """A `SiteEdit` in one layer; weight and source have the site's axes, size 1 where they broadcast.

    `positions` are those of queries `[B,T]` and keys `[B,S]`, which a window reads.
    """

    weight: Array
    source: Array
    site: str
    operation: str
    positions: Positions | None = None

    def apply(self, x: Array, take: Take | None) -> Array:
        """Return the site's value, changed.

        Args:
            take: the choice of query rows that `x` has, at a site of `BY_QUERIES`; None for all.
        """
        if self.operation == "window":
            return self._windowed(x, take)
        weight, source = self.weight, self.source
        if take is not None and self.site in BY_QUERIES:
            weight, source = taken(weight, take, 2), taken(source, take, 2)
        weight, source = weight.astype(x.dtype), source.astype(x.dtype)
        return mixed(x, source, weight) if self.operation == "mix" else x + weight * _unless(weight == 0, source)

    def _windowed(self, x: Array, take: Take | None) -> Array:
        """Return scores `[B,N,T,S]`, the lowest there are for keys outside of the window."""
        assert self.positions is not None, "where layers run, their attention's positions are known"
        queries_BT, keys_BS = self.positions
        queries_BT = queries_BT if take is None else take(queries_BT, 1)
        distance_B1TS = jnp.abs(queries_BT[:, None, :, None] - keys_BS[:, None, None, :])
        hidden = (self.weight > 0) & (distance_B1TS >= self.weight) & (keys_BS[:, None, None, :] >= self.source)
        return jnp.where(hidden, jnp.finfo(x.dtype).min, x)


def mixed(x: Array, source: Array, weight: Array) -> Array:
    """Return `(1 - weight) * x + weight * source`; at weight 1 nothing is left of `x`, at 0 nothing of `source`.

    That holds for values that are not finite, too: a head that overflows in float16 is gone where it is replaced.
    """
    return (1 - weight) * _unless(weight == 1, x) + weight * _unless(weight == 0, source)


def _unless(excluded: Array, x: Array) -> Array:
    """Return `x` with 0 for what is excluded and not finite: 0 times infinity would be NaN."""
    # Finite values stay, excluded or not: derivatives by the weight need them.
    return jnp.where(excluded & ~jnp.isfinite(x), jnp.zeros_like(x), x)


def editor(
    edits: Sequence[SiteEdit],
    stack: str,
    layer: Array,
    readers: Mapping[str, RowReader] | None = None,
    context: AttentionInputs | None = None,
) -> RowEdit:
    """Return the edit that applies, in order, the edits at one site of this stack and layer.

    Args:
        context: what the stack's attention reads beside the stream, whose positions a window needs.
    """
    positions = None if context is None else (context.queries, context.keys)
    # Outside of the blocks that attention may run in: a layer's values are found once, not once a block.
    own = [edit._within(layer, positions) for edit in edits if edit.stack == stack]

    def apply(site: str, value: Array, take: Take | None) -> Array:
        for edit in own:
            if edit.site == site:
                value = edit.apply(value, take)
        return value

    return RowEdit(apply, frozenset(edit.site for edit in own), readers or {})
