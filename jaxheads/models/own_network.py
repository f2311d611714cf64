"""Stacks and attention made of modules and weights that a user already has."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from ..checks import shown
from .inputs.axes import TOKENS, Axis
from .layers import Attention
from .stack import Stack

AttentionT = TypeVar("AttentionT", bound=Attention)

_AXES = {"W_Q": 3, "W_K": 3, "W_V": 3, "W_O": 3, "b_Q": 2, "b_K": 2, "b_V": 2, "b_O": 1}


def attention_of(weights: Mapping[str, Any], kind: type[AttentionT] = Attention, **options: Any) -> AttentionT:
    """Return the attention of one layer with these weights.

    Args:
        weights: W_Q `[D,N,H]`, W_K and W_V `[D,K,H]`, W_O `[N,H,D]`, and, where there are any, b_Q `[N,H]`, b_K and b_V
            `[K,H]`, b_O `[D]`: arrays or parameters. `nnx.LinearGeneral` and `nnx.MultiHeadAttention` hold them so.
        kind: `Attention` or a subclass of it.
        options: keywords of `Attention`: `rotary`, `scale`, `cap`, `window`, `q_norm`, `k_norm`.

    Raises:
        ValueError: for weights that are missing, unknown or of shapes that do not fit each other.
    """
    missing, unknown = sorted({"W_Q", "W_K", "W_V", "W_O"} - set(weights)), sorted(set(weights) - set(_AXES))
    arrays = {
        name: jnp.asarray(value[...] if isinstance(value, nnx.Variable) else value)
        for name, value in weights.items()
        if value is not None
    }
    wrong = [f"{name} {array.shape}" for name, array in arrays.items() if array.ndim != _AXES.get(name, array.ndim)]
    if missing or unknown or wrong:
        raise ValueError(
            "weights must be W_Q [D,N,H], W_K and W_V [D,K,H], W_O [N,H,D], with b_Q [N,H], b_K and b_V [K,H], b_O [D] "
            f"where there are any; missing are {missing}, unknown {unknown}, with another number of axes {wrong}"
        )
    width, heads, size = arrays["W_Q"].shape
    bias = "".join(letter for letter in "QKVO" if f"b_{letter}" in arrays)
    kv_heads = arrays["W_K"].shape[1]
    attention = kind(width, heads, size, kv_heads=kv_heads, bias=bias, rngs=nnx.Rngs(0), **options)
    for name, array in arrays.items():
        expected = getattr(attention, name).shape
        if array.shape != expected:
            raise ValueError(
                f"{name} must have the shape {expected} beside W_Q {arrays['W_Q'].shape}, got {array.shape}"
            )
        setattr(attention, name, nnx.Param(array))
    return attention


def stack_of(name: str, blocks: Sequence[Any], *, causal: bool, queries: Axis = TOKENS) -> Stack:
    """Return a stack of layers that are there already; their parameters are copied, one array for all layers.

    Args:
        name: the stack's name: "decoder", "encoder", …
        blocks: the layers, all of one class, with parameters of the same shapes.
        causal: whether a query sees no later keys.
        queries: the axis of the positions.

    Raises:
        ValueError: for no block, or blocks that differ in more than the values of their arrays.
    """
    flat = [jax.tree.flatten(block) for block in blocks]
    if not flat:
        raise ValueError("a stack needs at least one block")
    leaves, structure = flat[0]
    for number, (others, other) in enumerate(flat):
        shapes = [(leaf.shape, leaf.dtype) for leaf in leaves], [(leaf.shape, leaf.dtype) for leaf in others]
        if other != structure or shapes[0] != shapes[1]:
            raise ValueError(
                f"the layers of a stack must be alike: block {number} ({shown(blocks[number])}) has other modules, "
                "settings or shapes than block 0. What differs by layer must be an array: networks.Attention takes "
                "window= and frequencies= as such"
            )
    arrays = {str(index): jnp.stack([own[index] for own, _ in flat]) for index in range(len(leaves))}

    def make(rngs: nnx.Rngs, arrays: Mapping[str, Any]) -> Any:
        del rngs
        return jax.tree.unflatten(structure, [arrays[str(index)] for index in range(len(leaves))])

    return Stack(name, len(blocks), make, rngs=nnx.Rngs(0), causal=causal, queries=queries, settings=arrays)
