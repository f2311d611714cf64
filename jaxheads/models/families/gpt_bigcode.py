"""GPT-BigCode (Ben Allal et al. 2023; Li et al. 2023): SantaCoder and StarCoder, GPT-2 with a single key/value head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.head_order import grouped_heads
from ..loading.weights import Rule, Table, dense, heads_out, norm, same
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import SUMMARY, refuse_unknown, required

_UNUSED = frozenset(
    "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 num_key_value_heads n_ctx inference_runner "
    "max_batch_size max_sequence_length pad_key_length pre_allocate_kv_cache validate_runner_input".split()
)
"""Fields of generation and of kernels; the number of key/value heads follows from `multi_query`."""


@dataclass(frozen=True)
class GPTBigCodeConfig(ClassFields):
    """The fields of a Hugging Face `GPTBigCodeConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gpt_bigcode"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {
        name: OF_OLDER_DECODERS[name] for name in ("classes", "token_classes")
    }

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool
    multi_query: bool
    tie_word_embeddings: bool
    head: str

    @property
    def max_position_embeddings(self) -> int:
        return self.n_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GPTBigCodeConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        understood = set(cls.__dataclass_fields__) - {"head"} | SUMMARY | _UNUSED
        refuse_unknown(config, understood, neutral={"add_cross_attention": False})
        vocab, width, layers, heads = required(config, "vocab_size", "n_embd", "n_layer", "n_head")
        return cls(
            vocab_size=vocab,
            n_positions=config.get("n_positions", 1024),
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_inner=config.get("n_inner") or 4 * width,
            activation_function=config.get("activation_function", "gelu_pytorch_tanh"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            scale_attn_weights=config.get("scale_attn_weights", True),
            multi_query=config.get("multi_query", True),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "GPTBigCode", cls.class_heads),
        )


class GPTBigCode(Decoder):
    """A pre-norm decoder with LayerNorm, learned positions, a plain MLP and, usually, a single key/value head."""

    config_type = GPTBigCodeConfig

    def __init__(self, config: GPTBigCodeConfig, *, rngs: nnx.Rngs):
        c, D = config, config.n_embd
        self.config = c

        def block(rngs: nnx.Rngs) -> PreNormBlock:
            attention = Attention(
                D,
                c.n_head,
                D // c.n_head,
                kv_heads=1 if c.multi_query else c.n_head,
                bias=True,
                scale=None if c.scale_attn_weights else 1.0,
                rngs=rngs,
            )
            return PreNormBlock(
                layer_norm(D, c.layer_norm_epsilon, rngs),
                attention,
                layer_norm(D, c.layer_norm_epsilon, rngs),
                PlainMLP(D, c.n_inner, c.activation_function, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(c.n_positions, D, rngs=rngs)
        self.decoder = Stack("decoder", c.n_layer, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(D, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, D, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions)
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=True))

    @staticmethod
    def table(config: GPTBigCodeConfig) -> Table:
        """Return the table of a GPT-BigCode checkpoint's tensors."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.wte.weight", "embed.embedding"),
            same("transformer.wpe.weight", "embed_position.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.ln_1", f"{here}.attention_norm"),
            *norm(f"{at}.ln_2", f"{here}.mlp_norm"),
            grouped_heads(f"{at}.attn.c_attn.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            grouped_heads(f"{at}.attn.c_attn.bias", *(f"{here}.attention.b_{letter}" for letter in "QKV")),
            heads_out(f"{at}.attn.c_proj.weight", f"{here}.attention.W_O"),
            same(f"{at}.attn.c_proj.bias", f"{here}.attention.b_O"),
            *dense(f"{at}.mlp.c_fc", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.c_proj", f"{here}.mlp.down"),
        ]
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        mask = {r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "the causal mask, not a weight"}
        rename = ((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),)
        copies = {"lm_head.weight": "transformer.wte.weight"}
        passed_over = mask | unused_head(config.head) | unused_class_heads(config)
        return Table(tuple(rules), passed_over, rename, copies)
