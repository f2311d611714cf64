"""Loadings of heads: how much of what was written at one position goes through each head to an objective.

Dimension key: E examples, B of a chunk, R rows that the objective reads, S source positions, P writers, L layers, N
heads, K key/value heads, H head dimension, D model dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ...checks import one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.resources import Options, Resources, shares_options
from ...models.attention.lazy_sites import LazySites
from ...models.inputs.batch import Batch, Texts
from ...models.inputs.query_rows import rows_of_examples
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack, take_rows
from ...objectives import Objective, Reads
from ...programs import compiled, to_device
from ...reads import reads_of
from ...tables import HeadTable
from ..direct.direct_effects import direction_of
from ..direct.last_stream import direct_stack, direct_stacks
from ..per_example import mean_table, per_example
from ..relevance.rules import with_frozen_norms
from .places import columns_of
from .writers import at_rows, run_streams, through_layers, writer_names

SOURCES = ("embedding", "heads", "mlps", "biases")


@shares_options()
def head_loadings(
    model: Model,
    batch: Batch | Texts,
    objective: Objective,
    source: int | ArrayLike,
    *,
    parts: str | Sequence[str] = SOURCES,
    **options: Unpack[Options],
) -> HeadTable:
    """Measure what goes from one position through each head to an objective, by what wrote it there.

    A head moves `A v W_O` from the source position to the row that is read. With the statistics of norms and the
    attention weights frozen, v is linear in the stream at the source: a sum over the embedding, earlier heads, MLPs and
    biases. Each loading is one summand, along the direction in which the objective reads the last stream. The four
    add up to the head's direct effect from this position (`jh.direct_effects(…, by=("layer", "head", "position"))`).
    They are the loadings by heads of the edges of attribution graphs (Anthropic 2025, "Attention QK"), whose target is
    the objective.

    Args:
        objective: linear in the logits it reads, as `jh.logit_difference` is.
        source: the position, counted over real ones; one for all examples, or one for each `[E]`.
        parts: which writers have a column: of "embedding", "heads", "mlps" and "biases" (the head's b_V among them).
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: as `jh.direct_effects`; for a position that an example does not have; for cross-attention, whose
            values read the memory and not this stream.
    """
    chosen_parts = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in chosen_parts:
        one_of("parts", part, SOURCES)
    if not chosen_parts or len(set(chosen_parts)) < len(chosen_parts):
        raise ValueError(f"parts must be some of {', '.join(SOURCES)}, each once; got {parts!r}")
    resources, chosen = Resources.of(options), direct_stack(model, options.get("stack"), direct_stacks(model))
    if chosen.is_cross:
        raise ValueError(
            f"the {chosen.name} of {model.name} reads a memory, not the stream: its sources have no writers"
        )
    model.check(batch)
    reads = reads_of(objective, model, batch)
    if reads.target is not None:
        raise ValueError(
            f"{objective.name} reads log-probabilities, which are not linear in logits: no parts add up to it"
        )
    places = columns_of("source", chosen.queries.of(batch), source)
    names = writer_names(model.network.streams[-1])
    plural = {"embedding": "embedding", "head": "heads", "mlp": "mlps", "bias": "biases"}
    groups = np.array([SOURCES.index(plural[part]) for part in names["part"]])

    def compute(examples: np.ndarray) -> dict[str, Array]:
        own = resources.devices.examples((batch.take(examples), reads.take(examples), to_device(places[examples])))
        return _loadings(resources.network(model), *own, to_device(groups), objective.value, chosen.name)

    arrays = per_example(
        "head_loadings",
        ("loadings", "nonlinearity"),
        compute,
        model,
        batch,
        resources,
        example_bytes=_example_bytes(chosen, batch, len(names)),
        identity=(objective, reads, chosen.name, places),
    )
    if (arrays["nonlinearity"] > 1e-3).any():
        raise ValueError(f"{objective.name} is not linear in the logits it reads: no parts add up to it")
    values = {part: arrays["loadings"][..., SOURCES.index(part)] for part in chosen_parts}
    about = {"objective_name": objective.name, "examples": len(batch), "stack": chosen.name}
    return mean_table("head_loadings", model, chosen.name, values, about, options, batch)


def _example_bytes(stack: Stack, batch: Batch, writers: int) -> int:
    layers = stack.layers * (
        stack.queries.count(batch) * stack.heads + 8 * stack.width + 4 * stack.heads * stack.head_size
    )
    return forward_bytes(stack, batch) + FLOAT * (layers + 3 * writers * (stack.width + stack.heads * stack.head_size))


@partial(compiled, static_argnames=("value", "name"))
def _loadings(
    network: Network,
    batch: Batch,
    reads: Reads,
    source_B: Array,
    groups_P: Array,
    value: Callable[[Array, Reads], Array],
    name: str,
) -> dict[str, Array]:
    """Return `loadings` `[B,L,N,G]` of the four groups of writers, and the objective's `nonlinearity` `[B]`."""
    stream, stack, rows_B1 = network.streams[-1], network.stack(name), source_B[:, None]

    def read(own: str, seen: LazySites) -> dict[str, Array]:
        kept = at_rows(seen, rows_B1)
        if own == name:
            pattern_BNRS = seen.of_queries("pattern")(rows_of_examples(reads.rows))
            kept["weight"] = jnp.take_along_axis(pattern_BNRS, source_B[:, None, None, None], axis=3)[..., 0]
            kept["v"], kept["z at rows"] = take_rows(seen["v"], rows_B1), take_rows(seen["z"], reads.rows)
        return kept

    streams = run_streams(network, batch, {own.name: partial(read, own.name) for own in stream.members})
    direction_BRD, about = direction_of(network, take_rows(streams.last, reads.rows), reads, value)
    at_source = take_rows(streams.inputs[name].keys, rows_B1)

    def load(own: Stack, number: Array, frozen: Any, writers_PBRD: Array) -> Array:
        if own.name != name:
            return jnp.zeros(())
        seen, block = jax.tree.map(lambda site: site[number], streams.kept[name]), stack.block(number)
        slope_BNH = _slope(block, seen["z at rows"], seen["weight"], direction_BRD)

        def values(x_B1D: Array) -> Array:
            v_BKH = frozen.keys_values(x_B1D, at_source)[1][:, 0]
            return jnp.repeat(v_BKH, own.heads // own.kv_heads, axis=1)

        def loading(writer_B1D: Array) -> Array:
            x_B1D = seen["resid_pre"]
            image_BNH = jax.jvp(values, (x_B1D,), (writer_B1D.astype(x_B1D.dtype),))[1]
            return jnp.einsum("bnh,bnh->bn", image_BNH.astype(jnp.float32), slope_BNH)

        loading_PBN = jax.vmap(loading)(writers_PBRD)
        of_groups_GBN = jax.ops.segment_sum(loading_PBN, groups_P, num_segments=len(SOURCES))
        v_BNH = jnp.repeat(seen["v"][:, 0], own.heads // own.kv_heads, axis=1).astype(jnp.float32)
        rest_BN = jnp.einsum("bnh,bnh->bn", v_BNH, slope_BNH) - of_groups_GBN.sum(axis=0)
        return of_groups_GBN.at[SOURCES.index("biases")].add(rest_BN)

    loadings_LGBN = through_layers(network, with_frozen_norms(network), stream, streams.kept, load)[name]
    scale_B = jnp.maximum(1.0, jnp.abs(about["value"]))
    return {
        "loadings": jnp.moveaxis(loadings_LGBN, (0, 1), (1, 3)),
        "nonlinearity": jnp.abs(about["nonlinearity"]) / scale_B,
    }


def _slope(block: Any, z_BRNH: Array, weight_BNR: Array, direction_BRD: Array) -> Array:
    """Return the derivative of the objective by the value at the source of each head, through its output, `[B,N,H]`."""
    whole_1BRD = block.attention.output(z_BRNH)[None]

    def objective(v_BNH: Array) -> Array:
        moved_BRNH = jnp.einsum("bnr,bnh->brnh", weight_BNR, v_BNH)
        added_NBRD = block.head_contribution(block.attention.per_head_output(moved_BRNH), whole_1BRD)
        return jnp.einsum("nbrd,brd->", added_NBRD.astype(jnp.float32), direction_BRD)

    return jax.grad(objective)(jnp.zeros_like(z_BRNH[:, 0])).astype(jnp.float32)
