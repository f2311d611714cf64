"""Variability of a head's pattern over contents (Vig & Belinkov 2019, section 3.2).

Dimension key: E examples, B batch, L layers, N heads, P positions compared.
"""

from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...execution.cost import FLOAT
from ...execution.resources import Options, Resources, shares_options
from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, take_rows
from ...provenance import provenance
from ...statistics import bootstrap_mean
from ...tables import Column, HeadTable
from ..example_chunks import all_examples
from ..streams import inputs_of


@shares_options()
def variability(model: Model, batch: Batch, positions: int = 10, **options: Unpack[Options]) -> HeadTable:
    """Return Σ |α − ᾱ| / (2 Σ α) over examples and the first `positions` tokens, with ᾱ the mean over examples.

    It is 0 for a pattern that never depends on the tokens (a positional head) and at most 1; one-hot attention spread
    evenly over m targets has 1 − 1/m. Only examples of at least `positions` tokens count, and of their patterns only
    the corner of these tokens. Rows of the corner are not renormalised (in a causal model they need not be).

    Args:
        options: shared by all questions: stack, level, seed, memory, devices, progress, resume.

    Returns:
        One row a head, column `variability`, a ratio of sums with its bootstrap interval over examples (ᾱ stays fixed);
        `.per_example` is each example's own Σ |α − ᾱ| / (2 Σ α).

    Raises:
        ValueError: where fewer than two examples are that long; for cross-attention or a batch that does not fit.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    level, seed = options.get("level", 0.95), options.get("seed", 0)
    model.check(batch)
    if stack.is_cross:
        raise ValueError(
            f"variability is of a sequence that looks at itself; the {stack.name} of {model.name} does not"
        )
    lengths = np.asarray(stack.queries.of(batch).lengths)
    long_enough = np.flatnonzero(lengths >= positions)
    if positions < 1 or len(long_enough) < 2:
        raise ValueError(
            f"expected at least two examples of {positions} tokens, got {len(long_enough)}; the longest has "
            f"{lengths.max()}"
        )
    network, compared = resources.network(model), inputs_of(model, stack, batch).take(long_enough)

    def compute(examples: np.ndarray) -> Array:
        return _corners(network, resources.devices.examples(compared.take(examples)), stack.name, positions)

    a_ELNPP = all_examples(
        "variability",
        compute,
        resources,
        model,
        stack,
        compared,
        example_bytes=FLOAT * stack.layers * stack.heads * positions**2,
        identity=(stack.name, positions),
    )
    difference_ELN = np.abs(a_ELNPP - a_ELNPP.mean(axis=0)).sum(axis=(-2, -1)) / 2
    total_ELN = a_ELNPP.sum(axis=(-2, -1))
    values_ELN = difference_ELN / total_ELN
    interval = bootstrap_mean(values_ELN, counts=total_ELN, level=level, seed=seed)
    about = {"stack": stack.name, "positions": positions, "examples": len(long_enough), "level": level, "seed": seed}
    columns = {"variability": Column(*interval, values_ELN)}
    return HeadTable.from_columns("variability", stack.name, columns, provenance(model, **about), squeeze=True)


@partial(jax.jit, static_argnames=("stack", "positions"))
def _corners(network: Network, batch: Batch, stack: str, positions: int) -> Array:
    """Return the patterns among the first real positions, `[B,L,N,P,P]`."""
    mask_BT = network.stack(stack).queries.of(batch).mask
    columns_BP = jnp.argsort(~mask_BT, axis=1, stable=True)[:, :positions]

    def read(sites: Sites) -> Array:
        rows_BPNS = take_rows(jnp.swapaxes(sites["pattern"], 1, 2), columns_BP)
        return jnp.moveaxis(take_rows(jnp.moveaxis(rows_BPNS, 3, 1), columns_BP), 1, 3)

    corners_LBPNP = forward(network, batch, read={stack: read})[1][stack]
    return corners_LBPNP.transpose(1, 0, 3, 2, 4)
