"""What the decoders built like Llama share: their configs' common fields, the network, and its tensors' names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from ...blocks import PreNormBlock
from ...inputs.batch import AttentionInputs, Batch
from ...layers import Attention, Embed, GatedMLP, rms_norm
from ...loading.weights import Rule, Table, dense, heads_bias, projections, same
from ...network import RunStack
from ...positions import Rotary
from ...stack import Stack
from .decoder import Decoder, unused_head
from .reading import required

_ROPE = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor",),
        ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    ),
}
"""By rope type, the parameters it must have and those it may have."""

ROTARY_FIELDS = frozenset(("rope_theta", "rope_scaling", "rope_parameters"))
"""The fields that `rotary_of` reads."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""What a config's `layer_types` call a layer that sees all positions before it, and one with a window."""

EVERYTHING = int(np.iinfo(np.int32).max)
"""The window of a layer that has none, where others do."""


@dataclass(frozen=True)
class GatedConfig:
    """The fields that all these families' configs share; `head` is "lm" or "none"."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rotary: Rotary
    tie_word_embeddings: bool
    head: str

    @classmethod
    def fields_of_file(cls) -> set[str]:
        """The names of the fields that a config.json may have, those for rotary positions included."""
        return {field.name for field in fields(cls)} - {"rotary", "head"} | ROTARY_FIELDS


def common(given: Mapping[str, Any]) -> dict[str, Any]:
    """The shared fields as a config states them, but for `rotary` and `head`.

    Raises:
        ValueError: naming all that are missing.
    """
    width, heads = required(given, "hidden_size", "num_attention_heads")
    vocab, inner, layers = required(given, "vocab_size", "intermediate_size", "num_hidden_layers")
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": given.get("num_key_value_heads") or heads,
        "head_dim": given.get("head_dim") or width // heads,
        "max_position_embeddings": given.get("max_position_embeddings", 2048),
        "rms_norm_eps": given.get("rms_norm_eps", 1e-6),
        "tie_word_embeddings": given.get("tie_word_embeddings", False),
    }


def rotary_of(given: Mapping[str, Any], dimensions: int, context: int) -> Rotary:
    """The rotary embedding a config states, by `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
        ValueError: for a rope type that is not covered, or parameters that don't belong to it.
    """
    stated = dict(given.get("rope_parameters") or given.get("rope_scaling") or {})
    kind = stated.pop("rope_type", None) or stated.pop("type", None) or "default"
    stated.pop("type", None)
    base = stated.pop("rope_theta", None) or given.get("rope_theta") or 10000.0
    if kind not in _ROPE:
        raise ValueError(f"rope type {kind!r} is not covered; covered are {', '.join(_ROPE)}")
    needed, optional = _ROPE[kind]
    stated = {name: value for name, value in stated.items() if value is not None}
    missing, unknown = set(needed) - set(stated), set(stated) - set(needed) - set(optional)
    if missing or unknown:
        raise ValueError(f"rope type {kind!r} lacks {sorted(missing)} and does not know {sorted(unknown)}")
    if kind == "yarn":
        stated.setdefault("original_max_position_embeddings", context)
    return Rotary(float(base), dimensions, kind, tuple(sorted((name, float(value)) for name, value in stated.items())))


def window_of(given: Mapping[str, Any]) -> int | None:
    """How many positions back queries see, themselves included: `sliding_window`; None where there is no window.

    Raises:
        ValueError: for a window in which a query would not see even itself.
    """
    window = given.get("sliding_window")
    if window is not None and window < 1:
        raise ValueError(f"sliding_window must be at least 1, or null for none; got {window}")
    return window


def layer_types_of(given: Mapping[str, Any], usual: Callable[[int], bool]) -> tuple[str, ...]:
    """What each layer sees: FULL or SLIDING, as `layer_types` says or, in configs without, as is usual.

    Args:
        usual: whether a layer, by its number, has a window.

    Raises:
        ValueError: for another number than that of layers, another kind, or a window that the config does not give.
    """
    layers = given["num_hidden_layers"]
    stated = given.get("layer_types")
    kinds = tuple(SLIDING if usual(layer) else FULL for layer in range(layers)) if stated is None else tuple(stated)
    if len(kinds) != layers or not set(kinds) <= {FULL, SLIDING}:
        raise ValueError(f"layer_types must be {layers} times {FULL!r} or {SLIDING!r}, got {list(kinds)}")
    if SLIDING in kinds and window_of(given) is None:
        raise ValueError(
            f"the {given.get('model_type')} config has layers of {SLIDING!r} but no sliding_window for them"
        )
    return kinds


def window_settings(config: Any) -> dict[str, np.ndarray] | None:
    """For a `Stack`: how many positions back the queries of each layer see, `[L]`; None where none has a window."""
    if SLIDING not in config.layer_types:
        return None
    window = config.sliding_window
    return {"window": np.array([window if kind == SLIDING else EVERYTHING for kind in config.layer_types], np.int32)}


def attention_of(config: Any, rngs: nnx.Rngs, settings: Mapping[str, Array] | None = None, **more: Any) -> Attention:
    """The attention of one layer, its own `settings` among the arguments.

    Args:
        more: arguments of `Attention` that are the same in all layers.
    """
    return Attention(
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
        kv_heads=config.num_key_value_heads,
        rotary=config.rotary,
        rngs=rngs,
        **{**more, **(settings or {})},
    )


class GatedDecoder(Decoder):
    """A pre-norm decoder with RMSNorm, rotary positions, grouped queries and a gated MLP.

    Args:
        config: a `GatedConfig` with `hidden_act`.
        attention: builds one layer's attention, from its random streams and, if there are any, its part of `settings`.
        mlp_bias: whether the MLP's matrices have biases.
        settings: as `Stack` takes them.
    """

    def __init__(
        self,
        config: Any,
        attention: Callable[..., Attention],
        *,
        rngs: nnx.Rngs,
        mlp_bias: bool = False,
        settings: Mapping[str, np.ndarray] | None = None,
    ):
        c = config
        self.config = c

        def block(rngs: nnx.Rngs, *own: Mapping[str, Array]) -> PreNormBlock:
            return PreNormBlock(
                rms_norm(c.hidden_size, c.rms_norm_eps, rngs),
                attention(rngs, *own),
                rms_norm(c.hidden_size, c.rms_norm_eps, rngs),
                GatedMLP(c.hidden_size, c.intermediate_size, c.hidden_act, bias=mlp_bias, rngs=rngs),
            )

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, settings=settings, rngs=rngs)
        self.final_norm = rms_norm(c.hidden_size, c.rms_norm_eps, rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.hidden_size, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return run_stack(self.decoder, self.embed(batch.tokens), AttentionInputs.over(batch, causal=True))


PRE_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
"""A pre-norm layer's norms, by the checkpoint's names."""

HEAD_NORMS = {"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}
"""The norms of each head's queries and keys."""


def gated_table(
    config: GatedConfig,
    *,
    norms: Mapping[str, str] = PRE_NORMS,
    biases: str = "",
    mlp_bias: bool = False,
    root: str = "model",
) -> Table:
    """The tensors of a checkpoint that is named like Llama's.

    Args:
        norms: by their names in the checkpoint, the paths of a layer's norms.
        biases: which of Q, K, V and O have one.
        root: what all tensors' names but the head's begin with.
    """
    here, at = "decoder.blocks", f"{root}.layers.{{layer}}"
    names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKVO"}
    rules: list[Rule] = [
        same(f"{root}.embed_tokens.weight", "embed.embedding"),
        same(f"{root}.norm.weight", "final_norm.scale"),
        *(same(f"{at}.{name}.weight", f"{here}.{path}.scale") for name, path in norms.items()),
        *projections(names, f"{here}.attention", bias=False),
    ]
    for letter in biases:
        rule = same if letter == "O" else heads_bias
        rules.append(rule(f"{names[letter]}.bias", f"{here}.attention.b_{letter}"))
    for part in ("gate", "up", "down"):
        rules += dense(f"{at}.mlp.{part}_proj", f"{here}.mlp.{part}", bias=mlp_bias)
    if config.head == "lm" and not config.tie_word_embeddings:
        rules.append(same("lm_head.weight", "unembed.embedding"))
    passed_over = {rf"{root}\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from the config"}
    passed_over |= unused_head(config.head)
    rename = ((r"^(embed_tokens|layers|norm)\.", rf"{root}.\1."),)
    return Table(tuple(rules), passed_over, rename, {"lm_head.weight": f"{root}.embed_tokens.weight"})
