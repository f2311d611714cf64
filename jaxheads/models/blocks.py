"""Blocks: read, attend, write, in the orders of normalisation that the families use.

A block's `queries` and `keys_values` read the residual stream, its attention attends, and `write` adds `z` back to the
stream. They are separate because a sweep may start at any of them: an edited `z` needs only `write`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .attention.row_edits import Edit
from .layers import Attention
from .norms import with_frozen_statistics
from .sites import ATTENTION_SITES


class InputNorm(NamedTuple):
    """A norm between the stream and the projections of a block that read it.

    Attributes:
        norm: the norm.
        heads: the letters of the heads' projections that read it, of "QKV".
        mlp: the MLP that reads it, or None.
    """

    norm: Any
    heads: str
    mlp: Any = None


class Block(Protocol):
    """A layer of any family, as stacks and sweeps use it."""

    attention: Attention
    sites: tuple[str, ...]
    additive: bool
    """Whether the stream is the sum of what heads and MLPs write; if so the block is an `AdditiveBlock`."""
    mlp_reads: str
    """Stream that the MLP reads: "after" its own layer's heads or "beside" them; "none" for a layer without MLP."""
    residual: bool
    """Whether layers only add to the stream, so that the last stream is a sum over all layers."""

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        """Return the queries `[B,T,N,H]` of the positions in `x`."""
        ...

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Return keys and values `[B,S,K,H]` of the positions in `x` (in cross-attention, the memory)."""
        ...

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        """Return the residual stream after the layer, `[B,T,D]`, and the stream's sites as they were used."""
        ...

    def normed(self, x_BTD: Array) -> Array:
        """Return the stream as the heads' queries read it."""
        ...

    def head_contribution(self, x: Array, whole: Array) -> Array:
        """Map the output `x` of some heads to their share of what the block adds to the stream, `[…,D]`.

        Linear in `x`: norm statistics are those of `whole`, the output of all heads.
        """
        ...

    def input_norms(self) -> tuple[InputNorm, ...]:
        """Return the norms between the stream and the block's projections; () where projections read it directly."""
        ...


class AdditiveBlock(Block, Protocol):
    """A layer whose heads and MLP add to the stream, so that each can be made to read another stream than the rest."""

    def per_head_queries(self, x_NBTD: Array, positions_BT: Array) -> Array:
        """Return queries `[B,T,N,H]`, every head's from its own stream."""
        ...

    def per_head_keys_values(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        """Return keys and values `[B,S,K,H]`, every head's from its own two streams."""
        ...

    def from_heads(self, z_BTNH: Array) -> Array:
        """Return what all heads together add to the stream, `[B,T,D]`."""
        ...

    def per_head_contribution(self, z_BTNH: Array) -> Array:
        """Return what each head adds to the stream, `[N,B,T,D]`, without biases, which belong to no head."""
        ...

    def feed_forward(self, x_BTD: Array) -> Array:
        """Return what the MLP adds to the stream `[B,T,D]` that it reads; 0 in a layer without MLP."""
        ...


_READ = ("resid_pre", *ATTENTION_SITES, "attn_out")
_SITES = (*_READ, "resid_mid", "mlp_out", "resid_post")


def _through(norm: Any, x_BTD: Array) -> Array:
    return x_BTD if norm is None else norm(x_BTD)


class _PerHeadReads:
    """The methods of additive blocks that let every head read its own stream."""

    attention: Attention

    def normed(self, x_BTD: Array) -> Array:
        raise NotImplementedError

    def from_heads(self, z_BTNH: Array) -> Array:
        return self.attention.output(z_BTNH)

    def per_head_contribution(self, z_BTNH: Array) -> Array:
        return self.attention.per_head_output(z_BTNH)

    def per_head_queries(self, x_NBTD: Array, positions_BT: Array) -> Array:
        return self.attention.per_head_queries(self.normed(x_NBTD), positions_BT)

    def per_head_keys_values(self, k_KBSD: Array, v_KBSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.per_head_keys_values(self.normed(k_KBSD), self.normed(v_KBSD), positions_BS)


class _NormedBlock(_PerHeadReads, nnx.Module):
    """A block whose heads and MLP read the stream through norms, and add to it; a norm may be None, for none at all."""

    def __init__(self, attention_norm: Any, attention: Attention, mlp_norm: Any, mlp: Any):
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    residual = True

    def normed(self, x_BTD: Array) -> Array:
        return _through(self.attention_norm, x_BTD)

    def head_contribution(self, x: Array, whole: Array) -> Array:
        del whole
        return x

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        return self.attention.queries(self.normed(x_BTD), positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.keys_values(self.normed(x_BSD), positions_BS)


class PreNormBlock(_NormedBlock):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`: GPT-2, Llama, T5, ViT."""

    sites = _SITES
    additive = True
    mlp_reads = "after"

    def input_norms(self) -> tuple[InputNorm, ...]:
        norms = InputNorm(self.attention_norm, "QKV"), InputNorm(self.mlp_norm, "", self.mlp)
        return tuple(norm for norm in norms if norm.norm is not None)

    def feed_forward(self, x_BTD: Array) -> Array:
        return self.mlp(_through(self.mlp_norm, x_BTD))

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.from_heads(z_BTNH))
        mid = edit("resid_mid", x_BTD + attn_out)
        mlp_out = edit("mlp_out", self.feed_forward(mid))
        post = edit("resid_post", mid + mlp_out)
        return post, {"attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": post}


class PreNormCrossBlock(PreNormBlock):
    """A `PreNormBlock` of cross-attention, whose keys and values read the memory unnormed: T5, Whisper."""

    def input_norms(self) -> tuple[InputNorm, ...]:
        return InputNorm(self.attention_norm, "Q"), InputNorm(self.mlp_norm, "", self.mlp)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.keys_values(x_BSD, positions_BS)


class SandwichBlock(PreNormBlock):
    """`x + norm(attention(norm(x)))`, then `x + norm(mlp(norm(x)))`: Gemma 2 and 3.

    `attn_out` and `mlp_out` are what is added, after their norms. A head's share of `attn_out` is its output through
    that norm, with the norm's statistics of all heads' output.
    """

    def __init__(
        self,
        attention_norm: Any,
        attention: Attention,
        attention_out_norm: Any,
        mlp_norm: Any,
        mlp: Any,
        mlp_out_norm: Any,
    ):
        super().__init__(attention_norm, attention, mlp_norm, mlp)
        self.attention_out_norm = attention_out_norm
        self.mlp_out_norm = mlp_out_norm

    def head_contribution(self, x: Array, whole: Array) -> Array:
        return with_frozen_statistics(self.attention_out_norm, x, whole)

    def from_heads(self, z_BTNH: Array) -> Array:
        return self.attention_out_norm(super().from_heads(z_BTNH))

    def per_head_contribution(self, z_BTNH: Array) -> Array:
        whole_BTD = super().from_heads(z_BTNH)
        return self.head_contribution(super().per_head_contribution(z_BTNH), whole_BTD[None])

    def feed_forward(self, x_BTD: Array) -> Array:
        return self.mlp_out_norm(super().feed_forward(x_BTD))


class OutputNormBlock(SandwichBlock):
    """`x + norm(attention(x))`, then `x + norm(mlp(x))`: OLMo 2, a sandwich without its first norms."""

    def __init__(self, attention: Attention, attention_out_norm: Any, mlp: Any, mlp_out_norm: Any):
        super().__init__(None, attention, attention_out_norm, None, mlp, mlp_out_norm)

    def normed(self, x_BTD: Array) -> Array:
        return x_BTD

    def input_norms(self) -> tuple[InputNorm, ...]:
        return ()

    def feed_forward(self, x_BTD: Array) -> Array:
        return self.mlp_out_norm(self.mlp(x_BTD))


class ParallelBlock(_NormedBlock):
    """`x + attention(norm(x)) + mlp(norm(x))`: GPT-NeoX with two norms, GPT-J with one (`mlp_norm` is None).

    It has no `resid_mid`: the MLP does not read what its own layer's heads write.
    """

    sites = (*_READ, "mlp_out", "resid_post")
    additive = True
    mlp_reads = "beside"

    def input_norms(self) -> tuple[InputNorm, ...]:
        if self.attention_norm is None:
            return ()
        if self.mlp_norm is None:
            return (InputNorm(self.attention_norm, "QKV", self.mlp),)
        return InputNorm(self.attention_norm, "QKV"), InputNorm(self.mlp_norm, "", self.mlp)

    def feed_forward(self, x_BTD: Array) -> Array:
        return self.mlp(_through(self.attention_norm if self.mlp_norm is None else self.mlp_norm, x_BTD))

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.from_heads(z_BTNH))
        mlp_out = edit("mlp_out", self.feed_forward(x_BTD))
        post = edit("resid_post", x_BTD + attn_out + mlp_out)
        return post, {"attn_out": attn_out, "mlp_out": mlp_out, "resid_post": post}


class PostNormBlock(nnx.Module):
    """`norm(x + attention(x))`, then `norm(x + mlp(x))`: BERT, BART, Marian.

    `resid_mid` and `resid_post` are after the norms. In cross-attention keys and values read the memory unnormed.
    """

    sites = _SITES
    additive = False
    mlp_reads = "after"
    residual = False

    def __init__(self, attention: Attention, attention_norm: Any, mlp: Any, mlp_norm: Any):
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def normed(self, x_BTD: Array) -> Array:
        return x_BTD

    def head_contribution(self, x: Array, whole: Array) -> Array:
        del whole
        return x

    def input_norms(self) -> tuple[InputNorm, ...]:
        return ()

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


class AttentionBlock(_PerHeadReads, nnx.Module):
    """Attention without an MLP: `x + attention(norm(x))` or, with `post`, `norm(x + attention(x))`.

    It is the first half of a decoder's layer, before cross-attention, and the layer of attention-only transformers.
    `norm` may be None.
    """

    sites = (*_READ, "resid_post")
    mlp_reads = "none"

    def __init__(self, attention: Attention, norm: Any, *, post: bool = False):
        self.attention = attention
        self.norm = norm
        self.post = post

    @property
    def residual(self) -> bool:
        return not self.post

    @property
    def additive(self) -> bool:
        return not self.post

    def normed(self, x_BTD: Array) -> Array:
        return x_BTD if self.post or self.norm is None else self.norm(x_BTD)

    def head_contribution(self, x: Array, whole: Array) -> Array:
        del whole
        return x

    def input_norms(self) -> tuple[InputNorm, ...]:
        return () if self.post or self.norm is None else (InputNorm(self.norm, "QKV"),)

    def queries(self, x_BTD: Array, positions_BT: Array) -> Array:
        return self.attention.queries(self.normed(x_BTD), positions_BT)

    def keys_values(self, x_BSD: Array, positions_BS: Array) -> tuple[Array, Array]:
        return self.attention.keys_values(self.normed(x_BSD), positions_BS)

    def feed_forward(self, x_BTD: Array) -> Array:
        return jnp.zeros_like(x_BTD)

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.attention.output(z_BTNH))
        summed = x_BTD + attn_out
        post = edit("resid_post", self.norm(summed) if self.post and self.norm is not None else summed)
        return post, {"attn_out": attn_out, "resid_post": post}
