"""Base of encoder–decoders, for any kind of block and embedding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...blocks import AttentionBlock, PreNormBlock, PreNormCrossBlock
from ...inputs.attention_inputs import AttentionInputs, RowBias
from ...inputs.axes import TARGETS, TOKENS, Axis
from ...inputs.batch import Batch
from ...layers import Attention, PlainMLP, layer_norm
from ...loading.weights import Rule, dense, norm, projections
from ...network import RunStack
from ...stack import Stack
from .class_heads import Classifies


class EncoderDecoder(Classifies):
    """An encoder, and a decoder whose layers attend to earlier positions, then to the encoder's stream.

    A family's `__init__` sets `config` (with `head`: "lm", "none" or a head of classes), `encoder`, and `decoder` with
    its `cross` stack.
    """

    config: Any
    encoder: Stack
    decoder: Stack
    source: Axis = TOKENS

    @property
    def streams(self) -> tuple[Stack, ...]:
        return self.encoder, self.decoder

    @property
    def repeats_source(self) -> bool:
        return self.classes_of is not None

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of the last target; for a classifier, of that at the source's last end token."""
        targets = TARGETS.of(batch)
        if self.classes_of != "example":
            return targets.last
        place_B = jnp.where(self._ends(batch), TOKENS.of(batch).positions, 0).max(axis=1)
        return jnp.argmax(targets.mask & (targets.positions == place_B[:, None]), axis=1)

    def _ends(self, batch: Batch) -> Array:
        """Return which source tokens are end tokens, `[B,S]`."""
        return TOKENS.of(batch).mask & (TOKENS.ids(batch) == self.config.eos_token_id)

    def check(self, batch: Batch) -> None:
        if self.classes_of != "example":
            return
        source, targets = TOKENS.of(batch), TARGETS.of(batch)
        differ = np.asarray(source.lengths != targets.lengths)
        endless = ~np.asarray(self._ends(batch).any(axis=1))
        if differ.any() or endless.any():
            wrong = np.flatnonzero(differ | endless)[:8].tolist()
            raise ValueError(
                "this classifier reads its decoder at the position of the text's last end token "
                f"({self.config.eos_token_id}): a text must have one, and the targets must be the text shifted by one "
                f"position, as model.encode makes them; wrong in examples {wrong}"
            )

    def embed_source(self, batch: Batch) -> Array:
        """Return the stream `[B,S,D]` that the encoder's first layer reads."""
        raise NotImplementedError

    def embed_targets(self, batch: Batch) -> Array:
        """Return the stream `[B,U,D]` that the decoder's first layer reads."""
        raise NotImplementedError

    def memory(self, x_BSD: Array) -> Array:
        """Return what cross-attention reads: the encoder's last stream, normed in families that do so."""
        return x_BSD

    def biases(self, batch: Batch) -> tuple[Array | RowBias | None, Array | RowBias | None]:
        """Return the biases of the encoder's and of the decoder's self-attention scores; None for no bias."""
        del batch
        return None, None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        source, targets = self.source.of(batch), TARGETS.of(batch)
        encoder_bias, decoder_bias = self.biases(batch)
        encoder_context = AttentionInputs.within(source, causal=False, bias=encoder_bias)
        memory_BSD = self.memory(run_stack(self.encoder, self.embed_source(batch), encoder_context))
        cross = AttentionInputs.between(targets, source, memory_BSD)
        context = AttentionInputs.within(targets, causal=True, bias=decoder_bias, cross=cross)
        return run_stack(self.decoder, self.embed_targets(batch), context)


def cross_stack(layers: int, make: Any, *, rngs: nnx.Rngs, source: Axis = TOKENS) -> Stack:
    """Build the stack of a decoder's cross-attention."""
    return Stack("cross", layers, make, causal=True, queries=TARGETS, keys=source, rngs=rngs)


def decoder_stack(layers: int, make: Any, cross: Stack, *, rngs: nnx.Rngs) -> Stack:
    """Build the stack of a decoder's self-attention, with `cross` as its cross-attention."""
    return Stack("decoder", layers, make, causal=True, queries=TARGETS, cross=cross, rngs=rngs)


def pre_norm_stacks(
    config: Any, *, bias: bool | str, epsilon: float, rngs: nnx.Rngs, source: Axis = TOKENS
) -> tuple[Stack, Stack]:
    """Build the encoder and the decoder of a pre-norm model with LayerNorm and plain MLPs, of a config like BART's.

    Args:
        bias: as `Attention` has it.
        source: the encoder's positions.
    """
    c, D = config, config.d_model

    def attention(heads: int, rngs: nnx.Rngs) -> Attention:
        return Attention(D, heads, D // heads, bias=bias, rngs=rngs)

    def norm_of(rngs: nnx.Rngs) -> nnx.LayerNorm:
        return layer_norm(D, epsilon, rngs)

    def layer(kind: type, heads: int, inner: int, rngs: nnx.Rngs) -> Any:
        mlp = PlainMLP(D, inner, c.activation_function, rngs=rngs)
        return kind(norm_of(rngs), attention(heads, rngs), norm_of(rngs), mlp)

    def encoder(rngs: nnx.Rngs) -> PreNormBlock:
        return layer(PreNormBlock, c.encoder_attention_heads, c.encoder_ffn_dim, rngs)

    def cross(rngs: nnx.Rngs) -> PreNormCrossBlock:
        return layer(PreNormCrossBlock, c.decoder_attention_heads, c.decoder_ffn_dim, rngs)

    def decoder(rngs: nnx.Rngs) -> AttentionBlock:
        return AttentionBlock(attention(c.decoder_attention_heads, rngs), norm_of(rngs))

    first = Stack("encoder", c.encoder_layers, encoder, causal=False, queries=source, rngs=rngs)
    crossing = cross_stack(c.decoder_layers, cross, rngs=rngs, source=source)
    return first, decoder_stack(c.decoder_layers, decoder, crossing, rngs=rngs)


def pre_norm_rules(*, bias: bool | str) -> list[Rule]:
    """Map the layers of `pre_norm_stacks` and the norms behind them, stored under the names that BART's family has."""
    rules = [*norm("model.encoder.layer_norm", "encoder_norm"), *norm("model.decoder.layer_norm", "final_norm")]
    for side, kind, path, norm_name in (
        ("encoder", "self_attn", "encoder.blocks", "attention_norm"),
        ("decoder", "self_attn", "decoder.blocks", "norm"),
        ("decoder", "encoder_attn", "decoder.cross.blocks", "attention_norm"),
    ):
        at = f"model.{side}.layers.{{layer}}.{kind}"
        names = {**{letter: f"{at}.{letter.lower()}_proj" for letter in "QKV"}, "O": f"{at}.out_proj"}
        rules += norm(f"{at}_layer_norm", f"{path}.{norm_name}")
        rules += projections(names, f"{path}.attention", bias=bias)
    for side, path in (("encoder", "encoder.blocks"), ("decoder", "decoder.cross.blocks")):
        at = f"model.{side}.layers.{{layer}}"
        rules += norm(f"{at}.final_layer_norm", f"{path}.mlp_norm")
        rules += dense(f"{at}.fc1", f"{path}.mlp.up")
        rules += dense(f"{at}.fc2", f"{path}.mlp.down")
    return rules
