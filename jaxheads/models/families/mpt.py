"""MPT (MosaicML 2023): pre-norm layers without biases, and scores that fall with distance (ALiBi)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.config_fields import check_fields
from ..loading.weights import Rule, Table, dense, fused_linear, heads_out, norm, same
from ..network import RunStack
from ..positions import alibi_bias
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import inner_config, refuse_unknown, required

_ACTIVATION = "gelu"

_UNUSED = frozenset(
    "emb_pdrop resid_pdrop embedding_fraction init_config init_device learned_pos_emb tokenizer_name verbose".split()
)
"""Fields of training; positions are learnt only where there is no ALiBi."""

_NORMS = ("low_precision_layernorm", "layernorm")
"""Names of LayerNorm, whose precision differs in training only."""


@dataclass(frozen=True)
class MptConfig(ClassFields):
    """The fields of a Hugging Face `MptConfig` that affect the computation; `head` is "lm", "none" or of classes.

    `softmax_scale` and `clip_qkv` come from the file's `attn_config`.
    """

    model_type: ClassVar[str] = "mpt"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS

    vocab_size: int
    d_model: int
    n_heads: int
    n_layers: int
    max_seq_len: int
    layer_norm_epsilon: float
    softmax_scale: float | None
    clip_qkv: float | None
    tie_word_embeddings: bool
    head: str

    @property
    def max_position_embeddings(self) -> int:
        return self.max_seq_len

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "MptConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        kind = config.get("norm_type") if config.get("norm_type") in _NORMS else _NORMS[0]
        neutral = {"no_bias": True, "expansion_ratio": 4, "logit_scale": None, "norm_type": kind}
        fields = set(cls.__dataclass_fields__) - {"head", "softmax_scale", "clip_qkv"}
        refuse_unknown(config, fields | _UNUSED | {"attn_config"}, neutral=neutral)
        attention = _attention(config)
        vocab, width, heads, layers = required(config, "vocab_size", "d_model", "n_heads", "n_layers")
        return cls(
            vocab_size=vocab,
            d_model=width,
            n_heads=heads,
            n_layers=layers,
            max_seq_len=config.get("max_seq_len", 2048),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            softmax_scale=attention.get("softmax_scale"),
            clip_qkv=attention.get("clip_qkv"),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "Mpt", cls.class_heads),
        )


def _attention(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read `attn_config`."""
    stated = inner_config(config, "attn_config")
    neutral = {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8}
    neutral |= dict.fromkeys(("prefix_lm", "qk_ln", "attn_uses_sequence_id"), False)
    refuse_unknown(
        {"model_type": "mpt", **stated}, {"softmax_scale", "clip_qkv", "attn_impl", "attn_pdrop"}, neutral=neutral
    )
    check_fields(stated, ("softmax_scale", "clip_qkv"))
    return stated


class Mpt(Decoder):
    """A pre-norm decoder with LayerNorm, scores that fall with distance (ALiBi) and a plain MLP, without biases."""

    config_type = MptConfig

    def __init__(self, config: MptConfig, *, rngs: nnx.Rngs):
        c, D = config, config.d_model
        self.config = c

        def norm_of_stream(rngs: nnx.Rngs) -> nnx.LayerNorm:
            return layer_norm(D, c.layer_norm_epsilon, rngs, bias=False)

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            return PreNormBlock(
                norm_of_stream(rngs),
                Attention(D, c.n_heads, D // c.n_heads, scale=c.softmax_scale, clip=c.clip_qkv, rngs=rngs),
                norm_of_stream(rngs),
                PlainMLP(D, 4 * D, _ACTIVATION, bias=False, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.decoder = Stack("decoder", c.n_layers, block, causal=True, rngs=rngs)
        self.final_norm = norm_of_stream(rngs)
        self.unembed = self.own_unembedding(c.vocab_size, D, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        context = AttentionInputs.over(batch, causal=True, bias=alibi_bias(self.config.n_heads, batch.positions))
        return run_stack(self.decoder, self.embed(batch.tokens), context)

    @staticmethod
    def table(config: MptConfig) -> Table:
        """Return the table of an MPT checkpoint's tensors."""
        here, at = "decoder.blocks", "transformer.blocks.{layer}"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.wte.weight", "embed.embedding"),
            *norm("transformer.norm_f", "final_norm", bias=False),
            *norm(f"{at}.norm_1", f"{here}.attention_norm", bias=False),
            *norm(f"{at}.norm_2", f"{here}.mlp_norm", bias=False),
            fused_linear(f"{at}.attn.Wqkv.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            heads_out(f"{at}.attn.out_proj.weight", f"{here}.attention.W_O"),
            *dense(f"{at}.ffn.up_proj", f"{here}.mlp.up", bias=False),
            *dense(f"{at}.ffn.down_proj", f"{here}.mlp.down", bias=False),
        ]
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over = unused_head(config.head) | unused_class_heads(config)
        rename = ((r"^(wte|norm_f|blocks)\.", r"transformer.\1."),)
        return Table(tuple(rules), passed_over, rename, {"lm_head.weight": "transformer.wte.weight"})
