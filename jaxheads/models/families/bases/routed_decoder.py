"""Base of decoders like Llama whose MLPs are mixtures of experts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...experts import RoutedMLP
from ...layers import Attention, GatedMLP
from ...loading.weights import Rule, dense, linear
from .gated_decoder import GatedConfig, GatedDecoder

_MLP = "decoder.blocks.mlp"


@dataclass(frozen=True)
class RoutedConfig(GatedConfig):
    """Config fields of decoders with experts, in the words of Qwen's.

    Attributes:
        intermediate_size: hidden units of the MLPs of layers without experts.
        moe_intermediate_size: hidden units of one expert.
        shared_expert_intermediate_size: those of the expert that all tokens share, or None.
        norm_topk_prob: whether the weights of a token's experts are divided by their sum.
        dense_layers: layers without experts.
    """

    hidden_act: str
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int | None
    norm_topk_prob: bool
    dense_layers: tuple[int, ...]


EXPERT_FIELDS = frozenset(("num_local_experts", "mlp_only_layers", "decoder_sparse_step"))
"""Config fields that these families read, beside those of `RoutedConfig`."""


def routing(config: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Read the fields of `RoutedConfig` that are about experts, and the activation.

    Args:
        defaults: transformers' defaults of the family's absent fields.

    Raises:
        ValueError: for more experts of a token than there are, or a dense layer that is not there.
    """
    # Null means the default, and transformers has two names of the number of experts.
    stated = {**defaults, **{name: value for name, value in config.items() if value is not None}}
    experts = stated["num_local_experts" if "num_local_experts" in config else "num_experts"]
    chosen, layers = stated["num_experts_per_tok"], stated["num_hidden_layers"]
    if chosen > experts:
        raise ValueError(f"num_experts_per_tok must be at most the number of experts, {experts}, got {chosen}")
    step, alone = stated.get("decoder_sparse_step", 1), set(stated.get("mlp_only_layers", ()))
    return {
        "hidden_act": stated.get("hidden_act", "silu"),
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": stated["moe_intermediate_size"],
        "shared_expert_intermediate_size": stated.get("shared_expert_intermediate_size"),
        "norm_topk_prob": stated["norm_topk_prob"],
        "dense_layers": tuple(layer for layer in range(layers) if layer in alone or (layer + 1) % step),
    }


class RoutedDecoder(GatedDecoder):
    """A `GatedDecoder` whose MLPs are mixtures of experts, in all layers or in some.

    Args:
        config: a `RoutedConfig`.
        attention: as in `GatedDecoder`.
        settings: settings of the attention that differ from layer to layer.
        expert: builds one expert from random streams; a `GatedMLP` when left out.
        router_bias: whether routers have biases.
    """

    def __init__(
        self,
        config: Any,
        attention: Callable[..., Attention],
        *,
        rngs: nnx.Rngs,
        settings: Mapping[str, np.ndarray] | None = None,
        expert: Callable[[nnx.Rngs], GatedMLP] | None = None,
        router_bias: bool = False,
    ):
        c = config
        mixed = bool(c.dense_layers)

        def gated(size: int, rngs: nnx.Rngs) -> GatedMLP:
            return GatedMLP(c.hidden_size, size, c.hidden_act, rngs=rngs)

        def mlp(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> RoutedMLP:
            shared = c.shared_expert_intermediate_size
            return RoutedMLP(
                c.hidden_size,
                expert or (lambda rngs: gated(c.moe_intermediate_size, rngs)),
                c.num_experts,
                c.num_experts_per_tok,
                renormalise=c.norm_topk_prob,
                router_bias=router_bias,
                shared=None if shared is None else gated(shared, rngs),
                dense=gated(c.intermediate_size, rngs) if mixed else None,
                routed=layer[0]["routed"] if mixed else None,
                rngs=rngs,
            )

        def own_settings(rngs: nnx.Rngs, *layer: Mapping[str, Array]) -> Attention:
            own = [{name: value for name, value in one.items() if name != "routed"} for one in layer]
            return attention(rngs, *own)

        if mixed:
            routed = np.isin(np.arange(c.num_hidden_layers), c.dense_layers, invert=True)
            settings = {**(settings or {}), "routed": routed}
        super().__init__(config, own_settings, mlp=mlp, settings=settings, rngs=rngs)


def expert_rules(names: Mapping[str, str], absent: Iterable[int] = ()) -> list[Rule]:
    """Map the matrices of experts that are stored one by one.

    Args:
        names: names of "gate", "up" and "down", with the fields `{layer}` and `{expert}`.
        absent: layers without experts.
    """
    rules = [linear(f"{name}.weight", f"{_MLP}.experts.{matrix}.kernel") for matrix, name in names.items()]
    return [replace(rule, absent=frozenset(absent)) for rule in rules]


def joined_expert_rules(at: str, absent: Iterable[int] = ()) -> list[Rule]:
    """Map the matrices of all experts of a layer, joined: `gate_up_proj` `[E,2F,D]` and `down_proj` `[E,D,F]`.

    `at` is the name of a layer's experts, with the field `{layer}`. That is how `transformers` 5 holds them.
    """

    def turned(matrices: Any) -> Any:
        return matrices.swapaxes(-1, -2)

    def split(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
        F = shapes[0][-1]
        return turned(tensor[..., :F, :]), turned(tensor[..., F:, :])

    def join(gate: Any, up: Any) -> Any:
        concatenate = np.concatenate if isinstance(gate, np.ndarray) else jnp.concatenate
        return turned(concatenate([gate, up], axis=-1))

    here = f"{_MLP}.experts"
    down = Rule(f"{at}.down_proj", (f"{here}.down.kernel",), lambda tensor, shapes: (turned(tensor),), turned)
    gate_up = Rule(f"{at}.gate_up_proj", (f"{here}.gate.kernel", f"{here}.up.kernel"), split, join)
    return [replace(rule, absent=frozenset(absent)) for rule in (gate_up, down)]


def mlp_rules(config: RoutedConfig, at: str) -> list[Rule]:
    """Map what layers have beside their experts: the router, and the dense and shared MLPs of those that have them.

    `at` is the name of a layer's MLP, with the field `{layer}`.
    """
    dense_layers = frozenset(config.dense_layers)
    routed_layers = frozenset(range(config.num_hidden_layers)) - dense_layers
    rules = [linear(f"{at}.gate.weight", f"{_MLP}.router.kernel")]
    if config.shared_expert_intermediate_size is not None:
        rules.append(linear(f"{at}.shared_expert_gate.weight", f"{_MLP}.shared_gate.kernel"))
        rules += _gated(f"{at}.shared_expert", f"{_MLP}.shared")
    rules = [replace(rule, absent=dense_layers) for rule in rules]
    if dense_layers:
        rules += [replace(rule, absent=routed_layers) for rule in _gated(at, f"{_MLP}.dense")]
    return rules


def _gated(name: str, path: str) -> Sequence[Rule]:
    return [
        rule
        for matrix in ("gate", "up", "down")
        for rule in dense(f"{name}.{matrix}_proj", f"{path}.{matrix}", bias=False)
    ]
