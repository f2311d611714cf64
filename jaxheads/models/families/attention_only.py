"""Toy transformers of any size, attention-only (Elhage et al. 2021) or with MLPs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ...checks import one_of
from ..blocks import AttentionBlock, ParallelBlock, PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, GatedMLP, PlainMLP, Setting, activation, layer_norm, rms_norm
from ..loading.weights import Rule, Table, heads_bias, heads_in, heads_out, linear, norm, same
from ..network import RunStack
from ..positions import Rotary, sinusoids
from ..stack import Stack
from ..unembedding import Unembedding
from .bases.decoder import Decoder
from .bases.reading import refuse_unknown, required

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
NORMS = ("none", "layer_norm", "rms_norm")


@dataclass(frozen=True)
class AttentionOnlyConfig:
    """Config of a toy transformer, of attention alone or with MLPs; Hugging Face has no such family.

    Attributes:
        vocab_size_out: number of logits; `vocab_size` when left out.
        num_key_value_heads: key/value heads; `n_heads` when left out.
        positions: the kind of positions, from POSITIONS.
        rotary_dim, rope_theta: dimensions of a head that rotate (all when left out), and the base.
        norm: the kind of norm before each layer and before the unembedding, from NORMS.
        final_norm: the kind of the last norm; `norm` when left out.
        bias: whether heads' projections have biases.
        scale: factor on the scores; 1 / sqrt(`d_head`) when left out.
        d_mlp: hidden units of each layer's MLP; without it there is none.
        activation: the MLP's activation, by name or as a function; "solu_ln" has a norm of the kind `norm` behind it.
        gated_mlp: whether the MLP is `down(act(gate(x)) * up(x))`.
        mlp_bias: whether the MLP has biases; `bias` when left out.
        use_parallel_residual: whether the MLP reads the stream that the layer's heads read.
        unembed_bias: whether logits have a bias.
    """

    model_type: ClassVar[str] = "attention_only"

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_head: int
    max_position_embeddings: int
    positions: str
    norm: str
    norm_eps: float
    bias: bool
    scale: float | None
    tie_word_embeddings: bool
    causal: bool
    vocab_size_out: int | None = None
    num_key_value_heads: int | None = None
    rotary_dim: int | None = None
    rope_theta: float = 10000.0
    final_norm: str | None = None
    d_mlp: int | None = None
    activation: Any = "relu"
    gated_mlp: bool = False
    mlp_bias: bool | None = None
    use_parallel_residual: bool = False
    unembed_bias: bool = False
    head: Literal["lm"] = "lm"

    @property
    def mlp_has_bias(self) -> bool:
        """Whether the MLP has biases."""
        return self.bias if self.mlp_bias is None else self.mlp_bias

    @property
    def last_norm(self) -> str:
        """The kind of the last norm."""
        return self.norm if self.final_norm is None else self.final_norm

    @property
    def middle_norm(self) -> str:
        """The kind of the norm behind the MLP's activation."""
        return self.norm if self.d_mlp is not None and self.activation == "solu_ln" else "none"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "AttentionOnlyConfig":
        """Read a dictionary whose keys are the fields' names.

        Raises:
            ValueError: for a field that is missing or not understood.
        """
        refuse_unknown(config, set(cls.__dataclass_fields__) - {"head"})
        vocab, model, layers, heads, context = required(
            config, "vocab_size", "d_model", "n_layers", "n_heads", "max_position_embeddings"
        )
        defaults = {
            "d_head": model // heads,
            "positions": "learned",
            "norm": "none",
            "norm_eps": 1e-5,
            "bias": False,
            "scale": None,
            "tie_word_embeddings": False,
            "causal": True,
        }
        sizes = {"vocab_size": vocab, "d_model": model, "n_layers": layers, "n_heads": heads}
        names = {field.name for field in fields(cls)} - {"head"}
        stated = {name: config[name] for name in names if config.get(name) is not None}
        read = cls(**{**defaults, **stated, **sizes, "max_position_embeddings": context})
        one_of("positions", read.positions, POSITIONS)
        one_of("norm", read.norm, NORMS)
        one_of("final_norm", read.last_norm, NORMS)
        read.check_mlp()
        return read

    def check_mlp(self) -> None:
        """Raise ValueError for an activation that is not known, or one that the other fields exclude."""
        if self.d_mlp is None:
            return
        if self.activation == "solu_ln" and (self.gated_mlp or self.norm == "none"):
            raise ValueError("the activation solu_ln has a norm of the kind `norm`, and no gate")
        if isinstance(self.activation, str) and self.activation != "solu_ln":
            activation(self.activation)
        if self.vocab_size_out not in (None, self.vocab_size) and self.tie_word_embeddings:
            raise ValueError("tied embeddings need as many logits as tokens")


def _norm(kind: str, size: int, config: AttentionOnlyConfig, rngs: nnx.Rngs) -> Any:
    kinds = {"none": lambda *_: None, "layer_norm": layer_norm, "rms_norm": rms_norm}
    return kinds[kind](size, config.norm_eps, rngs)


def _mlp(config: AttentionOnlyConfig, rngs: nnx.Rngs) -> Any:
    c = config
    assert c.d_mlp is not None
    if c.gated_mlp:
        return GatedMLP(c.d_model, c.d_mlp, c.activation, rngs=rngs, bias=c.mlp_has_bias)
    middle = _norm(c.middle_norm, c.d_mlp, c, rngs)
    act = "solu" if c.activation == "solu_ln" else c.activation
    return PlainMLP(c.d_model, c.d_mlp, act, rngs=rngs, bias=c.mlp_has_bias, norm=middle)


class AttentionOnly(Decoder):
    """A decoder of embeddings, layers of heads (and MLPs) that add to the stream, and an unembedding."""

    config_type = AttentionOnlyConfig

    def __init__(self, config: AttentionOnlyConfig, *, rngs: nnx.Rngs):
        c = config
        self.config = c
        rotary = Rotary(c.rope_theta, c.rotary_dim or c.d_head) if c.positions == "rotary" else None

        def block(rngs: nnx.Rngs) -> AttentionBlock | PreNormBlock | ParallelBlock:
            attention = Attention(
                c.d_model,
                c.n_heads,
                c.d_head,
                kv_heads=c.num_key_value_heads,
                bias=c.bias,
                rotary=rotary,
                scale=c.scale,
                rngs=rngs,
            )
            before = _norm(c.norm, c.d_model, c, rngs)
            if c.d_mlp is None:
                return AttentionBlock(attention, before)
            kind = ParallelBlock if c.use_parallel_residual else PreNormBlock
            return kind(before, attention, _norm(c.norm, c.d_model, c, rngs), _mlp(c, rngs))

        self.embed = Embed(c.vocab_size, c.d_model, rngs=rngs)
        learned = c.positions == "learned"
        self.embed_position = Embed(c.max_position_embeddings, c.d_model, rngs=rngs) if learned else None
        fixed = sinusoids(c.max_position_embeddings, c.d_model) if c.positions == "sinusoidal" else None
        self.sinusoids = None if fixed is None else Setting(jnp.asarray(fixed))
        self.decoder = Stack("decoder", c.n_layers, block, causal=c.causal, rngs=rngs)
        self.final_norm = _norm(c.last_norm, c.d_model, c, rngs)
        self.unembed = self.own_unembedding(c.vocab_size_out or c.vocab_size, c.d_model, rngs)
        logits = c.vocab_size_out or c.vocab_size
        self.logits_bias = nnx.Param(jnp.zeros((logits,))) if c.unembed_bias else None

    @property
    def unembedding(self) -> Unembedding | None:
        plain = super().unembedding
        return plain if self.logits_bias is None or plain is None else plain._replace(bias=self.logits_bias[...])

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens)
        if self.embed_position is not None:
            x_BTD = x_BTD + self.embed_position(batch.positions)
        if self.sinusoids is not None:
            x_BTD = x_BTD + self.sinusoids[...].astype(x_BTD.dtype)[batch.positions]
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=self.config.causal))

    def features(self, x_BTD: Array) -> Array:
        """Return the stream, normed if the model has norms."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    @staticmethod
    def table(config: AttentionOnlyConfig) -> Table:
        """Return the table of the tensors, which are named as the parameters are."""
        c, here, at = config, "decoder.blocks", "layers.{layer}"
        rules: list[Rule] = [same("embed.weight", "embed.embedding")]
        if c.positions == "learned":
            rules.append(same("embed_position.weight", "embed_position.embedding"))
        rules += [heads_in(f"{at}.W_{letter}", f"{here}.attention.W_{letter}") for letter in "QKV"]
        rules.append(heads_out(f"{at}.W_O", f"{here}.attention.W_O"))
        if c.bias:
            rules += [heads_bias(f"{at}.b_{letter}", f"{here}.attention.b_{letter}") for letter in "QKV"]
            rules.append(same(f"{at}.b_O", f"{here}.attention.b_O"))
        if c.d_mlp is not None:
            matrices = {"up": "in", "down": "out", **({"gate": "gate"} if c.gated_mlp else {})}
            for matrix, stored in matrices.items():
                rules.append(linear(f"{at}.W_{stored}", f"{here}.mlp.{matrix}.kernel"))
                if c.mlp_has_bias:
                    rules.append(same(f"{at}.b_{stored}", f"{here}.mlp.{matrix}.bias"))
        norms = {f"{at}.norm": (f"{here}.norm", c.norm)}
        if c.d_mlp is not None:
            norms = {f"{at}.norm": (f"{here}.attention_norm", c.norm), f"{at}.mlp_norm": (f"{here}.mlp_norm", c.norm)}
            norms[f"{at}.middle_norm"] = (f"{here}.mlp.norm", c.middle_norm)
        norms["final_norm"] = ("final_norm", c.last_norm)
        for name, (path, kind) in norms.items():
            rules += () if kind == "none" else norm(name, path, bias=kind == "layer_norm")
        if not c.tie_word_embeddings:
            rules.append(same("unembed.weight", "unembed.embedding"))
        if c.unembed_bias:
            rules.append(same("unembed.bias", "logits_bias"))
        return Table(tuple(rules))
