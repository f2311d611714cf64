"""The public face: how much of an answer each input and each head is given, by ten methods.

Signs are kept: what speaks against the answer is negative, but in "rollout", "flow" and Chefer's two.

| method | a position's relevance | a head's | range |
|---|---|---|---|
| rollout | the answer's row of `Π (A + I) / 2` (Abnar & Zuidema 2020) | – | sums to 1 |
| flow | maximum flow from the answer's row through the same pipes, divided by the sum | – | sums to 1 |
| chefer | the row of `Π (I + Ā)`, `Ā = mean (∇A ⊙ A)⁺` (ICCV 2021) | sum of its `(∇A ⊙ A)⁺` | 0 and up |
| chefer-lrp | the same with A's relevance in place of A (CVPR 2021) | likewise | 0 and up |
| attnlrp | `x · ∂` by AttnLRP's rules (Achtibat et al. 2024) | sum of `z · ∂` | any |
| cplrp | the same with attention weights as constants (Ali et al. 2022) | likewise | any |
| voita | as "attnlrp" | over the layer's Σ|·| (Voita et al. 2019) | −1 to 1 |
| voita-code | αβ rule with halves at linear maps | likewise | −1 to 1 |
| gradient | gradient × input (Shrikumar et al. 2017) | sum of `z · ∂` | any |
| integrated-gradients | Sundararajan et al. 2017 | conductance (Dhamdhere et al. 2019) | any |

Where paper and code differ: AttnLRP's norms are its code's (`Rules(norm="identity")` is the paper's). Voita et al.
write the ε rule and take the attention core by its Jacobian, which is the nearest to "attnlrp"; their code takes
α = β = ½ at linear maps ("voita-code"; it also rescales what non-linear parts lose, which is left out here). They
divide by the layer's sum, which is 0 at times; dividing by the sum of sizes is the same where none is negative.
Chefer's CVPR code sets the answer's own position to the row's minimum; here it keeps its 1. Rollout and Chefer
leave rows of their products as the papers do. Where an answer is read off several rows, theirs is the weighted
mean.

"cplrp" conserves: with `value` the answer, what positions and biases get sums to it. "attnlrp" loses what its
softmax does not pass on. Where logits go through log-probabilities (`jh.loss`) their derivative is the true one,
and only what is below them is by rules. A cap on scores (Gemma 2) keeps its derivative too.

Dimension key: E examples, T positions, L layers, N heads, R rows read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...models.inputs.axes import Positions
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, logit
from ...provenance import environment
from ...statistics import bootstrap_mean
from ...tables import Column, HeadTable
from .backward import Question
from .chefer import chefer_lrp_maps, chefer_maps, gathered, gathered_across
from .flow import Solver, flows
from .gradients import Shares, base_of, integrate, propagate
from .rollout import mean_attention, rolled_out, with_residual
from .rules import ATTNLRP, CPLRP, HALVES, Rules

Method = Literal[
    "rollout",
    "flow",
    "chefer",
    "chefer-lrp",
    "attnlrp",
    "cplrp",
    "voita",
    "voita-code",
    "gradient",
    "integrated-gradients",
]
METHODS: tuple[Method, ...] = get_args(Method)
OF_ATTENTION = ("rollout", "flow")
"""They ask what can be reached by attention, not what the answer makes of it."""

RULES: Mapping[str, Rules | None] = {
    "gradient": None,
    "attnlrp": ATTNLRP,
    "cplrp": CPLRP,
    "voita": ATTNLRP,
    "voita-code": HALVES,
}


@dataclass(frozen=True)
class Relevance:
    """What a method gives each input and each head.

    Attributes:
        method: its name.
        streams: by stream, the relevance of each position of its entry, `[E,T]` float32; NaN at padding.
        heads: one row a head, or None where the method has none or no stack was named.
        value: the objective, `[E]`; None where there was none.
        ids: by stream, the ids of its positions, where they have any.
        provenance: plain JSON values.
    """

    method: str
    streams: Mapping[str, NDArray[np.float32]]
    heads: HeadTable | None
    value: NDArray[np.float64] | None
    ids: Mapping[str, NDArray[np.int32]]
    provenance: Mapping[str, Any]

    @property
    def tokens(self) -> NDArray[np.float32]:
        """Of the input, `[E,T]`: the first stream's positions, which are the source's in an encoder–decoder."""
        return next(iter(self.streams.values()))

    @property
    def frame(self) -> pd.DataFrame:
        """One row a real position: indexed by stream, example, position; its id (-1 without one), its relevance."""
        parts = []
        for stream, tokens_ET in self.streams.items():
            example, position = np.nonzero(~np.isnan(tokens_ET))
            ids = self.ids.get(stream, np.full(tokens_ET.shape, -1))
            index = pd.MultiIndex.from_arrays(
                [[stream] * len(example), example, position], names=["stream", "example", "position"]
            )
            own = {"id": ids[example, position], "relevance": tokens_ET[example, position]}
            parts.append(pd.DataFrame(own, index=index))
        return pd.concat(parts)


def relevance(
    model: Model,
    batch: Batch,
    objective: Objective | None = None,
    method: Method = "attnlrp",
    *,
    stack: str | None = None,
    rules: Rules | None = None,
    baseline: Batch | int | None = None,
    steps: int = 32,
    solver: Solver = "batched",
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
) -> Relevance:
    """How much of each example's answer is due to each of its positions, and to each head.

    A position stands for what the first layer reads there: its token with its position and type, or its patch. What the
    methods do, their ranges, and where paper and code differ is said at the top of this module: `rollout flow chefer
    chefer-lrp attnlrp cplrp voita voita-code gradient integrated-gradients`.

    Args:
        objective: what is explained, needed but by "rollout" and "flow", which take from it the rows that are read (the
            model's own where there is none), and by Voita's, for which it is the top logit.
        stack: whose heads; the only one when left out. Of a model with several, positions alone when left out.
        rules: other rules than the method's own, for "attnlrp", "cplrp" and Voita's.
        baseline: of "integrated-gradients": zeros when left out, a token id, or a batch of the same shape.
        steps: on the way from there, by the midpoint rule.
        solver: of "flow"; see `flows`.
        level, seed: of the heads' bootstrap intervals.
        memory: bytes for what is held at once, about.

    Raises:
        ValueError: for an unknown method, stack or solver; for no objective where one is needed, or one that the model
            can't give; for rules where there are none; for "rollout" and "flow" of an encoder–decoder, whose source
            lies in another stream.
    """
    _check(method, rules, steps)
    asked = _Asked(model, batch, objective, method, stack, memory)
    if method in OF_ATTENTION:
        found = asked.reached(solver)
    elif method in ("chefer", "chefer-lrp"):
        found = asked.gathered()
    elif method == "integrated-gradients":
        found = integrate(asked.question, base_of(asked.question, baseline), steps, asked.heads_of)
    else:
        found = propagate(asked.question, RULES[method] if rules is None else rules, asked.heads_of)
    about = {"rules": str(rules or RULES.get(method)), "steps": steps, "solver": solver, "level": level, "seed": seed}
    return asked.answer(found, about)


def _check(method: str, rules: Rules | None, steps: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if rules is not None and RULES.get(method) is None:
        ruled = [name for name, own in RULES.items() if own is not None]
        raise ValueError(f"{method} has no rules to choose; {', '.join(ruled)} have")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


class _Asked:
    """What is asked of which model, and how an answer is put together."""

    def __init__(
        self, model: Model, batch: Batch, objective: Objective | None, method: str, stack: str | None, memory: int
    ):
        if objective is None and method.startswith("voita"):
            objective = logit()
        if objective is None and method not in OF_ATTENTION:
            raise ValueError(f"{method} needs an objective, such as jh.logit() or jh.logit_difference(right, wrong)")
        model.check(batch)
        self.model, self.batch, self.method, self.objective = model, batch, method, objective
        self.part = model.stack(stack) if stack is not None or len(model.stacks) == 1 else None
        self.asked = None if objective is None else Question.of(model, batch, objective, memory)

    @property
    def question(self) -> Question:
        assert self.asked is not None, "only rollout and flow go without an objective"
        return self.asked

    @property
    def heads_of(self) -> str | None:
        return None if self.part is None else self.part.name

    @property
    def rows(self) -> np.ndarray:
        """What each position of the last stream counts in the answer, `[E,T]`; each example's sums to 1."""
        side = self.model.network.streams[-1].queries.of(self.batch)
        if self.asked is None:
            rows_ER = np.asarray(self.model.network.readout_positions(self.batch)).reshape(len(self.batch), -1)
            weight_ER = np.full(rows_ER.shape, 1 / rows_ER.shape[1])
        else:
            reads = self.asked.reads
            rows_ER = np.asarray(reads.rows)
            weight_ER = (
                np.full(rows_ER.shape, 1 / rows_ER.shape[1]) if reads.weight is None else np.asarray(reads.weight)
            )
        found_ET = np.zeros(side.shape)
        for example, (rows, weights) in enumerate(zip(rows_ER, weight_ER, strict=True)):
            np.add.at(found_ET[example], rows, weights)
        return found_ET

    def reached(self, solver: Solver) -> Shares:
        """Rollout and flow."""
        streams = self.model.network.streams
        if len(streams) > 1:
            raise ValueError(
                f"{self.method} is defined for one stream; {self.model.name} has {', '.join(s.name for s in streams)}. "
                "chefer, attnlrp and the gradients cross from one to the other"
            )
        [stack] = streams
        attention_ELTT, rows_ET = mean_attention(self.model, self.batch, stack), self.rows
        if self.method == "rollout":
            tokens_ET = np.asarray(_rolled_out(attention_ELTT, jnp.asarray(rows_ET, jnp.float32)))
        else:
            tokens_ET = np.zeros(rows_ET.shape)
            for example, attention_LTT in enumerate(attention_ELTT):
                pipes_LTT = np.asarray(with_residual(jnp.asarray(attention_LTT)), np.float64)
                for row in np.flatnonzero(rows_ET[example]):
                    tokens_ET[example] += rows_ET[example, row] * flows(pipes_LTT, int(row), solver)
        value = np.full(len(rows_ET), np.nan) if self.asked is None else self.asked.value()
        return Shares(value, {stack.name: tokens_ET}, None)

    def gathered(self) -> Shares:
        """Chefer's two methods."""
        network = self.model.network
        maps_of = chefer_lrp_maps if self.method == "chefer-lrp" else chefer_maps
        value, maps = maps_of(self.question, network.stacks)
        last, rows_ET = network.streams[-1], self.rows
        heads = None if self.part is None else maps[self.part.name].heads
        if last.cross is None:
            own = [gathered(*one) for one in zip(maps[last.name].mean, rows_ET, strict=True)]
            return Shares(value, {last.name: np.stack(own)}, heads)
        source, own, cross = (maps[stack.name].mean for stack in (network.streams[0], last, last.cross))
        both = [gathered_across(*one) for one in zip(source, own, cross, rows_ET, strict=True)]
        tokens, targets = (np.stack(part) for part in zip(*both, strict=True))
        return Shares(value, {network.streams[0].name: tokens, last.name: targets}, heads)

    def answer(self, found: Shares, about: Mapping[str, Any]) -> Relevance:
        sides: dict[str, Positions] = {one.name: one.queries.of(self.batch) for one in self.model.network.streams}
        streams, ids = {}, {}
        for stack in self.model.network.streams:
            side = sides[stack.name]
            streams[stack.name] = np.where(np.asarray(side.mask), found.tokens[stack.name], np.nan).astype(np.float32)
            if side.ids is not None:
                ids[stack.name] = np.asarray(side.ids)
        provenance = {
            "method": self.method,
            "model": self.model.name,
            "weights": self.model.identity(),
            "objective": None if self.objective is None else self.objective.name,
            "examples": len(self.batch),
            **about,
            **environment(),
        }
        value = None if self.asked is None else np.asarray(found.value, np.float64)
        heads = None if found.heads is None or self.part is None else self._table(found.heads, self.part, provenance)
        return Relevance(self.method, streams, heads, value, ids, provenance)

    def _table(self, heads_ELN: np.ndarray, stack: Stack, provenance: Mapping[str, Any]) -> HeadTable:
        """One row a head."""
        if self.method.startswith("voita"):
            size_EL1 = np.abs(heads_ELN).sum(axis=2, keepdims=True)
            heads_ELN = np.where(size_EL1 > 0, heads_ELN / np.where(size_EL1 > 0, size_EL1, 1), 0)
        kept_ELN = np.where(np.isfinite(heads_ELN), heads_ELN, np.nan)
        interval = bootstrap_mean(kept_ELN, level=provenance["level"], seed=provenance["seed"])
        columns = {"relevance": Column(*interval, kept_ELN)}
        return HeadTable.from_columns("relevance", stack.name, columns, provenance, squeeze=True)


_rolled_out = jax.jit(jax.vmap(rolled_out))
