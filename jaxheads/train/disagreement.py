"""Heads that are trained to differ: the disagreement of Li et al. 2018 (arXiv 1810.10183), section 3.

Of a layer of N heads D = −1/N² Σ_ij s_ij, i = j included: −1 where all heads are alike, −1/N where all are orthogonal.
s is the cosine of their values ("values", D_sub), of their outputs z ("outputs", D_out), or Σ |A_i ⊙ A_j| of their
patterns, summed over keys and averaged over queries ("overlap", D_pos; the paper does not say how it is normalised).

Dimension key: L layers, B examples, N heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..measure.similarity.comparisons import COMPARISONS
from ..models.inputs.batch import Batch
from ..models.network import Network, forward

KINDS = {"values": "D_sub", "overlap": "D_pos", "outputs": "D_out"}


def disagreement(network: Network, batch: Batch, kind: str = "outputs", stack: str | None = None) -> Array:
    """D of each layer, the mean over examples, `[L]`. Pure and differentiable; `HeadPairs.disagreement` is the same of
    a table.

    Raises:
        ValueError: for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    [part] = [one for one in network.stacks if stack in (None, one.name)]
    queries_BT, keys_BS = part.queries.of(batch).mask, part.keys.of(batch).mask
    pairs = COMPARISONS[kind]

    def read(seen: Mapping[str, Array]) -> Array:
        def one(sites: dict[str, Array], queries_T: Array, keys_S: Array) -> Array:
            alone = {site: value[None] for site, value in sites.items()}  # one layer
            return pairs.function(alone, queries_T, keys_S, part.heads)

        found_BNN = jax.vmap(one)({site: seen[site] for site in pairs.sites}, queries_BT, keys_BS)
        return -found_BNN.mean()

    return forward(network, batch, (), {part.name: read})[1][part.name]


@dataclass(frozen=True)
class LiPenalty:
    """See `li_penalty`."""

    kind: str
    stack: str | None

    def __call__(self, network: Network, sample: Any, hyper: Mapping[str, Array]) -> Array:
        if "disagreement" not in hyper:
            raise ValueError("Li's penalty needs the hyper-parameter disagreement: grid(seeds, disagreement=[1.0])")
        return -hyper["disagreement"] * jnp.mean(disagreement(network, sample.batch, self.kind, self.stack))


def li_penalty(kind: str = "outputs", stack: str | None = None) -> LiPenalty:
    """For `train(penalty=…)`: −λ D, mean over layers, with λ the runs' hyper-parameter "disagreement".

        train(config, task, 1000, runs=grid(range(3), disagreement=[0, 1]), penalty=li_penalty("outputs"))

    Li et al. maximise the likelihood plus λ D, with λ = 1: the same.

    Raises:
        ValueError: for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    return LiPenalty(kind, stack)
