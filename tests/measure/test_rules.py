"""Each rule by itself against its formula, and relevance kept from layer to layer in networks of every kind."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.measure.relevance.backward_pass import EntryMix, Watch, _run, backward, entries
from jaxheads.measure.relevance.rules import (
    ATTNLRP,
    CHEFER,
    CPLRP,
    HALVES,
    RuledNorm,
    Rules,
    alpha_beta_rule,
    epsilon_rule,
    identity_rule,
    ruled_affine,
    uniform_rule,
    with_rules,
)
from jaxheads.models.layers import OffsetRMSNorm, UnitNorm, layer_norm, rms_norm

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

OBJECTIVE = jh.logit_difference(1, 2)


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def relevance_in(function: Any, x: jax.Array, out: jax.Array) -> jax.Array:
    """Return the input's relevance from the output's."""
    y, pull_back = jax.vjp(function, x)
    return x * pull_back(out / y)[0]


def test_epsilon_rule():
    x, weight, bias, out, epsilon = drawn(5), drawn(5, 3, seed=1), drawn(3, seed=2), drawn(3, seed=3), 0.1
    z = x @ weight + bias
    expected = (x[:, None] * weight * (out / (z + epsilon * jnp.sign(z)))[None]).sum(axis=1)
    rules = Rules(epsilon=epsilon)
    found = relevance_in(partial(ruled_affine, rules, "d,dh->h", weight=weight, bias=bias), x, out)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(epsilon_rule(epsilon, z), z)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("bias", [None, drawn(3, seed=2)])
def test_alpha_beta_rule(alpha: float, bias: jax.Array | None):
    x, weight, out = drawn(5), drawn(5, 3, seed=1), drawn(3, seed=3)
    terms = np.asarray(x[:, None] * weight)
    positive, negative = np.maximum(terms, 0), np.minimum(terms, 0)
    shares = alpha * positive / positive.sum(axis=0) + (1 - alpha) * negative / negative.sum(axis=0)
    found = relevance_in(partial(alpha_beta_rule, alpha, "d,dh->h", weight=weight, bias=bias), x, out)
    np.testing.assert_allclose(found, shares @ np.asarray(out), rtol=1e-4)
    np.testing.assert_allclose(found.sum(), out.sum(), rtol=1e-4)


def test_a_product_gives_each_operand_half():
    a, b, out = drawn(4, 5), drawn(5, 3, seed=1), drawn(4, 3, seed=2)
    y, pull_back = jax.vjp(lambda a, b: uniform_rule(a) @ uniform_rule(b), a, b)
    for x, cotangent in zip((a, b), pull_back(out / y), strict=True):
        np.testing.assert_allclose((x * cotangent).sum(), out.sum() / 2, rtol=1e-4)


def test_softmax_is_input_times_gradient():
    """R_i = x_i (R_i − s_i Σ R): Proposition 3.1 of Achtibat et al."""
    x, out = drawn(6), drawn(6, seed=1)
    s = jax.nn.softmax(x)
    np.testing.assert_allclose(relevance_in(jax.nn.softmax, x, out), x * (out - s * out.sum()), rtol=0, atol=1e-5)


def test_identity_rule_passes_relevance_elementwise():
    x, out = drawn(6), drawn(6, seed=1)
    found = relevance_in(lambda x: identity_rule(x, jax.nn.silu(jax.lax.stop_gradient(x))), x, out)
    np.testing.assert_allclose(found, out, rtol=1e-5)
    at_zero = jax.grad(lambda x: identity_rule(x, jnp.zeros_like(x)).sum())(jnp.zeros(3))
    np.testing.assert_array_equal(at_zero, np.zeros(3))


@pytest.mark.parametrize(
    "norm",
    [
        layer_norm(6, 0.1, nnx.Rngs(0)),
        layer_norm(6, 0.1, nnx.Rngs(0), bias=False),
        rms_norm(6, 0.1, nnx.Rngs(0)),
        OffsetRMSNorm(6, 0.1),
        UnitNorm(),
    ],
)
def test_norms(norm: Any):
    """Linear: the input's relevance is the output's less the bias's share. Identity: elementwise. No value changes."""
    norm = jax.tree.map(lambda weight: weight + drawn(*weight.shape), norm)
    x = drawn(2, 3, 6, seed=1) + 0.5
    y = norm(x)
    out = y * drawn(2, 3, 6, seed=2)
    bias = getattr(norm, "bias", None)
    kept = out if bias is None else out * (y - bias[...].reshape(1, 1, -1)) / y
    assert_close(RuledNorm(norm, "linear")(x), y)
    assert_close(relevance_in(RuledNorm(norm, "linear"), x, out).sum(axis=-1), kept.sum(axis=-1))
    assert_close(RuledNorm(norm, "identity")(x), y)
    assert_close(relevance_in(RuledNorm(norm, "identity"), x, out), out)


def total(value: jax.Array, slope: jax.Array) -> jax.Array:
    """Return a site's relevance, summed over each example."""
    return (value * slope).reshape(len(value), -1).sum(axis=1)


def asked(family: str) -> tuple[jh.Model, jh.Batch]:
    both, spec = small(family), SPECS[family]
    model, batch = both.ours, spec.batch(both.theirs)
    if family == "clip":
        texts, images = jh.Batch(batch.tokens, batch.mask), jh.Batch(pixels=batch.pixels)
        return jh.zero_shot(model, texts), images
    return model, batch


def is_bias(path: Any) -> bool:
    name = jax.tree_util.keystr(path)
    return "bias" in name.lower().rsplit("['", 1)[-1] or ".b_" in name or "logits_bias" in name


def biases(network: Any) -> list[Any]:
    leaves = jax.tree_util.tree_leaves_with_path(network)
    return [leaf for path, leaf in leaves if is_bias(path)]


def with_biases(network: Any, values: list[Any]) -> Any:
    replacements = iter(values)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: next(replacements) if is_bias(path) else leaf, network)


SITES = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_post")


@pytest.mark.parametrize(
    ("family", "rules"),
    [
        (family, ATTNLRP)
        for family in ("gpt2", "llama", "gpt_neox", "gemma2", "modernbert", "dinov2", "olmo", "olmo2", "stablelm")
    ]
    + [("llama", CPLRP), ("bert", CPLRP), ("gpt2", HALVES)],
)
def test_each_layer_conserves_relevance(family: str, rules: Rules):
    """Without biases R(after) = R(before) + the relevance that the softmax does not pass to queries and keys."""
    model, batch = asked(family)
    network = with_biases(model.network, [jnp.zeros_like(bias) for bias in biases(model.network)])
    [stack] = network.streams
    reads = OBJECTIVE.reads(model, batch)
    watch = tuple(Watch(stack.name, site, total) for site in SITES)
    found = backward(network, batch, reads, {}, value=OBJECTIVE.value, rules=rules, watch=watch)
    at = dict(zip(SITES, found.read, strict=True))
    lost = 0 if rules is CPLRP else at["pattern"] - at["q"] - at["k"]
    assert_close(at["resid_post"], at["resid_pre"] + lost)
    assert_close(at["z"], at["v"] + (0 if rules is CPLRP else at["pattern"]))
    if rules is not CPLRP:
        assert_close(at["v"], at["z"] / 2)
        assert_close(at["q"], at["k"])
    assert_close(at["resid_post"][:-1], at["resid_pre"][1:])
    assert_close(at["resid_post"][-1], found.value)
    entry = (found.entry[stack.name] * found.gradient[stack.name]).sum(axis=(1, 2))
    assert_close(at["resid_pre"][0], entry)
    assert np.abs(found.value).max() > 1e-3


@pytest.mark.parametrize("family", ["gemma2", "albert", "t5", "clip"])
def test_positions_and_biases_share_the_answer(family: str):
    """CP-LRP is linear in the entries and in the biases: their relevance sums to the answer."""
    model, batch = asked(family)
    reads, network = OBJECTIVE.reads(model, batch), model.network
    start = entries(network, batch)
    mixes = {name: EntryMix(x, jnp.ones(x.shape[:2])) for name, x in start.items()}

    @jax.jit
    def answers(values: list[Any], added: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ruled = with_biases(network, values)
        value, _ = _run(ruled, batch, reads, mixes, OBJECTIVE.value, CPLRP, (), (), added)
        return value.sum(), value

    leaves = biases(network)
    zeros = jax.tree.map(jnp.zeros_like, start)
    (by_bias, by_entry), value = jax.jit(jax.grad(answers, argnums=(0, 1), has_aux=True))(leaves, zeros)
    from_positions = sum(float((start[name] * by_entry[name]).sum()) for name in start)
    from_biases = sum(float((bias * gradient).sum()) for bias, gradient in zip(leaves, by_bias, strict=True))
    assert from_positions + from_biases == pytest.approx(float(value.sum()), abs=2e-5)
    output = np.asarray(jh.run(model, batch).output)
    if output.ndim == 3:
        output = output[np.arange(len(output)), np.asarray(network.readout_positions(batch))]
    assert_close(value, output[:, 1] - output[:, 2])


def test_rules_change_no_value_and_leave_the_network_alone():
    model, batch = asked("llama")
    before = jax.tree.structure(model.network)
    expected = jh.run(model, batch).output
    for rules in (ATTNLRP, CHEFER, HALVES, Rules(epsilon=0.1, norm="identity")):
        ruled = with_rules(model.network, rules)
        found = jh.Model(ruled)
        assert_close(jh.run(found, batch).output, expected)
    assert jax.tree.structure(model.network) == before


def test_rules_out_of_range_are_refused():
    with pytest.raises(ValueError, match="epsilon and alpha must be 0 or more"):
        Rules(epsilon=-1)
