"""Patching the slow way: a whole run for each cell, or its derivative forwards by the amount of the patch."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxheads as jh
from jaxheads.models.network import forward
from jaxheads.models.sites import SiteEdit

RIGHT, WRONG = 3, 7
OBJECTIVE = jh.logit_difference(RIGHT, WRONG)
HEADS_ON = {"q": 1, "k": 1, "v": 1, "z": 1, "scores": 0, "pattern": 0}
"""Which axis of a site has its heads, the examples' left out."""


def judge(logits_BTV: Array, batch: jh.Batch) -> Array:
    """OBJECTIVE from whole logits."""
    last_BV = logits_BTV[jnp.arange(len(batch)), batch.last]
    return last_BV[:, RIGHT] - last_BV[:, WRONG]


@partial(jax.jit, static_argnames=("stack", "site", "slope"))
def _numbers(
    network: Any, this: jh.Batch, other: jh.Batch, cells_C: Array, held: Sequence[SiteEdit], **how: Any
) -> Array:
    """What patching each cell does, or how fast that sets out: `[C,E]`."""
    stack, site = how["stack"], how["site"]
    source = forward(network, other, read={stack: lambda seen: seen[site]})[1][stack]

    def run(weight: Array) -> Array:
        edit = SiteEdit(jnp.arange(len(weight)), weight, source, site, stack)
        return judge(network.output(forward(network, this, (edit, *held))[0], this), this)

    def one(cell: Array) -> Array:
        nothing = jnp.zeros_like(cell)
        return jax.jvp(run, (nothing,), (cell,))[1] if how["slope"] else run(cell) - run(nothing)

    return jax.vmap(one)(cells_C)


def effects(model: jh.Model, this: jh.Batch, other: jh.Batch, site: str, by: Sequence[str], **more: Any) -> np.ndarray:
    """What patching each cell of `this` with the values of `other` does, `[E, *by]`; NaN where an example has no such
    position.

    Args:
        more: `held`, edits that are made as well; `slope`, the derivative by the amount of the patch instead.
    """
    cells_C, sizes = _cells(model, this, site, by)
    padded_C = np.concatenate([cells_C, np.zeros((-len(cells_C) % 40, *cells_C.shape[1:]), np.float32)])
    how = {"stack": model.stack().name, "site": site, "slope": more.get("slope", False)}
    found_CE = _numbers(model.network, this, other, padded_C, tuple(more.get("held", ())), **how)
    found, lengths = np.array(found_CE)[: len(cells_C)].T.reshape(len(this), *sizes), np.asarray(this.lengths)
    if "position" in by:
        absent = np.arange(max(lengths))[None] >= lengths[:, None]
        np.moveaxis(found, 1 + list(by).index("position"), 1)[absent] = np.nan
    return found


def slopes(model: jh.Model, this: jh.Batch, other: jh.Batch, site: str, by: Sequence[str], **more: Any) -> np.ndarray:
    """How fast these effects set out."""
    return effects(model, this, other, site, by, slope=True, **more)


def _cells(model: jh.Model, this: jh.Batch, site: str, by: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """The amounts of each cell, and the grid's shape."""
    stack = model.stack()
    axes = stack.site_shape(site, *this.tokens.shape)[:-1]
    sizes = {"layer": stack.layers, "position": int(np.asarray(this.lengths).max())}
    if site in HEADS_ON:
        sizes["head"] = axes[1 + HEADS_ON[site]]
    shape = [sizes[axis] for axis in by]
    cells = np.zeros((*shape, stack.layers, *axes, 1), np.float32)
    for place in np.ndindex(*shape):
        which = dict(zip(by, place, strict=True))
        cells[(*place, which["layer"])] = _cell(this, site, axes, which)[..., None]
    return cells.reshape(-1, *cells.shape[len(shape) :]), shape


def _cell(this: jh.Batch, site: str, axes: tuple[int, ...], which: Mapping[str, int]) -> np.ndarray:
    """1 where the cell is in one layer: the site's axes but for the last."""
    cell = np.zeros(axes, np.float32)
    heads_on = HEADS_ON.get(site)
    for example, real in enumerate(np.asarray(this.mask)):
        columns = np.flatnonzero(real)
        if "position" in which:
            columns = columns[which["position"] : which["position"] + 1]
        chosen = np.zeros(axes[1:], bool)
        chosen[(slice(None), columns) if heads_on == 0 else columns] = True
        if "head" in which and heads_on is not None:
            others = np.arange(axes[1 + heads_on]) != which["head"]
            np.moveaxis(chosen, heads_on, 0)[others] = False
        cell[example] = chosen
    return cell
