"""The in-context learning score: the loss late in a text less the loss early in it.

Dimension key: E examples, B batch, T positions, D model dimension.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward
from ..models.sharding import fetch
from ..statistics import Interval, bootstrap_mean, check_level
from ..statistics.base import Floats


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


def icl_score(
    model: Model, batch: Batch, early: int = 50, late: int = 500, *, seed: int = 0, level: float = 0.95
) -> ContextScore:
    """Return the loss of the `late`-th token less that of the `early`-th, averaged over examples, in nats.

    Negative where context helps (Olsson et al. 2022, "in-context learning score"; Yin & Steinhardt's code has the other
    sign). Tokens are counted from 1, padding left out; the first has no prediction, so `early` is 2 or more.

    Raises:
        ValueError: for a model without a next-token loss, or examples shorter than `late`.
    """
    check_level(level)
    model.check(batch)
    if model.network.unembedding is None or not model.causal:
        raise ValueError(f"a score of context needs a causal language model; {model.name} is none")
    positions = model.network.streams[-1].queries.of(batch)
    shortest = int(np.asarray(positions.lengths).min())
    if not 2 <= early < late <= shortest:
        raise ValueError(f"expected 2 <= early < late <= {shortest}, the shortest example; got {early} and {late}")
    nats = np.concatenate([fetch(_losses(model.network, batch.take([example]))) for example in range(len(batch))])
    mask = np.asarray(positions.mask)
    predicted = mask[:, 1:] & mask[:, :-1]
    losses = np.full(predicted.shape, np.nan)
    for example, row in enumerate(predicted):
        losses[example, : row.sum()] = nats[example][row]  # the n-th real token's is at n − 2
    scores = losses[:, late - 2] - losses[:, early - 2]
    return ContextScore(bootstrap_mean(scores, level=level, seed=seed), scores, losses)


@jax.jit
def _losses(network: Network, batch: Batch) -> Array:
    """Return the loss of each next token, `[B,T−1]`."""
    assert network.unembedding is not None
    x_BTD = forward(network, batch)[0]
    ids = network.streams[-1].queries.ids(batch)
    return -network.unembedding.log_probability(network.features(x_BTD[:, :-1]), ids[:, 1:])
