"""Balanced brackets of several types; the model predicts the type of each closing bracket.

Dimension key: `T` query positions, `S` key positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from .configs import gpt2
from .task import Drawn, Independent, require

BOS = 0


@checked()
@dataclass(frozen=True)
class Dyck(Independent):
    """`[BOS, balanced brackets]`; a bracket opens or closes with equal probability wherever both are possible.

    The model must predict the type of each closing bracket, that of the last one still open (Hewitt et al. 2020; Yao et
    al. 2021). A head is expected that attends from the position before it, which predicts it, to its opening bracket.
    Only closing brackets are scored: the model predicts which type closes, not when, and the optimum is 0.

    Marks `[B,T,S]`: "match", from the predicting position to the opening bracket; "pair", from the closing bracket to
    the opening one.

    The control has one type (Dyck-1): a closing bracket has a single type, so the loss is 0 for a constant.

    Attributes:
        types: the number of types. Ids are BOS, the opening brackets, the closing brackets.
        brackets: n, an even number.
    """

    types: int = 2
    brackets: int = 24
    kind = "decoder"

    def __post_init__(self):
        fits = self.types >= 1 and self.brackets >= 2 and self.brackets % 2 == 0
        require(fits, "a type, and an even number of brackets", self)

    @property
    def name(self) -> str:
        return f"dyck-{self.types}" if self.types > 1 else "dyck-2-control"

    @property
    def vocabulary(self) -> int:
        # The control keeps the ids of two types, so that the same model fits.
        return 1 + 2 * max(self.types, 2)

    @property
    def length(self) -> int:
        return 1 + self.brackets

    @property
    def optimum(self) -> float:
        return 0.0

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over all brackets; "unigram", any closing one, the best constant."""
        return {"uniform": math.log(2 * self.types), "unigram": math.log(self.types)}

    @property
    def previous_token(self) -> float:
        """Share of matches that are the token before the closing bracket: (n + 2) / 2n.

        0.562 for n = 16, 0.542 for 24, 0.525 for 40.
        """
        return (self.brackets + 2) / (2 * self.brackets)

    @property
    def mean_offset(self) -> float:
        """Mean distance from a closing bracket back to its match: 3.45 for n = 16, 4.37 for 24, 5.85 for 40."""
        # A gap between two brackets at depth d lies inside d pairs, so the distances of all pairs add up to the sum of
        # depths; `law` is the distribution of the depth after each bracket.
        n = self.brackets
        law, depth, total = np.eye(n + 2)[0], np.arange(n + 2), 0.0
        for at in range(n):
            opening = np.where(depth == 0, 1.0, np.where(depth >= n - at, 0.0, 0.5))
            law = np.roll(law * opening, 1) + np.roll(law * (1 - opening), -1)
            total += law @ depth
        return float(total / (n / 2))

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        n, kinds = self.brackets, self.types
        walk_key, type_key = jax.random.split(key)

        def step(depth: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            chance, left = inputs
            opens = jnp.where(depth == 0, True, jnp.where(depth == left, False, chance < 0.5))
            return depth + jnp.where(opens, 1, -1), opens

        chances = jax.random.uniform(walk_key, (n,)), n - jnp.arange(n)
        _, opens_N = jax.lax.scan(step, jnp.zeros((), jnp.int32), chances)
        after_N = jnp.cumsum(jnp.where(opens_N, 1, -1))
        before_N = after_N - jnp.where(opens_N, 1, -1)

        # The match is the last bracket that opened at the depth to which the closing one returns.
        at_N = jnp.arange(n)
        candidate_NN = opens_N[None, :] & (before_N[None, :] == after_N[:, None]) & (at_N[None, :] < at_N[:, None])
        match_N = n - 1 - jnp.argmax(candidate_NN[:, ::-1], axis=1)
        type_N = jax.random.randint(type_key, (n,), 0, kinds)
        brackets_N = 1 + jnp.where(opens_N, type_N, max(kinds, 2) + type_N[match_N])

        tokens = jnp.concatenate([jnp.full(1, BOS), brackets_N])
        at_T = jnp.arange(n + 1)
        closes_T = jnp.concatenate([jnp.zeros(1, bool), ~opens_N])
        match_T = 1 + jnp.concatenate([jnp.zeros(1, jnp.int32), match_N])
        pair_TS = closes_T[:, None] & (at_T[None, :] == match_T[:, None])
        predicts_T = jnp.roll(closes_T, -1)
        marks = {"match": jnp.roll(pair_TS, -1, axis=0), "pair": pair_TS}
        return Drawn({"tokens": tokens, "marks": marks}, jnp.roll(tokens, -1), predicts_T)

    def control(self) -> "Dyck":
        """Return the control: one type of bracket."""
        return replace(self, types=1)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model of two layers."""
        return gpt2(self.vocabulary, self.length, changes, n_layer=2)
