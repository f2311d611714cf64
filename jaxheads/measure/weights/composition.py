"""Composition: how much of what an earlier head writes a later head's queries, keys or values read.

Dimension key: P earlier heads, M later heads (both all L·N of a stack), D model dimension, H head dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...models.model import Model
from .factored import Factored, ov_circuit, qk_circuit, triangle

KINDS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Composition:
    """Scores of every pair of heads.

    Attributes:
        values: by kind, `[L,N,L,N]`: of the first head with the second; NaN unless the first is in an earlier layer,
            and where a head reads or writes nothing.
        analytic: `1/√D`, about what unrelated heads score on average, whatever H.
        random: mean and standard deviation of the scores of random matrices of the same shapes.
        stack: whose heads.
        seed: of the random matrices.
    """

    values: Mapping[str, np.ndarray]
    analytic: float
    random: tuple[float, float]
    stack: str
    seed: int

    @property
    def frame(self) -> pd.DataFrame:
        """One row a pair, earlier first; a column a kind, and beside them `analytic`, `random`, `random_std`."""
        shape = next(iter(self.values.values())).shape
        places = np.indices(shape).reshape(4, -1)
        kept = places[0] < places[2]
        names = ["stack", "from_layer", "from_head", "to_layer", "to_head"]
        index = pd.MultiIndex.from_arrays([np.full(kept.sum(), self.stack), *places[:, kept]], names=names)
        columns = {kind: values.reshape(-1)[kept] for kind, values in self.values.items()}
        baselines = {"analytic": self.analytic, "random": self.random[0], "random_std": self.random[1]}
        return pd.DataFrame({**columns, **baselines}, index=index)


def composition(
    model: Model,
    kinds: str | Sequence[str] | None = None,
    *,
    offset: int = 0,
    norms: bool = True,
    stack: str | None = None,
    draws: int = 64,
    seed: int = 0,
) -> Composition:
    """Q-, K- and V-composition of every head with every head of a later layer (Elhage et al. 2021, "Two-layer
    attention-only transformers").

    `‖A B‖ / (‖A‖ ‖B‖)` in Frobenius norms, from 0 to 1, with A the earlier head's OV circuit and B, of the later head,
    its QK circuit from the queries' side (q), from the keys' side (k), or its OV circuit (v). Their paper takes the
    random mean off; here it stands beside the scores, and nothing is taken off. (The article's figure is wrong by its
    authors' notice: a bug in their low-rank products.)

    Nothing larger than `[H,H]` is made for a pair. In grouped-query models query heads that share their keys have the
    same W_K, but scores of their own all the same: in q and k W_Q counts as well, in v W_O.

    Args:
        kinds: of KINDS; all that the stack has when left out. In cross-attention keys and values read the memory, not
            the stream: there is q alone.
        offset: how far back the key lies, for q and k where positions are rotary; see `jh.qk_circuit`.
        norms: take the scales of norms in; see `jh.qk_circuit`.
        stack: the only one when left out.
        draws, seed: how many pairs of random matrices make the baseline; their seed.

    Raises:
        ValueError: for an unknown kind, one that the stack does not have, a single layer, or fewer than 2 draws.
    """
    part = model.stack(stack)
    known = ("q",) if part.is_cross else KINDS
    chosen = known if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"kinds of composition in the {part.name} are {', '.join(known)}; got {', '.join(chosen)}")
    if part.layers < 2:
        raise ValueError(f"composition is between layers; the {part.name} of {model.name} has 1")
    if draws < 2:
        raise ValueError(f"a random baseline needs at least 2 draws, got {draws}")
    ov, qk = ov_circuit(model, norms=norms, stack=stack), qk_circuit(model, offset=offset, norms=norms, stack=stack)
    later = {"q": qk, "k": qk.transpose, "v": ov}
    shape, number = (part.layers, part.heads), np.arange(part.layers)
    before = number[:, None, None, None] < number[None, None, :, None]
    scores = {kind: np.asarray(_scores(ov, later[kind]), np.float64).reshape(*shape, *shape) for kind in chosen}
    values = {kind: np.where(before, each, np.nan) for kind, each in scores.items()}
    random = random_composition(part.width, part.head_size, draws, seed)
    return Composition(values, part.width**-0.5, random, part.name, seed)


def random_composition(width: int, head_size: int, draws: int = 64, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the scores of pairs of heads whose four matrices are random normal."""
    keys = iter(jax.random.split(jax.random.key(seed), 4))

    def head() -> Factored:
        shapes = (draws, width, head_size), (draws, head_size, width)
        return Factored(*(jax.random.normal(next(keys), shape) for shape in shapes))

    scores = np.linalg.norm(np.asarray(_written(head()) @ _read(head()), np.float64), axis=(-2, -1))
    return float(scores.mean()), float(scores.std(ddof=1))


@jax.jit
def _scores(earlier: Factored, later: Factored) -> Array:
    """`[P,M]`, one earlier head after the other."""
    written_PHD, read_MDH = (half.reshape(-1, *half.shape[-2:]) for half in (_written(earlier), _read(later)))

    def one(written_HD: Array) -> Array:
        return jnp.linalg.norm(jnp.einsum("hd,mdk->mhk", written_HD, read_MDH), axis=(-2, -1))

    return jax.lax.map(one, written_PHD)


def _written(circuit: Factored) -> Array:
    """`[…,H,D]`: multiplied from the right as long as the circuit `[…,D,D]` is, over the circuit's norm."""
    return _over_norm(triangle(circuit.left) @ circuit.right)


def _read(circuit: Factored) -> Array:
    """`[…,D,H]`: multiplied from the left as long as the circuit is, over the circuit's norm."""
    return jnp.swapaxes(_written(circuit.transpose), -2, -1)


def _over_norm(half: Array) -> Array:
    """NaN where the norm is 0."""
    return half / jnp.linalg.norm(half, axis=(-2, -1), keepdims=True)
