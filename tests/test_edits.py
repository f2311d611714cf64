"""What an edit does, and what it leaves alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models import model as model_module

from .models.huggingface import SMALL, assert_close, random_batch, small_model

SITES = (
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "z",
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
)
HEADLESS = SITES[6:]
HEADS = [(layer, head) for layer in range(2) for head in range(4)]
BATCH = random_batch((5, 3))
REAL = np.asarray(BATCH.mask)


@pytest.fixture(scope="module", params=SMALL)
def model(request: pytest.FixtureRequest) -> jh.Model:
    return small_model(request.param)


@pytest.fixture(scope="module")
def plain(model: jh.Model) -> jh.Run:
    return jh.run(model, BATCH, SITES)


def same(one: Any, other: Any) -> bool:
    """Bit for bit (but for the sign of zero)."""
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ) and jax.tree.structure(one) == jax.tree.structure(other)


def noise(like: jax.Array, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), like.shape)


# Between two compilations XLA may fuse, and so round, differently. Bitwise laws compare runs of one
# compilation: edits of the same structure, some of them at amount 0.


@pytest.mark.parametrize("operation", ["mix", "add"])
def test_an_edit_is_exact_at_both_ends_and_in_the_layers_it_does_not_name(operation: Any):
    x, source = (100 * jax.random.normal(jax.random.key(seed), (3, 5)) for seed in (1, 2))

    def applied(amount: float, layer: int) -> jax.Array:
        weight = jnp.full((2, 1, 1), amount)
        edit = jh.SiteEdit(jnp.array([3, 1]), weight, jnp.stack([-source, source]), "z", "decoder", operation)
        return jax.jit(edit.apply)(x, jnp.int32(layer))

    assert same(applied(0.0, 1), x)
    assert same(applied(1.0, 1), source if operation == "mix" else x + source)
    assert same(applied(1.0, 3), -source if operation == "mix" else x - source)
    assert same(applied(1.0, 0), x)


def test_no_edit_has_any_effect_at_weight_0(model: jh.Model, plain: jh.Run):
    def idle(seed: int) -> jh.Run:
        given = [(build, site) for build in (jh.mix, jh.steer) for site in SITES]
        return jh.run(
            model,
            BATCH,
            SITES,
            [build(model, s, noise(plain.seen[s], seed), layers=[0, 1], amount=0.0) for build, s in given],
        )

    assert same(idle(0), idle(1))
    assert_close(idle(0).output, plain.output)


def test_a_run_patched_or_frozen_with_its_own_values_does_not_change(model: jh.Model, plain: jh.Run):
    z = noise(plain.seen["z"])
    run = jh.run(model, BATCH, SITES, jh.replace_heads(model, HEADS, z, amount=0.0))
    assert same(jh.run(model, BATCH, SITES, jh.patch_heads(model, HEADS, run.seen)), run)
    sites = [site for site in SITES if site != "scores"]
    idle = [jh.mix(model, site, noise(plain.seen[site]), layers=[0, 1], amount=0.0) for site in sites]
    run = jh.run(model, BATCH, SITES, idle)
    assert same(jh.run(model, BATCH, SITES, [jh.freeze(model, site, run.seen[site]) for site in sites]), run)


def test_patching_carries_exactly_the_chosen_heads(model: jh.Model, plain: jh.Run):
    other = jh.run(model, random_batch((5, 3), seed=1), SITES).seen
    z = jh.run(model, BATCH, SITES, jh.patch_heads(model, [(0, 1), (0, 3)], other)).seen["z"]
    assert same(z[0, :, :, [1, 3]], other["z"][0, :, :, [1, 3]])
    assert_close(z[0, :, :, [0, 2]], plain.seen["z"][0, :, :, [0, 2]])
    assert not np.allclose(z[1], plain.seen["z"][1])


def test_vmap_over_edits_is_the_loop(model: jh.Model):
    edits = [jh.zero_heads(model, [pair]) for pair in HEADS]
    looped = jnp.stack([jh.run(model, BATCH, edits=edit).output for edit in edits])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *edits)
    assert_close(jax.vmap(lambda edit: jh.run(model, BATCH, edits=edit).output)(stacked), looped)
    assert len(np.unique(np.asarray(looped)[:, 0, 1, 0])) == len(HEADS)


def traces() -> int:
    run: Any = model_module._run
    return run.cache_size()


def test_a_sweep_traces_once(model: jh.Model):
    jh.run(model, BATCH, edits=jh.zero_heads(model, [(0, 0)]))
    before = traces()
    for pair in HEADS:
        jh.run(model, BATCH, edits=jh.zero_heads(model, [pair], amount=0.5))
    assert traces() == before


def test_the_gradient_by_an_amount_is_the_finite_difference(model: jh.Model):
    weight = noise(jnp.zeros((2, 5, 37)), seed=3)

    def objective(amount: jax.Array) -> jax.Array:
        return (jh.run(model, BATCH, edits=jh.zero_heads(model, [(0, 1)], amount=amount)).output * weight).sum()

    step = 2e-3
    difference = (objective(jnp.float32(0.4 + step)) - objective(jnp.float32(0.4 - step))) / (2 * step)
    gradient = jax.grad(objective)(jnp.float32(0.4))
    assert abs(gradient) > 0.1
    np.testing.assert_allclose(gradient, difference, rtol=1e-2)


def test_a_zeroed_head_is_its_rows_of_W_O_at_zero_and_no_slice_of_the_output(model: jh.Model, plain: jh.Run):
    ours = jh.run(model, BATCH, SITES, jh.zero_heads(model, [(1, 2)])).seen["attn_out"][1]
    weights = model.stack().weights
    z, bias = plain.seen["z"][1], 0 if weights.b_O is None else weights.b_O[1][None, None]
    kept = jnp.einsum("btnh,nhd->btd", z, weights.W_O[1].at[2].set(0)) + bias
    assert_close(ours, kept)
    size = model.stack().head_size
    sliced = plain.seen["attn_out"][1].at[..., 2 * size : 3 * size].set(0)
    assert np.abs(ours - sliced)[REAL].max() > 0.1


def test_steering_adds_to_the_stream(model: jh.Model, plain: jh.Run):
    vector = noise(jnp.zeros((1, 1, 24)))
    seen = jh.run(model, BATCH, SITES, jh.steer(model, "resid_mid", vector, layers=1, amount=0.5)).seen
    assert_close(seen["resid_mid"][1], plain.seen["resid_mid"][1] + 0.5 * vector)
    assert_close(seen["resid_mid"][0], plain.seen["resid_mid"][0])


def test_edits_are_applied_in_order(model: jh.Model, plain: jh.Run):
    one = jh.steer(model, "z", jnp.ones((1, 1, 1, 1)), layers=0)
    zero = jh.zero_heads(model, [(0, head) for head in range(4)])
    assert same(jh.run(model, BATCH, SITES, [zero, one]).seen["z"][0], jnp.ones_like(plain.seen["z"][0]))
    assert same(jh.run(model, BATCH, SITES, [one, zero]).seen["z"][0], jnp.zeros_like(plain.seen["z"][0]))


def test_gates_of_one_leave_and_of_zero_remove(model: jh.Model, plain: jh.Run):
    assert_close(jh.run(model, BATCH, SITES, jh.gate(model, jnp.ones((2, 4)))).output, plain.output)
    gates = jnp.ones((2, 4)).at[1, 2].set(0).at[0, 3].set(0)
    gated = jh.run(model, BATCH, SITES, jh.gate(model, gates)).output
    assert same(gated, jh.run(model, BATCH, SITES, jh.zero_heads(model, [(1, 2), (0, 3)])).output)
    slope = jax.grad(lambda g: jh.run(model, BATCH, edits=jh.gate(model, g)).output[0, 2, 5])(jnp.ones((2, 4)))
    assert (np.abs(slope) > 0).all()


def test_a_frozen_pattern_stays_where_it_was_while_the_rest_moves(model: jh.Model, plain: jh.Run):
    zero = jh.zero_heads(model, [(0, 1)])
    moved = jh.run(model, BATCH, SITES, zero).seen
    frozen = jh.run(model, BATCH, SITES, [zero, jh.freeze(model, "pattern", plain.seen["pattern"])]).seen
    assert np.abs(moved["pattern"][1] - plain.seen["pattern"][1]).max() > 1e-3
    assert same(frozen["pattern"], plain.seen["pattern"])
    assert np.abs(frozen["z"][1] - plain.seen["z"][1]).max() > 1e-3


@pytest.mark.parametrize("site", SITES)
def test_an_edit_hits_only_what_it_names(model: jh.Model, plain: jh.Run, site: str):
    """One example, one position, and one head where the site has heads; nothing else at that site."""
    edits, idle = [], []
    for each in SITES:  # those of the other sites at amount 0: one compilation serves all
        head = {} if each in HEADLESS else {"heads": 1}
        where = {"layers": 1, "positions": 2, "examples": 0, "batch": BATCH, **head}
        source = jnp.full((1,) * (plain.seen[each].ndim - 1), 3.0)
        edits.append(jh.mix(model, each, source, amount=float(each == site), **where))
        idle.append(jh.mix(model, each, source, amount=0.0, **where))
    now, then = (np.asarray(jh.run(model, BATCH, SITES, given).seen[site]) for given in (edits, idle))
    assert np.array_equal(now[0], then[0])
    changed = now[1] != then[1]
    hit = np.zeros_like(changed)
    if site in ("scores", "pattern"):
        hit[0, 1, 2] = changed[0, 1, 2]  # masked entries of the scores stay masked
        assert changed[0, 1, 2, :3].all()
    else:
        hit[(0, 2) if site in HEADLESS else (0, 2, 1)] = True
    assert np.array_equal(changed, hit)


def edits_of_keys_and_values(model: jh.Model, site: str) -> list[jh.SiteEdit]:
    zero = jnp.zeros((1, 1, 1, 1))
    return [jh.mix(model, each, zero, layers=1, heads=1, amount=float(each == site)) for each in ("k", "v")]


def test_key_and_value_heads_are_the_few_of_a_grouped_query_model():
    model = small_model("llama")
    plain = jh.run(model, BATCH, SITES, edits_of_keys_and_values(model, ""))
    for site in ("k", "v"):
        seen = jh.run(model, BATCH, SITES, edits_of_keys_and_values(model, site)).seen
        assert not seen[site][1][:, :, 1].any()
        changed = np.abs(seen["z"][1] - plain.seen["z"][1])[REAL].max(axis=(0, 2))
        assert (changed[2:] > 1e-3).all()
        assert not changed[:2].any()
        with pytest.raises(ValueError, match=r"heads are 0\.\.1; an edit at \[2\] hits nothing"):
            jh.mix(model, site, jnp.zeros((1, 1, 1, 1)), layers=1, heads=2)


ONE = jnp.zeros((1, 1, 1))
Z = jnp.zeros((1, 1, 1, 1))
FLOATS: Any = [(0.0, 1.0)]
TRIPLES: Any = [(0, 1, 2)]
NOTHING = [
    (
        "layer",
        lambda m: jh.zero_heads(m, [(2, 0)]),
        r"head \(2, 0\) hits nothing.*layers 0\.\.1 and heads 0\.\.3",
    ),
    ("head", lambda m: jh.zero_heads(m, [(0, 0), (1, 4)]), r"head \(1, 4\) hits nothing"),
    ("negative", lambda m: jh.zero_heads(m, [(0, -1)]), r"head \(0, -1\) hits nothing"),
    ("no-heads", lambda m: jh.zero_heads(m, []), "at least one \\(layer, head\\) pair"),
    ("floats", lambda m: jh.zero_heads(m, FLOATS), "must be a whole number, got 0.0"),
    ("triples", lambda m: jh.zero_heads(m, TRIPLES), "must be a \\(layer, head\\) pair"),
    ("stack", lambda m: jh.zero_heads(m, [(0, 0)], stack="vision"), "has the stacks .*coder; got 'vision'"),
    ("prefix", lambda m: jh.mix(m, "cross.z", Z, layers=0), "has the stacks .*coder; got 'cross'"),
    ("site", lambda m: jh.mix(m, "zz", Z, layers=0), "has the sites resid_pre, q, .*got 'zz'"),
    ("mix-layer", lambda m: jh.mix(m, "z", Z, layers=2), r"layers are 0\.\.1; an edit at \[2\] hits nothing"),
    ("no-layers", lambda m: jh.mix(m, "z", Z, layers=[]), "layers must be at least one whole number"),
    (
        "freeze-no-layers",
        lambda m: jh.freeze(m, "z", jnp.zeros((2, 1, 1, 1, 1)), layers=[]),
        "at least one whole",
    ),
    ("freeze-layer", lambda m: jh.freeze(m, "z", jnp.zeros((2, 1, 1, 1, 1)), layers=[2]), "hits nothing"),
    ("freeze-short", lambda m: jh.freeze(m, "z", jnp.zeros((1, 1, 1, 1, 1))), "leading axis of all 2 layers"),
    ("twice", lambda m: jh.mix(m, "z", jnp.zeros((2, 1, 1, 1, 1)), layers=[1, 1]), "each be named once"),
    ("mix-head", lambda m: jh.mix(m, "z", Z, layers=0, heads=4), r"heads are 0\.\.3; an edit at \[4\]"),
    ("no-mix-heads", lambda m: jh.steer(m, "z", Z, layers=0, heads=[]), "heads must be at least one"),
    ("headless", lambda m: jh.mix(m, "mlp_out", ONE, layers=0, heads=1), "mlp_out has no heads"),
    (
        "padding",
        lambda m: jh.mix(m, "z", Z, layers=0, positions=[3, 4], examples=1, batch=BATCH),
        "padding in every",
    ),
    ("position", lambda m: jh.mix(m, "z", Z, layers=0, positions=5, batch=BATCH), r"positions are 0\.\.4"),
    ("example", lambda m: jh.mix(m, "z", Z, layers=0, examples=2, batch=BATCH), r"examples are 0\.\.1"),
    ("no-batch", lambda m: jh.mix(m, "z", Z, layers=0, positions=1), "give it as batch="),
    ("rank", lambda m: jh.mix(m, "z", ONE, layers=0), r"needs 4 axes.*got shape \(1, 1, 1\)"),
    ("layer-axis", lambda m: jh.mix(m, "z", Z, layers=[0, 1]), "after one of 2 layers"),
    ("nan", lambda m: jh.mix(m, "z", Z * jnp.nan, layers=0), "source must be finite"),
    ("inf", lambda m: jh.steer(m, "resid_pre", ONE + jnp.inf, layers=0), "source must be finite"),
    ("nan-heads", lambda m: jh.replace_heads(m, [(0, 0)], Z[None] * jnp.nan), "values must be finite"),
    ("no-z", lambda m: jh.patch_heads(m, [(0, 0)], {"pattern": Z}), r"capture='z'; it has \['pattern'\]"),
    ("gates", lambda m: jh.gate(m, jnp.ones((4, 2))), r"\[layers, heads\] = \(2, 4\), got \(4, 2\)"),
]


@pytest.mark.parametrize(("build", "message"), [(b, m) for _, b, m in NOTHING], ids=[name for name, *_ in NOTHING])
def test_an_edit_that_can_hit_nothing_is_refused_when_it_is_made(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build(small_model("llama"))


def handmade(layers: list[int], shape: tuple[int, ...], site: str = "z") -> jh.SiteEdit:
    return jh.SiteEdit(jnp.array(layers, int), jnp.ones((len(layers), 1, 1, 1, 1)), jnp.zeros(shape), site, "decoder")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: handmade([2], (1, 1, 1, 1, 1)), r"layers \[2\] hits nothing: layers are 0\.\.1"),
        (lambda m: handmade([], (0, 1, 1, 1, 1)), r"layers \[\] hits nothing"),
        (lambda m: handmade([0], (1, 1, 1, 1, 1), "zz"), "at 'zz' hits nothing"),
        (
            lambda m: handmade([0], (1, 3, 1, 1, 1)),
            r"source of an edit at z must broadcast to \(1, 2, 5, 4, 6\)",
        ),
        (lambda m: handmade([0], (1, 1, 1, 1)), "source of an edit at z must broadcast"),
        (lambda m: jh.mix(m, "z", jnp.zeros((1, 4, 1, 1)), layers=0), "must broadcast"),
        (lambda m: jh.replace_heads(m, [(0, 0)], jnp.zeros((2, 1, 1, 1, 1))), "must broadcast"),
        (lambda m: jh.mix(m, "k", jnp.zeros((1, 1, 4, 1)), layers=0), r"must broadcast to \(1, 2, 5, 2, 6\)"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_when_it_is_run(edit: Any, message: str):
    model = small_model("llama")
    with pytest.raises(ValueError, match=message):
        jh.run(model, BATCH, edits=edit(model))
