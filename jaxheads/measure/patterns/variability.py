"""Variability of a head's pattern over contents (Vig & Belinkov 2019, section 3.2).

Dimension key: E examples, B batch, L layers, N heads, P positions compared.
"""

from functools import partial
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import at_least, checked
from ...execution.cost import FLOAT, forward_bytes
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.attention.lazy_sites import LazySites
from ...models.inputs.batch import Batch, Texts
from ...models.inputs.query_rows import rows_of_examples
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import take_rows
from ...programs import compiled
from ...provenance import provenance
from ...statistics import mean_interval
from ...tables import Column, HeadTable
from ..per_example import per_example
from ..streams import inputs_of


@shares_options()
@checked(positions=at_least(1))
def variability(
    model: Model, batch: Batch | Texts, positions: int = 10, exclude_first: bool = True, **options: Unpack[Options]
) -> HeadTable:
    """Return Σ |α − ᾱ| / (2 Σ α) over examples and the first `positions` tokens, with ᾱ the mean over examples.

    It is 0 for a pattern that never depends on the tokens (a positional head) and at most 1; one-hot attention spread
    evenly over m targets has 1 − 1/m. Only examples of at least `positions` tokens count, and of their patterns only
    the corner of these tokens. Rows of the corner are not renormalised.

    Args:
        exclude_first: leave attention to the first token out of both sums, as Vig & Belinkov do in all their
            measures: idle heads rest there, and that would hide how the rest varies. False counts it.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        One row a head, column `variability`, a ratio of sums with its interval over examples (ᾱ stays fixed);
        `.per_example` is each example's own Σ |α − ᾱ| / (2 Σ α), NaN where no attention is left.

    Raises:
        ValueError: where fewer than two examples are that long, or no position is left; for cross-attention or a
            batch that does not fit.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    level, seed = options.get("level", 0.95), options.get("seed", 0)
    model.check(batch)
    if stack.is_cross:
        raise ValueError(
            f"variability is of a sequence that looks at itself; the {stack.name} of {model.name} does not"
        )
    if exclude_first and positions == 1:
        raise ValueError("expected at least 2 positions without the first token, got 1")
    long_enough = _long_enough(np.asarray(stack.queries.of(batch).lengths), positions)
    network, [compared] = resources.network(model), Lengths(model).alike(inputs_of(model, stack, batch))
    compared = compared.take(long_enough)

    def compute(examples: np.ndarray) -> dict[str, Array]:
        chunk = resources.devices.examples(compared.take(examples))
        return {"pattern": _corners(network, chunk, stack.name, positions)}

    size, identity = FLOAT * stack.layers * stack.heads * positions**2, (stack.name, positions)
    size += forward_bytes(stack, compared)
    arrays = per_example(
        "variability", ("pattern",), compute, model, compared, resources, example_bytes=size, identity=identity
    )
    a_ELNPP = arrays["pattern"]
    if exclude_first:
        a_ELNPP = a_ELNPP[..., 1:]
    difference_ELN = np.abs(a_ELNPP - a_ELNPP.mean(axis=0)).sum(axis=(-2, -1)) / 2
    total_ELN = a_ELNPP.sum(axis=(-2, -1))
    values_ELN = np.where(total_ELN > 0, difference_ELN / np.where(total_ELN > 0, total_ELN, 1.0), np.nan)
    clusters = compared.cluster_labels
    interval = mean_interval(values_ELN, counts=total_ELN, clusters=clusters, within=(0, 1), level=level)
    about = {
        "stack": stack.name,
        "positions": positions,
        "exclude_first": exclude_first,
        "examples": len(long_enough),
        "level": level,
        "seed": seed,
    }
    # A single example with little attention left may vary by more than all of it; their ratio of sums may not.
    columns = {"variability": Column(*interval, values_ELN, range=(0, np.inf))}
    return HeadTable.from_columns(
        "variability", stack.name, columns, provenance(model, **about), squeeze=True, clusters=clusters
    )


def _long_enough(lengths_E: np.ndarray, positions: int) -> np.ndarray:
    """Return the examples of at least this many tokens; raises ValueError for fewer than two, or no position."""
    examples = np.flatnonzero(lengths_E >= positions)
    if positions < 1 or len(examples) < 2:
        raise ValueError(
            f"expected at least two examples of {positions} tokens, got {len(examples)}; the longest has "
            f"{lengths_E.max()}"
        )
    return examples


@partial(compiled, static_argnames=("stack", "positions"))
def _corners(network: Network, batch: Batch, stack: str, positions: int) -> Array:
    """Return the patterns among the first real positions, `[B,L,N,P,P]`."""
    mask_BT = network.stack(stack).queries.of(batch).mask
    columns_BP = jnp.argsort(~mask_BT, axis=1, stable=True)[:, :positions]

    def read(sites: LazySites) -> Array:
        rows_BNPS = sites.of_queries("pattern")(rows_of_examples(columns_BP))
        return jnp.moveaxis(take_rows(jnp.moveaxis(rows_BNPS, 3, 1), columns_BP), 1, 3)

    corners_LBNPP = forward(network, batch, read={stack: read})[1][stack]
    return jnp.swapaxes(corners_LBNPP, 0, 1)
