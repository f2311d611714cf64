"""Functions learned in context: the prompt's examples determine the function.

Dimension key: `T` positions, `E` examples in the prompt, the last of which is the query.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import checked
from .configs import gpt2
from .task import Drawn, Independent, require


@checked()
@dataclass(frozen=True)
class InContext(Independent):
    """`[BOS, x, f(x), x', f(x'), …, query]`, with f one of K shifts: f_k(x) = x + k mod V, k from 1 to K.

    The model must infer k from the examples and apply it. Late heads are expected whose output at the last position
    encodes the function, a function vector (Todd et al. 2024): added to a prompt without examples, `shots=0`, it should
    raise the answer. No x occurs twice, so nothing can be copied. Every answer after the first example is scored; one
    example determines k, so the optimum is 0. Without examples the query is scored, and the optimum is ln K.

    Marks `[B,T]`: "asks", the positions that predict an answer; "answer", the positions of the examples' answers.

    The control draws a new function for each example, as with shuffled labels: the optimum is ln K.

    Attributes:
        values: V. BOS comes after them.
        functions: K.
        shots: the number of examples before the query.
        consistent: whether a prompt has a single function.
    """

    values: int = 32
    functions: int = 8
    shots: int = 5
    consistent: bool = True
    kind = "decoder"

    def __post_init__(self):
        require(1 <= self.functions < self.values, "from 1 to V − 1 shifts", self)
        require(0 <= self.shots < self.values, "from 0 to V − 1 shots", self)

    @property
    def name(self) -> str:
        return "functions" if self.consistent else "functions-control"

    @property
    def vocabulary(self) -> int:
        return self.values + 1

    @property
    def length(self) -> int:
        return 2 * self.shots + 2

    @property
    def optimum(self) -> float:
        return 0.0 if self.consistent and self.shots else math.log(self.functions)

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over the values, the best constant; "any" of the functions."""
        return {"uniform": math.log(self.values), "any": math.log(self.functions)}

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        value_key, function_key = jax.random.split(key)
        count = self.shots + 1
        x_E = jax.random.permutation(value_key, self.values)[:count]
        shift_E = jax.random.randint(function_key, (1 if self.consistent else count,), 1, self.functions + 1)
        y_E = (x_E + shift_E) % self.values
        words_T = jnp.stack([x_E, y_E], axis=1).reshape(-1)
        tokens = jnp.concatenate([jnp.full(1, self.values), words_T[:-1]])
        at = jnp.arange(self.length)
        asks = at % 2 == 1
        marks = {"asks": asks, "answer": (at % 2 == 0) & (at > 0)}
        return Drawn({"tokens": tokens, "marks": marks}, words_T, asks & (at >= min(self.shots, 1) * 3))

    def control(self) -> "InContext":
        """Return the control: a function for each example."""
        return replace(self, consistent=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model of three layers."""
        return gpt2(self.vocabulary, self.length, changes)
