"""GPT-J (Wang & Komatsuzaki 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import ParallelBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.head_order import in_pairs
from ..loading.weights import Rule, Table, dense, heads_in, heads_out, norm, same
from ..network import RunStack
from ..positions import Rotary
from ..stack import Stack
from .bases.class_heads import OF_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import SUMMARY, refuse_unknown, required


@dataclass(frozen=True)
class GPTJConfig(ClassFields):
    """The fields of a Hugging Face `GPTJConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gptj"
    stem: ClassVar[str] = "GPTJ"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_DECODERS

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    rotary_dim: int
    activation_function: str
    layer_norm_epsilon: float
    tie_word_embeddings: bool
    head: str

    @property
    def max_position_embeddings(self) -> int:
        return self.n_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GPTJConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or more rotary dimensions than a head has.
        """
        fields = set(cls.__dataclass_fields__) - {"head"}
        refuse_unknown(config, fields | SUMMARY | {"n_ctx"}, neutral={"rotary": True, "scale_attn_weights": True})
        vocab, positions, width, layers, heads, rotary = required(
            config, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "rotary_dim"
        )
        if not 0 < rotary <= width // heads:
            raise ValueError(
                f"rotary_dim of {cls.model_type} lies in 1..{width // heads}, the head's size; got {rotary}"
            )
        return cls(
            vocab_size=vocab,
            n_positions=positions,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_inner=config.get("n_inner") or 4 * width,
            rotary_dim=rotary,
            activation_function=config.get("activation_function", "gelu_new"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            **decoder_head(config, cls.stem, cls.class_heads),
        )


class GPTJ(Decoder):
    """A decoder whose heads and MLP run in parallel after a shared norm; its unembedding has a bias."""

    config_type: ClassVar[Any] = GPTJConfig

    def __init__(self, config: GPTJConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c

        def block(rngs: nnx.Rngs) -> ParallelBlock:
            rotary = Rotary(10000.0, c.rotary_dim)
            return ParallelBlock(
                layer_norm(c.n_embd, c.layer_norm_epsilon, rngs),
                Attention(c.n_embd, c.n_head, c.n_embd // c.n_head, rotary=rotary, rngs=rngs),
                None,
                PlainMLP(c.n_embd, c.n_inner, c.activation_function, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, c.n_embd, rngs=rngs)
        self.decoder = Stack("decoder", c.n_layer, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(c.n_embd, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.n_embd, rngs)
        self.logits_bias = self.own_logits_bias(c.vocab_size)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return run_stack(self.decoder, self.embed(batch.tokens), AttentionInputs.over(batch, causal=True))

    @staticmethod
    def table(config: GPTJConfig) -> Table:
        """Return the table of a GPT-J checkpoint's tensors."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.wte.weight", "embed.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.ln_1", f"{here}.attention_norm"),
            in_pairs(heads_in(f"{at}.attn.q_proj.weight", f"{here}.attention.W_Q"), config.rotary_dim),
            in_pairs(heads_in(f"{at}.attn.k_proj.weight", f"{here}.attention.W_K"), config.rotary_dim),
            heads_in(f"{at}.attn.v_proj.weight", f"{here}.attention.W_V"),
            heads_out(f"{at}.attn.out_proj.weight", f"{here}.attention.W_O"),
            *dense(f"{at}.mlp.fc_in", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.fc_out", f"{here}.mlp.down"),
        ]
        passed_over = {
            r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "the causal mask, not a weight",
            r"transformer\.h\.\d+\.attn\.embed_positions": "computed from the config",
            **unused_head(config.head),
            **unused_class_heads(config),
        }
        if config.head == "lm":
            rules.append(same("lm_head.bias", "logits_bias"))
            if not config.tie_word_embeddings:
                rules.append(same("lm_head.weight", "unembed.embedding"))
        rename = ((r"^(wte|ln_f|h)\.", r"transformer.\1."),)
        return Table(tuple(rules), passed_over, rename, {"lm_head.weight": "transformer.wte.weight"})
