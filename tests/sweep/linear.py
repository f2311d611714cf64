"""Models whose logits are linear in all that follows layer 0's pattern: what is first order is exact there."""

import functools
from typing import Any

import jax.numpy as jnp

import jaxheads as jh

from ..models.huggingface import SMALL, pair
from .naive import changed

EPSILONS = {"llama": "rms_norm_eps", "gpt2": "layer_norm_epsilon", "bert": "layer_norm_eps"}
FLAT = 1e12
"""An epsilon beside which no variance shows: the norms only scale."""


@functools.cache
def linear_model(family: str, *, gain: float = 1.0) -> jh.Model:
    """Two layers: norms that only scale, MLPs that write a constant, and a last layer that looks at all keys alike.

    Args:
        gain: of the first layer's queries: large ones saturate its patterns.
    """
    extra = {"hidden_act": "relu"} if family == "bert" else {}
    scale = 1 if family == "bert" else 3

    def change(path: str, weight: Any) -> Any:
        if path.endswith("norm.scale"):
            return weight * (scale * FLAT**0.5)
        if path.endswith("mlp.down.kernel"):
            return jnp.zeros_like(weight)
        if path.endswith(("W_Q", "b_Q")):
            return weight.at[0].mul(gain).at[1].set(0)
        if path == "head.dense.bias":
            return weight + 10  # on the straight side of the ReLU
        return weight

    return changed(pair(SMALL[family], **{EPSILONS[family]: FLAT}, **extra).ours, change)
