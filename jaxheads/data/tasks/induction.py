"""Repeated segments of random length, for induction heads.

Dimension key: `T` query positions, `S` key positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ...arguments import checked
from .configs import attention_only
from .task import Drawn, Independent, require


@checked()
@dataclass(frozen=True)
class Induction(Independent):
    """`[BOS, segment, segment, …]`, cut at `length`; the segment's tokens are distinct, its length is random.

    The model must find the position after the earlier copy of the current token, and predict the token there. A
    previous-token head in the first layer and an induction head in the second are expected (Elhage et al. 2021; Olsson
    et al. 2022); one layer is not enough. Predictions at the second and later copies of a token are scored. They are
    determined, so the optimum is 0. (The segment's first end is not, and is not scored.)

    The mark "target" `[B,T,S]` is True at the keys after an earlier copy of the query's token.

    The control has a fixed length, the middle of the range: attention to a constant offset is then enough, so a head
    that solves it may be no induction head.

    Attributes:
        tokens: the number of ids that segments are drawn from; BOS comes after them.
        shortest, longest: bounds of the segment's length, which is uniform between them, both included.
        length: of an example, with BOS.
    """

    tokens: int = 64
    shortest: int = 8
    longest: int = 24
    length: int = 64
    kind = "decoder"

    def __post_init__(self):
        require(
            2 <= self.shortest <= self.longest <= min(self.tokens, self.length - 2),
            "segments need 2 <= shortest <= longest, longest <= tokens and room for BOS and a repeated token",
            self,
        )

    @property
    def name(self) -> str:
        return "induction-control" if self.shortest == self.longest else "induction"

    @property
    def vocabulary(self) -> int:
        return self.tokens + 1

    @property
    def optimum(self) -> float:
        return 0.0

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over all tokens, the best constant; "seen", over the segment's."""
        periods = range(self.shortest, self.longest + 1)
        scored = [self.length - 1 - period for period in periods]
        seen = sum(n * math.log(period) for n, period in zip(scored, periods, strict=True)) / sum(scored)
        return {"uniform": math.log(self.tokens), "seen": seen}

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        length_key, segment_key = jax.random.split(key)
        period = jax.random.randint(length_key, (), self.shortest, self.longest + 1)
        segment = jax.random.permutation(segment_key, self.tokens)
        at_T = jnp.arange(self.length) - 1
        tokens_T = jnp.where(at_T < 0, self.tokens, segment[at_T % period])
        before_S = at_T - 1
        earlier_TS = (before_S >= 0)[None, :] & (before_S[None, :] < at_T[:, None])
        target_TS = earlier_TS & ((at_T[:, None] - before_S[None, :]) % period == 0)
        return Drawn({"tokens": tokens_T, "marks": {"target": target_TS}}, segment[(at_T + 1) % period], at_T >= period)

    def control(self) -> "Induction":
        """Return the control: one length for all segments."""
        middle = (self.shortest + self.longest) // 2
        return replace(self, shortest=middle, longest=middle)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of two attention-only layers; with `n_layers=1` the loss stays near the anchor "seen"."""
        return attention_only(self.vocabulary, self.length, changes)
