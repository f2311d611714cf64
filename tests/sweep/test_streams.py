"""Sweeps over encoder–decoders: every stack against whole forward passes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.sites import ATTENTION_SITES

from ..models.huggingface import assert_close
from ..models.specs.spec import small
from . import naive
from .seq2seq import a_batch, judge

FAMILIES = ("t5", "bart")
STACKS = ("encoder", "decoder", "cross")
families, stacks = pytest.mark.parametrize("family", FAMILIES), pytest.mark.parametrize("stack", STACKS)


def patched(model: jh.Model, base: jh.Batch, other: jh.Batch, stack: str, site: str, by: tuple[str, ...]) -> np.ndarray:
    """Effects `[E, *grid]`, one whole run a cell."""
    part, name = model.stack(stack), f"{stack}.{site}"
    side = (part.keys if site in ("k", "v") else part.queries).of(base)
    values = jh.run(model, other, [name]).seen[name]
    heads = 1 if site not in ATTENTION_SITES else part.kv_heads if site in ("k", "v") else part.heads
    sizes = {"layer": part.layers, "head": heads, "position": int(side.lengths.max())}
    before = judge(model, base)
    found = np.full((len(base), *(sizes[axis] for axis in by)), np.nan)
    for cell in np.ndindex(*found.shape[1:]):
        at = dict(zip(by, cell, strict=True))
        here = np.asarray(side.mask) & (np.asarray(side.positions) == at.get("position", np.asarray(side.positions)))
        weight = here[:, :, None].astype(np.float32)
        if site in ATTENTION_SITES:
            chosen = np.arange(heads) == at.get("head", np.arange(heads))
            weight = (here[:, :, None] & chosen)[..., None].astype(np.float32)
        if site in ("scores", "pattern"):
            weight = np.swapaxes(weight, 1, 2)
        value = values[at["layer"]][None]
        edit = jh.SiteEdit(jnp.array([at["layer"]]), jnp.asarray(weight)[None], value, site, stack)
        told = here.any(axis=1)
        found[(told, *cell)] = (judge(model, base, [edit]) - before)[told]
    return found


@families
@stacks
@pytest.mark.parametrize("method", ["zero", "mean"])
def test_ablation_equals_whole_forward_passes(family: str, stack: str, method: str):
    model, batch = small(family).ours, a_batch(family)
    part = model.stack(stack)
    put = (naive.zeros(model, stack) if method == "zero" else naive.means(model, batch, stack=stack)).astype(np.float32)
    before, expected = judge(model, batch), np.empty((len(batch), part.layers, part.heads))
    for layer, head in np.ndindex(part.layers, part.heads):
        edit = jh.replace_heads(model, [(layer, head)], put[layer][None], stack=stack)
        expected[:, layer, head] = judge(model, batch, [edit]) - before
    table = jh.ablate(model, batch, jh.loss(), method, stack=stack)  # type: ignore[arg-type]
    assert table.stack == stack
    assert_close(table.per_example, expected)
    assert np.abs(expected).max() > 1e-2


CASES = [
    ("encoder", "z", ("layer", "head")),
    ("encoder", "resid_pre", ("layer", "position")),
    ("decoder", "z", ("layer", "head", "position")),
    ("decoder", "k", ("layer", "head")),
    ("decoder", "resid_pre", ("layer", "position")),
    ("decoder", "attn_out", ("layer",)),
    ("cross", "z", ("layer", "head", "position")),
    ("cross", "q", ("layer", "head")),
    ("cross", "k", ("layer", "head", "position")),
    ("cross", "v", ("layer", "head")),
    ("cross", "pattern", ("layer", "head")),
    ("cross", "resid_pre", ("layer", "position")),
    ("cross", "mlp_out", ("layer", "position")),
]


@pytest.mark.parametrize(
    ("family", "stack", "site", "by"),
    [(family, *case) for number, case in enumerate(CASES) for family in (FAMILIES[number % 2],)],
)
def test_patching_equals_whole_forward_passes(family: str, stack: str, site: str, by: tuple[str, ...]):
    model, clean, corrupt = small(family).ours, a_batch(family), a_batch(family, seed=1)
    table = jh.patch(model, clean, corrupt, jh.loss(), site=site, by=by, stack=stack)
    expected = patched(model, corrupt, clean, stack, site, by)
    effects = np.asarray(table.per_example)[table.metrics.index("effect")]
    np.testing.assert_array_equal(np.isnan(effects), np.isnan(expected))
    assert_close(np.nan_to_num(effects), np.nan_to_num(expected))
    assert np.nanmax(np.abs(expected)) > 1e-2


def test_where_only_the_targets_differ_positions_before_them_are_not_run():
    model, clean = small("t5").ours, a_batch("t5")
    targets = np.asarray(clean.targets).copy()
    targets[:, 4] = 36 - targets[:, 4] % 30
    corrupt = jh.Batch(clean.tokens, clean.mask, targets=targets, target_mask=clean.target_mask)
    options = {"site": "z", "by": ("layer", "head"), "stack": "cross"}
    plan: Any = jh.plan(jh.patch, model, clean, corrupt, jh.logit_difference(5, 6), **options)
    assert {group.site.first for group in plan.groups} == {4}
    other: Any = jh.plan(jh.patch, model, clean, a_batch("t5", seed=1), jh.logit_difference(5, 6), **options)
    assert {group.site.first for group in other.groups} == {0}
    assert plan.cost().flops < other.cost().flops < other.cost().whole


@families
def test_queries_that_may_not_look_at_the_source(family: str):
    model, batch = small(family).ours, a_batch(family)
    with pytest.raises(ValueError, match="would be left without any key"):  # an example of one token
        jh.knock_out(model, batch, jh.loss(), queries=0, keys=0, stack="cross")
    batch, part = batch.take([0, 1]), model.stack("cross")
    table = jh.knock_out(model, batch, jh.loss(), queries=0, keys=0, stack="cross")
    before, expected = judge(model, batch), np.empty((len(batch), part.layers, part.heads))
    for layer, head in np.ndindex(part.layers, part.heads):
        weight = np.zeros((1, 1, part.heads, part.queries.count(batch), part.keys.count(batch)), np.float32)
        weight[0, 0, head, 0, 0] = 1
        lowest = np.full((1, 1, 1, 1, 1), np.finfo(np.float32).min)
        edit = jh.SiteEdit(jnp.array([layer]), jnp.asarray(weight), jnp.asarray(lowest), "scores", "cross")
        expected[:, layer, head] = judge(model, batch, [edit]) - before
    assert_close(table.per_example, expected)


def losses(output_BUV: jax.Array, batch: jh.Batch) -> jax.Array:
    """The loss of each example, differentiable."""
    assert batch.targets is not None
    assert batch.target_mask is not None
    log_p_BUV = jax.nn.log_softmax(output_BUV[:, :-1])
    nats_BU = -jnp.take_along_axis(log_p_BUV, batch.targets[:, 1:, None], axis=2)[..., 0]
    counted_BU = (batch.target_mask[:, 1:] & batch.target_mask[:, :-1]).astype(nats_BU.dtype)
    return (nats_BU * counted_BU).sum(axis=1) / counted_BU.sum(axis=1)


@families
@stacks
def test_importance_is_the_slope_of_a_gate(family: str, stack: str):
    """The derivative of whole runs by gates, taken by JAX."""
    model, batch = small(family).ours, a_batch(family)
    part = model.stack(stack)

    def gated(gates_LN: jax.Array) -> jax.Array:
        return losses(jh.run(model, batch, edits=jh.gate(model, gates_LN, stack=stack)).output, batch)

    slopes_BLN = jax.jacrev(gated)(jnp.ones((part.layers, part.heads)))
    table = jh.importance(model, batch, jh.loss(), stack=stack)
    assert_close(table.per_example, np.abs(slopes_BLN))
    assert np.abs(slopes_BLN).max() > 1e-2


@families
@stacks
def test_attribution_is_the_slope_of_patching(family: str, stack: str):
    """The derivative of whole runs by how far each head's z has moved to the other run's, taken by JAX."""
    model, clean, corrupt = small(family).ours, a_batch(family), a_batch(family, seed=1)
    part, name = model.stack(stack), f"{stack}.z"
    theirs, mine = (jh.run(model, batch, [name]).seen[name] for batch in (clean, corrupt))
    moved = jnp.where(part.queries.of(corrupt).mask[None, :, :, None, None], theirs - mine, 0.0)

    def patched_by(amounts_LN: jax.Array) -> jax.Array:
        weight = amounts_LN[:, None, None, :, None]
        edit = jh.SiteEdit(jnp.arange(part.layers), weight, moved, "z", stack, "add")
        return losses(jh.run(model, corrupt, edits=edit).output, corrupt)

    slopes_BLN = jax.jacrev(patched_by)(jnp.zeros((part.layers, part.heads)))
    table = jh.attribute(model, clean, corrupt, jh.loss(), "atp", stack=stack)
    assert table.per_example is not None
    assert_close(table.per_example[table.metrics.index("effect")], slopes_BLN)
    assert np.abs(slopes_BLN).max() > 1e-2


@families
def test_measures_know_that_queries_and_keys_differ(family: str):
    model, batch = small(family).ours, a_batch(family)
    table = jh.measure(model, batch, stack="cross")
    assert set(table.metrics) == {"entropy", "confidence", "first_token"}
    seen = np.asarray(jh.run(model, batch, ["cross.pattern"]).seen["cross.pattern"], np.float64)
    rows = np.asarray(batch.target_mask)
    entropy = -(seen * np.log(np.where(seen > 0, seen, 1))).sum(axis=-1)
    expected = np.stack([entropy[:, b][:, :, rows[b]].mean(axis=-1) for b in range(len(batch))])
    assert_close(np.asarray(table.per_example)[0], expected)
    with pytest.raises(ValueError, match=r"previous_token: not defined where, .* targets look at tokens"):
        jh.measure(model, batch, "previous_token", stack="cross")
    assert "induction" in jh.measure(model, batch, stack="encoder").metrics


def test_what_a_model_takes_is_checked_before_it_runs():
    model, batch = small("t5").ours, a_batch("t5")
    with pytest.raises(ValueError, match=r"takes targets, tokens; the batch has tokens"):
        jh.run(model, jh.Batch(batch.tokens))
    with pytest.raises(ValueError, match="in example 0 at position 0 of targets"):
        jh.run(model, jh.Batch(batch.tokens, targets=np.full((3, 2), 37)))
    with pytest.raises(ValueError, match="takes tokens; the batch has targets, tokens"):
        jh.run(small("bert").ours, batch)
    with pytest.raises(ValueError, match="same number of examples"):
        jh.Batch(batch.tokens, targets=np.zeros((2, 2), int))
