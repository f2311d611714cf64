"""Addition modulo a prime, learned from part of its table: grokking.

Dimension key: `P` pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from .configs import gpt2
from .task import Drawn, Independent, Sample, require, together

PARTS = ("train", "test")


@checked()
@dataclass(frozen=True)
class ModularAddition(Independent):
    """`[a, b, =]` predicts (a + b) mod p; only "=" is scored.

    A model first memorises the training pairs and much later learns the sum, by a Fourier basis of the embeddings that
    heads move to "=" (Power et al. 2022; Nanda et al. 2023). The loss on `held_out()` falls late and suddenly, with
    weight decay and full batches (`everything`); without weight decay it does not. The answer is determined: the
    optimum is 0.

    The control's table is random, one answer for each pair. It can only be memorised; on held-out pairs the optimum is
    ln p.

    Attributes:
        prime: p; any whole number from 2 on.
        share: the share of all p² pairs for training; their number is rounded.
        seed: of the split, and of the control's table.
        part: "train" or "test", the pairs to draw from.
        adds: whether the answer is the sum.
    """

    prime: int = 113
    share: float = 0.3
    seed: int = 0
    part: str = "train"
    adds: bool = True
    kind = "decoder"
    length = 3

    def __post_init__(self):
        require(self.part in PARTS, f"part is one of {', '.join(PARTS)}", repr(self.part))
        fits = self.prime >= 2 and 0 < round(self.share * self.prime**2) < self.prime**2
        require(fits, "p from 2 on, and a share that leaves pairs for training and for testing", self)

    @property
    def name(self) -> str:
        return f"modular-{self.prime}" + ("" if self.adds else "-control")

    @property
    def vocabulary(self) -> int:
        """Number of ids: the p numbers, then "="."""
        return self.prime + 1

    @property
    def optimum(self) -> float:
        """The loss 0; for the control's held-out pairs ln p."""
        return 0.0 if self.adds or self.part == "train" else math.log(self.prime)

    @property
    def anchors(self) -> Mapping[str, float]:
        """Loss "uniform" over the numbers, ln p."""
        return {"uniform": math.log(self.prime)}

    @property
    def pairs(self) -> int:
        """Number of pairs in this part."""
        return len(_table(self)[0])

    def draw(self, key: Array) -> Drawn:
        """Draw one pair of this part, with replacement."""
        return self._of(jax.random.randint(key, (), 0, self.pairs))

    def _of(self, index: Array) -> Drawn:
        pairs_P2, answers_P = _table(self)
        a, b = jnp.asarray(pairs_P2)[index]
        answer = jnp.asarray(answers_P)[index]
        zero = jnp.zeros((), jnp.int32)
        tokens = jnp.stack([a, b, zero + self.prime])
        return Drawn({"tokens": tokens}, jnp.stack([zero, zero, answer]), jnp.asarray([0.0, 0.0, 1.0]))

    def everything(self) -> Sample:
        """Return all pairs of this part, once each: a full batch."""
        return jax.jit(lambda: together(jax.vmap(self._of)(jnp.arange(self.pairs))))()

    def held_out(self) -> "ModularAddition":
        """Return the task on the test pairs."""
        return replace(self, part="test")

    def control(self) -> "ModularAddition":
        """Return the control: a table of random answers."""
        return replace(self, adds=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of one layer of 128 dimensions and four heads, with ReLU."""
        return gpt2(self.vocabulary, self.length, changes, n_embd=128, n_layer=1, n_head=4, activation_function="relu")


@cache
def _table(task: ModularAddition) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs `[P,2]` of the task's part and their answers `[P]`."""
    p, rng = task.prime, np.random.default_rng(task.seed)
    order = rng.permutation(p * p)
    random = rng.integers(p, size=p * p, dtype=np.int32)
    split = round(task.share * p * p)
    index = order[:split] if task.part == "train" else order[split:]
    pairs = np.stack(np.divmod(index, p), axis=1).astype(np.int32)
    return pairs, (pairs.sum(axis=1) % p).astype(np.int32) if task.adds else random[index]
