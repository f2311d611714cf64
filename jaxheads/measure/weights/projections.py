"""Projection kernel: how far what a later head reads overlaps with what an earlier head writes, as subspaces.

Dimension key: P earlier heads, M later heads (both all L·N of a stack), D model dimension, H head dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...arguments import checked
from ...models.model import Model
from ...programs import compiled
from ...view import View
from .factored import ov_circuit, qk_circuit
from .head_composition import asked_kinds, pairs_frame, pairs_view


@dataclass(frozen=True, eq=False)
class Projections:
    """Projection kernels of every pair of heads.

    Attributes:
        values: by kind, kernels `[L,N,L,N]` of the first head with the second, from 0 to the smaller rank; NaN unless
            the first is in an earlier layer, and where a head reads or writes nothing.
        null_mean, null_deviation: by kind, the exact mean and standard deviation, `[L,N,L,N]`, of the kernel of two
            subspaces of the same dimensions in random directions.
        stack: the heads' stack.
        model: the model's name.
    """

    values: Mapping[str, np.ndarray]
    null_mean: Mapping[str, np.ndarray]
    null_deviation: Mapping[str, np.ndarray]
    stack: str
    model: str = ""

    @property
    def excess(self) -> dict[str, np.ndarray]:
        """Distance from the null's mean in its deviations, `[L,N,L,N]` by kind; NaN where it has none.

        The null's tails are not normal: read it as a scale, not as a probability.
        """
        spread = {kind: np.where(size > 0, size, np.nan) for kind, size in self.null_deviation.items()}
        return {kind: (values - self.null_mean[kind]) / spread[kind] for kind, values in self.values.items()}

    @property
    def frame(self) -> pd.DataFrame:
        """One row a pair, the earlier head first, as `Composition.frame`; by kind the kernel, `…_null`, `…_excess`."""
        excess, columns = self.excess, {}
        for kind, values in self.values.items():
            columns |= {kind: values, f"{kind}_null": self.null_mean[kind], f"{kind}_excess": excess[kind]}
        return pairs_frame(columns, self.stack).assign(model=self.model)

    @checked()
    def view(self, kind: str | None = None, *, layout: Literal["graph", "matrix"] = "graph") -> View:
        """Show which later heads read the space that an earlier one writes, by the excess over the null.

        Args:
            kind: "q", "k" or "v"; all of them when left out.
            layout: "graph" or "matrix".

        Raises:
            ValueError: for a kind that was not measured.
        """
        note = "Numbers are deviations of the null of random subspaces, above its mean."
        title = f"Projection kernels in {self.model}" if self.model else "Projection kernels"
        return pairs_view(self.excess, kind, layout, stack=self.stack, label="excess", title=title, note=note)


@checked()
def projection_kernel(
    model: Model, kinds: str | Sequence[str] | None = None, *, norms: bool = True, stack: str | None = None
) -> Projections:
    """Measure `‖Uᵀ V‖²` of every head with every head of a later layer, beside its exact null (arXiv 2601.10266).

    U is an orthonormal basis of what the earlier head can write, the row space of W_O. V is one of what the later head
    reads with its queries (q), keys (k) or values (v), the column space of W_Q, W_K or W_V. The kernel is the number of
    shared dimensions: 0 for orthogonal spaces, and the smaller rank for one space within the other. `jh.composition`
    weighs directions by their singular values. The kernel asks for the spaces alone: an invertible map of a head's own
    dimensions (W_O → M W_O) leaves it as it is. Rotary positions turn those dimensions alone, so that no offset counts.

    The null is two subspaces of the same ranks r and s in random directions of D dimensions: mean r s / D, variance
    2 r s (D − r)(D − s) / (D² (D − 1)(D + 2)), both exact. Vectors that a LayerNorm has centred lie in D − 1
    dimensions, which the null takes for D.

    Args:
        kinds: "q", "k", "v"; all that the stack has when left out. In cross-attention keys and values read the memory,
            not the stream: only "q" is defined.
        norms: include the scales of norms; see `jh.qk_circuit`.
        stack: whose heads; the only stack when left out.

    Raises:
        ValueError: for an unknown kind, one that the stack does not have, or a single layer.
    """
    chosen = model.stack(stack)
    asked = asked_kinds(model, chosen, kinds)
    ov, qk = ov_circuit(model, norms=norms, stack=stack), qk_circuit(model, norms=norms, stack=stack)
    read = {"q": qk.left, "k": jnp.swapaxes(qk.right, -2, -1), "v": ov.left}
    shape, layers = (chosen.layers, chosen.heads), np.arange(chosen.layers)
    is_earlier = layers[:, None, None, None] < layers[None, None, :, None]
    written_LNDH, ranks_LN = _bases(jnp.swapaxes(ov.right, -2, -1))
    values, mean, deviation = {}, {}, {}
    for kind in asked:
        read_LNDH, read_ranks_LN = _bases(read[kind])
        kernels = np.asarray(_kernels(written_LNDH, read_LNDH), np.float64).reshape(*shape, *shape)
        r, s = (np.asarray(ranks, np.float64) for ranks in (ranks_LN, read_ranks_LN))
        r, s = r[:, :, None, None], s[None, None]
        known = is_earlier & (r > 0) & (s > 0)
        values[kind] = np.where(known, kernels, np.nan)
        mean[kind], variance = kernel_moments(r, s, chosen.width)
        deviation[kind] = np.sqrt(variance)
    return Projections(values, mean, deviation, chosen.name, model.name)


def kernel_moments(r: np.ndarray, s: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of the kernel of random subspaces of dimensions r and s."""
    mean = r * s / width
    scale = max(1, width**2 * (width - 1) * (width + 2))
    return mean, 2 * r * s * (width - r) * (width - s) / scale


@compiled
def _bases(matrices: Array) -> tuple[Array, Array]:
    """Return orthonormal bases of column spaces `[…,D,H]`, filled up with zero columns, and their ranks."""
    left, sizes, _ = jnp.linalg.svd(matrices, full_matrices=False)
    least = sizes.max(axis=-1, keepdims=True) * max(matrices.shape[-2:]) * jnp.finfo(sizes.dtype).eps
    counts = (sizes > least) & (sizes > 0)
    return jnp.where(counts[..., None, :], left, 0), counts.sum(axis=-1)


@compiled
def _kernels(written_LNDH: Array, read_LNDH: Array) -> Array:
    """Return the kernels `[P,M]`, one earlier head at a time: all at once would take more memory."""
    written_PDH, read_MDH = (bases.reshape(-1, *bases.shape[-2:]) for bases in (written_LNDH, read_LNDH))

    def with_later_heads(written_DH: Array) -> Array:
        return jnp.square(jnp.einsum("dh,mdk->mhk", written_DH, read_MDH)).sum(axis=(-2, -1))

    return jax.lax.map(with_later_heads, written_PDH)
