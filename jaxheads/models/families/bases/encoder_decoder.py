"""What encoder–decoders have in common, whatever their blocks and embeddings."""

from typing import Any

from flax import nnx
from jax import Array

from ...inputs.axes import TARGETS, TOKENS, Axis
from ...inputs.batch import AttentionInputs, Batch
from ...network import Network, RunStack
from ...stack import Stack


class EncoderDecoder(Network):
    """An encoder, and a decoder whose layers look at their own past, then at the encoder's stream.

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
        """What the encoder's first layer reads, `[B,S,D]`."""
        raise NotImplementedError

    def embed_targets(self, batch: Batch) -> Array:
        """What the decoder's first layer reads, `[B,U,D]`."""
        raise NotImplementedError

    def memory(self, x_BSD: Array) -> Array:
        """What cross-attention reads of the encoder's last stream."""
        return x_BSD

    def biases(self, batch: Batch) -> tuple[Array | None, Array | None]:
        """What is added to the scores of the encoder's and of the decoder's self-attention."""
        del batch
        return None, None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        source, targets = self.source.of(batch), TARGETS.of(batch)
        encoder_bias, decoder_bias = self.biases(batch)
        seen = AttentionInputs.within(source, causal=False, bias=encoder_bias)
        memory_BSD = self.memory(run_stack(self.encoder, self.embed_source(batch), seen))
        cross = AttentionInputs.between(targets, source, memory_BSD)
        context = AttentionInputs.within(targets, causal=True, bias=decoder_bias, cross=cross)
        return run_stack(self.decoder, self.embed_targets(batch), context)


def cross_stack(layers: int, make: Any, *, rngs: nnx.Rngs, source: Axis = TOKENS) -> Stack:
    """The stack of a decoder's cross-attention."""
    return Stack("cross", layers, make, causal=True, queries=TARGETS, keys=source, rngs=rngs)


def decoder_stack(layers: int, make: Any, cross: Stack, *, rngs: nnx.Rngs) -> Stack:
    """The stack of a decoder's own attention, with that of its cross-attention."""
    return Stack("decoder", layers, make, causal=True, queries=TARGETS, cross=cross, rngs=rngs)
