"""ModernBERT (Warner et al. 2024): a pre-norm encoder with local and global layers, each kind with its rotary base."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...checks import shown
from ..blocks import PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, GatedMLP, SkippedNorm, layer_norm
from ..loading.weights import Rule, Table, dense, fused_bias, fused_linear, heads_out, norm, same
from ..network import RunStack
from ..positions import Rotary
from ..stack import Stack
from .bases.class_heads import ClassFields, ClassNames, architectures, class_names, head_rules, label_fields
from .bases.masked_lm import HeadNames, MaskedLM, head_table
from .bases.reading import head_of, inner_config, refuse_unknown, required
from .llama import rotary_of

_FAR, _NEAR = "full_attention", "sliding_attention"
_EVERYWHERE = np.iinfo(np.int32).max
_BASES = {_FAR: ("global_rope_theta", 160000.0), _NEAR: ("local_rope_theta", 10000.0)}
"""Field of transformers 4 that holds the rotary base, and its default, by kind of layer."""


@dataclass(frozen=True)
class ModernBertConfig(ClassFields):
    """The fields of a Hugging Face `ModernBertConfig` that affect the computation; `head` is "mlm" or "none".

    `layer_types` has for each layer "full_attention", which rotates by `rotary`, or "sliding_attention", which rotates
    by `local_rotary`.
    """

    model_type: ClassVar[str] = "modernbert"
    class_heads: ClassVar[Mapping[str, ClassNames]] = dict.fromkeys(
        ("classes", "token_classes", "answers", "choices"), ClassNames("classifier")
    )

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_activation: str
    max_position_embeddings: int
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    decoder_bias: bool
    classifier_bias: bool
    classifier_activation: str
    local_attention: int
    layer_types: tuple[str, ...]
    rotary: Rotary
    local_rotary: Rotary
    tie_word_embeddings: bool
    classifier_pooling: str
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModernBertConfig":
        """Read the contents of a config.json, in the spelling of transformers 4 or 5.

        Raises:
            ValueError: for a field that is missing or not understood, a kind of layer or a rope type that is not
                covered.
        """
        older = {"global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"}
        unused = set(
            "embedding_dropout mlp_dropout initializer_cutoff_factor deterministic_flash_attn reference_compile "
            "sparse_prediction sparse_pred_ignore_index repad_logits_with_grad "
            "layer_norm_eps".split()  # in the checkpoints' configs beside norm_eps, which counts
        )
        fields = set(cls.__dataclass_fields__) - {"head", "rotary", "local_rotary"}
        neutral = {"position_embedding_type": "absolute", "rope_scaling": None}
        refuse_unknown(config, fields | older | unused | {"rope_parameters"}, neutral=neutral)
        vocab, width, inner, layers, heads = required(
            config, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
        )
        flags = {
            f"{layer}_bias": config.get(f"{layer}_bias", False) for layer in ("norm", "attention", "mlp", "classifier")
        }
        head = head_of(config, architectures("ModernBert", cls.class_heads, Model="none", ForMaskedLM="mlm"))
        pooling = config.get("classifier_pooling", "cls")
        if pooling not in ("cls", "mean"):
            raise ValueError(f"classifier_pooling of modernbert is 'cls' or 'mean', got {shown(pooling)}")
        context = config.get("max_position_embeddings", 8192)
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_activation=config.get("hidden_activation", "gelu"),
            max_position_embeddings=context,
            norm_eps=config.get("norm_eps", 1e-5),
            decoder_bias=config.get("decoder_bias", True),
            classifier_activation=config.get("classifier_activation", "gelu"),
            local_attention=config.get("local_attention", 128),
            layer_types=_layer_types(config, layers),
            rotary=_rotary(config, _FAR, width // heads, context),
            local_rotary=_rotary(config, _NEAR, width // heads, context),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            classifier_pooling=pooling,
            head=head,
            num_labels=label_fields(config, head)["num_labels"],
            **flags,
        )

    def settings(self) -> dict[str, np.ndarray]:
        """Return the settings of each layer: window, rotary frequencies (radians a position) and whether it norms.

        The window of a local layer reaches half of `local_attention` to each side. The first layer has no attention
        norm, because it follows the embeddings' norm.
        """
        near = np.array([kind == _NEAR for kind in self.layer_types])
        far_F, near_F = self.rotary.frequencies(), self.local_rotary.frequencies()
        return {
            "window": np.where(near, self.local_attention // 2 + 1, _EVERYWHERE).astype(np.int32),
            "frequencies": np.where(near[:, None], near_F[None], far_F[None]),
            "normed": np.arange(self.num_hidden_layers) > 0,
        }


def _layer_types(config: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    every = config.get("global_attn_every_n_layers") or 3
    types = config.get("layer_types") or [_NEAR if layer % every else _FAR for layer in range(layers)]
    if len(types) != layers or not set(types) <= set(_BASES):
        raise ValueError(f"layer_types of modernbert must say {_FAR} or {_NEAR} of {layers} layers; got {types}")
    return tuple(types)


def _rotary(config: Mapping[str, Any], kind: str, dimensions: int, context: int) -> Rotary:
    field, base = _BASES[kind]
    parameters = inner_config(inner_config(config, "rope_parameters"), kind)
    # In transformers 4 a base that is null stands for the other kind's.
    older = config[field] or config.get("global_rope_theta") if field in config else None
    rotary = rotary_of({"rope_parameters": {"rope_theta": older or base, **parameters}}, dimensions, context)
    if rotary.amplitude() != 1:
        raise ValueError(f"rope type {rotary.kind!r} of modernbert's {kind} is not covered: it scales cosine and sine")
    return rotary


class ModernBert(MaskedLM):
    """A pre-norm encoder with rotary positions and gated MLPs; biases are optional."""

    config_type = ModernBertConfig

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, head = c.hidden_size, c.hidden_size // c.num_attention_heads

        def make_norm(rngs: nnx.Rngs) -> nnx.LayerNorm:
            return layer_norm(D, c.norm_eps, rngs, bias=c.norm_bias)

        def block(rngs: nnx.Rngs, layer: Mapping[str, Array]) -> PreNormBlock:
            attention = Attention(
                D,
                c.num_attention_heads,
                head,
                bias=c.attention_bias,
                rotary=c.rotary,
                frequencies=layer["frequencies"],
                window=layer["window"],
                rngs=rngs,
            )
            mlp = GatedMLP(D, c.intermediate_size, c.hidden_activation, bias=c.mlp_bias, rngs=rngs)
            return PreNormBlock(SkippedNorm(make_norm(rngs), layer["normed"]), attention, make_norm(rngs), mlp)

        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_norm = make_norm(rngs)
        layers, settings = c.num_hidden_layers, c.settings()
        self.encoder = Stack("encoder", layers, block, causal=False, settings=settings, rngs=rngs)
        self.final_norm = make_norm(rngs)
        biases = {"bias": c.classifier_bias, "norm_bias": c.norm_bias, "out_bias": c.decoder_bias}
        act, epsilon = c.classifier_activation, c.norm_eps
        self.head = self.own_head(D, act, epsilon, before_classes=True, rngs=rngs, **biases)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed_norm(self.embed(batch.tokens))
        return run_stack(self.encoder, x_BTD, AttentionInputs.over(batch, causal=False))

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream, or a head's transform of it."""
        return self._transformed(self.final_norm(x_BTD))

    def pooled_features(self, x_BRD: Array, shares_BR: Array | None) -> Array:
        if shares_BR is None:
            return self.features(x_BRD)
        shares_BR1 = shares_BR[..., None].astype(x_BRD.dtype)
        return self._transformed((self.final_norm(x_BRD) * shares_BR1).sum(axis=1, keepdims=True))

    def _transformed(self, normed: Array) -> Array:
        return normed if self.head is None else self.head(normed)

    @property
    def _pools(self) -> bool:
        """Whether a classifier reads the mean of all positions."""
        return self.classes_of == "example" and self.config.classifier_pooling == "mean"

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of the first real token for a classifier, or all, `[B,T]`, if it reads their mean."""
        if not self._pools:
            return super().readout_positions(batch)
        return jnp.broadcast_to(jnp.arange(batch.mask.shape[1]), batch.mask.shape)

    def readout_shares(self, batch: Batch) -> Array | None:
        if not self._pools:
            return None
        return batch.mask.astype(jnp.float32) / batch.lengths[:, None].astype(jnp.float32)

    @staticmethod
    def table(config: ModernBertConfig) -> Table:
        """Return the table of a ModernBERT checkpoint's tensors."""
        c, here, at = config, "encoder.blocks", "model.layers.{layer}"
        first = [
            replace(rule, absent=frozenset({0}))
            for rule in norm(f"{at}.attn_norm", f"{here}.attention_norm.norm", bias=c.norm_bias)
        ]
        words = "model.embeddings.tok_embeddings.weight"
        names = HeadNames("head.dense", "head.norm", "decoder", "decoder.bias" if c.decoder_bias else None, words)
        head = head_table(c, names, bias=c.classifier_bias, norm_bias=c.norm_bias)
        if class_names(c) is not None:
            head = _class_table(c, names)
        heads = [f"{here}.attention.{{}}_{letter}" for letter in "QKV"]
        halves = [f"{here}.mlp.{half}" for half in ("gate", "up")]
        rules: list[Rule] = [
            same(words, "embed.embedding"),
            *norm("model.embeddings.norm", "embed_norm", bias=c.norm_bias),
            *first,
            fused_linear(f"{at}.attn.Wqkv.weight", *(path.format("W") for path in heads)),
            heads_out(f"{at}.attn.Wo.weight", f"{here}.attention.W_O"),
            *norm(f"{at}.mlp_norm", f"{here}.mlp_norm", bias=c.norm_bias),
            fused_linear(f"{at}.mlp.Wi.weight", *(f"{half}.kernel" for half in halves)),
            *dense(f"{at}.mlp.Wo", f"{here}.mlp.down", bias=c.mlp_bias),
            *norm("model.final_norm", "final_norm", bias=c.norm_bias),
            *head.rules,
        ]
        if c.attention_bias:
            rules.append(fused_bias(f"{at}.attn.Wqkv.bias", *(path.format("b") for path in heads)))
            rules.append(same(f"{at}.attn.Wo.bias", f"{here}.attention.b_O"))
        if c.mlp_bias:
            rules.append(fused_bias(f"{at}.mlp.Wi.bias", *(f"{half}.bias" for half in halves)))
        rename = ((r"^(embeddings|layers|final_norm)\.", r"model.\1."),)
        return Table(tuple(rules), head.passed_over, rename, head.copies)


def _class_table(c: ModernBertConfig, names: HeadNames) -> Table:
    """Return the table of a head of classes, which has a masked language model's modules before its classifier."""
    before = [
        *dense(names.dense, "head.dense", bias=c.classifier_bias),
        *norm(names.norm, "head.norm", bias=c.norm_bias),
    ]
    return Table(
        (*before, *head_rules(c)), {r"decoder\..*": "for masked tokens, which this architecture does not predict"}
    )
