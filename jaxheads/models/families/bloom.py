"""BLOOM (BigScience Workshop 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..attention.row_edits import Edit
from ..blocks import InputNorm, PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.config_fields import check_fields
from ..loading.head_order import grouped_heads
from ..loading.weights import Rule, Table, dense, heads_out, norm, same
from ..network import RunStack
from ..positions import alibi_bias
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import refuse_unknown, required

_ACTIVATION = "gelu_new"
"""BLOOM's activation; its own code has the tanh approximation with constants that are equal in float32."""


@dataclass(frozen=True)
class BloomConfig(ClassFields):
    """The fields of a Hugging Face `BloomConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "bloom"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS
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
    def from_hf(cls, config: Mapping[str, Any]) -> "BloomConfig":
        """Read the contents of a config.json, with older names of sizes too.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        older = {"hidden_size": "n_embed", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
        config = {**{name: config.get(old) for name, old in older.items()}, **config}
        vocab, width, layers, heads = required(config, "vocab_size", "hidden_size", "n_layer", "n_head")
        fields = set(cls.__dataclass_fields__) - {"head"}
        unused = set(  # how it was trained, and by which kernels
            "seq_length offset_alibi hidden_dropout attention_softmax_in_fp32 masked_softmax_fusion "
            "bias_dropout_fusion skip_bias_add skip_bias_add_qkv".split()
        )
        # The slices of `pretraining_tp` are summed separately only if `slow_but_exact` is set.
        sliced = {"slow_but_exact": False, "pretraining_tp": config.get("pretraining_tp")}
        check_fields(config, fields | set(older.values()))
        refuse_unknown(config, fields | unused | set(older.values()), neutral={"n_inner": 4 * width, **sliced})
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            n_layer=layers,
            n_head=heads,
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            apply_residual_connection_post_layernorm=config.get("apply_residual_connection_post_layernorm", False),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "Bloom", cls.class_heads),
        )


class NormedStreamBlock(PreNormBlock):
    """Pre-norm block that also norms the stream itself: `y = norm(x); y += attention(y); y = norm(y); y += mlp(y)`."""

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
    """A pre-norm decoder with LayerNorm, also after its embedding, and scores that fall with distance (ALiBi)."""

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
        context = AttentionInputs.over(batch, causal=True, bias=alibi_bias(self.config.n_head, batch.positions))
        return run_stack(self.decoder, self.embed_tokens(batch.tokens), context)

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed_norm(self.embed(ids))

    @staticmethod
    def table(config: BloomConfig) -> Table:
        """Return the table of a BLOOM checkpoint's tensors; it joins query, key and value within each head."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        heads = f"{at}.self_attention.query_key_value"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.word_embeddings.weight", "embed.embedding"),
            *norm("transformer.word_embeddings_layernorm", "embed_norm"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.input_layernorm", f"{here}.attention_norm"),
            *norm(f"{at}.post_attention_layernorm", f"{here}.mlp_norm"),
            grouped_heads(f"{heads}.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            grouped_heads(f"{heads}.bias", *(f"{here}.attention.b_{letter}" for letter in "QKV")),
            heads_out(f"{at}.self_attention.dense.weight", f"{here}.attention.W_O"),
            same(f"{at}.self_attention.dense.bias", f"{here}.attention.b_O"),
            *dense(f"{at}.mlp.dense_h_to_4h", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.dense_4h_to_h", f"{here}.mlp.down"),
        ]
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        rename = ((r"^(word_embeddings|word_embeddings_layernorm|ln_f|h)\.", r"transformer.\1."),)
        passed_over = unused_head(config.head) | unused_class_heads(config)
        copies = {"lm_head.weight": "transformer.word_embeddings.weight"}
        return Table(tuple(rules), passed_over, rename, copies)
