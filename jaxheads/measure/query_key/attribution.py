"""Attribution of a head's score of one key to what wrote its query and what wrote its key.

Dimension key: E examples, B of a chunk, P writers of the query's stream, J of the key's, L layers, N heads, H head
dimension, D model dimension.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from numpy.typing import ArrayLike, NDArray

from ...arguments import at_least, checked
from ...checks import head_of, one_of
from ...execution.cost import FLOAT, forward_bytes
from ...execution.resources import OPTIONS, Options, Resources, shares_options
from ...models.attention.lazy_sites import LazySites
from ...models.inputs.batch import Batch, Texts
from ...models.model import Model
from ...models.network import Network
from ...models.stack import Stack, take_rows
from ...programs import compiled, to_device
from ...provenance import provenance
from ...statistics import mean_interval
from ..per_example import per_example
from ..relevance.rules import with_frozen_norms
from .places import columns_of
from .writers import at_rows, run_streams, scores_at, stream_of, through_layers, writer_count, writer_names

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class QKAttribution:
    """A head's score of one key as a sum over pairs of writers, for each example.

    Attributes:
        queries, keys: the writers of the query's and of the key's stream, one row each: part ("embedding", "head",
            "bias", "mlp"; "reading" for the head's own biases, "memory" in cross-attention), stack, layer, head.
        values: the score of each pair of writers, `[E,P,J]`.
        product: their sum, the scaled product of query and key, `[E]`; before a cap on scores (Gemma 2).
        position: what a bias of relative positions adds (T5, ALiBi, DeBERTa), `[E]`; else 0.
        score: the head's score, which the softmax reads, `[E]`.
        level: of the intervals of `frame`.
        clusters: labels `[E]` of examples that depend on each other, or None.
        provenance: plain JSON values.
    """

    queries: pd.DataFrame
    keys: pd.DataFrame
    values: Floats
    product: Floats
    position: Floats
    score: Floats
    level: float
    clusters: NDArray[np.int64] | None
    provenance: dict[str, Any]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a pair of writers, the largest mean of either sign first: `query_…` and `key_…` of both, and `score`.

        `score_low`, `score_high` and `score_n` are its interval and the number of independent examples.
        """
        interval = mean_interval(self.values, clusters=self.clusters, level=self.level)
        P, J = self.values.shape[1:]
        sides = self.queries.add_prefix("query_"), self.keys.add_prefix("key_")
        rows = [sides[0].iloc[np.repeat(np.arange(P), J)], sides[1].iloc[np.tile(np.arange(J), P)]]
        frame = pd.concat([own.reset_index(drop=True) for own in rows], axis=1)
        for name, column in zip(("score", "score_low", "score_high", "score_n"), interval, strict=True):
            frame[name] = np.broadcast_to(column, (P, J)).reshape(-1)
        order = np.argsort(-frame["score"].abs().to_numpy(), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    @checked(count=at_least(1))
    def top(self, count: int = 10) -> pd.DataFrame:
        """Return the pairs of writers with the largest mean scores, of either sign."""
        return self.frame.head(count)

    @checked()
    def by(self, side: str) -> pd.DataFrame:
        """Return the score by the writers of one side, "query" or "key", in their order: columns as `frame`.

        Raises:
            ValueError: for another side.
        """
        one_of("side", side, ("query", "key"))
        writers, axis = (self.queries, 2) if side == "query" else (self.keys, 1)
        interval = mean_interval(self.values.sum(axis=axis), clusters=self.clusters, level=self.level)
        return writers.assign(**dict(zip(("score", "score_low", "score_high", "score_n"), interval, strict=True)))

    def __repr__(self) -> str:
        about = f"{len(self.queries)} × {len(self.keys)} writers, {len(self.values)} examples"
        return f"<QKAttribution of {about}: {self.product.mean():.4g}>\n{self.top(5).to_string()}"


@shares_options(without=("seed",))
def qk_attribution(
    model: Model,
    batch: Batch | Texts,
    layer: int,
    head: int,
    query: int | ArrayLike,
    key: int | ArrayLike,
    **options: Unpack[Options],
) -> QKAttribution:
    """Split a head's score of one key by what wrote the query and what wrote the key (Anthropic 2025, "Attention QK").

    A score is `q · k` times a scale, and with the statistics of all norms frozen q and k are linear in their streams:
    sums over the embedding, every earlier head, MLP and bias. The score is then a sum over pairs of writers. Biases of
    the projections and of the norms that they read are the writer "reading". In post-norm layers (BERT) each writer
    goes through the norms in between. In cross-attention the key's writer is the whole memory.

    Args:
        layer, head: the head.
        query, key: positions counted over real ones, one for all examples or one for each `[E]`.
        options: shared by all questions: stack, level, clusters, memory, devices, progress, resume.

    Raises:
        ValueError: for a head or position that there is not, or a key that the query does not see.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    head_of((stack.layers, stack.heads), layer, head)
    model.check(batch)
    model.check_runs(stack, batch)
    places = columns_of("query", stack.queries.of(batch), query), columns_of("key", stack.keys.of(batch), key)
    if stack.causal and not stack.is_cross and (places[1] > places[0]).any():
        raise ValueError(f"key: a query of the {stack.name} sees no later position; {model.name} is causal")
    group = head * stack.kv_heads // stack.heads

    def compute(examples: np.ndarray) -> dict[str, Array]:
        own = resources.devices.examples((batch.take(examples), *(to_device(place[examples]) for place in places)))
        where = (jnp.int32(number) for number in (layer, head, group))
        return _attributed(resources.network(model), *own, *where, stack.name)

    names = ("values", "numbers")
    arrays = per_example(
        "qk_attribution",
        names,
        compute,
        model,
        batch,
        resources,
        example_bytes=_example_bytes(model, stack, batch),
        identity=(stack.name, layer, head, *places),
    )
    product, position, score, visible = arrays["numbers"].T
    if not visible.all():
        raise ValueError(f"key: in examples {np.flatnonzero(visible == 0)[:8].tolist()} the query does not see the key")
    queries, used = _writers(model, stack, layer)
    keys = _OF_MEMORY if stack.is_cross else queries
    values = arrays["values"][:, used][:, :, slice(None) if stack.is_cross else used]
    level = options.get("level", OPTIONS["level"][1])
    about = provenance(model, stack=stack.name, layer=layer, head=head, examples=len(batch), level=level)
    return QKAttribution(queries, keys, values, product, position, score, level, batch.cluster_labels, about)


_READING = pd.DataFrame([("reading", "", -1, -1)], columns=["part", "stack", "layer", "head"])
_OF_MEMORY = pd.concat([_READING.assign(part="memory"), _READING], ignore_index=True)


def _writers(model: Model, stack: Stack, layer: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the writers that the stack's layer reads, and their numbers among all; its own biases are the last."""
    stream = stream_of(model.network, stack.name)
    names = writer_names(stream)
    earlier = [own.name for own in stream.members[: [own.name for own in stream.members].index(stack.name)]]
    reads = (names["layer"] < layer) | ((names["layer"] == layer) & names["stack"].isin(earlier))
    used = np.append(np.flatnonzero(reads), len(names))
    own = _READING.assign(stack=stack.name, layer=layer)
    return pd.concat([names.iloc[used[:-1]], own], ignore_index=True), used


def _example_bytes(model: Model, stack: Stack, batch: Batch) -> int:
    stream = stream_of(model.network, stack.name)
    count = 2 + stream.layers * sum(map(writer_count, stream.members))
    rows = stream.layers * (stack.heads * stack.head_size + 4 * stack.width)
    return forward_bytes(stack, batch) + FLOAT * (2 * rows + 6 * count * stack.width + count**2)


@partial(compiled, static_argnames=("name",))
def _attributed(
    network: Network, batch: Batch, query_B: Array, key_B: Array, layer: Array, head: Array, group: Array, name: str
) -> dict[str, Array]:
    """Return `values` `[B,P,J]` of all writers, and as `numbers` `[B,4]` product, position, score and visibility."""
    stack, stream = network.stack(name), stream_of(network, name)
    rows_BR = query_B[:, None] if stack.is_cross else jnp.stack([query_B, key_B], axis=1)

    def read(own: str, seen: LazySites) -> dict[str, Array]:
        kept = at_rows(seen, rows_BR)
        if own == name:
            kept["q"], kept["k"] = take_rows(seen["q"], query_B[:, None]), take_rows(seen["k"], key_B[:, None])
            kept["scores"] = scores_at(seen, "scores", query_B[:, None], key_B[:, None])
        return kept

    streams = run_streams(network, batch, {own.name: partial(read, own.name) for own in stream.members})
    inputs, kept = streams.inputs[name], streams.kept
    at_query, at_key = (take_rows(x, row[:, None]) for x, row in ((inputs.queries, query_B), (inputs.keys, key_B)))
    frozen = with_frozen_norms(network)

    def project(own: Stack, number: Array, block: Any, writers_PBRD: Array) -> tuple[Array, ...]:
        if own.name != name:
            return ()
        x_BRD = kept[name]["resid_pre"][number]

        def sides() -> tuple[Array, Array]:
            q_PBH = _images(lambda x: block.queries(x, at_query)[:, 0, head], x_BRD[:, :1], writers_PBRD[:, :, :1])
            keys = partial(_key, block, at_key, group)
            if stack.is_cross:
                assert inputs.memory is not None, "cross-attention reads a memory"
                memory_B1D = take_rows(inputs.memory, key_B[:, None])
                return q_PBH, _images(keys, memory_B1D, memory_B1D[None])
            return q_PBH, _images(keys, x_BRD[:, 1:], writers_PBRD[:, :, 1:])

        # The other layers' projections would take as long as the whole forward pass.
        empty = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(sides))
        return jax.lax.cond(number == layer, sides, lambda: empty)

    projected = through_layers(network, frozen, stream, kept, project)[name]
    sides = []
    for parts_LPBH, site, number in zip(projected, ("q", "k"), (head, group), strict=True):
        whole_BH = kept[name][site][layer, :, 0, number].astype(jnp.float32)
        parts_PBH = parts_LPBH[layer]
        sides.append(jnp.concatenate([parts_PBH, (whole_BH - parts_PBH.sum(axis=0))[None]]))
    attention: Any = stack.block(layer).attention
    scale = jnp.asarray(attention.scale, jnp.float32).reshape(-1)[0]
    values_BPJ = jnp.einsum("pbh,jbh->bpj", *sides) * scale
    whole = (kept[name][site][layer, :, 0, number] for site, number in (("q", head), ("k", group)))
    product_B = jnp.einsum("bh,bh->b", *(side.astype(jnp.float32) for side in whole)) * scale
    capped_B = product_B if attention.cap is None else jnp.tanh(product_B / attention.cap) * attention.cap
    score_B = kept[name]["scores"][layer, :, head, 0].astype(jnp.float32)
    visible_B = score_B > jnp.finfo(kept[name]["scores"].dtype).min / 2
    numbers = product_B, score_B - capped_B, score_B, visible_B.astype(jnp.float32)
    return {"values": values_BPJ, "numbers": jnp.stack(numbers, axis=1)}


def _key(block: Any, positions_B1: Array, group: Array, x_B1D: Array) -> Array:
    return block.keys_values(x_B1D, positions_B1)[0][:, 0, group]


def _images(project: Any, x_B1D: Array, writers_PB1D: Array) -> Array:
    """Return the image of each writer under the derivative of a projection, `[P,B,H]`."""

    def image(writer_B1D: Array) -> Array:
        return jax.jvp(project, (x_B1D,), (writer_B1D.astype(x_B1D.dtype),))[1].astype(jnp.float32)

    return jax.vmap(image)(writers_PB1D)
