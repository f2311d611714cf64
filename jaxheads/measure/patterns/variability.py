"""How much a head's pattern depends on what is said (Vig & Belinkov 2019, section 3.2)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.sharding import fetch
from ...models.stack import take_rows
from ...provenance import environment
from ...statistics import bootstrap_mean, check_level
from ...tables import Column, HeadTable


def variability(
    model: Model,
    batch: Batch,
    positions: int = 10,
    *,
    stack: str | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> HeadTable:
    """Σ |α − ᾱ| / (2 Σ α) over examples and the first `positions` tokens, with ᾱ the mean over examples.

    From 0, a pattern that is the same whatever is said (a positional head), to 1; one-hot attention that is spread
    evenly over m targets has 1 − 1/m. Only examples of at least so many tokens count, and of their patterns only the
    corner of these tokens, as they are: rows are not renormalised (in a causal model they need not be).

    Returns:
        One row a head, column `variability`, a ratio of sums with its bootstrap interval over examples (ᾱ is held);
        `.per_example` is each example's own Σ |α − ᾱ| / (2 Σ α).

    Raises:
        ValueError: where fewer than two examples are that long; for cross-attention or a batch that does not fit.
    """
    check_level(level)
    part = model.stack(stack)
    model.check(batch)
    if part.is_cross:
        raise ValueError(f"variability is of a sequence that looks at itself; the {part.name} of {model.name} does not")
    lengths = np.asarray(part.queries.of(batch).lengths)
    long_enough = np.flatnonzero(lengths >= positions)
    if positions < 1 or len(long_enough) < 2:
        raise ValueError(
            f"expected at least two examples of {positions} tokens, got {len(long_enough)}; the longest has "
            f"{lengths.max()}"
        )
    corners = [
        np.asarray(fetch(_corners(model.network, batch.take([example]), part.name, positions)), np.float64)
        for example in long_enough
    ]
    a_ELNTT = np.concatenate(corners)
    away_ELN = np.abs(a_ELNTT - a_ELNTT.mean(axis=0)).sum(axis=(-2, -1)) / 2
    total_ELN = a_ELNTT.sum(axis=(-2, -1))
    each_ELN = away_ELN / total_ELN
    interval = bootstrap_mean(each_ELN, counts=total_ELN, level=level, seed=seed)
    about = {
        "model": model.name, "weights": model.identity(), "stack": part.name, "positions": positions,
        "examples": len(long_enough), "level": level, "seed": seed, **environment(),
    }  # fmt: skip
    column = Column(*interval, each_ELN)
    return HeadTable.from_columns("variability", part.name, {"variability": column}, about, squeeze=True)


@partial(jax.jit, static_argnames=("stack", "positions"))
def _corners(network: Network, batch: Batch, stack: str, positions: int) -> Array:
    """The patterns among the first real positions, `[B,L,N,P,P]`."""
    [part] = [one for one in network.stacks if one.name == stack]
    place_BP = jnp.argsort(~part.queries.of(batch).mask, axis=1, stable=True)[:, :positions]

    def read(seen) -> Array:
        rows_BPNS = take_rows(jnp.swapaxes(seen["pattern"], 1, 2), place_BP)
        return jnp.moveaxis(take_rows(jnp.moveaxis(rows_BPNS, 3, 1), place_BP), 1, 3)

    kept_LBPNP = forward(network, batch, read={stack: read})[1][stack]
    return kept_LBPNP.transpose(1, 0, 3, 2, 4)
