"""A task that needs no other: what comes next in a cycle of random length, and what it is to be trained on."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxheads as jh

CONFIG: dict[str, Any] = {
    "model_type": "attention_only",
    "vocab_size": 8,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 16,
    "norm": "layer_norm",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToySample:
    """As the lab wants it."""

    batch: jh.Batch
    targets: Array
    weights: Array


@dataclass(frozen=True)
class Counting:
    """Numbers that go up by one, modulo 8, from a random start; `scale` multiplies the weights of the loss."""

    name: str = "counting"
    scale: float = 1.0

    def sample(self, key: Array, examples: int) -> ToySample:
        start = jax.random.randint(key, (examples, 1), 0, 8)
        tokens = (start + jnp.arange(9)[None, :]) % 8
        return ToySample(jh.Batch(tokens[:, :-1]), tokens[:, 1:], jnp.full((examples, 8), self.scale, jnp.float32))
