"""Stacks and attention made of a user's own layers; tests/test_readme.py runs the page on networks of one's own."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxheads import networks

WEIGHTS = {"W_Q": (6, 4, 3), "W_K": (6, 2, 3), "W_V": (6, 2, 3), "W_O": (4, 3, 6), "b_Q": (4, 3), "b_O": (6,)}


def weights(**changes: Any) -> dict[str, Any]:
    return {name: np.ones(shape) for name, shape in (WEIGHTS | changes).items() if shape is not None}


def block(**options: Any) -> networks.PreNormBlock:
    attention = networks.attention_of(weights(), **options)
    return networks.PreNormBlock(None, attention, None, nnx.Linear(6, 6, rngs=nnx.Rngs(0)))


def test_weights_become_attention():
    own = weights() | {"W_Q": nnx.Param(jnp.full((6, 4, 3), 2.0)), "b_K": None}
    attention = networks.attention_of(own, scale=0.5)
    assert np.array_equal(attention.W_Q[...], np.full((6, 4, 3), 2.0))
    assert attention.b_K is None
    assert attention.scale == 0.5
    stack = networks.stack_of("decoder", [block(), block()], causal=True)
    assert (stack.layers, stack.heads, stack.kv_heads, stack.head_size, stack.width) == (2, 4, 2, 3, 6)
    assert stack.weights.W_K.shape == (2, 2, 6, 3)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (weights(W_O=None), r"missing are \['W_O'\]"),
        (weights() | {"W_X": np.ones(3)}, r"unknown \['W_X'\]"),
        (weights(W_Q=(6, 12)), r"number of axes \['W_Q \(6, 12\)'\]"),
        (weights(W_K=(6, 3, 3)), "multiple of key/value heads, got 4 and 3"),
        (weights(W_V=(6, 2, 4)), r"W_V must have the shape \(6, 2, 3\) beside W_Q \(6, 4, 3\), got \(6, 2, 4\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(own: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        networks.attention_of(own)


def test_layers_of_a_stack_must_be_alike():
    with pytest.raises(ValueError, match="at least one block"):
        networks.stack_of("decoder", [], causal=True)
    for other in (block(cap=3.0), networks.AttentionBlock(networks.attention_of(weights()), None)):
        with pytest.raises(ValueError, match=r"block 1 .* has other modules, settings or shapes than block 0"):
            networks.stack_of("decoder", [block(), other], causal=True)


def test_all_of_the_room_s_names_are_there():
    assert all(getattr(networks, name) is not None for name in networks.__all__)
