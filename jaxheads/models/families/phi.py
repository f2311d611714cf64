"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023; Li et al. 2023): parallel layers, of whose heads a share rotates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..layers import Attention, PlainMLP, layer_norm
from ..loading.weights import Rule, Table, dense, norm, projections, same
from .bases.class_heads import decoder_head, head_rules, unused_class_heads
from .bases.decoder import unused_head
from .bases.gated_decoder import GatedDecoder, GatedSizes, attention_of, parallel, partial_rotary_of, sizes_of
from .bases.reading import refuse_unknown

_SHARE = 0.5
"""Default share of a head's dimensions that rotate."""


@dataclass(frozen=True)
class PhiConfig(GatedSizes):
    """The fields of a Hugging Face `PhiConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "phi"

    hidden_act: str
    layer_norm_eps: float
    qk_layernorm: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "PhiConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        refuse_unknown(config, cls.fields_of_file() | {"partial_rotary_factor"})
        fields = sizes_of(config)
        return cls(
            **fields,
            rotary=partial_rotary_of(config, fields["head_dim"], fields["max_position_embeddings"], _SHARE),
            hidden_act=config.get("hidden_act", "gelu_new"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            qk_layernorm=config.get("qk_layernorm", False),
            **decoder_head(config, "Phi", cls.class_heads),
        )


class Phi(GatedDecoder):
    """A parallel decoder with LayerNorm, partly rotating heads, biases everywhere, and a plain MLP."""

    config_type = PhiConfig

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs):
        c = config

        def norm(rngs: nnx.Rngs, size: int = c.hidden_size) -> nnx.LayerNorm:
            return layer_norm(size, c.layer_norm_eps, rngs)

        def attention(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            names = ("q_norm", "k_norm") if c.qk_layernorm else ()
            return attention_of(c, rngs, *layer, bias=True, **{name: norm(rngs, c.head_dim) for name in names})

        def mlp(rngs: nnx.Rngs) -> PlainMLP:
            return PlainMLP(c.hidden_size, c.intermediate_size, c.hidden_act, rngs=rngs)

        super().__init__(c, attention, norm=norm, arrange=parallel, mlp=mlp, rngs=rngs)
        self.logits_bias = self.own_logits_bias(c.vocab_size)

    @staticmethod
    def table(config: PhiConfig) -> Table:
        """Return the table of a Phi checkpoint's tensors."""
        here, at = "decoder.blocks", "model.layers.{layer}"
        names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKV"} | {"O": f"{at}.self_attn.dense"}
        rules: list[Rule] = [
            *head_rules(config),
            same("model.embed_tokens.weight", "embed.embedding"),
            *norm("model.final_layernorm", "final_norm"),
            *norm(f"{at}.input_layernorm", f"{here}.attention_norm"),
            *projections(names, f"{here}.attention", bias=True),
            *dense(f"{at}.mlp.fc1", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.fc2", f"{here}.mlp.down"),
        ]
        for letter in "qk" if config.qk_layernorm else "":
            rules += norm(f"{at}.self_attn.{letter}_layernorm", f"{here}.attention.{letter}_norm")
        if config.head == "lm":
            rules.append(same("lm_head.bias", "logits_bias"))
            if not config.tie_word_embeddings:
                rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over = {r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from the config"}
        passed_over |= unused_head(config.head) | unused_class_heads(config)
        rename = ((r"^(embed_tokens|layers|final_layernorm)\.", r"model.\1."),)
        copies = {"lm_head.weight": "model.embed_tokens.weight"}
        return Table(tuple(rules), passed_over, rename, copies)
