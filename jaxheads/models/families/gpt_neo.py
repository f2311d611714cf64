"""GPT-Neo (Black et al. 2021), the architecture of the TinyStories models (Eldan & Li 2023) too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flax import nnx
from jax import Array

from ...checks import shown
from ..blocks import PreNormBlock
from ..inputs.attention_inputs import AttentionInputs
from ..inputs.batch import Batch
from ..layers import Attention, Embed, PlainMLP, layer_norm
from ..loading.config_fields import is_whole
from ..loading.weights import Rule, Table, dense, norm, projections, same
from ..network import RunStack
from ..stack import Stack
from .bases.class_heads import OF_OLDER_DECODERS, ClassFields, ClassNames, decoder_head, head_rules, unused_class_heads
from .bases.decoder import Decoder, unused_head
from .bases.gated_decoder import windows_by_layer
from .bases.reading import SUMMARY, refuse_unknown, required

_GLOBAL, _LOCAL = "global", "local"
"""Names of layers that see all earlier positions, and of layers with a window."""


@dataclass(frozen=True)
class GPTNeoConfig(ClassFields):
    """The fields of a Hugging Face `GPTNeoConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "gpt_neo"
    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_OLDER_DECODERS

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_position_embeddings: int
    activation_function: str
    layer_norm_epsilon: float
    attention_layers: tuple[str, ...]
    window_size: int
    tie_word_embeddings: bool
    head: str

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "GPTNeoConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: for a field that is missing or not understood, or types that do not fit the number of layers.
        """
        if config.get("intermediate_size") is None:  # which is usual, and means four times the width
            config = {name: value for name, value in config.items() if name != "intermediate_size"}
        unused = {"embed_dropout", "resid_dropout"}
        refuse_unknown(config, set(cls.__dataclass_fields__) - {"head"} | {"attention_types"} | unused | SUMMARY)
        vocab, width, layers, heads = required(config, "vocab_size", "hidden_size", "num_layers", "num_heads")
        return cls(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=config.get("intermediate_size", 4 * width),
            num_layers=layers,
            num_heads=heads,
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            activation_function=config.get("activation_function", "gelu_new"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
            attention_layers=_attention_layers(config, layers),
            window_size=config.get("window_size", 256),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            **decoder_head(config, "GPTNeo", cls.class_heads),
        )


def _attention_layers(config: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """Read the type of each layer, from `attention_layers` or from its short form `attention_types`."""
    short = config.get("attention_types")
    spelt = None if short is None else _spelt_out(short)
    types = tuple(config.get("attention_layers") or spelt or (_GLOBAL, _LOCAL) * 12)
    if len(types) != layers or not set(types) <= {_GLOBAL, _LOCAL}:
        raise ValueError(f"attention_layers must be {layers} times {_GLOBAL!r} or {_LOCAL!r}, got {shown(types)}")
    if spelt not in (None, types):
        raise ValueError(f"attention_types and attention_layers differ: {shown(short)} and {shown(types)}")
    return types


def _spelt_out(short: Any) -> tuple[str, ...]:
    """Return the type of each layer of pairs of types and a number of repetitions, `[[["global", "local"], 12]]`."""
    try:
        pairs: list[tuple[tuple[Any, ...], int]] = [(tuple(types), count) for types, count in short]
    except (TypeError, ValueError):
        pairs = [((), -1)]
    if not all(is_whole(count, 0, 10_000) and set(types) <= {_GLOBAL, _LOCAL} for types, count in pairs):
        raise ValueError(f'attention_types must be like [[["global", "local"], 12]], got {shown(short)}')
    return tuple(kind for types, count in pairs for kind in types * count)


class GPTNeo(Decoder):
    """A pre-norm decoder with LayerNorm, learned positions, scores without a scale and, in some layers, a window."""

    config_type = GPTNeoConfig

    def __init__(self, config: GPTNeoConfig, *, rngs: nnx.Rngs):
        c, D = config, config.hidden_size
        self.config = c

        def block(rngs: nnx.Rngs, *settings: Mapping[str, Array]) -> PreNormBlock:
            window = dict(*settings)
            return PreNormBlock(
                layer_norm(D, c.layer_norm_epsilon, rngs),
                Attention(D, c.num_heads, D // c.num_heads, bias="O", scale=1.0, **window, rngs=rngs),
                layer_norm(D, c.layer_norm_epsilon, rngs),
                PlainMLP(D, c.intermediate_size, c.activation_function, rngs=rngs),
            )

        windows = windows_by_layer([kind == _LOCAL for kind in c.attention_layers], c.window_size)
        self.embed = Embed(c.vocab_size, D, rngs=rngs)
        self.embed_position = Embed(c.max_position_embeddings, D, rngs=rngs)
        self.decoder = Stack("decoder", c.num_layers, block, causal=True, settings=windows, rngs=rngs)
        self.final_norm = layer_norm(D, c.layer_norm_epsilon, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, D, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        x_BTD = self.embed(batch.tokens) + self.embed_position(batch.positions)
        return run_stack(self.decoder, x_BTD, AttentionInputs.over(batch, causal=True))

    @staticmethod
    def table(config: GPTNeoConfig) -> Table:
        """Return the table of a GPT-Neo checkpoint's tensors."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        names = {letter: f"{at}.attn.attention.{letter.lower()}_proj" for letter in "QKV"}
        names["O"] = f"{at}.attn.attention.out_proj"
        rules: list[Rule] = [
            *head_rules(config),
            same("transformer.wte.weight", "embed.embedding"),
            same("transformer.wpe.weight", "embed_position.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.ln_1", f"{here}.attention_norm"),
            *norm(f"{at}.ln_2", f"{here}.mlp_norm"),
            *projections(names, f"{here}.attention", bias="O"),
            *dense(f"{at}.mlp.c_fc", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.c_proj", f"{here}.mlp.down"),
        ]
        if config.head == "lm" and not config.tie_word_embeddings:
            rules.append(same("lm_head.weight", "unembed.embedding"))
        mask = {r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)": "the causal mask, not a weight"}
        passed_over = mask | unused_head(config.head) | unused_class_heads(config)
        rename = ((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),)
        copies = {"lm_head.weight": "transformer.wte.weight"}
        return Table(tuple(rules), passed_over, rename, copies)
