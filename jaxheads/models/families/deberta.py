"""DeBERTa, version 1 (He et al. 2021) and versions 2 and 3 (He et al. 2023): disentangled attention.

Scores compare contents, and contents with relative positions. Versions 2 and 3 share rows of positions between far
distances, and by their config use the contents' projections for positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...checks import shown
from ..blocks import PostNormBlock
from ..disentangled import DisentangledAttention, distances
from ..inputs.attention_inputs import AttentionInputs, RelativePositions
from ..inputs.batch import Batch
from ..layers import Embed, PlainMLP, layer_norm
from ..loading.head_order import grouped_heads
from ..loading.weights import (
    Rule,
    Table,
    dense,
    heads_bias,
    heads_in,
    heads_out,
    linear,
    norm,
    projections,
    same,
)
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import ClassNames
from .bases.masked_lm import ON_TOKENS, EncoderConfig, HeadNames, MaskedLM, common_fields, head_table
from .bases.reading import refuse_unknown

_ON_FIRST = ClassNames("classifier", "pooler.dense", "gelu")
_HERE = "encoder.blocks"


@dataclass(frozen=True)
class DebertaConfig(EncoderConfig):
    """The fields of a Hugging Face `DebertaConfig` that affect the computation.

    `head` is "mlm", "none" or one of `class_heads`. `pos_att_type` are the terms of the scores with positions; they are
    computed only with `relative_attention`, and count in the scale without it.
    """

    model_type = "deberta"
    stem: ClassVar[str] = "Deberta"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {**ON_TOKENS, "classes": _ON_FIRST}

    type_vocab_size: int | None
    embedding_size: int
    relative_attention: bool
    max_relative_positions: int
    position_buckets: int
    norm_rel_ebd: str
    share_att_key: bool
    pos_att_type: tuple[str, ...]
    position_biased_input: bool
    legacy: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or terms of scores that are not known.
        """
        if config.get("type_vocab_size") == 0:  # which is usual: there are no token types
            config = {name: value for name, value in config.items() if name != "type_vocab_size"}
        width, heads = config.get("hidden_size"), config.get("num_attention_heads") or 1
        size = width // heads if isinstance(width, int) and isinstance(heads, int) else None
        neutral = {
            "pooler_hidden_act": "gelu",
            "pooler_hidden_size": width,
            "attention_head_size": size,
            "conv_kernel_size": 0,
            "talking_head": False,
        }
        own = set() if cls.model_type == "deberta-v2" else {"position_buckets", "share_att_key", "norm_rel_ebd"}
        neutral |= {"position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none"} if own else {}
        unused = {"pooler_dropout", "padding_idx", "conv_act", "conv_groups"}
        refuse_unknown(config, cls.fields_of_file() - own | unused, neutral=neutral)
        common = {**common_fields(config, cls.stem, cls.class_heads), "pooler": False}
        legacy = config.get("legacy", True)
        own_defaults = {"layer_norm_eps": config.get("layer_norm_eps", 1e-7)}
        if not legacy:  # that head always reads the words' embedding
            own_defaults["tie_word_embeddings"] = True
        furthest = config.get("max_relative_positions", -1)
        return cls(
            **{**common, **own_defaults},
            type_vocab_size=config.get("type_vocab_size"),
            embedding_size=config.get("embedding_size") or common["hidden_size"],
            relative_attention=config.get("relative_attention", False),
            max_relative_positions=furthest if furthest > 0 else common["max_position_embeddings"],
            position_buckets=config.get("position_buckets", -1),
            norm_rel_ebd=config.get("norm_rel_ebd", "none"),
            share_att_key=config.get("share_att_key", False),
            pos_att_type=_terms_of(config),
            position_biased_input=config.get("position_biased_input", True),
            legacy=legacy,
        )

    @property
    def span(self) -> int:
        """Half of the rows of the embedding of relative positions."""
        return self.position_buckets if self.position_buckets > 0 else self.max_relative_positions

    @property
    def own_projections(self) -> dict[str, bool]:
        """Whether the positions' own projections have a bias, by their names; none where positions use W_Q and W_K."""
        if not self.relative_attention or self.share_att_key:
            return {}
        biases = {"c2p": ("P_K", self.model_type == "deberta-v2"), "p2c": ("P_Q", True)}
        return dict(biases[term] for term in self.pos_att_type)


class DebertaV2Config(DebertaConfig):
    """The fields of a Hugging Face `DebertaV2Config` that affect the computation."""

    model_type = "deberta-v2"
    stem = "DebertaV2"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {**DebertaConfig.class_heads, "choices": _ON_FIRST}


def _terms_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Read `pos_att_type`, a list or words joined by "|".

    Raises:
        ValueError: for terms that are not known, or named twice.
    """
    stated = config.get("pos_att_type") or []
    words = [word.strip() for word in stated.lower().split("|")] if isinstance(stated, str) else list(stated)
    if not set(words) <= {"c2p", "p2c"} or len(set(words)) < len(words):
        raise ValueError(f"pos_att_type of {config.get('model_type')} is of 'c2p' and 'p2c', got {shown(stated)}")
    return tuple(sorted(words))


class Deberta(MaskedLM):
    """A post-norm encoder with disentangled attention."""

    config_type: ClassVar[type[DebertaConfig]] = DebertaConfig

    def __init__(self, config: DebertaConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        D, E, epsilon = c.hidden_size, c.embedding_size, c.layer_norm_eps

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            attention = DisentangledAttention(
                D,
                c.num_attention_heads,
                D // c.num_attention_heads,
                c.pos_att_type,
                relative=c.relative_attention,
                own=c.own_projections,
                bias="QKVO" if c.model_type == "deberta-v2" else "QVO",
                rngs=rngs,
            )
            mlp = PlainMLP(D, c.intermediate_size, c.hidden_act, rngs=rngs)
            return PostNormBlock(attention, layer_norm(D, epsilon, rngs), mlp, layer_norm(D, epsilon, rngs))

        self.embed = Embed(c.vocab_size, E, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, E, rngs=rngs) if c.position_biased_input else None
        self.embed_type = Embed(c.type_vocab_size, E, rngs=rngs) if c.type_vocab_size else None
        self.widen = None if E == D else nnx.Linear(E, D, use_bias=False, rngs=rngs)
        self.embed_norm = layer_norm(D, epsilon, rngs)
        self.encoder = Stack("encoder", c.num_hidden_layers, block, causal=False, rngs=rngs)
        self.embed_relative = Embed(2 * c.span, D, rngs=rngs) if c.relative_attention else None
        normed = c.relative_attention and "layer_norm" in c.norm_rel_ebd
        self.relative_norm = layer_norm(D, epsilon, rngs) if normed else None
        self.head = self.own_head(D, c.hidden_act, epsilon, width=E, rngs=rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTE = self.embed(batch.tokens)
        if self.embed_position is not None:
            x_BTE = x_BTE + self.embed_position(batch.positions)
        if self.embed_type is not None:
            x_BTE = x_BTE + self.embed_type(batch.token_types)
        x_BTD = self.embed_norm(x_BTE if self.widen is None else self.widen(x_BTE))
        return run_stack(self.encoder, x_BTD, self._context(batch))

    def _context(self, batch: Batch) -> AttentionInputs:
        """Return what attention reads beside the stream: the mask, and the embeddings of relative positions."""
        if self.embed_relative is None:
            return AttentionInputs.over(batch, causal=False)
        c, embedding_RD = self.config, self.embed_relative.embedding[...]
        if self.relative_norm is not None:
            embedding_RD = self.relative_norm(embedding_RD)
        rows = distances(batch.mask.shape[1], c.position_buckets, c.max_relative_positions)
        relative = RelativePositions(embedding_RD, jnp.asarray(rows), batch.positions, batch.positions)
        return AttentionInputs.over(batch, causal=False, relative=relative)

    @staticmethod
    def table(config: DebertaConfig) -> Table:
        """Return the table of a DeBERTa checkpoint's tensors."""
        return _table(config, _joined_projections(config))


class DebertaV2(Deberta):
    """DeBERTa of version 2 or 3."""

    config_type: ClassVar[type[DebertaConfig]] = DebertaV2Config

    @staticmethod
    def table(config: DebertaConfig) -> Table:
        """Return the table of the tensors of a checkpoint of version 2 or 3."""
        at = "deberta.encoder.layer.{layer}.attention"
        words = zip("QKV", ("query", "key", "value"), strict=True)
        names = {letter: f"{at}.self.{word}_proj" for letter, word in words} | {"O": f"{at}.output.dense"}
        rules = list(projections(names, f"{_HERE}.attention", bias=True))
        return _table(config, rules + _own(config, {"P_K": "pos_key_proj", "P_Q": "pos_query_proj"}))


def _joined_projections(config: DebertaConfig) -> list[Rule]:
    """Return the rules of version 1, which joins query, key and value within each head, and has no bias of keys."""
    at, here = "deberta.encoder.layer.{layer}.attention", f"{_HERE}.attention"
    return [
        grouped_heads(f"{at}.self.in_proj.weight", *(f"{here}.W_{letter}" for letter in "QKV")),
        heads_bias(f"{at}.self.q_bias", f"{here}.b_Q"),
        heads_bias(f"{at}.self.v_bias", f"{here}.b_V"),
        heads_out(f"{at}.output.dense.weight", f"{here}.W_O"),
        same(f"{at}.output.dense.bias", f"{here}.b_O"),
        *_own(config, {"P_K": "pos_proj", "P_Q": "pos_q_proj"}),
    ]


def _own(config: DebertaConfig, names: Mapping[str, str]) -> list[Rule]:
    """Return the rules of the positions' own projections, by their names in the checkpoint."""
    at, here, rules = "deberta.encoder.layer.{layer}.attention.self", f"{_HERE}.attention", []
    for path, bias in config.own_projections.items():
        rules.append(heads_in(f"{at}.{names[path]}.weight", f"{here}.{path}"))
        if bias:
            rules.append(heads_bias(f"{at}.{names[path]}.bias", f"{here}.p{path[1:]}"))
    return rules


def _table(config: DebertaConfig, attention: list[Rule]) -> Table:
    """Return the table of all versions' tensors, with those of the layers' attention."""
    at, layer = "deberta.embeddings", "deberta.encoder.layer.{layer}"
    words = f"{at}.word_embeddings.weight"
    last = head_table(config, _head_names(config, words))
    rules = [
        same(words, "embed.embedding"),
        *norm(f"{at}.LayerNorm", "embed_norm"),
        *attention,
        *norm(f"{layer}.attention.output.LayerNorm", f"{_HERE}.attention_norm"),
        *dense(f"{layer}.intermediate.dense", f"{_HERE}.mlp.up"),
        *dense(f"{layer}.output.dense", f"{_HERE}.mlp.down"),
        *norm(f"{layer}.output.LayerNorm", f"{_HERE}.mlp_norm"),
        *last.rules,
    ]
    unused = {
        **last.passed_over,
        r"deberta\.embeddings\.position_ids": "0, 1, 2, …",
        r"(lm|mask)_predictions\..*": "heads of pre-training, which this architecture has not",
    }
    if config.head == "mlm" and not config.legacy:
        unused[r"mask_predictions\..*|cls\..*"] = unused.pop(r"(lm|mask)_predictions\..*")
    if config.position_biased_input:
        rules.append(same(f"{at}.position_embeddings.weight", "embed_position.embedding"))
    else:
        unused[r"deberta\.embeddings\.position_embeddings\.weight"] = "this config has relative positions alone"
    if config.type_vocab_size:
        rules.append(same(f"{at}.token_type_embeddings.weight", "embed_type.embedding"))
    if config.embedding_size != config.hidden_size:
        rules.append(linear(f"{at}.embed_proj.weight", "widen.kernel"))
    if config.relative_attention:
        rules.append(same("deberta.encoder.rel_embeddings.weight", "embed_relative.embedding"))
        if "layer_norm" in config.norm_rel_ebd:
            rules += norm("deberta.encoder.LayerNorm", "relative_norm")
    rename = ((r"^(embeddings|encoder)\.", r"deberta.\1."), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
    return Table(tuple(rules), unused, rename, last.copies)


def _head_names(config: DebertaConfig, words: str) -> HeadNames:
    """Return the names of the head for masked tokens: BERT's, or with `legacy` false the one of the pre-training."""
    if config.legacy:
        at = "cls.predictions"
        return HeadNames(f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", f"{at}.bias", words)
    at = "lm_predictions.lm_head"
    return HeadNames(f"{at}.dense", f"{at}.LayerNorm", f"{at}.decoder", f"{at}.bias", words)
