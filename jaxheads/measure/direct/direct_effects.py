"""Direct logit attribution: an objective taken apart into what every head, MLP and embedding adds to it.

Dimension key: E examples (B of a piece), R rows that the objective reads, S source positions, L layers, N query heads,
K key/value heads, G = N // K, D model dimension, H head dimension.

The stream is a sum, and with its statistics held the last norm is linear (see
`models.norms.with_frozen_statistics`): then a logit is the
sum of what each part of the stream gives it, and a few constants (the norm's bias, the unembedding's).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from ...models.inputs.batch import Batch
from ...models.model import Model
from ...models.network import Network, forward
from ...models.stack import Sites, Stack, take_rows
from ...objectives import Objective, Reads
from ...tables import HeadTable
from .chunks import chosen_stack, direct_stacks, head_table, pieces_of

BY = (("layer", "head"), ("layer", "head", "position"))


@dataclass(frozen=True, eq=False)
class DirectParts:
    """An objective as a sum, for each example: all arrays below add up to `value`.

    Attributes:
        heads: by stack, what each head adds, `[E,L,N]`.
        biases: by stack, what the bias of the heads' output adds, `[E,L]`.
        mlps: by stack that has MLPs, what each layer's adds, `[E,L]`.
        embedding: what the first layer reads, tokens and places, `[E]`.
        constant: what is added whatever the stream: by the last norm's bias and the unembedding's, `[E]`.
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
        """One row a part: stack, part ("head", "bias", "mlp", "embedding", "constant"), layer and head (-1 where there
        is none), and the mean over examples."""
        rows = [("", "embedding", -1, -1, self.embedding.mean()), ("", "constant", -1, -1, self.constant.mean())]
        for kind, group in (("bias", self.biases), ("mlp", self.mlps)):
            rows += [
                (stack, kind, layer, -1, mean)
                for stack, part_EL in group.items()
                for layer, mean in enumerate(part_EL.mean(axis=0).tolist())
            ]
        for stack, part_ELN in self.heads.items():
            mean_LN = part_ELN.mean(axis=0)
            rows += [(stack, "head", layer, head, mean_LN[layer, head]) for layer, head in np.ndindex(mean_LN.shape)]
        return pd.DataFrame(rows, columns=["stack", "part", "layer", "head", "effect"])


def direct_parts(model: Model, batch: Batch, objective: Objective, *, memory: int = 1 << 30) -> DirectParts:
    """Every part of the stream's direct effect on an objective, which they add up to (Elhage et al. 2021; Wang et al.
    2022 call the heads' part "direct effect on the logits").

    The last norm divides by what the whole stream of this run makes it divide by; so do norms of what a layer's heads
    write together (Gemma 2). With these held, each part counts for itself, and what it does by way of later layers is
    not in it. A cap on logits is left out.

    Args:
        objective: linear in the logits it reads, as `jh.logit_difference` is.
        memory: bytes for what is kept of one piece of examples.

    Raises:
        ValueError: for an objective that the model can't give, or that is not linear in logits (a loss); for a model
            whose layers norm the stream itself (BERT, BART), or whose head transforms it.
    """
    return _taken_apart(model, batch, objective, None, memory)[0]


def direct_effects(
    model: Model,
    batch: Batch,
    objective: Objective,
    *,
    by: Sequence[str] = ("layer", "head"),
    stack: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = 1 << 30,
) -> HeadTable:
    """What each head adds to the objective directly: its output at the rows that are read, times the direction in which
    the objective reads them; `direct_parts` says what is held and what else there is in the sum.

    Args:
        by: ("layer", "head"); or ("layer", "head", "position"), a head's part by where it looks: `A v W_O` of each
            source position, counted over real tokens, in units of the objective. They add up to the head's. NaN where
            an example has no such position.
        stack: whose heads; the only one when left out.
        level, seed: of the bootstrap over examples.

    Returns:
        Column `effect`; `.per_example` `[E,L,N]` or `[E,L,N,S]`. `.provenance["parts"]` has the means of the rest of
        the sum (`embedding`, `constant`, `bias` and `mlp` by stack and layer), `["objective"]` that of the whole.

    Raises:
        ValueError: as `direct_parts`; for unknown axes; for a stack that does not write into the stream that is read.
    """
    axes = tuple(by)
    if axes not in BY:
        raise ValueError(f"by must be one of {', '.join(map(str, BY))}; got {axes}")
    part = chosen_stack(model, stack, direct_stacks(model))
    sources = part.name if "position" in axes else None
    parts, sources_ELNS = _taken_apart(model, batch, objective, sources, memory)
    values = parts.heads[part.name] if sources_ELNS is None else _by_position(part, batch, sources_ELNS)
    rest = {name: {key: each.mean(axis=0) for key, each in group.items()} for name, group in
            (("bias", parts.biases), ("mlp", parts.mlps))}  # fmt: skip
    rest |= {"embedding": parts.embedding.mean(), "constant": parts.constant.mean()}
    about = {"objective_name": objective.name, "by": list(axes), "examples": len(batch)}
    about |= {"objective": parts.value.mean(), "parts": rest}
    return head_table("direct_effects", model, part.name, {"effect": values}, about, axes=axes, level=level, seed=seed)


def _taken_apart(
    model: Model, batch: Batch, objective: Objective, sources: str | None, memory: int
) -> tuple[DirectParts, np.ndarray | None]:
    """All parts, and of one stack's heads those of each source position, `[E,L,N,S]`."""
    model.check(batch)
    reads = objective.reads(model, batch)
    if reads.target is not None:
        raise ValueError(
            f"{objective.name} reads log-probabilities, which are not linear in logits: nothing adds up to it. "
            "Use jh.logit_difference"
        )
    members = direct_stacks(model)
    size = sum(_bytes(stack, batch, reads.rows.shape[1], stack.name == sources) for stack in members)
    found: list[Any] = []
    for rows, new in pieces_of(len(batch), size, memory):
        piece = _parts(model.network, batch.take(rows), reads.take(rows), value=objective.value, sources=sources)
        found.append(jax.tree.map(lambda each, new=new: np.asarray(each, np.float64)[:new], piece))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    bent = np.abs(whole["bent"]) > 1e-3 * np.maximum(1.0, np.abs(whole["value"]))
    if bent.any():
        raise ValueError(f"{objective.name} is not linear in the logits it reads: nothing adds up to it")
    fields = ("heads", "biases", "mlps", "embedding", "constant", "value")
    return DirectParts(**{name: whole[name] for name in fields}), whole.get("sources")


def _bytes(stack: Stack, batch: Batch, rows: int, sources: bool) -> int:
    """Of one example, about."""
    T, S = stack.queries.count(batch), stack.keys.count(batch)
    kept = rows * (stack.heads * stack.head_size + 3 * stack.width)
    if sources:
        kept += S * stack.kv_heads * stack.head_size + 2 * stack.heads * rows * S
    return 4 * (stack.layers * kept + 2 * stack.heads * T * S + 8 * T * stack.width)


def _by_position(stack: Stack, batch: Batch, values_ELNS: np.ndarray) -> np.ndarray:
    """By places among real keys instead of columns of the batch; NaN where there is none."""
    mask_ES = np.asarray(stack.keys.of(batch).mask)
    order_ES = np.argsort(~mask_ES, axis=1, kind="stable")[:, : mask_ES.sum(axis=1).max()]
    moved = np.take_along_axis(values_ELNS, order_ES[:, None, None], axis=3)
    return np.where(np.take_along_axis(mask_ES, order_ES, axis=1)[:, None, None], moved, np.nan)


@partial(jax.jit, static_argnames=("value", "sources"))
def _parts(
    network: Network, batch: Batch, reads: Reads, *, value: Callable[[Array, Reads], Array], sources: str | None
) -> dict[str, Any]:
    """The fields of `DirectParts`, examples first; how far the objective is from linear; and `sources`."""
    stream = network.streams[-1]
    readers = {one.name: partial(_at_rows, reads.rows, one.name == sources) for one in stream.members}
    x_BTD, kept = forward(network, batch, read=readers)
    direction_BRD, found = _direction(network, take_rows(x_BTD, reads.rows), reads, value)
    first_BRD = kept[stream.name]["resid_pre"][0].astype(jnp.float32)
    found |= {"embedding": (first_BRD * direction_BRD).sum(axis=(1, 2)), "heads": {}, "biases": {}, "mlps": {}}
    for stack in stream.members:
        layers = jax.lax.map(partial(_layer, stack, direction_BRD), (jnp.arange(stack.layers), kept[stack.name]))
        for kind, parts in layers.items():
            parts = jnp.moveaxis(parts, 1, 0)
            if kind == "sources":
                found["sources"] = parts
            else:
                found[kind][stack.name] = parts
    return found


def _at_rows(rows_BR: Array, sources: bool, seen: Sites) -> dict[str, Array]:
    """What is kept of a layer."""
    kept = {site: take_rows(seen[site], rows_BR) for site in ("resid_pre", "z", "attn_out", "mlp_out") if site in seen}
    if sources:
        kept["pattern"] = jnp.take_along_axis(seen["pattern"], rows_BR[:, None, :, None], axis=2)
        kept["v"] = seen["v"]
    return kept


def _direction(
    network: Network, x_BRD: Array, reads: Reads, value: Callable[[Array, Reads], Array]
) -> tuple[Array, dict[str, Any]]:
    """The direction `[B,R,D]` whose product with a part of the stream is the part's share, in float32; the objective,
    what it has whatever the stream, and by how much twice the logits is not twice the objective."""
    assert network.unembedding is not None, "objectives check for logits when they say what they read"
    unembedding = network.unembedding._replace(cap=None)
    features = network.features(x_BRD)
    logits = unembedding.logits(features, reads.columns)
    value_B, back = jax.vjp(lambda read: value(read, reads), logits)
    [slope] = back(jnp.ones_like(value_B))

    def of_part(part_BRD: Array) -> Array:
        held = network.with_frozen_statistics(part_BRD, x_BRD)
        return (unembedding._replace(bias=None).logits(held, reads.columns) * slope).sum()

    direction_BRD = jax.grad(of_part)(x_BRD).astype(jnp.float32)
    always = unembedding.logits(features - network.with_frozen_statistics(x_BRD, x_BRD), reads.columns)
    constant_B = (always * slope).sum(axis=tuple(range(1, slope.ndim)))
    return direction_BRD, {"value": value_B, "constant": constant_B, "bent": value(2 * logits, reads) - 2 * value_B}


def _layer(stack: Stack, direction_BRD: Array, at: tuple[Array, dict[str, Array]]) -> dict[str, Array]:
    """Of one layer: `heads` `[B,N]`, `biases` `[B]`; where there is an MLP `mlps` `[B]`, if asked `sources`."""
    number, seen = at
    block: Any = stack.block(number)

    def of_heads(z_BRNH: Array) -> Array:
        whole_1BRD = block.attention.output(z_BRNH)[None]
        added_NBRD = block.head_contribution(block.attention.per_head_output(z_BRNH), whole_1BRD)
        return jnp.einsum("nbrd,brd->", added_NBRD.astype(jnp.float32), direction_BRD)

    slope_BRNH = jax.grad(of_heads)(seen["z"]).astype(jnp.float32)
    heads_BN = (slope_BRNH * seen["z"].astype(jnp.float32)).sum(axis=(1, 3))
    attention_B = (seen["attn_out"].astype(jnp.float32) * direction_BRD).sum(axis=(1, 2))
    found = {"heads": heads_BN, "biases": attention_B - heads_BN.sum(axis=1)}
    if "mlp_out" in seen:
        found["mlps"] = (seen["mlp_out"].astype(jnp.float32) * direction_BRD).sum(axis=(1, 2))
    if "v" in seen:
        B, R, N, H = slope_BRNH.shape
        slope_BRKGH = slope_BRNH.reshape(B, R, stack.kv_heads, -1, H)
        value_BKGRS = jnp.einsum("bskh,brkgh->bkgrs", seen["v"].astype(jnp.float32), slope_BRKGH)
        value_BNRS = value_BKGRS.reshape(B, N, R, -1) * seen["pattern"].astype(jnp.float32)
        found["sources"] = value_BNRS.sum(axis=2)
    return found
