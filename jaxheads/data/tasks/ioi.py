"""Indirect object identification in a toy language.

Dimension key: `T` query positions, `S` key positions.
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
from .task import Drawn, Independent, require

TEMPLATES = (
    "when A and B went to the PLACE S gave a THING to",
    "after A met B near the PLACE on the old road S handed the THING to",
    "A and B sat in the PLACE and then S sold a THING to",
    "then A and B had a long talk so S brought the THING to",
    "friends A and B found a THING at the PLACE and S gave the THING to",
)
"""Sentences with two names A and B and the subject S, which is A or B; the last "to" predicts the other name."""

PLACES = "school store park office garden station".split()
THINGS = "book drink ring letter apple key".split()
PAD, BOS = 0, 1
_FIRST, _SECOND, _SUBJECT, _PLACE, _THING = range(-5, 0)
_SLOTS = {"A": _FIRST, "B": _SECOND, "S": _SUBJECT, "PLACE": _PLACE, "THING": _THING}


@checked()
@dataclass(frozen=True)
class ToyIOI(Independent):
    """`[BOS, "when", A, "and", B, …, S, "gave", "a", "book", "to"]` predicts the name of A and B that is not S.

    Three steps are expected of three kinds of heads (Wang et al. 2022): S's second mention attends to its first
    (duplicate token, induction); the end position reads that S is to be suppressed (S-inhibition); the end attends to
    the remaining name and copies it (name movers). Only the end is scored; the answer is determined: the optimum is 0.

    Marks `[B,T]`: "io", "s1", "s2", "end"; `[B,T,S]`: "target", from the end to the indirect object, and "duplicate",
    from S's second mention to its first.

    The control replaces S by a third name (Wang et al.'s p_ABC): either name may be the answer, the optimum is ln 2.
    For one key task and control differ in that name alone: their batches are clean and corrupt inputs for patching.

    Attributes:
        names: the number of names; their ids come last.
        third: whether a third name replaces S's second mention.
    """

    names: int = 30
    third: bool = False
    kind = "decoder"

    def __post_init__(self):
        require(self.names >= 3, "at least three names", self.names)

    @property
    def name(self) -> str:
        return "ioi-control" if self.third else "ioi"

    @property
    def words(self) -> tuple[str, ...]:
        """The word of each id."""
        return (*_words(), *(f"name{number}" for number in range(self.names)))

    @property
    def vocabulary(self) -> int:
        return len(self.words)

    @property
    def length(self) -> int:
        return _templates().shape[1]

    @property
    def optimum(self) -> float:
        return math.log(2) if self.third else 0.0

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over the names, the best constant; "either" of the first two."""
        return {"uniform": math.log(self.names), "either": math.log(2)}

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        template_key, name_key, order_key, place_key, thing_key = jax.random.split(key, 5)
        templates = jnp.asarray(_templates())
        slots_T = templates[jax.random.randint(template_key, (), 0, len(templates))]
        first_name = len(_words())
        io, s, other = first_name + jax.random.permutation(name_key, self.names)[:3]
        io_first = jax.random.bernoulli(order_key)
        place = _words().index(PLACES[0]) + jax.random.randint(place_key, (), 0, len(PLACES))
        thing = _words().index(THINGS[0]) + jax.random.randint(thing_key, (), 0, len(THINGS))

        is_first, is_second = slots_T == _FIRST, slots_T == _SECOND
        io_T = jnp.where(io_first, is_first, is_second)
        s1_T = jnp.where(io_first, is_second, is_first)
        s2_T = slots_T == _SUBJECT
        tokens = slots_T
        for slot, word in (
            (io_T, io),
            (s1_T, s),
            (s2_T, other if self.third else s),
            (slots_T == _PLACE, place),
            (slots_T == _THING, thing),
        ):
            tokens = jnp.where(slot, word, tokens)
        real = slots_T != PAD
        end_T = real & ~jnp.pad(real, (0, 1))[1:]
        marks = {
            "io": io_T,
            "s1": s1_T,
            "s2": s2_T,
            "end": end_T,
            "target": end_T[:, None] & io_T[None, :],
            "duplicate": s2_T[:, None] & s1_T[None, :] & (not self.third),
        }
        return Drawn({"tokens": tokens, "mask": real, "marks": marks}, jnp.where(end_T, io, PAD), end_T)

    def control(self) -> "ToyIOI":
        """Return the control: three names."""
        return replace(self, third=True)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model of four layers."""
        return gpt2(self.vocabulary, self.length, changes, n_layer=4)


@cache
def _words() -> tuple[str, ...]:
    """Return all words except the names, by id."""
    words = dict.fromkeys(word for template in TEMPLATES for word in template.split() if word not in _SLOTS)
    return ("[pad]", "[bos]", *words, *PLACES, *THINGS)


@cache
def _templates() -> np.ndarray:
    """Return the templates' ids, padded to one length; slots to be filled in are negative numbers."""
    rows = [[BOS, *(_SLOTS[word] if word in _SLOTS else _words().index(word) for word in t.split())] for t in TEMPLATES]
    length = max(map(len, rows))
    return np.array([row + [PAD] * (length - len(row)) for row in rows], np.int32)
