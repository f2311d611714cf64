"""Models from which heads were removed: what their config says of it, and networks of that shape."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .layers import Attention, Setting
from .stack import Stack

HEADS = "jaxheads_heads"
"""The field of a config that holds the `head_shape` of each stack, by name."""


def head_shape(stack: Stack) -> dict[str, Any]:
    """Return a stack's numbers of query and key/value heads, and which of these each query head reads, as JSON values.

    `key_heads` is `[L,N]`, or None where each key/value head has as many readers.
    """
    attention = stack.blocks.attention
    reads = None if attention.key_heads is None else np.asarray(attention.key_heads[...]).tolist()
    return {"heads": attention.W_Q.shape[2], "kv_heads": attention.W_K.shape[2], "key_heads": reads}


def set_key_heads(attention: Attention, reads_LN: np.ndarray) -> None:
    """Set which key/value head each query head reads, unless groups of one size say so already."""
    N, K = reads_LN.shape[1], attention.W_K.shape[2]
    if N % K or (reads_LN != np.arange(N) // (N // K)).any():
        attention.key_heads = nnx.data(Setting(jnp.asarray(reads_LN, jnp.int32)))


def with_removed_heads(network: Any, shapes: Mapping[str, Any]) -> Any:
    """Return a new network, whose stacks are cut to these shapes; its weights are without meaning.

    Raises:
        ValueError: for shapes that no removal of heads from this network leaves.
    """
    for name, shape in shapes.items():
        stack = next((stack for stack in network.stacks if stack.name == name), None)
        if stack is None or not _fits(stack, shape):
            raise ValueError(f"{HEADS} of the config does not fit the network: {name!r} with {shape}")
        attention, N, K = stack.blocks.attention, shape["heads"], shape["kv_heads"]
        for names, count in ((("W_Q", "b_Q"), N), (("W_K", "b_K", "W_V", "b_V"), K)):
            for weight in (weight for weight in names if getattr(attention, weight) is not None):
                setattr(attention, weight, nnx.Param(getattr(attention, weight)[..., :count, :]))
        attention.W_O = nnx.Param(attention.W_O[:, :N])
        if attention.sinks is not None:
            attention.sinks = nnx.Param(attention.sinks[:, :N])
        if shape["key_heads"] is not None:
            set_key_heads(attention, np.asarray(shape["key_heads"]))
    return network


def _fits(stack: Stack, shape: Any) -> bool:
    attention = stack.blocks.attention
    most = {"heads": attention.W_Q.shape[2], "kv_heads": attention.W_K.shape[2]}
    if not isinstance(shape, Mapping) or shape.keys() != {*most, "key_heads"} or stack.sharing is not None:
        return False
    if not all(isinstance(shape[name], int) and 1 <= shape[name] <= most[name] for name in most):
        return False
    if shape["key_heads"] is None:
        return shape["heads"] % shape["kv_heads"] == 0
    reads_LN = np.asarray(shape["key_heads"])
    fits = reads_LN.shape == (stack.layers, shape["heads"]) and reads_LN.dtype.kind == "i"
    return fits and bool((reads_LN >= 0).all() and (reads_LN < shape["kv_heads"]).all())
