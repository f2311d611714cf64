"""Heads that are trained to differ: the disagreement of Li et al. 2018 (arXiv 1810.10183), section 3.

In a layer of N heads D = −1/N² Σ_ij s_ij, i = j included: −1 if all heads are alike, −1/N if all are orthogonal. The
similarity s is the cosine of their values ("values", D_sub), the cosine of their outputs z ("outputs", D_out), or
Σ |A_i ⊙ A_j| of their patterns, summed over keys and averaged over queries ("overlap", D_pos; the paper leaves its
normalisation open).

Dimension key: L layers, B examples, N heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments import checked
from ..checks import one_of
from ..measure.similarity.comparisons import COMPARISONS
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.network import Network, forward

KINDS = {"values": "D_sub", "overlap": "D_pos", "outputs": "D_out"}


@checked()
def disagreement(network: Network, batch: Batch, kind: str = "outputs", stack: str | None = None) -> Array:
    """Return each layer's D, averaged over examples, `[L]`.

    Pure and differentiable. `HeadPairs.disagreement` computes it from a table.

    Raises:
        ValueError: for another kind.
    """
    one_of("kind", kind, KINDS)
    chosen = Model(network).stack(stack)
    queries_BT, keys_BS = chosen.queries.of(batch).mask, chosen.keys.of(batch).mask
    pairs = COMPARISONS[kind]

    def read(seen: Mapping[str, Array]) -> Array:
        def similarity(sites: dict[str, Array], queries_T: Array, keys_S: Array) -> Array:
            single_layer = {site: value[None] for site, value in sites.items()}
            return pairs.function(single_layer, queries_T, keys_S, chosen.heads)

        similarity_BNN = jax.vmap(similarity)({site: seen[site] for site in pairs.sites}, queries_BT, keys_BS)
        return -similarity_BNN.mean()

    return forward(network, batch, (), {chosen.name: read})[1][chosen.name]


@dataclass(frozen=True)
class LiPenalty:
    """The penalty −λ D as a function for `train(penalty=…)`; `li_penalty` makes it."""

    kind: str
    stack: str | None

    def __call__(self, network: Network, sample: Any, hyper: Mapping[str, Array]) -> Array:
        if "disagreement" not in hyper:
            raise ValueError("Li's penalty needs the hyper-parameter disagreement: grid(seeds, disagreement=[1.0])")
        return -hyper["disagreement"] * jnp.mean(disagreement(network, sample.batch, self.kind, self.stack))


@checked()
def li_penalty(kind: str = "outputs", stack: str | None = None) -> LiPenalty:
    """Make the penalty −λ D for `train(penalty=…)`, averaged over layers; λ is the hyper-parameter "disagreement".

        train(config, task, 1000, runs=grid(range(3), disagreement=[0, 1]), penalty=li_penalty("outputs"))

    Li et al. maximise the likelihood plus λ D with λ = 1, which is equivalent.

    Raises:
        ValueError: for another kind.
    """
    one_of("kind", kind, KINDS)
    return LiPenalty(kind, stack)
