"""Blocks: read – attend – write, in the two orders of normalisation that the first families use.

A block's `queries` and `keys_values` read the residual stream, its attention attends, and `write` carries `z` back
into the stream. They are apart because a sweep may start at any of them: an edited `z` needs only `write`.
"""

from collections.abc import Mapping
from typing import Protocol

from flax import nnx
from jax import Array

from .attention import ATTENTION_SITES, Edit
from .layers import Attention


class Block(Protocol):
    """What the stack and the sweeps ask of a layer, whatever family it belongs to."""

    attention: Attention
    sites: tuple[str, ...]
    additive: bool
    """Whether the stream is the sum of what heads and MLPs write; if so the block is an `AdditiveBlock`."""

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        """Queries `[B,T,N,H]` of the positions in `x`."""
        ...

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Keys and values `[B,S,K,H]` of the positions in `x`."""
        ...

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        """The residual stream after the layer, `[B,T,D]`, and the stream's sites as they were used."""
        ...


class AdditiveBlock(Block, Protocol):
    """A layer whose heads and MLP add to the stream, so that each may be asked to read another stream than the rest."""

    def queries_apart(self, x_NBTD: Array, positions_BT: Array) -> Array:
        """Queries `[B,T,N,H]`, every head's from a stream of its own."""
        ...

    def keys_values_apart(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Keys and values `[B,S,K,H]`, every head's from two streams of its own."""
        ...

    def feed_forward(self, x_BTD: Array) -> Array:
        """What the MLP writes, `[B,T,D]`, of the stream it reads."""
        ...


_SITES = ("resid_pre", *ATTENTION_SITES, "attn_out", "resid_mid", "mlp_out", "resid_post")


class PreNormBlock(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`: GPT-2, Llama."""

    sites = _SITES
    additive = True

    def __init__(self, attention_norm: nnx.Module, attention: Attention, mlp_norm: nnx.Module, mlp: nnx.Module):
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        return self.attention.queries(self.attention_norm(x_BTD), positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.keys_values(self.attention_norm(x_BSD), positions_BS)

    def queries_apart(self, x_NBTD: Array, positions_BT: Array) -> Array:
        return self.attention.queries_apart(self.attention_norm(x_NBTD), positions_BT)

    def keys_values_apart(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        k_KBSD, v_KBSD = self.attention_norm(k_KBSD), self.attention_norm(v_KBSD)
        return self.attention.keys_values_apart(k_KBSD, v_KBSD, positions_BS)

    def feed_forward(self, x_BTD: Array) -> Array:
        return self.mlp(self.mlp_norm(x_BTD))

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.attention.output(z_BTNH))
        mid = edit("resid_mid", x_BTD + attn_out)
        mlp_out = edit("mlp_out", self.feed_forward(mid))
        post = edit("resid_post", mid + mlp_out)
        return post, {"attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": post}


class PostNormBlock(nnx.Module):
    """`norm(x + attention(x))`, then `norm(x + mlp(x))`: BERT. `resid_mid` and `resid_post` are after the norms."""

    sites = _SITES
    additive = False

    def __init__(self, attention: Attention, attention_norm: nnx.Module, mlp: nnx.Module, mlp_norm: nnx.Module):
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        return self.attention.queries(x_BTD, positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.keys_values(x_BSD, positions_BS)

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.attention.output(z_BTNH))
        mid = edit("resid_mid", self.attention_norm(x_BTD + attn_out))
        mlp_out = edit("mlp_out", self.mlp(mid))
        post = edit("resid_post", self.mlp_norm(mid + mlp_out))
        return post, {"attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": post}
