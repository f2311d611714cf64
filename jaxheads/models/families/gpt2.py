"""GPT-2 (Radford et al. 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jax import Array

from ..blocks import PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.weights import Rule, Table, fused_heads, norm, reshaped, same
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import refuse_unknown, required


@dataclass(frozen=True)
class GPT2Config(ClassFields):
    """The fields of a Hugging Face `GPT2Config` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gpt2"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool
    head: str

    @property
    def max_position_embeddings(self) -> int:
        return self.n_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GPT2Config":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        summary = {f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")}
        fields = set(cls.__dataclass_fields__) - {"head"}
        # Scores are computed in float32 anyway, and n_ctx is an old name of n_positions.
        unused = summary | {"reorder_and_upcast_attn", "n_ctx"}
        refuse_unknown(config, fields | unused, neutral={"add_cross_attention": False})
        vocab, positions, width, layers, heads = required(
            config, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head"
        )
        return cls(
            vocab_size=vocab,
            n_positions=positions,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_inner=config.get("n_inner") or 4 * width,
            activation_function=config.get("activation_function", "gelu_new"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            scale_attn_weights=config.get("scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=config.get("scale_attn_by_inverse_layer_idx", False),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "GPT2", cls.class_heads, language_model="GPT2LMHeadModel"),
        )


class GPT2(Decoder):
    """A pre-norm decoder with LayerNorm, learned positions and a plain MLP."""

    config_type = GPT2Config

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        head = c.n_embd // c.n_head

        scale = head**-0.5 if c.scale_attn_weights else 1.0
        by_layer = {"scale": scale / np.arange(1, c.n_layer + 1, dtype=np.float32)}
        settings = by_layer if c.scale_attn_by_inverse_layer_idx else None

        def block(rngs: nnx.Rngs, of_layer: Mapping[str, Array] | None = None) -> PreNormBlock:
            return PreNormBlock(
                layer_norm(c.n_embd, c.layer_norm_epsilon, rngs),
                Attention(
                    c.n_embd,
                    c.n_head,
                    head,
                    bias=True,
                    scale=scale if of_layer is None else of_layer["scale"],
                    rngs=rngs,
                ),
                layer_norm(c.n_embd, c.layer_norm_epsilon, rngs),
                PlainMLP(c.n_embd, c.n_inner, c.activation_function, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, c.n_embd, rngs=rngs)
        self.embed_position = Embed(c.n_positions, c.n_embd, rngs=rngs)
        self.decoder = Stack("decoder", c.n_layer, block, causal=True, settings=settings, rngs=rngs)
        self.final_norm = layer_norm(c.n_embd, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.n_embd, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions)
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=True))

    @staticmethod
    def table(config: GPT2Config) -> Table:
        """Return the table of a GPT-2 checkpoint's tensors; its `Conv1D` matrices are stored `[in, out]`."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.wte.weight", "embed.embedding"),
            same("transformer.wpe.weight", "embed_position.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.ln_1", f"{here}.attention_norm"),
            *norm(f"{at}.ln_2", f"{here}.mlp_norm"),
            fused_heads(f"{at}.attn.c_attn.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            fused_heads(f"{at}.attn.c_attn.bias", *(f"{here}.attention.b_{letter}" for letter in "QKV")),
            reshaped(f"{at}.attn.c_proj.weight", f"{here}.attention.W_O"),
            same(f"{at}.attn.c_proj.bias", f"{here}.attention.b_O"),
        ]
        for stored, matrix in (("c_fc", "up"), ("c_proj", "down")):
            rules.append(same(f"{at}.mlp.{stored}.weight", f"{here}.mlp.{matrix}.kernel"))
            rules.append(same(f"{at}.mlp.{stored}.bias", f"{here}.mlp.{matrix}.bias"))
        passed_over = {r"transformer\.h\.\d+\.attn\.(bias|masked_bias)": "the causal mask, not a weight"}
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over |= unused_head(config.head) | unused_class_heads(config)
        rename = ((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),)
        return Table(tuple(rules), passed_over, rename, {"lm_head.weight": "transformer.wte.weight"})
