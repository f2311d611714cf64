"""BLOOM (BigScience Workshop 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..attention import Edit
from ..blocks import InputNorm, PreNormBlock
from ..inputs.batch import AttentionInputs, Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.weights import Rule, Table, dense, heads_out, interleaved_heads, norm, same
from ..network import RunStack
from ..positions import alibi_slopes
from ..stack import Stack
from .bases.decoder import Decoder, unused_head
from .bases.reading import head_of, refuse_unknown, required

_ACTIVATION = "gelu_new"
"""BLOOM writes its own: the same tanh approximation, its constants the same numbers in float32."""


@dataclass(frozen=True)
class BloomConfig:
    """The fields of a Hugging Face `BloomConfig` that change what is computed; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "bloom"
    max_position_embeddings: ClassVar[None] = None

    vocab_size: int
    hidden_size: int
    n_layer: int
    n_head: int
    layer_norm_epsilon: float
    apply_residual_connection_post_layernorm: bool
    tie_word_embeddings: bool
    head: str

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "BloomConfig":
        """From the contents of a config.json, with its older names of sizes.

        Raises:
            ValueError: for a missing field, or one that is not understood.
        """
        older = {"hidden_size": "n_embed", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
        given = {**{name: given.get(old) for name, old in older.items()}, **given}
        vocab, width, layers, heads = required(given, "vocab_size", "hidden_size", "n_layer", "n_head")
        own = set(cls.__dataclass_fields__) - {"head"}
        unused = set(  # how it was trained, and by which kernels
            "seq_length offset_alibi hidden_dropout attention_softmax_in_fp32 masked_softmax_fusion "
            "bias_dropout_fusion skip_bias_add skip_bias_add_qkv".split()
        )
        # Slices of `pretraining_tp` are summed one by one only where `slow_but_exact` asks for it.
        sliced = {"slow_but_exact": False, "pretraining_tp": given.get("pretraining_tp")}
        refuse_unknown(given, own | unused | set(older.values()), neutral={"n_inner": 4 * width, **sliced})
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            n_layer=layers,
            n_head=heads,
            layer_norm_epsilon=given.get("layer_norm_epsilon", 1e-5),
            apply_residual_connection_post_layernorm=given.get("apply_residual_connection_post_layernorm", False),
            tie_word_embeddings=given.get("tie_word_embeddings", True),
            head=head_of(given, {"BloomForCausalLM": "lm", "BloomModel": "none"}),
        )


class NormedStreamBlock(PreNormBlock):
    """`y = norm(x); y = y + attention(y)`, then `y = norm(y); y + mlp(y)`: what is added to is normed as well."""

    additive = False
    residual = False

    def input_norms(self) -> tuple[InputNorm, ...]:
        return ()  # the stream itself goes on as the norms make it

    def write(self, x_BTD: Array, z_BTNH: Array, edit: Edit) -> tuple[Array, Mapping[str, Array]]:
        attn_out = edit("attn_out", self.attention.output(z_BTNH))
        mid = edit("resid_mid", self.attention_norm(x_BTD) + attn_out)
        mlp_out = edit("mlp_out", self.feed_forward(mid))
        post = edit("resid_post", self.mlp_norm(mid) + mlp_out)
        return post, {"attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": post}


class Bloom(Decoder):
    """A pre-norm decoder with LayerNorm, also after its embedding, whose scores fall with distance (ALiBi)."""

    config_type = BloomConfig

    def __init__(self, config: BloomConfig, *, rngs: nnx.Rngs):
        c, D = config, config.hidden_size
        self.config = c
        kind = NormedStreamBlock if c.apply_residual_connection_post_layernorm else PreNormBlock

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            return kind(
                layer_norm(D, c.layer_norm_epsilon, rngs),
                Attention(D, c.n_head, D // c.n_head, bias=True, rngs=rngs),
                layer_norm(D, c.layer_norm_epsilon, rngs),
                PlainMLP(D, 4 * D, _ACTIVATION, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_norm = layer_norm(D, c.layer_norm_epsilon, rngs)
        self.decoder = Stack("decoder", c.n_layer, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(D, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, D, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        # A row's softmax is the same for slope * key and slope * (key - query): one row of biases serves all queries.
        slopes_N = jnp.asarray(alibi_slopes(self.config.n_head))
        bias_BN1S = slopes_N[None, :, None, None] * batch.positions[:, None, None].astype(slopes_N.dtype)
        context = AttentionInputs.over(batch, causal=True, bias=bias_BN1S)
        return run_stack(self.decoder, self.embed_tokens(batch.tokens), context)

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed_norm(self.embed(ids))

    @staticmethod
    def table(config: BloomConfig) -> Table:
        """The tensors of a BLOOM checkpoint; a head's query, key and value are stored side by side."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        heads = f"{at}.self_attention.query_key_value"
        rules: list[Rule] = [
            same("transformer.word_embeddings.weight", "embed.embedding"),
            *norm("transformer.word_embeddings_layernorm", "embed_norm"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.input_layernorm", f"{here}.attention_norm"),
            *norm(f"{at}.post_attention_layernorm", f"{here}.mlp_norm"),
            interleaved_heads(f"{heads}.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            interleaved_heads(f"{heads}.bias", *(f"{here}.attention.b_{letter}" for letter in "QKV")),
            heads_out(f"{at}.self_attention.dense.weight", f"{here}.attention.W_O"),
            same(f"{at}.self_attention.dense.bias", f"{here}.attention.b_O"),
            *dense(f"{at}.mlp.dense_h_to_4h", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.dense_4h_to_h", f"{here}.mlp.down"),
        ]
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        rename = ((r"^(word_embeddings|word_embeddings_layernorm|ln_f|h)\.", r"transformer.\1."),)
        copies = {"lm_head.weight": "transformer.word_embeddings.weight"}
        return Table(tuple(rules), unused_head(config.head), rename, copies)
