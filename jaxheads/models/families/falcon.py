"""Falcon (Almazrouei et al. 2023) of 7B, 40B and 11B parameters, and Falcon-RW."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..blocks import ParallelBlock, PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.head_order import grouped_heads
from ..loading.weights import Rule, Table, dense, heads_out, norm, same
from ..network import RunStack
from ..positions import Rotary, alibi_slopes
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.gated_decoder import ROTARY_FIELDS, rotary_of
from .bases.reading import refuse_unknown, required

_SWITCHES = {
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "tie_word_embeddings": True,
}
"""transformers' defaults of switches."""

_OLDER = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_head_kv": "num_kv_heads"}
_OLDER_CLASSES = {"RWForCausalLM": "FalconForCausalLM", "RWModel": "FalconModel"}
"""Names of the first releases, whose code was the checkpoints' own."""


@dataclass(frozen=True)
class FalconConfig(ClassFields):
    """The fields of a Hugging Face `FalconConfig` that affect the computation; `head` is "lm" or "none".

    Attributes:
        num_kv_heads: number of key/value heads, whichever switches it follows from.
        num_ln_in_parallel_attn: number of norms of a parallel layer.
        rotary: None where ALiBi takes its place.
    """

    model_type: ClassVar[str] = "falcon"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS

    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_kv_heads: int
    max_position_embeddings: int
    activation: str
    layer_norm_epsilon: float
    rotary: Rotary | None
    parallel_attn: bool
    num_ln_in_parallel_attn: int
    bias: bool
    tie_word_embeddings: bool
    head: str

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "FalconConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a rope type that is not covered, or switches that
                exclude each other.
        """
        fields = set(cls.__dataclass_fields__) - {"rotary", "head"} | set(_SWITCHES) | ROTARY_FIELDS
        unused = {"n_embed", "hidden_dropout", "ff_factor"}  # `ffn_hidden_size` says it
        neutral = {"apply_residual_connection_post_layernorm": False}
        refuse_unknown(config, fields | unused, neutral=neutral)
        config = {**config, **({} if config.get("n_embed") is None else {"hidden_size": config["n_embed"]})}
        vocab, width, layers, heads = required(
            config, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"
        )
        switches = {name: config.get(name, usual) for name, usual in _SWITCHES.items()}
        context = config.get("max_position_embeddings", 2048)
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            ffn_hidden_size=config.get("ffn_hidden_size") or 4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_kv_heads=_kv_heads(config, switches, heads),
            max_position_embeddings=context,
            activation=config.get("activation", "gelu"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            rotary=None if switches["alibi"] else rotary_of(config, width // heads, context),
            parallel_attn=switches["parallel_attn"],
            num_ln_in_parallel_attn=_norms(config, switches),
            bias=switches["bias"],
            tie_word_embeddings=switches["tie_word_embeddings"],
            **decoder_head(config, "Falcon", cls.class_heads),
        )


def _kv_heads(config: Mapping[str, Any], switches: Mapping[str, bool], heads: int) -> int:
    """Return the number of key/value heads."""
    stated = config.get("num_kv_heads") or heads
    if switches["new_decoder_architecture"]:
        return stated
    if switches["multi_query"]:
        return 1  # whatever the config states
    if stated != heads:
        raise ValueError(f"a falcon without multi_query has as many num_kv_heads as heads, {heads}; got {stated}")
    return heads


def _norms(config: Mapping[str, Any], switches: Mapping[str, bool]) -> int:
    """Return the number of norms of a parallel layer; 2 for layers in sequence."""
    new, stated = switches["new_decoder_architecture"], config.get("num_ln_in_parallel_attn")
    if new and not switches["parallel_attn"]:
        raise ValueError("a falcon of the new_decoder_architecture has parallel layers; got parallel_attn=False")
    if stated == 2 and not new and switches["parallel_attn"]:
        raise ValueError("num_ln_in_parallel_attn=2 belongs to falcons of the new_decoder_architecture")
    if not switches["parallel_attn"]:
        return 2
    return (stated or 2) if new else 1


def from_older(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a first release ("RefinedWeb" of 40B, "RefinedWebModel" of others) in today's words."""
    new = {"new_decoder_architecture": config["model_type"] == "RefinedWeb"}
    renamed = {_OLDER.get(name, name): value for name, value in config.items()}
    classes = config.get("architectures")
    if isinstance(classes, list | tuple):
        renamed["architectures"] = [_OLDER_CLASSES.get(str(name), name) for name in classes]
    return {**new, **renamed, "model_type": FalconConfig.model_type}


class Falcon(Decoder):
    """A decoder with LayerNorm, grouped queries and rotary positions or ALiBi, whose layers run in parallel or not."""

    config_type = FalconConfig

    def __init__(self, config: FalconConfig, *, rngs: nnx.Rngs):
        c, D = config, config.hidden_size
        self.config = c

        def block(rngs: nnx.Rngs) -> ParallelBlock | PreNormBlock:
            first = layer_norm(D, c.layer_norm_epsilon, rngs)
            attention = Attention(
                D,
                c.num_attention_heads,
                c.head_dim,
                kv_heads=c.num_kv_heads,
                bias=c.bias,
                rotary=c.rotary,
                rngs=rngs,
            )
            second = layer_norm(D, c.layer_norm_epsilon, rngs) if c.num_ln_in_parallel_attn == 2 else None
            mlp = PlainMLP(D, c.ffn_hidden_size, c.activation, bias=c.bias, rngs=rngs)
            return (ParallelBlock if c.parallel_attn else PreNormBlock)(first, attention, second, mlp)

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, rngs=rngs)
        self.final_norm = layer_norm(D, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, D, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        bias_BN1S = None if self.config.rotary is not None else _alibi(self.config, batch.positions)
        context = AttentionInputs.over(batch, causal=True, bias=bias_BN1S)
        return run_stack(self.decoder, self.embed(batch.tokens), context)

    @staticmethod
    def table(config: FalconConfig) -> Table:
        """Return the table of a Falcon checkpoint's tensors; it joins a group's queries with its key and value."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        heads = f"{at}.self_attention.query_key_value"
        first, second = ("input_layernorm", "post_attention_layernorm")
        if config.parallel_attn and config.num_ln_in_parallel_attn == 2:
            first, second = "ln_attn", "ln_mlp"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.word_embeddings.weight", "embed.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.{first}", f"{here}.attention_norm"),
            *(norm(f"{at}.{second}", f"{here}.mlp_norm") if config.num_ln_in_parallel_attn == 2 else ()),
            grouped_heads(f"{heads}.weight", *(f"{here}.attention.W_{letter}" for letter in "QKV")),
            heads_out(f"{at}.self_attention.dense.weight", f"{here}.attention.W_O"),
            *dense(f"{at}.mlp.dense_h_to_4h", f"{here}.mlp.up", bias=config.bias),
            *dense(f"{at}.mlp.dense_4h_to_h", f"{here}.mlp.down", bias=config.bias),
        ]
        if config.bias:
            rules.append(grouped_heads(f"{heads}.bias", *(f"{here}.attention.b_{letter}" for letter in "QKV")))
            rules.append(same(f"{at}.self_attention.dense.bias", f"{here}.attention.b_O"))
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        passed_over = {r"transformer\.h\.\d+\.self_attention\.rotary.*\.inv_freq": "computed from the config"}
        rename = ((r"^(word_embeddings|ln_f|h)\.", r"transformer.\1."),)
        copies = {"lm_head.weight": "transformer.word_embeddings.weight"}
        passed_over |= unused_head(config.head) | unused_class_heads(config)
        return Table(tuple(rules), passed_over, rename, copies)


def _alibi(config: FalconConfig, positions_BT: Array) -> Array:
    """Return the bias of the scores `[B,N,1,S]`, whose factors and product are rounded to bfloat16 as in training."""

    def rounded(x: Array) -> Array:
        # Not a cast and back, which XLA leaves out.
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)

    slopes_N = rounded(jnp.asarray(alibi_slopes(config.num_attention_heads)))
    keys_BS = rounded(positions_BT.astype(jnp.float32))
    return rounded(slopes_N[None, :, None, None] * keys_BS[:, None, None]) * config.head_dim**-0.5
