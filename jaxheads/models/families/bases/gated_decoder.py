"""Base of decoders like Llama: common config fields, the network, and the table of its tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jax import Array

from ....checks import shown
from ...blocks import Block, ParallelBlock, PreNormBlock
from ...inputs.attention_inputs import AttentionInputs
from ...inputs.batch import Batch
from ...layers import Attention, Embed, GatedMLP, rms_norm
from ...loading.config_fields import FLAG, SHARE, is_positive
from ...loading.weights import Rule, Table, dense, norm, projections, same
from ...network import RunStack
from ...positions import Rotary
from ...stack import Stack
from .class_heads import OF_DECODERS, ClassFields, ClassNames, head_rules, unused_class_heads
from .decoder import Decoder, unused_head
from .reading import inner_config, required

_ROPE = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor",),
        ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    ),
}
"""Required and optional parameters of each rope type."""

ROTARY_FIELDS = frozenset(("rope_theta", "rope_scaling", "rope_parameters"))
"""Config fields that `rotary_of` reads."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""Names in a config's `layer_types` of layers that see all earlier positions, and of layers with a window."""

EVERYTHING = int(np.iinfo(np.int32).max)
"""Window of a layer without one, in a stack where other layers have one."""


@dataclass(frozen=True)
class GatedSizes(ClassFields):
    """Config fields that all these families share; `head` is "lm", "none" or one of `class_heads`."""

    class_heads: ClassVar[Mapping[str, ClassNames]] = OF_DECODERS
    answers_root: ClassVar[str] = "model"
    """Prefix of tensors' names in a model that answers questions."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rotary: Rotary
    tie_word_embeddings: bool
    head: str

    @property
    def root(self) -> str:
        """Prefix of the tensors' names."""
        return self.answers_root if self.head == "answers" else "model"

    @classmethod
    def fields_of_file(cls) -> set[str]:
        """Return the names of the fields that a config.json may have, including those of rotary positions."""
        return {field.name for field in fields(cls)} - {"rotary", "head"} | ROTARY_FIELDS


@dataclass(frozen=True)
class GatedConfig(GatedSizes):
    """Config fields that the families with RMSNorm share."""

    rms_norm_eps: float


def common(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a `GatedConfig`, except `rotary` and `head`; raises as `sizes_of` does."""
    return {**sizes_of(config), "rms_norm_eps": config.get("rms_norm_eps", 1e-6)}


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a `GatedSizes`, except `rotary` and `head`.

    Raises:
        ValueError: for missing fields; the message names all of them.
    """
    width, heads = required(config, "hidden_size", "num_attention_heads")
    vocab, inner, layers = required(config, "vocab_size", "intermediate_size", "num_hidden_layers")
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or width // heads,
        "max_position_embeddings": config.get("max_position_embeddings", 2048),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
    }


def rotary_of(config: Mapping[str, Any], dimensions: int, context: int) -> Rotary:
    """Read the rotary embedding of a config.

    Its fields are `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.

    Args:
        dimensions: number of a head's dimensions that rotate.
        context: default of YaRN's `original_max_position_embeddings`.

    Raises:
        ValueError: for a rope type that is not covered, or parameters that don't belong to it.
    """
    stated = inner_config(config, "rope_parameters") or inner_config(config, "rope_scaling")
    stated = {name: value for name, value in stated.items() if value is not None}
    kind, older = stated.pop("rope_type", None), stated.pop("type", None)
    kind = kind or older or "default"
    bases = (stated.pop("rope_theta", None), config.get("rope_theta"), 10000.0)
    stated["rope_theta"] = next(base for base in bases if base is not None)
    if not isinstance(kind, str) or kind not in _ROPE:
        raise ValueError(f"rope type {shown(kind)} is not covered; covered are {', '.join(_ROPE)}")
    _check_rope(kind, stated)
    base = stated.pop("rope_theta")
    needed, optional = _ROPE[kind]
    missing, unknown = set(needed) - set(stated), set(stated) - set(needed) - set(optional)
    if missing or unknown:
        raise ValueError(f"rope type {kind!r} lacks {sorted(missing)} and does not take {sorted(unknown)}")
    if kind == "yarn":
        stated.setdefault("original_max_position_embeddings", context)
    return Rotary(float(base), dimensions, kind, tuple(sorted((name, float(value)) for name, value in stated.items())))


def partial_rotary_of(config: Mapping[str, Any], head: int, context: int, usual: float) -> Rotary:
    """Read the rotary embedding of a share of each head's dimensions, `partial_rotary_factor`.

    Args:
        head: size of a head.
        context: see `rotary_of`.
        usual: the share where the config has none.

    Raises:
        ValueError: for a share that is no number above 0 and at most 1, and as `rotary_of`.
    """
    parameters = inner_config(config, "rope_parameters") or inner_config(config, "rope_scaling")
    shares = (parameters.pop("partial_rotary_factor", None), config.get("partial_rotary_factor"), usual)
    share = next(share for share in shares if share is not None)
    if not SHARE.fits(share):
        raise ValueError(f"partial_rotary_factor must be {SHARE.expected}, got {shown(share)}")
    stated = {"rope_theta": config.get("rope_theta"), "rope_parameters": parameters}
    return rotary_of(stated, int(head * share), context)


def _check_rope(kind: str, stated: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that is no number above 0, or for parameters that contradict each other."""
    wrong = {name: value for name, value in stated.items() if not is_positive(value) and not FLAG.fits(value)}
    flags = {name: value for name, value in stated.items() if (name == "truncate") != FLAG.fits(value)}
    if wrong or flags:
        listed = ", ".join(f"{name}={shown(value)}" for name, value in (wrong | flags).items())
        raise ValueError(
            f"parameters of rope type {kind!r} must be finite numbers above 0, truncate a bool; got {listed}"
        )
    if kind == "llama3" and not stated.get("low_freq_factor", 1) < stated.get("high_freq_factor", 4):
        raise ValueError("low_freq_factor of rope type 'llama3' must be less than high_freq_factor")
    if kind == "yarn" and stated["rope_theta"] <= 1:
        raise ValueError(f"rope_theta of rope type 'yarn' must be more than 1, got {stated['rope_theta']}")


def window_of(config: Mapping[str, Any]) -> int | None:
    """Read `sliding_window`, the number of positions that a query sees, its own included; None for no window."""
    return config.get("sliding_window")


def layer_types_of(config: Mapping[str, Any], usual: Callable[[int], bool]) -> tuple[str, ...]:
    """Read the type of each layer, FULL or SLIDING, from `layer_types`.

    Args:
        usual: whether a layer, by its number, has a window in configs without `layer_types`.

    Raises:
        ValueError: for a number of types other than that of layers, another type, or SLIDING without a window.
    """
    layers = config["num_hidden_layers"]
    stated = config.get("layer_types")
    kinds = tuple(SLIDING if usual(layer) else FULL for layer in range(layers)) if stated is None else tuple(stated)
    if len(kinds) != layers or not set(kinds) <= {FULL, SLIDING}:
        raise ValueError(f"layer_types must be {layers} times {FULL!r} or {SLIDING!r}, got {list(kinds)}")
    if SLIDING in kinds and window_of(config) is None:
        raise ValueError(
            f"the {config.get('model_type')} config has layers of {SLIDING!r} but no sliding_window for them"
        )
    return kinds


def window_settings(config: Any) -> dict[str, np.ndarray] | None:
    """Return a stack's settings with the window of each layer, `[L]`; None if no layer has one."""
    return windows_by_layer([kind == SLIDING for kind in config.layer_types], config.sliding_window)


def windows_by_layer(windowed: Sequence[bool], window: Any) -> dict[str, np.ndarray] | None:
    """Return a stack's settings with the window of each layer, `[L]`, of the layers that have it; None if none has."""
    if not any(windowed):
        return None
    return {"window": np.array([window if has_window else EVERYTHING for has_window in windowed], np.int32)}


def attention_of(config: Any, rngs: nnx.Rngs, settings: Mapping[str, Array] | None = None, **more: Any) -> Attention:
    """Build the attention of one layer.

    Args:
        settings: arguments of `Attention` that differ from layer to layer.
        more: arguments of `Attention` that all layers share.
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


Build = Callable[[], Any]
"""Function that builds a new module: a norm of the stream, a layer's attention or its MLP."""


def pre_norm(norm: Build, attention: Build, mlp: Build) -> PreNormBlock:
    """Build a layer whose heads and MLP read the stream through norms."""
    return PreNormBlock(norm(), attention(), norm(), mlp())


def parallel(norm: Build, attention: Build, mlp: Build) -> ParallelBlock:
    """Build a layer whose heads and MLP read the stream side by side, through one norm."""
    return ParallelBlock(norm(), attention(), None, mlp())


class GatedDecoder(Decoder):
    """A decoder with rotary positions, grouped queries and a gated MLP, by default a pre-norm one with RMSNorm.

    Args:
        config: a `GatedConfig` with `hidden_act`; without `norm` and `act` it may be another `GatedSizes`.
        attention: builds one layer's attention, from random streams and, with `settings`, the settings of its layer.
        norm: builds a norm of the stream from random streams.
        arrange: builds a layer's block from functions that build its norms, its attention and its MLP.
        act: the activation's name, unless it is the config's `hidden_act`.
        mlp_bias: whether the MLP's matrices have biases.
        mlp: builds one layer's MLP, like `attention`; a `GatedMLP` of the config's sizes when left out.
        settings: settings that differ from layer to layer, see `Stack`.
    """

    def __init__(
        self,
        config: Any,
        attention: Callable[..., Attention],
        *,
        rngs: nnx.Rngs,
        norm: Callable[[nnx.Rngs], Any] | None = None,
        arrange: Callable[[Build, Build, Build], Block] = pre_norm,
        act: str | None = None,
        mlp_bias: bool = False,
        mlp: Callable[..., Any] | None = None,
        settings: Mapping[str, np.ndarray] | None = None,
    ):
        c = config
        self.config = c
        new_norm = norm or (lambda rngs: rms_norm(c.hidden_size, c.rms_norm_eps, rngs))

        def plain_mlp(rngs: nnx.Rngs, *_: Mapping[str, Array]) -> GatedMLP:
            return GatedMLP(c.hidden_size, c.intermediate_size, act or c.hidden_act, bias=mlp_bias, rngs=rngs)

        def block(rngs: nnx.Rngs, *layer_settings: Mapping[str, Array]) -> Block:
            of_layer = [partial(build, rngs, *layer_settings) for build in (attention, mlp or plain_mlp)]
            return arrange(partial(new_norm, rngs), *of_layer)

        self.embed = Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.decoder = Stack("decoder", c.num_hidden_layers, block, causal=True, settings=settings, rngs=rngs)
        self.final_norm = new_norm(rngs)
        self.unembed = self.own_unembedding(c.vocab_size, c.hidden_size, rngs)

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        return run_stack(self.decoder, self.embed_tokens(batch.tokens), AttentionInputs.over(batch, causal=True))


PRE_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
"""Paths of a pre-norm layer's norms, by their names in the checkpoint."""

HEAD_NORMS = {"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}
"""Paths of the norms of each head's queries and keys, by their names in the checkpoint."""


def gated_table(
    config: GatedSizes,
    *,
    norms: Mapping[str, str] = PRE_NORMS,
    final_norm: str = "final_norm",
    norm_bias: bool = False,
    biases: str = "",
    mlp_bias: bool = False,
    attention: Sequence[Rule] | None = None,
    mlp: Sequence[Rule] | None = None,
    more: Sequence[Rule] = (),
    alternatives: Sequence[Rule] = (),
    root: str | None = None,
) -> Table:
    """Return the table of a checkpoint whose tensors are named like Llama's.

    Args:
        norms: paths of a layer's norms, by their names in the checkpoint.
        final_norm: path of the last norm; "" for one without parameters.
        norm_bias: whether the norms have biases.
        biases: the letters of the projections that have a bias, of "QKVO".
        attention: rules of the layers' projections, where they aren't stored one by one.
        mlp: rules of the layers' MLPs, where they aren't those of a `GatedMLP`.
        more: rules of tensors that Llama lacks.
        alternatives: as `Table` has them.
        root: prefix of all tensors' names except the head's; the config's when left out.
    """
    if root is None:
        root = config.root
    here, at = "decoder.blocks", f"{root}.layers.{{layer}}"
    names = {letter: f"{at}.self_attn.{letter.lower()}_proj" for letter in "QKVO"}
    rules: list[Rule] = [
        *head_rules(config),
        same(f"{root}.embed_tokens.weight", "embed.embedding"),
        *(norm(f"{root}.norm", final_norm, bias=norm_bias) if final_norm else ()),
        *(rule for name, path in norms.items() for rule in norm(f"{at}.{name}", f"{here}.{path}", bias=norm_bias)),
        *(projections(names, f"{here}.attention", bias=biases) if attention is None else attention),
    ]
    for matrix in ("gate", "up", "down") if mlp is None else ():
        rules += dense(f"{at}.mlp.{matrix}_proj", f"{here}.mlp.{matrix}", bias=mlp_bias)
    rules += [*(mlp or ()), *more]
    if config.head == "lm" and not config.tie_word_embeddings:
        rules.append(same("lm_head.weight", "unembed.embedding"))
    passed_over = {rf"{root}\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from the config"}
    passed_over |= unused_head(config.head) | unused_class_heads(config)
    rename = ((r"^(embed_tokens|layers|norm)\.", rf"{root}.\1."),)
    copies = {"lm_head.weight": f"{root}.embed_tokens.weight"}
    return Table(tuple(rules), passed_over, rename, copies, tuple(alternatives))
