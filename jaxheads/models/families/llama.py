"""Llama (Touvron et al. 2023) and what shares its architecture: SmolLM, TinyLlama, Llama 2 and 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..batch import Batch, Context
from ..blocks import PreNormBlock
from ..layers import Attention, Embed, GatedMLP, rms_norm
from ..loading.weights import Rule, Table, dense, projections, same
from ..model import Through
from ..positions import Rotary
from ..stack import Stack
from .decoder import Decoder, unused_head
from .reading import head_of, refuse_unknown, required

_ROPE = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor",),
        ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    ),
}
"""By rope type, the parameters it must have and those it may have."""


@dataclass(frozen=True)
class LlamaConfig:
    """The fields of a Hugging Face `LlamaConfig` that change what is computed; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "llama"

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    hidden_act: str
    rms_norm_eps: float
    rotary: Rotary
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    head: str

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "LlamaConfig":
        """From the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a missing field, one that is not understood, or a rope type that is not covered.
        """
        own = {name for name in cls.__dataclass_fields__ if name not in ("rotary", "head")}
        neutral = {"is_llama_config": True, "rope_interleaved": False}  # written by the trainer of SmolLM
        refuse_unknown(given, own | {"rope_theta", "rope_scaling", "rope_parameters"}, neutral=neutral)
        width, heads = required(given, "hidden_size", "num_attention_heads")
        vocab, inner, layers = required(given, "vocab_size", "intermediate_size", "num_hidden_layers")
        head_dim = given.get("head_dim") or width // heads
        context = given.get("max_position_embeddings", 2048)
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=given.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            max_position_embeddings=context,
            hidden_act=given.get("hidden_act", "silu"),
            rms_norm_eps=given.get("rms_norm_eps", 1e-6),
            rotary=rotary_of(given, head_dim, context),
            attention_bias=given.get("attention_bias", False),
            mlp_bias=given.get("mlp_bias", False),
            tie_word_embeddings=given.get("tie_word_embeddings", False),
            head=head_of(given, {"LlamaForCausalLM": "lm", "LlamaModel": "none"}),
        )


def rotary_of(given: Mapping[str, Any], dimensions: int, context: int) -> Rotary:
    """The rotary embedding a config states, by `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
        ValueError: for a rope type that is not covered, or parameters that don't belong to it.
    """
    stated = dict(given.get("rope_parameters") or given.get("rope_scaling") or {})
    kind = stated.pop("rope_type", None) or stated.pop("type", None) or "default"
    stated.pop("type", None)
    base = stated.pop("rope_theta", None) or given.get("rope_theta") or 10000.0
    if kind not in _ROPE:
        raise ValueError(f"rope type {kind!r} is not covered; covered are {', '.join(_ROPE)}")
    needed, optional = _ROPE[kind]
    stated = {name: value for name, value in stated.items() if value is not None}
    missing, unknown = set(needed) - set(stated), set(stated) - set(needed) - set(optional)
    if missing or unknown:
        raise ValueError(f"rope type {kind!r} lacks {sorted(missing)} and does not know {sorted(unknown)}")
    if kind == "yarn":
        stated.setdefault("original_max_position_embeddings", context)
    return Rotary(float(base), dimensions, kind, tuple(sorted((name, float(value)) for name, value in stated.items())))


class Llama(Decoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries and a gated MLP."""

    config_type = LlamaConfig

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            return PreNormBlock(
                rms_norm(c.hidden_size, c.rms_norm_eps, rngs),
                Attention(
                    c.hidden_size,
                    c.num_attention_heads,
                    c.head_dim,
                    kv_heads=c.num_key_value_heads,
                    bias=c.attention_bias,
                    out_bias=c.attention_bias,
                    rotary=c.rotary,
                    rngs=rngs,
                ),
                rms_norm(c.hidden_size, c.rms_norm_eps, rngs),
                GatedMLP(c.hidden_size, c.intermediate_size, c.hidden_act, bias=c.mlp_bias, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, rngs=rngs)
        self.final_norm = rms_norm(c.hidden_size, c.rms_norm_eps, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.hidden_size, rngs)

    def hidden(self, batch: Batch, through: Through) -> Array:
        return through(self.decoder, self.embed(batch.tokens), Context.over(batch, causal=True))

    @staticmethod
    def table(config: LlamaConfig) -> Table:
        """The tensors of a Llama checkpoint."""
        here, at = "decoder.blocks", "model.layers.{layer}"
        names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKVO"}
        rules: list[Rule] = [
            same("model.embed_tokens.weight", "embed.embedding"),
            same("model.norm.weight", "final_norm.scale"),
            same(f"{at}.input_layernorm.weight", f"{here}.attention_norm.scale"),
            same(f"{at}.post_attention_layernorm.weight", f"{here}.mlp_norm.scale"),
            *projections(names, f"{here}.attention", bias=config.attention_bias),
        ]
        for part in ("gate", "up", "down"):
            rules += dense(f"{at}.mlp.{part}_proj", f"{here}.mlp.{part}", bias=config.mlp_bias)
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over = {r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from the config"}
        passed_over |= unused_head(config.head)
        rename = ((r"^(embed_tokens|layers|norm)\.", r"model.\1."),)
        return Table(tuple(rules), passed_over, rename, {"lm_head.weight": "model.embed_tokens.weight"})
