"""Mixtures of experts: MLPs side by side, of which a router chooses some for each token.

Dimension key: E experts, k experts that a token is sent to, D model dimension, F hidden units of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .layers import GatedMLP, Setting


def product(weight: Array, x: Array) -> Array:
    """Return a gate's weight times what it weighs."""
    return weight * x


class RoutedMLP(nnx.Module):
    """A sparse mixture of experts (Shazeer et al. 2017; Fedus et al. 2022; Jiang et al. 2024, section 2.1).

    A linear router scores the experts for each token. Their softmax, at the k largest alone, weighs the sum of these
    experts' outputs. Routing is of single tokens, without a capacity: no token can change where another one goes, and
    padding can't either.

    Every expert is computed at every token, and weighs 0 where it is not chosen: shapes are static, and values are
    exact. One expert is computed at a time, so memory is that of one; on the way back it is computed again.

    Args:
        expert: builds one expert from random streams.
        experts, chosen: E and k.
        renormalise: whether the k weights are divided by their sum.
        router_bias: whether the router has a bias.
        shared: an MLP of all tokens beside the experts (Qwen1.5-MoE), times the sigmoid of a learnt product with x.
        dense: the MLP of layers without experts, in stacks that have both.
        routed: whether this layer has experts; needed with `dense`.

    Attributes:
        weigh: the product of a gate's weight and what it weighs. A copy of a network may have another one, of equal
            value but with other derivatives (relevance propagation).

    Raises:
        ValueError: for more chosen experts than there are.
    """

    def __init__(
        self,
        model: int,
        expert: Callable[[nnx.Rngs], GatedMLP],
        experts: int,
        chosen: int,
        *,
        rngs: nnx.Rngs,
        renormalise: bool = True,
        router_bias: bool = False,
        shared: GatedMLP | None = None,
        dense: GatedMLP | None = None,
        routed: Array | None = None,
    ):
        if chosen > experts:
            raise ValueError(f"a token can't be sent to {chosen} experts of {experts}")
        self.router = nnx.Linear(model, experts, use_bias=router_bias, rngs=rngs)
        self.experts = nnx.split_rngs(splits=experts)(nnx.vmap(expert))(rngs)
        self.shared = shared
        self.shared_gate = None if shared is None else nnx.Linear(model, 1, use_bias=False, rngs=rngs)
        self.dense = dense
        self.routed = None if dense is None or routed is None else Setting(routed)
        self.chosen, self.renormalise = chosen, renormalise
        self.weigh = product

    @property
    def inputs(self) -> tuple[nnx.Linear, ...]:
        """Matrices that read x; those of the experts have an axis of experts before the model dimension."""
        gates = () if self.shared is None or self.shared_gate is None else (self.shared_gate, *self.shared.inputs)
        return self.router, *self.experts.inputs, *gates, *(() if self.dense is None else self.dense.inputs)

    def weights(self, x: Array) -> Array:
        """Return the weight of each expert, `[…,E]`; 0 for those that the token is not sent to."""
        scores = self.router(x)
        wide = jax.nn.softmax(scores.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=-1)
        largest, which = jax.lax.top_k(wide, self.chosen)
        if self.renormalise:
            largest = largest / largest.sum(axis=-1, keepdims=True)
        places = jax.nn.one_hot(which, wide.shape[-1], dtype=wide.dtype)
        return (places * largest[..., None]).sum(axis=-2).astype(x.dtype)

    def __call__(self, x: Array) -> Array:
        if self.dense is None or self.routed is None:
            return self._sparse(x)
        dense = self.dense
        return jax.lax.cond(self.routed[...], self._sparse, lambda x: dense(x), x)

    def _sparse(self, x: Array) -> Array:
        def add(total: Array, numbered: tuple[Any, Array]) -> tuple[Array, None]:
            expert, weight = numbered[0], numbered[1][..., None]
            # Tokens of other experts are 0 here: what overflows at them would be NaN times 0.
            out = expert(jnp.where(weight == 0, jnp.zeros_like(x), x))
            return total + jnp.where(weight == 0, jnp.zeros_like(out), self.weigh(weight, out)), None

        by_expert = jnp.moveaxis(self.weights(x), -1, 0)
        total, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(x), (self.experts, by_expert))
        if self.shared is None or self.shared_gate is None:
            return total
        return total + self.weigh(jax.nn.sigmoid(self.shared_gate(x)), self.shared(x))


@dataclass(frozen=True)
class ClampedSwish:
    """The activation `x' * sigmoid(alpha * x')` with `x' = min(x, limit)`. Equal by value: programs are kept."""

    alpha: float
    limit: float

    def __call__(self, x: Array) -> Array:
        clamped = jnp.minimum(x, self.limit)
        return clamped * jax.nn.sigmoid(self.alpha * clamped)


class ClampedGatedMLP(GatedMLP):
    """The MLP `down((clip(up(x)) + 1) * gate' * sigmoid(alpha * gate'))` with `gate' = min(gate(x), limit)`: GPT-OSS.

    Values of `up` are clipped to ±limit.
    """

    def __init__(self, model: int, hidden: int, alpha: float, limit: float, *, rngs: nnx.Rngs, bias: bool = True):
        super().__init__(model, hidden, "silu", bias=bias, rngs=rngs)
        self.act = ClampedSwish(alpha, limit)
        self.limit = limit

    def __call__(self, x: Array) -> Array:
        up = jnp.clip(self.up(x), -self.limit, self.limit)
        return self.down(self.act(self.gate(x)) * (up + 1))
