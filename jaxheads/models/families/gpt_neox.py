"""GPT-NeoX (Black et al. 2022), the family of Pythia and of other models of EleutherAI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import ParallelBlock, PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.head_order import grouped_heads
from ..loading.weights import Rule, Table, dense, heads_out, norm, same
from ..network import RunStack
from ..positions import Rotary
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder
from .bases.gated_decoder import partial_rotary_of
from .bases.reading import refuse_unknown, required

_SHARE = 0.25
"""Default share of a head's dimensions that rotate."""


@dataclass(frozen=True)
class GPTNeoXConfig(ClassFields):
    """The fields of a Hugging Face `GPTNeoXConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gpt_neox"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float
    rotary: Rotary
    attention_bias: bool
    use_parallel_residual: bool
    tie_word_embeddings: bool
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GPTNeoXConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, or a rope type that is not covered.
        """
        fields = set(cls.__dataclass_fields__) - {"rotary", "head"}
        rope = {"rotary_pct", "rotary_emb_base", "partial_rotary_factor", "rope_theta", "rope_scaling"}
        refuse_unknown(config, fields | rope | {"rope_parameters", "hidden_dropout"}, neutral={"is_decoder": False})
        vocab, width, inner, layers, heads = required(
            config, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
        )
        context = config.get("max_position_embeddings", 2048)
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context,
            hidden_act=config.get("hidden_act", "gelu"),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            rotary=_rotary(config, width // heads, context),
            attention_bias=config.get("attention_bias", True),
            use_parallel_residual=config.get("use_parallel_residual", True),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            **decoder_head(config, "GPTNeoX", cls.class_heads),
        )


def _rotary(config: Mapping[str, Any], head: int, context: int) -> Rotary:
    """Read the rotary embedding of a share of each head, by this family's field names or those of transformers 5."""
    older = {"partial_rotary_factor": config.get("rotary_pct"), "rope_theta": config.get("rotary_emb_base")}
    older = {name: value for name, value in older.items() if value is not None}
    return partial_rotary_of({**config, **older}, head, context, _SHARE)


class GPTNeoX(Decoder):
    """A decoder with LayerNorm whose heads and MLP run in parallel or, by the config, in sequence."""

    config_type = GPTNeoXConfig

    def __init__(self, config: GPTNeoXConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        kind = ParallelBlock if c.use_parallel_residual else PreNormBlock

        def block(rngs: nnx.Rngs) -> ParallelBlock | PreNormBlock:
            return kind(
                layer_norm(c.hidden_size, c.layer_norm_eps, rngs),
                Attention(
                    c.hidden_size,
                    c.num_attention_heads,
                    c.hidden_size // c.num_attention_heads,
                    bias=c.attention_bias,
                    rotary=c.rotary,
                    rngs=rngs,
                ),
                layer_norm(c.hidden_size, c.layer_norm_eps, rngs),
                PlainMLP(c.hidden_size, c.intermediate_size, c.hidden_act, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(c.hidden_size, c.layer_norm_eps, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.hidden_size, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return run_stack(self.decoder, self.embed(batch.tokens), AttentionInputs.over(batch, causal=True))

    @staticmethod
    def table(config: GPTNeoXConfig) -> Table:
        """Return the table of a GPT-NeoX checkpoint's tensors; it joins query, key and value within each head."""
        here, at = "decoder.blocks", "gpt_neox.layers.{layer}"
        rules: list[Rule] = [
            *head_rules(config),
            same("gpt_neox.embed_in.weight", "embed.embedding"),
            *norm("gpt_neox.final_layer_norm", "final_norm"),
            *norm(f"{at}.input_layernorm", f"{here}.attention_norm"),
            *norm(f"{at}.post_attention_layernorm", f"{here}.mlp_norm"),
            grouped_heads(
                f"{at}.attention.query_key_value.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")
            ),
            heads_out(f"{at}.attention.dense.weight", f"{here}.attention.W_O"),
            *dense(f"{at}.mlp.dense_h_to_4h", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.dense_4h_to_h", f"{here}.mlp.down"),
        ]
        if config.attention_bias:
            biases = (f"{here}.attention.b_{letter}" for letter in "QKV")
            rules.append(grouped_heads(f"{at}.attention.query_key_value.bias", *biases))
            rules.append(same(f"{at}.attention.dense.bias", f"{here}.attention.b_O"))
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("embed_out.weight", "unembed.embedding"))
        passed_over = {
            r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias)": "the causal mask, not a weight",
            r"gpt_neox\.layers\.\d+\.attention\.rotary_emb\.inv_freq": "computed from the config",
        }
        passed_over |= unused_class_heads(config)
        if config.head != "lm":
            passed_over[r"embed_out\.weight"] = "an unembedding, which this architecture has not"
        rename = ((r"^(embed_in|layers|final_layer_norm)\.", r"gpt_neox.\1."), (r"^lm_head\.", "embed_out."))
        return Table(tuple(rules), passed_over, rename, {"embed_out.weight": "gpt_neox.embed_in.weight"})
