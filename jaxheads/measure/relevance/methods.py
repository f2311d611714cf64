"""Ten methods of relevance: how much each input and each head contributes to an answer.

Signs are kept: relevance against the answer is negative, except in "rollout", "flow" and Chefer's two.

| method | a position's relevance | a head's | range |
|---|---|---|---|
| rollout | the answer's row of `Π (A + I) / 2` (Abnar & Zuidema 2020) | – | sums to 1 |
| flow | maximum flow from the answer's row through these matrices' edges, divided by the sum | – | sums to 1 |
| chefer | the row of `Π (I + Ā)`, `Ā = mean (∇A ⊙ A)⁺` (ICCV 2021) | sum of its `(∇A ⊙ A)⁺` | 0 and up |
| chefer-lrp | "chefer" with A's relevance in place of A (CVPR 2021) | likewise | 0 and up |
| attnlrp | `x · ∂` by AttnLRP's rules (Achtibat et al. 2024) | sum of `z · ∂` | any |
| cplrp | "attnlrp" with attention weights as constants (Ali et al. 2022) | likewise | any |
| voita | as "attnlrp" | over the layer's Σ|·| (Voita et al. 2019) | −1 to 1 |
| voita-code | αβ rule with halves at linear maps | likewise | −1 to 1 |
| gradient | gradient × input (Shrikumar et al. 2017) | sum of `z · ∂` | any |
| integrated-gradients | Sundararajan et al. 2017 | conductance (Dhamdhere et al. 2019) | any |

Differences of paper and code: AttnLRP's norms are its code's (`Rules(norm="identity")` is the paper's). Voita et al.
write the ε rule and take the attention core by its Jacobian, which is nearest to "attnlrp"; their code takes
α = β = ½ at linear maps ("voita-code"; it also rescales what non-linear operations lose, which is left out here). They
divide by the layer's sum, which can be 0; dividing by the sum of absolute values is equal where none is negative.
Chefer's CVPR code sets the answer's own position to the row's minimum; here it keeps its 1. Rows of rollout's and
Chefer's products are not normalised, as in the papers. An answer that is read at several rows gets their weighted mean.

"cplrp" conserves: with `value` the answer, relevance of positions and biases sums to it. "attnlrp" loses what its
softmax does not pass on. Where logits go through log-probabilities (`jh.loss`) their derivative is the true one, and
only operations below them follow rules. A cap on scores (Gemma 2) keeps its derivative too.

"chefer-lrp", and other methods with `Rules(norm="identity")` or `Rules(softmax="identity")`, divide by scores and
normalised inputs that may be near 0. That amplifies rounding: in float32 it was off by up to 1e-3 in small random
models. Their pass by rules is computed in float64 from the weights as they are stored. Such relevance still reacts to
small changes of the weights (of their precision, too) by as much.

On long texts memory grows with their length alone, but for "flow", "chefer" and "chefer-lrp": their products are of
whole maps `[T,T]` of every layer.

Dimension key: E examples, T positions, L layers, N heads, R rows read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...arguments import at_least, checked
from ...checks import one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.lengths import Lengths
from ...execution.resources import OPTIONS, Options, Resources, shares_options
from ...models.inputs.answers import token_texts
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.stack import Stack
from ...objectives import Objective, logit
from ...programs import to_device
from ...provenance import provenance
from ...tables import HeadTable
from ...view import View, tokens
from ..per_example import mean_table, per_example
from . import chefer
from .batch_objective import Attributions, BatchObjective
from .flow import Solver, flow_relevance
from .propagation import Baseline, baseline_entries, integrate, propagate
from .rollout import mean_attention, rollout_relevance
from .rules import ATTNLRP, CHEFER, CPLRP, HALVES, Rules

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
"""Methods that measure reachability by attention alone, and need no objective."""

RULES: Mapping[str, Rules | None] = {
    "gradient": None,
    "attnlrp": ATTNLRP,
    "cplrp": CPLRP,
    "voita": ATTNLRP,
    "voita-code": HALVES,
}


@dataclass(frozen=True)
class Relevance:
    """Relevance of each input and each head by one method.

    Attributes:
        method: its name.
        streams: by stream, the relevance of each position of its entry, `[E,T]` float32; NaN at padding.
        heads: one row a head; None where the method has no relevance of heads, or no stack was named.
        value: the objective, `[E]`; None without an objective.
        ids: by stream, the ids of its positions, where they have any.
        provenance: plain JSON values; of "integrated-gradients" with `baseline`, and the means over examples of the
            sizes of `gap` and of the change that relevance should sum to, `completeness_gap` and `baseline_change`.
        gap: of "integrated-gradients", the sum of an example's relevance less the change of the objective from the
            baseline to the input, `[E]`; 0 if relevance is complete. More `steps` narrow it; None of other methods.
        texts: by stream, the texts of its tokens, where the model has a tokenizer.
    """

    method: str
    streams: Mapping[str, NDArray[np.float32]]
    heads: HeadTable | None
    value: NDArray[np.float64] | None
    ids: Mapping[str, NDArray[np.int32]]
    provenance: Mapping[str, Any]
    gap: NDArray[np.float64] | None = None
    texts: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def tokens(self) -> NDArray[np.float32]:
        """Relevance of the input, `[E,T]`: the first stream's positions, the source's in an encoder–decoder."""
        return next(iter(self.streams.values()))

    @property
    def frame(self) -> pd.DataFrame:
        """One row a real position, indexed by stream, example, position: `id` (-1 without), `token`, `relevance`."""
        frames = []
        for stream, tokens_ET in self.streams.items():
            example, position = np.nonzero(~np.isnan(tokens_ET))
            ids_ET = self.ids.get(stream, np.full(tokens_ET.shape, -1))
            index = pd.MultiIndex.from_arrays(
                [[stream] * len(example), example, position], names=["stream", "example", "position"]
            )
            columns = {"id": ids_ET[example, position], "relevance": tokens_ET[example, position]}
            if stream in self.texts:
                columns = {"token": self.texts[stream][example, position], **columns}
            frames.append(pd.DataFrame(columns, index=index).assign(model=self.provenance.get("model", "")))
        return pd.concat(frames)

    @checked(examples=at_least(1))
    def view(self, stream: str | None = None, *, examples: int = 20) -> View:
        """Show each example's tokens coloured by their relevance.

        Args:
            stream: whose positions; the input's when left out.
            examples: number of examples that are shown, from the first.

        Raises:
            ValueError: for an unknown stream.
        """
        name = next(iter(self.streams)) if stream is None else stream
        one_of("stream", name, self.streams)
        values = self.streams[name][:examples].astype(np.float64)
        numbers = np.broadcast_to(np.arange(values.shape[1]), values.shape)
        texts = self.texts.get(name, self.ids.get(name, numbers))[: len(values)].astype(str)
        model = self.provenance.get("model")
        title = f"Relevance by {self.method}{f' in {model}' if model else ''}"
        return tokens([row.tolist() for row in texts], list(values), label="relevance", title=title)


@shares_options()
@checked(steps=at_least(1))
def relevance(
    model: Model,
    batch: Batch | Texts,
    objective: Objective | None = None,
    method: Method = "attnlrp",
    *,
    rules: Rules | None = None,
    baseline: Baseline | None = None,
    steps: int = 32,
    solver: Solver = "batched",
    **options: Unpack[Options],
) -> Relevance:
    """Attribute each example's answer to its positions and to the heads.

    A position stands for the first layer's input there: its token with its position and type, or its patch. The module
    `measure.relevance.methods` documents the methods, their ranges, and where paper and code differ: `rollout flow
    chefer chefer-lrp attnlrp cplrp voita voita-code gradient integrated-gradients`. A model with several stacks has
    relevance of heads where `stack` names one.

    Args:
        objective: the answer that is explained. "rollout" and "flow" only use the rows it reads, and without it the
            model's own readout; Voita's default to the top logit; all others need it.
        rules: other rules than the method's own, for "attnlrp", "cplrp" and Voita's.
        baseline: of "integrated-gradients": "mean" (the default), every token's embedding replaced by the vocabulary's
            mean; "zeros", where norms without a mean (RMSNorm) jump, so that relevance misses the change; a token id;
            or a batch of the same shape.
        steps: of the path from the baseline, by the midpoint rule. The answer's `gap` shows whether they are enough.
        solver: of "flow"; see `flows`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for an unknown method, stack or solver; without an objective where one is needed, or for one that
            the model can't give; for rules where the method has none; for "rollout" and "flow" of an encoder–decoder,
            whose source is in another stream.
    """
    objective = _checked(method, rules, objective)
    baseline = "mean" if baseline is None else baseline
    model.check(batch)
    if method in OF_ATTENTION:
        _check_one_stream(model, method)
    resources, stack = Resources.of(options), options.get("stack")
    chosen = model.stack(stack) if stack is not None or len(model.stacks) == 1 else None
    explained = None if objective is None else BatchObjective.of(model, batch, objective, resources)
    asked, (batch, explained) = batch, _padded(model, batch, explained, baseline)
    rows_ET = _row_weights(model, batch, explained)
    base: dict[str, np.ndarray] = {}
    if explained is None or method in OF_ATTENTION:
        compute = _attention_method(model, batch, explained, resources, rows_ET, method, solver)
        example_bytes = _attention_bytes(model.network.streams[-1], batch, method)
    else:
        if method == "integrated-gradients":
            base = baseline_entries(explained, baseline)
        compute, watched = _objective_method(explained, rows_ET, method, chosen, rules, base, steps)
        example_bytes = explained.example_bytes(
            watched, CHEFER if method == "chefer-lrp" else rules or RULES.get(method)
        )
    about = {"method": method, "objective": None if objective is None else objective.name, "examples": len(batch)}
    about |= {"rules": str(rules or RULES.get(method)), "steps": steps, "solver": solver}
    names = [f"tokens-{stream.name}" for stream in model.network.streams]
    names += [] if explained is None else ["value"]
    names += [] if chosen is None or method in OF_ATTENTION else ["heads"]
    if method == "integrated-gradients":
        names.append("change")
        about["baseline"] = _baseline_words(baseline)
    reads = rows_ET if explained is None else explained.reads
    arrays = per_example(
        "relevance",
        names,
        lambda examples: compute(examples).arrays(),
        model,
        batch,
        resources,
        example_bytes=example_bytes,
        identity=(repr(about), chosen.name if chosen else "", objective, reads, base),
    )
    return _result(model, asked, arrays, about, chosen, options)


def _checked(method: str, rules: Rules | None, objective: Objective | None) -> Objective | None:
    """Return the objective, or Voita's own; raises ValueError for what a method does not take, or needs."""
    one_of("method", method, METHODS)
    if rules is not None and RULES.get(method) is None:
        with_rules = [name for name, default in RULES.items() if default is not None]
        raise ValueError(f"{method} has no rules to choose; {', '.join(with_rules)} have")
    if objective is None and method.startswith("voita"):
        return logit()
    if objective is None and method not in OF_ATTENTION:
        raise ValueError(f"{method} needs an objective, such as jh.logit() or jh.logit_difference(right, wrong)")
    return objective


def _padded(
    model: Model, batch: Batch, explained: BatchObjective | None, baseline: Baseline
) -> tuple[Batch, BatchObjective | None]:
    """Return batch and objective at a common length (see `Lengths`); as they are beside a baseline of their shape."""
    if isinstance(baseline, Batch):
        return batch, explained
    if explained is None:
        return Lengths(model).alike(batch)[0], None
    explained = explained.padded()
    return explained.batch, explained


def _check_one_stream(model: Model, method: str) -> None:
    streams = model.network.streams
    if len(streams) > 1:
        raise ValueError(
            f"{method} is defined for one stream; {model.name} has {', '.join(s.name for s in streams)}. "
            "chefer, attnlrp and the gradients cross from one to the other"
        )


def _row_weights(model: Model, batch: Batch, explained: BatchObjective | None) -> np.ndarray:
    """Return each position's weight in the answer, in the last stream, `[E,T]`; each example's sum to 1."""
    if explained is None:
        rows_ER = np.asarray(model.network.readout_positions(batch)).reshape(len(batch), -1)
        weight_ER = model.network.readout_shares(batch)
    else:
        reads = explained.reads
        rows_ER, weight_ER = np.asarray(reads.rows), reads.shares if reads.weight is None else reads.weight
    weight_ER = np.full(rows_ER.shape, 1 / rows_ER.shape[1]) if weight_ER is None else np.asarray(weight_ER)
    rows_ET = np.zeros(model.network.streams[-1].queries.of(batch).shape)
    # a row may be named more than once: its weights add up
    np.add.at(rows_ET, (np.arange(len(rows_ER))[:, None], rows_ER), weight_ER)
    return rows_ET


def _attention_bytes(stream: Stack, batch: Batch, method: str) -> int:
    """Return the bytes that rollout, of each layer's input, or flow, of each layer's pattern, needs of one example."""
    T = stream.queries.count(batch)
    return forward_bytes(stream, batch) + FLOAT * stream.layers * T * (stream.width if method == "rollout" else T)


def _attention_method(
    model: Model,
    batch: Batch,
    explained: BatchObjective | None,
    resources: Resources,
    rows_ET: np.ndarray,
    method: str,
    solver: Solver,
) -> Callable[[np.ndarray], Attributions]:
    """Return the function from a chunk's examples to rollout or flow."""
    [stream] = model.network.streams

    def compute(examples: np.ndarray) -> Attributions:
        network, chunk = resources.network(model), resources.devices.examples(batch.take(examples))
        if method == "rollout":
            rows = resources.devices.examples(to_device(rows_ET[examples], np.float32))
            tokens_ET = resources.devices.fetch(rollout_relevance(network, chunk, rows, stream.name))
        else:
            attention_ELTT = resources.devices.fetch(mean_attention(network, chunk, stream.name))
            tokens_ET = flow_relevance(attention_ELTT, rows_ET[examples], solver)
        value = None if explained is None else explained.take(examples).value()
        return Attributions(value, {stream.name: tokens_ET}, None)

    return compute


def _objective_method(
    explained: BatchObjective,
    rows_ET: np.ndarray,
    method: str,
    stack: Stack | None,
    rules: Rules | None,
    base: Mapping[str, np.ndarray],
    steps: int,
) -> tuple[Callable[[np.ndarray], Attributions], int]:
    """Return the function from a chunk's examples to their attributions, and the numbers it watches in a layer."""
    name = None if stack is None else stack.name
    if method in ("chefer", "chefer-lrp"):
        lrp = method == "chefer-lrp"
        watched = chefer.watched_numbers(explained, lrp=lrp)
        return lambda examples: chefer.attribute(explained.take(examples), rows_ET[examples], name, lrp=lrp), watched
    if method == "integrated-gradients":

        def compute(examples: np.ndarray) -> Attributions:
            taken = {stream: x if len(x) == 1 else x[examples] for stream, x in base.items()}
            return integrate(explained.take(examples), taken, steps, name)

        watched = 0 if stack is None else 4 * stack.heads * stack.head_size * stack.queries.count(explained.batch)
        return compute, watched
    chosen_rules = RULES[method] if rules is None else rules
    return lambda examples: propagate(explained.take(examples), chosen_rules, name), 0


def _result(
    model: Model,
    batch: Batch,
    arrays: Mapping[str, np.ndarray],
    about: dict[str, Any],
    stack: Stack | None,
    options: Options,
) -> Relevance:
    streams, ids, texts = {}, {}, {}
    for stream in model.network.streams:
        positions = stream.queries.of(batch)
        # Padding that only filled up the batch's length is left out.
        tokens_ET = arrays[f"tokens-{stream.name}"][:, : positions.shape[1]]
        tokens_ET = np.where(np.asarray(positions.mask), tokens_ET, np.nan)
        streams[stream.name] = tokens_ET.astype(np.float32)
        if positions.ids is not None:
            ids[stream.name] = np.asarray(positions.ids)
            if hasattr(model.tokenizer, "convert_ids_to_tokens"):
                texts[stream.name] = token_texts(model.tokenizer, ids[stream.name])
    heads = None
    if "heads" in arrays and stack is not None:
        heads_ELN = _shares(arrays["heads"]) if about["method"].startswith("voita") else arrays["heads"]
        heads = mean_table("relevance", model, stack.name, {"relevance": heads_ELN}, about, options, batch)
    level, seed = (options.get(option, OPTIONS[option][1]) for option in ("level", "seed"))
    gap = None
    if "change" in arrays:
        gap = sum(np.nansum(tokens_ET.astype(np.float64), axis=1) for tokens_ET in streams.values()) - arrays["change"]
        sizes = {"completeness_gap": np.abs(gap).mean(), "baseline_change": np.abs(arrays["change"]).mean()}
        about = about | {name: float(size) for name, size in sizes.items()}
    whole = provenance(model, **about, level=level, seed=seed)
    return Relevance(about["method"], streams, heads, arrays.get("value"), ids, whole, gap, texts)


def _baseline_words(baseline: Baseline) -> str:
    return "a batch" if isinstance(baseline, Batch) else baseline if isinstance(baseline, str) else f"token {baseline}"


def _shares(heads_ELN: np.ndarray) -> np.ndarray:
    """Divide relevance of heads by the sum of absolute values in their layer; a layer of zeros stays zeros."""
    size_EL1 = np.abs(heads_ELN).sum(axis=2, keepdims=True)
    return np.where(size_EL1 > 0, heads_ELN / np.where(size_EL1 > 0, size_EL1, 1), 0)
