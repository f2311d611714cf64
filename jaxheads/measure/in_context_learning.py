"""The in-context learning score: the loss late in a text less the loss early in it.

Dimension key: E examples, B batch, T positions, D model dimension.
"""

from dataclasses import dataclass
from typing import Unpack

import numpy as np
from jax import Array

from ..arguments import at_least, checked
from ..execution.cost import FLOAT, forward_bytes
from ..execution.lengths import Lengths
from ..execution.resources import Options, Resources, shares_options
from ..models.inputs.batch import Batch, Texts
from ..models.model import Model
from ..models.network import Network, forward
from ..models.unembedding import COLUMNS_AT_ONCE
from ..programs import compiled
from ..statistics import Interval, mean_interval
from ..statistics.base import Floats
from .per_example import per_example


@dataclass(frozen=True, eq=False)
class ContextScore:
    """A model's in-context learning score, in nats.

    Attributes:
        interval: its mean over examples, with the interval.
        per_example: each example's score, `[E]`.
        losses: of every token after its context, `[E,T−1]`; NaN beyond an example's end.
    """

    interval: Interval
    per_example: Floats
    losses: Floats


@shares_options(without=("stack",))
@checked(early=at_least(1), late=at_least(1))
def icl_score(
    model: Model, batch: Batch | Texts, early: int = 50, late: int = 500, **options: Unpack[Options]
) -> ContextScore:
    """Return the loss of the `late`-th token less that of the `early`-th, averaged over examples, in nats.

    Negative where context helps (Olsson et al. 2022, "in-context learning score"; Yin & Steinhardt's code has the other
    sign). Tokens are counted from 1, padding left out; the first has no prediction, so `early` is 2 or more.

    Args:
        options: shared by all questions: level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a model without a next-token loss, or examples shorter than `late`.
    """
    resources = Resources.of(options)
    model.check(batch)
    if model.network.unembedding is None or not model.causal or model.network.classes_of is not None:
        raise ValueError(f"a score of context needs a causal language model; {model.name} is none")
    stack = model.network.streams[-1]
    positions = stack.queries.of(batch)
    shortest = int(np.asarray(positions.lengths).min())
    if not 2 <= early < late <= shortest:
        raise ValueError(f"expected 2 <= early < late <= {shortest}, the shortest example; got {early} and {late}")
    [batch], network, T = Lengths(model).alike(batch), resources.network(model), positions.shape[1]

    def compute(examples: np.ndarray) -> dict[str, Array]:
        return {"nats": _losses(network, resources.devices.examples(batch.take(examples)))}

    logits_bytes = 2 * FLOAT * T * min(COLUMNS_AT_ONCE, model.network.unembedding.weight.shape[0])
    example_bytes = forward_bytes(stack, batch) + logits_bytes
    nats = per_example("icl_score", ("nats",), compute, model, batch, resources, example_bytes=example_bytes)["nats"]
    mask, nats = np.asarray(positions.mask), nats[:, : T - 1]
    predicted = mask[:, 1:] & mask[:, :-1]
    losses = np.full(predicted.shape, np.nan)
    for example, row in enumerate(predicted):
        losses[example, : row.sum()] = nats[example][row]  # the n-th real token's is at n − 2
    scores = losses[:, late - 2] - losses[:, early - 2]
    clusters = batch.cluster_labels
    unbounded = (-np.inf, np.inf)
    interval = mean_interval(scores, clusters=clusters, within=unbounded, level=options.get("level", 0.95))
    return ContextScore(interval, scores, losses)


@compiled
def _losses(network: Network, batch: Batch) -> Array:
    """Return the loss of each next token, `[B,T−1]`."""
    assert network.unembedding is not None
    x_BTD = forward(network, batch)[0]
    ids = network.streams[-1].queries.ids(batch)
    return -network.unembedding.log_probability(network.features(x_BTD[:, :-1]), ids[:, 1:])
