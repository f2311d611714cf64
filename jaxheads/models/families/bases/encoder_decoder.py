"""Base of encoder–decoders, for any kind of block and embedding."""

from typing import Any

from flax import nnx
from jax import Array

from ...inputs.axes import TARGETS, TOKENS, Axis
from ...inputs.batch import AttentionInputs, Batch
from ...network import Network, RunStack
from ...stack import Stack


class EncoderDecoder(Network):
    """An encoder, and a decoder whose layers attend to earlier positions, then to the encoder's stream.

    A family's `__init__` sets `config` (with `head`: "lm" or "none"), `encoder`, and `decoder` with its `cross` stack.
    """

    config: Any
    encoder: Stack
    decoder: Stack
    source: Axis = TOKENS

    @property
    def streams(self) -> tuple[Stack, ...]:
        return self.encoder, self.decoder

    def embed_source(self, batch: Batch) -> Array:
        """Return the stream `[B,S,D]` that the encoder's first layer reads."""
        raise NotImplementedError

    def embed_targets(self, batch: Batch) -> Array:
        """Return the stream `[B,U,D]` that the decoder's first layer reads."""
        raise NotImplementedError

    def memory(self, x_BSD: Array) -> Array:
        """Return what cross-attention reads: the encoder's last stream, normed in families that do so."""
        return x_BSD

    def biases(self, batch: Batch) -> tuple[Array | None, Array | None]:
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
