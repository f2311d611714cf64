"""The sites of a layer with their axes, and edits as data: a mix or an addition at one site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from .attention import Edit

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
"""Every site's axes in one layer, in the order of the forward pass: B examples, T query positions, S key positions, N
query heads, K key/value heads, H head dimension, D model dimension. A family may lack some: see
`Stack.sites`."""

ATTENTION_SITES = tuple(site for site, axes in SITES.items() if "D" not in axes)


def has_heads(site: str) -> bool:
    """Whether the values at a site belong to single heads: not so in the residual stream."""
    return site in ATTENTION_SITES


def is_of_keys(site: str) -> bool:
    """Whether the positions and heads at a site are those of keys and values."""
    return "K" in SITES[site]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SiteEdit:
    """One change at one site of one stack; where and what are structure, the rest is traced.

    In layer `layers[e]` the site's value x becomes `(1 - w) * x + w * s` ("mix") or `x + w * s` ("add") with
    `w = weight[e]` and `s = source[e]`; a mix is exact at both ends. Layers that are not listed are left alone.

    Attributes:
        layers: layer numbers, int `[E]`, each at most once.
        weight: float `[E, …]`, then the site's axes at full rank, size 1 where it broadcasts.
        source: `[E, …]` likewise.
    """

    layers: Array
    weight: Array
    source: Array
    site: str = field(metadata={"static": True})
    stack: str = field(metadata={"static": True})
    operation: Literal["mix", "add"] = field(default="mix", metadata={"static": True})

    def apply(self, x: Array, layer: Array) -> Array:
        """The site's value in this layer, changed if this is one of the edit's layers."""
        here_E = self.layers == layer
        index = jnp.argmax(here_E)
        weight = jnp.where(here_E.any(), self.weight[index], jnp.zeros_like(self.weight[index])).astype(x.dtype)
        source = self.source[index].astype(x.dtype)
        kept = x if self.operation == "add" else (1 - weight) * x
        return kept + weight * source


def editor(edits: Sequence[SiteEdit], stack: str, layer: Array) -> Edit:
    """The function that applies, in order, those of the edits that are in this stack at the site it is asked for."""

    def edit(site: str, value: Array) -> Array:
        for one in edits:
            if one.stack == stack and one.site == site:
                value = one.apply(value, layer)
        return value

    return edit
