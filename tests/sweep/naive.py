"""Ablation the slow way: one whole forward pass a head, stand-ins and objectives in NumPy from whole outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxheads as jh

HEAD_AXIS = ("q", "k", "v", "scores", "pattern", "z")

Judge = Callable[[np.ndarray, jh.Batch], np.ndarray]
"""From logits `[B,T,V]` to the objective, `[B]`."""


@dataclass(frozen=True)
class Question:
    """An objective, and the same by hand."""

    objective: Any
    judge: Judge


def loss() -> Question:
    def judge(logits_BTV: np.ndarray, batch: jh.Batch) -> np.ndarray:
        highest = logits_BTV.max(axis=-1, keepdims=True)
        log_p_BTV = logits_BTV - highest - np.log(np.exp(logits_BTV - highest).sum(axis=-1, keepdims=True))
        tokens, mask = np.asarray(batch.tokens), np.asarray(batch.mask)
        nats = -np.take_along_axis(log_p_BTV[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
        counted = mask[:, 1:] & mask[:, :-1]
        return (nats * counted).sum(axis=1) / counted.sum(axis=1)

    return Question(jh.loss(), judge)


def logit_difference(right: np.ndarray, wrong: np.ndarray, rows: np.ndarray) -> Question:
    def judge(logits_BTV: np.ndarray, batch: jh.Batch) -> np.ndarray:
        each = np.arange(len(batch))
        return logits_BTV[each, rows, right] - logits_BTV[each, rows, wrong]

    return Question(jh.logit_difference(right, wrong, rows), judge)


def class_difference(right: np.ndarray, wrong: np.ndarray) -> Question:
    """Of a classifier, whose logits are `[B,classes]`."""

    def judge(logits_BC: np.ndarray, batch: jh.Batch) -> np.ndarray:
        each = np.arange(len(batch))
        return logits_BC[each, right] - logits_BC[each, wrong]

    return Question(jh.logit_difference(right, wrong), judge)


def effects(model: jh.Model, batch: jh.Batch, judge: Judge, sources: Sequence[np.ndarray]) -> np.ndarray:
    """Effects `[E,L,N]`, averaged over `sources`: replacements for every head's output, `[L,B|1,T|1,N,H]` each."""
    stack = model.stack()
    before = judge(np.asarray(jh.run(model, batch).output, np.float64), batch)
    found = np.zeros((len(batch), stack.layers, stack.heads))
    for values in sources:
        for layer in range(stack.layers):
            for head in range(stack.heads):
                edit = jh.replace_heads(model, [(layer, head)], values[layer][None].astype(np.float32))
                logits = np.asarray(jh.run(model, batch, edits=edit).output, np.float64)
                found[:, layer, head] += (judge(logits, batch) - before) / len(sources)
    return found


def patched(model: jh.Model, base: jh.Batch, other: jh.Batch, judge: Judge, site: str, by: Sequence[str]) -> np.ndarray:
    """Effects `[E, *grid]` of giving the base run the other run's values, cell by cell; NaN where there is no such
    position."""
    stack = model.stack()
    side = stack.queries.of(base)
    values, real, places = jh.run(model, other, capture=site).seen[site], np.asarray(side.mask), side.positions
    heads = 1 if site not in HEAD_AXIS else stack.kv_heads if site in ("k", "v") else stack.heads
    sizes = {"layer": stack.layers, "head": heads, "position": int(np.asarray(side.lengths).max())}
    sizes["kv_head"] = stack.kv_heads
    before = judge(np.asarray(jh.run(model, base).output, np.float64), base)
    found = np.full((len(base), *(sizes[axis] for axis in by)), np.nan)
    for cell in np.ndindex(*found.shape[1:]):
        at = dict(zip(by, cell, strict=True))
        here = real & (np.asarray(places) == at["position"]) if "position" in at else np.ones_like(real)
        chosen = np.arange(heads) == at["head"] if "head" in at else np.ones(heads, bool)
        if "kv_head" in at:
            chosen = np.arange(heads) // (heads // stack.kv_heads) == at["kv_head"]
        weight = site_mask(site, here, chosen)[None].astype(np.float32)
        layer = at["layer"]
        edit = jh.SiteEdit(jnp.array([layer]), jnp.asarray(weight), values[layer][None], site, stack.name)
        after = judge(np.asarray(jh.run(model, base, edits=edit).output, np.float64), base)
        told = (real & here).any(axis=1)
        found[(told, *cell)] = (after - before)[told]
    return found


def site_mask(site: str, here_BT: np.ndarray, heads_N: np.ndarray) -> np.ndarray:
    """Positions and heads, with the site's axes."""
    if site in ("scores", "pattern"):
        return here_BT[:, None, :, None] & heads_N[None, :, None, None]
    if site in HEAD_AXIS:
        return here_BT[:, :, None, None] & heads_N[None, None, :, None]
    return here_BT[:, :, None] & heads_N


def all_z(model: jh.Model, batch: jh.Batch) -> np.ndarray:
    """Every head's output, `[L,B,T,N,H]`."""
    return np.asarray(jh.run(model, batch, capture="z").seen["z"], np.float64)


def zeros(model: jh.Model, stack: str | None = None) -> np.ndarray:
    part = model.stack(stack)
    return np.zeros((part.layers, 1, 1, part.heads, part.head_size))


def means(
    model: jh.Model,
    batch: jh.Batch,
    reference: jh.Batch | None = None,
    *,
    layout: str = "first position apart",
    groups: Any = None,
    theirs: Any = None,
    stack: str | None = None,
) -> np.ndarray:
    """Means for each position of the batch, `[L,B,T,N,H]`; zero at padding. Without a reference, over other examples.

    Args:
        layout: "by position", "first position apart" or "pooled", as the provenance has it.
    """
    own, reference = reference is None, batch if reference is None else reference
    part = model.stack(stack)
    z = np.asarray(jh.run(model, reference, [f"{part.name}.z"]).seen[f"{part.name}.z"], np.float64)
    return grouped_means(z, part.queries.of(batch), part.queries.of(reference), layout, own, groups, theirs)


def grouped_means(
    values: np.ndarray, side: Any, theirs_side: Any, layout: str, own: bool, groups: Any = None, theirs: Any = None
) -> np.ndarray:
    """Means of the reference's `[L,R,S,...]` for each position of the batch, `[L,B,T,...]`."""
    mask, place = np.asarray(side.mask), np.asarray(side.positions)
    given, given_place = np.asarray(theirs_side.mask), np.asarray(theirs_side.positions)
    groups = np.zeros(len(mask)) if groups is None else np.asarray(groups)
    theirs = np.zeros(len(given)) if theirs is None else np.asarray(theirs)
    out = np.zeros((len(values), *mask.shape, *values.shape[3:]))
    for b, t in np.argwhere(mask):
        same = given & (theirs == groups[b])[:, None]
        if layout == "by position":
            same = same & (given_place == place[b, t])
        if layout == "first position apart":
            same = same & ((given_place == 0) == (place[b, t] == 0))
        if own:
            same[b] = False
        out[:, b, t] = values[:, same].mean(axis=1)
    return out


def from_donors(model: jh.Model, batch: jh.Batch, reference: jh.Batch, donors: np.ndarray) -> np.ndarray:
    """The output of one donor for each example, at the same place among its real tokens; zero at padding."""
    z, mask = all_z(model, reference), np.asarray(batch.mask)
    out = np.zeros((z.shape[0], *mask.shape, *z.shape[3:]))
    for b, donor in enumerate(donors):
        real = np.flatnonzero(mask[b])
        out[:, b, real] = z[:, donor, np.flatnonzero(np.asarray(reference.mask)[donor])[: len(real)]]
    return out


def changed(model: jh.Model, change: Callable[[str, jax.Array], Any]) -> jh.Model:
    """The model with every weight put through `change(path, weight)`; the path reads "decoder.blocks.mlp.up.kernel"."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(model.network)
    new = [change(".".join(_names(path)), weight) for path, weight in leaves]
    return replace(model, network=jax.tree.unflatten(structure, new))


def _names(path: tuple[Any, ...]) -> list[str]:
    words = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
    return [word for word in words if word not in ("", "value")]
