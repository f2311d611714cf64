"""OPT (Zhang et al. 2022), the architecture of Galactica too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ..blocks import PostNormBlock, PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.weights import Rule, Table, dense, norm, projections, same
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import OF_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.reading import refuse_unknown, required

_OFFSET = 2
"""Rows at the start of the table of positions that are not used."""

_EPSILON = 1e-5
"""Epsilon of all norms; no config has it."""


@dataclass(frozen=True)
class OPTConfig(ClassFields):
    """The fields of a Hugging Face `OPTConfig` that affect the computation; `head` is "lm" or "none".

    Attributes:
        final_norm: whether a norm follows the last layer; post-norm layers need none.
    """

    model_type: ClassVar[str] = "opt"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_DECODERS

    vocab_size: int
    hidden_size: int
    word_embed_proj_dim: int
    ffn_dim: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    activation_function: str
    do_layer_norm_before: bool
    final_norm: bool
    enable_bias: bool
    tie_word_embeddings: bool
    head: str

    @property
    def projected(self) -> bool:
        """Whether token embeddings are narrower than the stream."""
        return self.word_embed_proj_dim != self.hidden_size

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "OPTConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        fields = set(cls.__dataclass_fields__) - {"final_norm", "head"}
        unused = {"dropout", "activation_dropout", "layerdrop", "init_std"}
        # The last two fields are Galactica's.
        neutral = {"layer_norm_elementwise_affine": True, "learned_embeddings": True, "scale_embeddings": False}
        refuse_unknown(config, fields | unused | {"_remove_final_layer_norm"}, neutral=neutral)
        vocab, width, inner, layers, heads = required(
            config, "vocab_size", "hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads"
        )
        before = config.get("do_layer_norm_before", True)
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            word_embed_proj_dim=config.get("word_embed_proj_dim") or width,
            ffn_dim=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            activation_function=config.get("activation_function", "relu"),
            do_layer_norm_before=before,
            final_norm=before and not config.get("_remove_final_layer_norm", False),
            enable_bias=config.get("enable_bias", True),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "OPT", cls.class_heads, padding=1),
        )


class OPT(Decoder):
    """A pre-norm or post-norm decoder with LayerNorm, learned positions and, optionally, narrower token embeddings."""

    config_type = OPTConfig
    final_norm: Any

    def __init__(self, config: OPTConfig, *, rngs: nnx.Rngs):
        c, D, E = config, config.hidden_size, config.word_embed_proj_dim
        self.config = c

        def block(rngs: nnx.Rngs) -> PreNormBlock | PostNormBlock:
            head = D // c.num_attention_heads
            biased = c.enable_bias
            attention = Attention(D, c.num_attention_heads, head, bias=biased, rngs=rngs)
            mlp = PlainMLP(D, c.ffn_dim, c.activation_function, bias=biased, rngs=rngs)
            if c.do_layer_norm_before:
                return PreNormBlock(layer_norm(D, _EPSILON, rngs), attention, layer_norm(D, _EPSILON, rngs), mlp)
            return PostNormBlock(attention, layer_norm(D, _EPSILON, rngs), mlp, layer_norm(D, _EPSILON, rngs))

        self.embed = Embed(c.vocab_size, E, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings + _OFFSET, D, rngs=rngs)
        self.project_in = nnx.Linear(E, D, use_bias=False, rngs=rngs) if c.projected else None
        self.project_out = nnx.Linear(D, E, use_bias=False, rngs=rngs) if c.projected else None
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(D, _EPSILON, rngs) if c.final_norm else None
        self.unembed = self.own_unembedding(c.vocab_size, E, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed_tokens(batch.tokens) + self.embed_position(batch.positions + _OFFSET)
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=True))

    def embed_tokens(self, ids: Array) -> Array:
        return self.embed(ids) if self.project_in is None else self.project_in(self.embed(ids))

    def features(self, x_BTD: Array) -> Array:
        """Return the stream, normed and projected to the width of the token embeddings if the config has that."""
        x_BTD = x_BTD if self.final_norm is None else self.final_norm(x_BTD)
        return x_BTD if self.project_out is None else self.project_out(x_BTD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        normed = super().with_frozen_statistics(x, whole)
        return normed if self.project_out is None else self.project_out(normed)

    @staticmethod
    def table(config: OPTConfig) -> Table:
        """Return the table of an OPT checkpoint's tensors."""
        here, at = "decoder.blocks", "model.decoder.layers.{layer}"
        names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKV"}
        names["O"] = f"{at}.self_attn.out_proj"
        rules: list[Rule] = [
            *head_rules(config),
            same("model.decoder.embed_tokens.weight", "embed.embedding"),
            same("model.decoder.embed_positions.weight", "embed_position.embedding"),
            *norm(f"{at}.self_attn_layer_norm", f"{here}.attention_norm"),
            *norm(f"{at}.final_layer_norm", f"{here}.mlp_norm"),
            *projections(names, f"{here}.attention", bias=config.enable_bias),
            *dense(f"{at}.fc1", f"{here}.mlp.up", bias=config.enable_bias),
            *dense(f"{at}.fc2", f"{here}.mlp.down", bias=config.enable_bias),
        ]
        if config.projected:
            for side in ("project_in", "project_out"):
                rules += dense(f"model.decoder.{side}", side, bias=False)
        if config.final_norm:
            rules += norm("model.decoder.final_layer_norm", "final_norm")
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over = unused_head(config.head) | unused_class_heads(config)
        copies = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        return Table(tuple(rules), passed_over, ((r"^decoder\.", "model.decoder."),), copies)
