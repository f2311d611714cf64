"""How much a model makes of its context: the in-context learning score.

Dimension key: E examples, T positions.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward
from ..models.sharding import fetch
from ..statistics import Interval, bootstrap_mean, check_level


@dataclass(frozen=True, eq=False)
class ContextScore:
    """The mean with its interval, in nats, and each example's, `[E]`; `losses` are `[E,T−1]`, NaN at padding."""

    interval: Interval
    per_example: NDArray[np.float64]
    losses: NDArray[np.float64]


def icl_score(
    model: Model, batch: Batch, early: int = 50, late: int = 500, *, seed: int = 0, level: float = 0.95
) -> ContextScore:
    """Loss of the `late`-th token less that of the `early`-th, averaged over examples, in nats: negative where context
    helps (Olsson et al. 2022, "in-context learning score"; Yin & Steinhardt's code has the other sign).

    Tokens are counted from 1, padding left out; the first has no prediction, so `early` is 2 or more.

    Raises:
        ValueError: for a model without a next-token loss, or examples shorter than `late`.
    """
    check_level(level)
    model.check(batch)
    if model.network.unembedding is None or not model.causal:
        raise ValueError(f"a score of context needs a causal language model; {model.name} is none")
    side = model.network.streams[-1].queries.of(batch)
    shortest = int(np.asarray(side.lengths).min())
    if not 2 <= early < late <= shortest:
        raise ValueError(f"expected 2 <= early < late <= {shortest}, the shortest example; got {early} and {late}")
    nats = np.concatenate(
        [np.asarray(fetch(_nats(model.network, batch.take([example]))), np.float64) for example in range(len(batch))]
    )
    mask = np.asarray(side.mask)
    known = mask[:, 1:] & mask[:, :-1]
    losses = np.full(known.shape, np.nan)
    for example, row in enumerate(known):
        losses[example, : row.sum()] = nats[example][row]  # the n-th real token's is at n − 2
    each = losses[:, late - 2] - losses[:, early - 2]
    return ContextScore(bootstrap_mean(each, level=level, seed=seed), each, losses)


@jax.jit
def _nats(network: Network, batch: Batch) -> Array:
    """Each next token's loss, `[B,T−1]`."""
    assert network.unembedding is not None
    x_BTD = forward(network, batch)[0]
    ids = network.streams[-1].queries.ids(batch)
    return -network.unembedding.log_probability(network.features(x_BTD[:, :-1]), ids[:, 1:])
