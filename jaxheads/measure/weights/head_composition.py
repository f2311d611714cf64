"""Composition: how strongly a later head's queries, keys or values read an earlier head's output.

Dimension key: P earlier heads, M later heads (both all L·N of a stack), D model dimension, H head dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...arguments import checked
from ...checks import one_of
from ...models.model import Model
from ...models.stack import Stack
from ...programs import compiled
from ...view import View, graph, matrix
from .factored import Factored, ov_circuit, qk_circuit, triangle

KINDS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Composition:
    """Composition scores of every pair of heads.

    Attributes:
        values: by kind, scores `[L,N,L,N]` of the first head with the second; NaN unless the first is in an earlier
            layer, and where a head reads or writes nothing.
        analytic: `1/√D`, about the mean score of unrelated heads, whatever H.
        random: mean and standard deviation of the scores of random matrices of the same shapes.
        stack: the heads' stack.
        seed: of the random matrices.
        model: the model's name.
    """

    values: Mapping[str, np.ndarray]
    analytic: float
    random: tuple[float, float]
    stack: str
    seed: int
    model: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """One row a pair, the earlier head first; a column a kind, then `analytic random random_std model`."""
        baselines = {"analytic": self.analytic, "random": self.random[0], "random_std": self.random[1]}
        return pairs_frame(self.values, self.stack).assign(**baselines, model=self.model)

    @checked()
    def view(self, kind: str | None = None, *, layout: Literal["graph", "matrix"] = "graph") -> View:
        """Show which later heads read which earlier ones: the strongest pairs as a graph, or all as a matrix.

        Args:
            kind: "q", "k" or "v"; all of them when left out.
            layout: "graph" or "matrix".

        Raises:
            ValueError: for a kind that was not scored.
        """
        mean, deviation = self.random
        note = f"Unrelated heads of these shapes score {mean:.3f} ± {deviation:.3f} (mean, one deviation)."
        title = f"Composition in {self.model}" if self.model else "Composition"
        return pairs_view(self.values, kind, layout, stack=self.stack, label="composition", title=title, note=note)


def pairs_view(
    values: Mapping[str, np.ndarray],
    kind: str | None,
    layout: str,
    *,
    stack: str,
    label: str,
    title: str,
    note: str,
) -> View:
    """Return a view of columns of all pairs of heads, `[L,N,L,N]` by kind; NaN where a pair has no number."""
    if kind is not None:
        one_of("kind", kind, values)
    chosen = {name: own for name, own in values.items() if kind in (None, name)}
    L, N = next(iter(chosen.values())).shape[:2]
    heads = [(layer, head) for layer in range(L) for head in range(N)]
    names = [f"{layer}.{head}" for layer, head in heads]
    if layout == "matrix":
        whole = {name: own.reshape(L * N, L * N) for name, own in chosen.items()}
        return matrix(whole, rows=names, columns=names, axes=("earlier head", "later head"), title=title)
    nodes = [
        {"name": f"head {name}", "short": name, "row": layer, "column": head, "layer": layer, "head": head}
        for name, (layer, head) in zip(names, heads, strict=True)
    ]
    earlier, later = np.divmod(np.arange((L * N) ** 2), L * N)
    edges = np.tile(np.stack([earlier, later], axis=1), (len(chosen), 1))
    scores = np.concatenate([own.reshape(-1) for own in chosen.values()])
    kinds = np.repeat(list(chosen), (L * N) ** 2)
    known = ~np.isnan(scores)
    return graph(
        nodes,
        edges[known],
        scores[known],
        kinds=kinds[known].tolist(),
        label=label,
        stack=stack,
        title=title,
        note=note,
    )


def pairs_frame(values: Mapping[str, np.ndarray], stack: str) -> pd.DataFrame:
    """Return one row for each pair of a head and one of a later layer, of columns of all pairs, `[L,N,L,N]`."""
    shape = next(iter(values.values())).shape
    heads = np.indices(shape).reshape(4, -1)
    is_earlier = heads[0] < heads[2]
    names = ["stack", "from_layer", "from_head", "to_layer", "to_head"]
    index = pd.MultiIndex.from_arrays([np.full(is_earlier.sum(), stack), *heads[:, is_earlier]], names=names)
    return pd.DataFrame({kind: pairs.reshape(-1)[is_earlier] for kind, pairs in values.items()}, index=index)


def asked_kinds(model: Model, stack: Stack, kinds: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the kinds of composition that are asked for.

    Raises:
        ValueError: for an unknown kind, one that the stack does not have, or a single layer.
    """
    known = ("q",) if stack.is_cross else KINDS
    asked = known if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if not asked or not set(asked) <= set(known):
        raise ValueError(f"kinds of composition in the {stack.name} are {', '.join(known)}; got {', '.join(asked)}")
    if stack.layers < 2:
        raise ValueError(f"composition is between layers; the {stack.name} of {model.name} has 1")
    return asked


@checked()
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
    """Score Q-, K- and V-composition of every head with every head of a later layer (Elhage et al. 2021).

    The score is `‖A B‖ / (‖A‖ ‖B‖)` in Frobenius norms, from 0 to 1. A is the earlier head's OV circuit; B, of the
    later head, is its QK circuit from the queries' side (q), from the keys' side (k), or its OV circuit (v). The
    section is "Two-layer attention-only transformers". The paper subtracts the random mean; here it is reported beside
    the scores and nothing is subtracted. (The article's figure is wrong by its authors' notice: a bug in their
    low-rank products.)

    No array larger than `[H,H]` is made for a pair. In grouped-query models query heads that share keys have the same
    W_K, but their scores differ: in q and k W_Q counts as well, in v W_O.

    Args:
        kinds: of KINDS; all that the stack has when left out. In cross-attention keys and values read the memory, not
            the stream: only q is defined.
        offset: how far back the key is, for q and k where positions are rotary; see `jh.qk_circuit`.
        norms: include the scales of norms; see `jh.qk_circuit`.
        stack: whose heads; the only stack when left out.
        draws, seed: how many pairs of random matrices make the baseline; their seed.

    Raises:
        ValueError: for an unknown kind, one that the stack does not have, a single layer, or fewer than 2 draws.
    """
    chosen = model.stack(stack)
    asked = asked_kinds(model, chosen, kinds)
    if draws < 2:
        raise ValueError(f"a random baseline needs at least 2 draws, got {draws}")
    ov, qk = ov_circuit(model, norms=norms, stack=stack), qk_circuit(model, offset=offset, norms=norms, stack=stack)
    readers = {"q": qk, "k": qk, "v": ov}
    shape, layers = (chosen.layers, chosen.heads), np.arange(chosen.layers)
    is_earlier = layers[:, None, None, None] < layers[None, None, :, None]
    scores = {
        kind: np.asarray(_scores(ov, readers[kind], kind == "k"), np.float64).reshape(*shape, *shape) for kind in asked
    }
    values = {kind: np.where(is_earlier, pairs, np.nan) for kind, pairs in scores.items()}
    random = random_composition(chosen.width, chosen.head_size, draws, seed)
    return Composition(values, chosen.width**-0.5, random, chosen.name, seed, model.name)


def random_composition(width: int, head_size: int, draws: int = 64, seed: int = 0) -> tuple[float, float]:
    """Return mean and standard deviation of the scores of pairs of heads whose four matrices are random normal."""
    pairs = _random_pairs(np.uint32(seed), width, head_size, draws)
    scores = np.linalg.norm(np.asarray(pairs, np.float64), axis=(-2, -1))
    return float(scores.mean()), float(scores.std(ddof=1))


@partial(compiled, static_argnames=("width", "head_size", "draws"))
def _random_pairs(seed: Array, width: int, head_size: int, draws: int) -> Array:
    keys = iter(jax.random.split(jax.random.key(seed), 4))

    def random_circuits() -> Factored:
        shapes = (draws, width, head_size), (draws, head_size, width)
        return Factored(*(jax.random.normal(next(keys), shape) for shape in shapes))

    return _written(random_circuits()) @ _read(random_circuits())


@partial(compiled, static_argnames="from_right")
def _scores(earlier: Factored, later: Factored, from_right: bool) -> Array:
    """Return the scores `[P,M]` with the later circuits, or with them transposed; one earlier head at a time.

    All at once would take more memory.
    """
    later = later.transpose if from_right else later
    written_PHD, read_MDH = (half.reshape(-1, *half.shape[-2:]) for half in (_written(earlier), _read(later)))

    def score_with_later_heads(written_HD: Array) -> Array:
        return jnp.linalg.norm(jnp.einsum("hd,mdk->mhk", written_HD, read_MDH), axis=(-2, -1))

    return jax.lax.map(score_with_later_heads, written_PHD)


def _written(circuit: Factored) -> Array:
    """Return `[…,H,D]` whose product with any matrix on its right has the norm of the unit-norm circuit's product."""
    return _over_norm(triangle(circuit.left) @ circuit.right)


def _read(circuit: Factored) -> Array:
    """Return `[…,D,H]` whose product with any matrix on its left has the norm of the unit-norm circuit's product."""
    return jnp.swapaxes(_written(circuit.transpose), -2, -1)


def _over_norm(half: Array) -> Array:
    """Divide by the Frobenius norm; NaN where it is 0."""
    return half / jnp.linalg.norm(half, axis=(-2, -1), keepdims=True)
