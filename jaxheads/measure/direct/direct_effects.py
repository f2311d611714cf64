"""Direct logit attribution: an objective as the sum of what every head, MLP and embedding adds to it.

Dimension key: E examples (B of a chunk), R rows that the objective reads, S source positions, L layers, N query heads,
K key/value heads, G = N // K, D model dimension, H head dimension.

The stream is a sum, and with frozen statistics the last norm is linear (see `models.norms.with_frozen_statistics`): a
logit is then the sum of every part's contribution and of a few constants (the norm's bias, the unembedding's).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...checks import one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.lengths import Lengths
from ...execution.resources import Options, Resources, shares_options
from ...models.attention.lazy_sites import LazySites
from ...models.inputs.batch import Batch, Texts
from ...models.inputs.query_rows import rows_of_examples
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Stack, take_rows
from ...objectives import Objective, Reads
from ...programs import compiled
from ...reads import reads_of
from ...tables import HeadTable
from ..per_example import mean_table, per_example
from .last_stream import direct_stack, direct_stacks

BY = (("layer", "head"), ("layer", "head", "position"))


@dataclass(frozen=True, eq=False)
class DirectParts:
    """An objective as a sum, for each example: all arrays below add up to `value`.

    Attributes:
        heads: by stack, each head's contribution, `[E,L,N]`.
        biases: by stack, the contribution of the bias of the heads' output, `[E,L]`.
        mlps: by stack that has MLPs, each layer's contribution, `[E,L]`.
        embedding: the contribution of the first layer's input, tokens and positions, `[E]`.
        constant: the part that no stream changes: from the last norm's bias and the unembedding's, `[E]`.
        value: the objective, `[E]`; of logits before they are capped (Gemma 2).
    """

    heads: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    mlps: Mapping[str, np.ndarray]
    embedding: np.ndarray
    constant: np.ndarray
    value: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The sum of all parts, `[E]`."""
        layered = (*self.heads.values(), *self.biases.values(), *self.mlps.values())
        return self.embedding + self.constant + sum(part.reshape(len(part), -1).sum(axis=1) for part in layered)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a part: stack, part ("head", "bias", "mlp", "embedding", "constant"), layer, head, mean effect.

        Layer and head are -1 where they do not apply.
        """
        rows = [("", "embedding", -1, -1, self.embedding.mean()), ("", "constant", -1, -1, self.constant.mean())]
        for kind, by_stack in (("bias", self.biases), ("mlp", self.mlps)):
            rows += [
                (stack, kind, layer, -1, mean)
                for stack, part_EL in by_stack.items()
                for layer, mean in enumerate(part_EL.mean(axis=0).tolist())
            ]
        for stack, part_ELN in self.heads.items():
            mean_LN = part_ELN.mean(axis=0)
            rows += [(stack, "head", layer, head, mean_LN[layer, head]) for layer, head in np.ndindex(mean_LN.shape)]
        return pd.DataFrame(rows, columns=["stack", "part", "layer", "head", "effect"])


@shares_options(without=("stack", "level", "seed"))
def direct_parts(model: Model, batch: Batch | Texts, objective: Objective, **options: Unpack[Options]) -> DirectParts:
    """Split an objective into the direct effects of all parts of the stream (Elhage et al. 2021).

    Wang et al. 2022 call the heads' part "direct effect on the logits". The last norm's statistics are frozen at those
    of this run's whole stream; so are those of norms on the heads' summed output (Gemma 2). Each part then counts for
    itself, and its effect through later layers is not included. A cap on logits is left out.

    Args:
        objective: linear in the logits it reads, as `jh.logit_difference` is.
        options: shared by all questions: memory, devices, progress, resume.

    Raises:
        ValueError: for an objective that the model can't give, or that is not linear in logits (a loss); for a model
            whose layers norm the stream itself (BERT, BART), or whose head transforms it.
    """
    return _split(model, batch, objective, None, Resources.of(options))[0]


@shares_options()
def direct_effects(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    *,
    by: Sequence[str] = ("layer", "head"),
    **options: Unpack[Options],
) -> HeadTable:
    """Measure what each head adds directly to the objective (direct logit attribution).

    It is the head's output at the rows that are read, times the direction in which the objective reads them. See
    `direct_parts` for the frozen statistics and the other parts of the sum.

    Args:
        by: ("layer", "head"); or ("layer", "head", "position"), a head's contribution from each source position,
            `A v W_O`, counted over real tokens, in units of the objective. They add up to the head's. NaN where an
            example has no such position.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        Column `effect`; `.per_example` `[E,L,N]` or `[E,L,N,S]`. `.provenance["parts"]` has the means of the rest of
        the sum (`embedding`, `constant`, `bias` and `mlp` by stack and layer), `["objective"]` that of the whole.

    Raises:
        ValueError: as `direct_parts`; for unknown axes; for a stack that does not write into the stream that is read.
    """
    axes = tuple(by)
    one_of("by", axes, BY)
    chosen = direct_stack(model, options.get("stack"), direct_stacks(model))
    sources = chosen.name if "position" in axes else None
    parts, sources_ELNS = _split(model, batch, objective, sources, Resources.of(options))
    values = parts.heads[chosen.name] if sources_ELNS is None else _by_position(chosen, batch, sources_ELNS)
    means = {
        kind: {stack: part_EL.mean(axis=0) for stack, part_EL in by_stack.items()}
        for kind, by_stack in (("bias", parts.biases), ("mlp", parts.mlps))
    }
    about = {
        "objective_name": objective.name,
        "by": list(axes),
        "examples": len(batch),
        "objective": parts.value.mean(),
        "parts": {**means, "embedding": parts.embedding.mean(), "constant": parts.constant.mean()},
    }
    return mean_table("direct_effects", model, chosen.name, {"effect": values}, about, options, batch, axes=axes)


def _split(
    model: Model, batch: Batch, objective: Objective, sources: str | None, resources: Resources
) -> tuple[DirectParts, np.ndarray | None]:
    """Return all parts and, for the heads of the stack `sources`, those of each source position, `[E,L,N,S]`."""
    model.check(batch)
    reads = reads_of(objective, model, batch)
    if reads.target is not None:
        raise ValueError(
            f"{objective.name} reads log-probabilities, which are not linear in logits: no parts add up to it. "
            "Use jh.logit_difference"
        )
    asked, (reads, batch) = batch, Lengths(model).read(objective, reads, batch)
    members = direct_stacks(model)
    by_layer = [f"{kind}-{stack.name}" for stack in members for kind in ("heads", "biases")]
    by_layer += [f"mlps-{stack.name}" for stack in members if "mlp_out" in stack.sites]
    of_example = ["embedding", "constant", "value", "nonlinearity"]
    names = [*of_example, *by_layer] if sources is None else [*of_example, *by_layer, "sources"]

    def compute(examples: np.ndarray) -> dict[str, Array]:
        chunk, chunk_reads = resources.devices.examples((batch.take(examples), reads.take(examples)))
        return _parts(resources.network(model), chunk, chunk_reads, objective.value, sources)

    size = sum(_example_bytes(stack, batch, reads.rows.shape[1], stack.name == sources) for stack in members)
    identity = (objective, reads, sources or "")
    arrays = per_example("direct_parts", names, compute, model, batch, resources, example_bytes=size, identity=identity)
    if (np.abs(arrays["nonlinearity"]) > 1e-3 * np.maximum(1.0, np.abs(arrays["value"]))).any():
        raise ValueError(f"{objective.name} is not linear in the logits it reads: no parts add up to it")
    heads, biases, mlps = (
        {stack.name: arrays[f"{kind}-{stack.name}"] for stack in members if f"{kind}-{stack.name}" in arrays}
        for kind in ("heads", "biases", "mlps")
    )
    parts = DirectParts(heads, biases, mlps, arrays["embedding"], arrays["constant"], arrays["value"])
    # Padding that only filled up the batch's length is left out.
    return parts, None if sources is None else arrays["sources"][..., : model.stack(sources).keys.count(asked)]


def _example_bytes(stack: Stack, batch: Batch, rows: int, sources: bool) -> int:
    """Estimate the bytes that one example needs."""
    S = stack.keys.count(batch)
    numbers = rows * (stack.heads * stack.head_size + 3 * stack.width)
    if sources:
        numbers += S * stack.kv_heads * stack.head_size + 2 * stack.heads * rows * S
    return forward_bytes(stack, batch) + FLOAT * stack.layers * numbers


def _by_position(stack: Stack, batch: Batch, values_ELNS: np.ndarray) -> np.ndarray:
    """Reorder columns of the batch by positions among real keys; NaN where an example has fewer."""
    mask_ES = np.asarray(stack.keys.of(batch).mask)
    order_ES = np.argsort(~mask_ES, axis=1, kind="stable")[:, : mask_ES.sum(axis=1).max()]
    by_position = np.take_along_axis(values_ELNS, order_ES[:, None, None], axis=3)
    return np.where(np.take_along_axis(mask_ES, order_ES, axis=1)[:, None, None], by_position, np.nan)


@partial(compiled, static_argnames=("value", "sources"))
def _parts(
    network: Network, batch: Batch, reads: Reads, value: Callable[[Array, Reads], Array], sources: str | None
) -> dict[str, Array]:
    """Return the fields of `DirectParts`, by stack where they are; `nonlinearity` `[B]`; for one stack, `sources`."""
    stream = network.streams[-1]
    readers = {stack.name: partial(_at_rows, reads.rows, stack.name == sources) for stack in stream.members}
    x_BTD, kept = forward(network, batch, read=readers)
    direction_BRD, parts = direction_of(network, take_rows(x_BTD, reads.rows), reads, value)
    first_BRD = kept[stream.name]["resid_pre"][0].astype(jnp.float32)
    parts["embedding"] = (first_BRD * direction_BRD).sum(axis=(1, 2))
    for stack in stream.members:
        layers = jax.lax.map(partial(_layer_parts, stack, direction_BRD), (jnp.arange(stack.layers), kept[stack.name]))
        for kind, part in layers.items():
            parts["sources" if kind == "sources" else f"{kind}-{stack.name}"] = jnp.moveaxis(part, 1, 0)
    return parts


def _at_rows(rows_BR: Array, sources: bool, seen: LazySites) -> dict[str, Array]:
    """Select the rows of a layer's sites that are read."""
    kept = {site: take_rows(seen[site], rows_BR) for site in ("resid_pre", "z", "attn_out", "mlp_out") if site in seen}
    if sources:
        kept["pattern"] = seen.of_queries("pattern")(rows_of_examples(rows_BR))
        kept["v"] = seen["v"]
    return kept


def direction_of(
    network: Network, x_BRD: Array, reads: Reads, value: Callable[[Array, Reads], Array]
) -> tuple[Array, dict[str, Array]]:
    """Return the direction `[B,R,D]` whose product with a part of the stream is its contribution, in float32.

    With it come `value`, the objective; `constant`, the part of it that no stream changes; and `nonlinearity`, by how
    much doubling the logits does not double the objective, all `[B]`.
    """
    assert network.unembedding is not None, "objectives check for logits when they say what they read"
    unembedding = network.unembedding._replace(cap=None)
    features = network.features(x_BRD)
    logits = unembedding.logits(features, reads.columns)
    value_B, pull_back = jax.vjp(lambda logits: value(logits, reads), logits)
    [slope] = pull_back(jnp.ones_like(value_B))

    def linear_objective(part_BRD: Array) -> Array:
        part_features = network.with_frozen_statistics(part_BRD, x_BRD)
        return (unembedding._replace(bias=None).logits(part_features, reads.columns) * slope).sum()

    direction_BRD = jax.grad(linear_objective)(x_BRD).astype(jnp.float32)
    # what frozen statistics leave of the features is the norm's bias; `logits` adds the unembedding's
    constant = unembedding.logits(features - network.with_frozen_statistics(x_BRD, x_BRD), reads.columns)
    constant_B = (constant * slope).sum(axis=tuple(range(1, slope.ndim)))
    nonlinearity_B = value(2 * logits, reads) - 2 * value_B
    return direction_BRD, {"value": value_B, "constant": constant_B, "nonlinearity": nonlinearity_B}


def _layer_parts(stack: Stack, direction_BRD: Array, layer: tuple[Array, dict[str, Array]]) -> dict[str, Array]:
    """Return one layer's `heads` `[B,N]` and `biases` `[B]`, its `mlps` `[B]` and `sources` `[B,N,S]` if kept."""
    number, seen = layer
    block: Any = stack.block(number)

    def heads_objective(z_BRNH: Array) -> Array:
        output_1BRD = block.attention.output(z_BRNH)[None]
        added_NBRD = block.head_contribution(block.attention.per_head_output(z_BRNH), output_1BRD)
        return jnp.einsum("nbrd,brd->", added_NBRD.astype(jnp.float32), direction_BRD)

    slope_BRNH = jax.grad(heads_objective)(seen["z"]).astype(jnp.float32)
    heads_BN = (slope_BRNH * seen["z"].astype(jnp.float32)).sum(axis=(1, 3))
    attention_B = (seen["attn_out"].astype(jnp.float32) * direction_BRD).sum(axis=(1, 2))
    parts = {"heads": heads_BN, "biases": attention_B - heads_BN.sum(axis=1)}
    if "mlp_out" in seen:
        parts["mlps"] = (seen["mlp_out"].astype(jnp.float32) * direction_BRD).sum(axis=(1, 2))
    if "v" in seen:
        B, R, N, H = slope_BRNH.shape
        slope_BRKGH = slope_BRNH.reshape(B, R, stack.kv_heads, -1, H)
        value_BKGRS = jnp.einsum("bskh,brkgh->bkgrs", seen["v"].astype(jnp.float32), slope_BRKGH)
        value_BNRS = value_BKGRS.reshape(B, N, R, -1) * seen["pattern"].astype(jnp.float32)
        parts["sources"] = value_BNRS.sum(axis=2)
    return parts
