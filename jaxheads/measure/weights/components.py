"""Composition of one head with the single directions that earlier heads write: components of their OV circuits.

Dimension key: L layers, N heads, H head dimension (components of a head), D model dimension.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...models.model import Model
from ...programs import compiled
from ...provenance import provenance
from ...tables import Column, HeadTable
from .factored import Factored, ov_circuit, qk_circuit, triangle
from .head_composition import asked_kinds


@checked()
def component_composition(
    model: Model,
    layer: int,
    head: int,
    kind: Literal["q", "k", "v"] = "q",
    *,
    offset: int = 0,
    norms: bool = True,
    stack: str | None = None,
) -> HeadTable:
    """Score how strongly a head reads each singular component of every earlier head's output (Merullo et al. 2024).

    A head's OV circuit is a sum of H rank-one maps `σᵢ uᵢ vᵢᵀ`: it reads uᵢ and writes vᵢ. The score of component i is
    `‖vᵢᵀ B‖ / ‖B‖`, the composition of that map alone: 1 where the later head reads this direction only, 0 where it
    doesn't read it. B is the later head's QK circuit from the queries' side (q), from the keys' side (k), or its OV
    circuit (v). So heads that compose through one direction are found though their whole circuits seem unrelated
    (2406.09519, section 3). The square of `jh.composition` is the mean of the scores' squares, weighted by σᵢ².

    The null is exact, for a direction drawn at random: the score's square has the mean 1 / D and the variance
    2 (‖B Bᵀ‖² / ‖B‖⁴ − 1 / D) / (D (D + 2)).

    Args:
        layer, head: the later head.
        kind: of its reading; in cross-attention only "q" is defined.
        offset: how far back the key is, for q and k where positions are rotary; see `jh.qk_circuit`.
        norms: include the scales of norms; see `jh.qk_circuit`.
        stack: whose heads; the only stack when left out.

    Returns:
        One row a layer, head and component, the largest first in each head; NaN for heads that are not in an earlier
        layer. Column `score`, without interval: it is a property of the weights. `share` is the component's part of
        the circuit's square norm, `null` the root of 1 / D, and `excess` the square's distance from its null mean in
        standard deviations.

    Raises:
        ValueError: for an unknown kind or head, or a head of the first layer.
    """
    chosen = model.stack(stack)
    asked_kinds(model, chosen, kind)
    if not (1 <= layer < chosen.layers and 0 <= head < chosen.heads):
        raise ValueError(
            f"the later head must be in the layers 1..{chosen.layers - 1} and heads 0..{chosen.heads - 1} of the "
            f"{chosen.name}; got ({layer}, {head})"
        )
    ov, D = ov_circuit(model, norms=norms, stack=stack), chosen.width
    reads = ov if kind == "v" else qk_circuit(model, offset=offset, norms=norms, stack=stack)
    score, sizes, concentration = _scores(ov, reads, np.int32(layer), np.int32(head), from_right=kind == "k")
    score_LNH, sizes_LNH = np.asarray(score, np.float64), np.asarray(sizes, np.float64)
    total_LN1 = np.square(sizes_LNH).sum(axis=-1, keepdims=True)
    known = (np.arange(chosen.layers) < layer)[:, None, None] & (sizes_LNH > 1e-6 * sizes_LNH[..., :1])
    spread = np.sqrt(max(0.0, 2 * (float(concentration) - 1 / D) / (D * (D + 2))))
    extras = {
        "share": np.where(known, np.square(sizes_LNH) / np.where(total_LN1 > 0, total_LN1, 1), np.nan),
        "null": np.full(score_LNH.shape, D**-0.5),
        "excess": np.where(known, (np.square(score_LNH) - 1 / D) / (spread if spread > 0 else np.nan), np.nan),
    }
    about = provenance(model, reader=[layer, head], kind=kind, offset=offset, norms=norms)
    columns = {"score": Column(np.where(known, score_LNH, np.nan))}
    axes = ("layer", "head", "component")
    return HeadTable.from_columns(
        "component_composition", chosen.name, columns, about, squeeze=True, extras=extras, axes=axes
    )


@partial(compiled, static_argnames="from_right")
def _scores(
    earlier: Factored, readers: Factored, layer: Array, head: Array, *, from_right: bool
) -> tuple[Array, Array, Array]:
    """Return the scores and singular values `[L,N,H]`, the largest first, and `‖B Bᵀ‖² / ‖B‖⁴` of the reader's B."""
    reader = readers[layer, head].transpose if from_right else readers[layer, head]
    small = triangle(earlier.left) @ earlier.right
    _, sizes_LNH, written_LNHD = jnp.linalg.svd(small, full_matrices=False)
    half_DH = reader.left @ triangle(jnp.swapaxes(reader.right, -2, -1)).T
    half_DH = half_DH / jnp.linalg.norm(half_DH)
    score_LNH = jax.lax.map(lambda written_NHD: jnp.linalg.norm(written_NHD @ half_DH, axis=-1), written_LNHD)
    return score_LNH, sizes_LNH, jnp.square(half_DH.T @ half_DH).sum()
