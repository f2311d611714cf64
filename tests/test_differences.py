"""Functions computed as differences from an unedited run: equal to the functions themselves, and what it saves."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxheads as jh
from jaxheads import precision
from jaxheads.differences import DifferenceProduct, Pair, of_edited, of_unedited, paired
from jaxheads.emulation import RoundedProduct, with_product
from jaxheads.precision import available, products
from jaxheads.programs import compiled

from .models.huggingface import random_batch, small_model

D = 6
W: Any = np.random.default_rng(0).normal(size=(3, D, D)).astype(np.float32)
KERNEL: Any = np.random.default_rng(1).normal(size=(3, D, D)).astype(np.float32)


class ExactProduct:
    """The product of both sides, each in float32."""

    everywhere = False

    @property
    def in_loops(self) -> "ExactProduct":
        return self

    def __call__(self, multiply: Callable[..., jax.Array], left: Any, right: Any) -> Pair:
        return Pair(
            multiply(of_unedited(left), of_unedited(right)),
            multiply(of_edited(left), of_edited(right)),
        )


def scanned(x: jax.Array) -> jax.Array:
    """A loop whose carry an edit reaches in its second step, over inputs that it reaches and that it doesn't."""

    def step(carry: Any, inputs: Any) -> Any:
        untouched, _, second = carry
        w, own = inputs
        return (untouched @ w, second, jnp.tanh(second @ w) + own), second.sum()

    carry, out = lax.scan(step, (jnp.ones((2, D)), jnp.ones_like(x), x), (W, jnp.stack([x, x, x])), reverse=True)
    return carry[1] + out.sum() + carry[0].sum()


def counted(x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 3, lambda i, y: jnp.sin(y @ jnp.asarray(W)[i]), x)


def searched(x: jax.Array) -> jax.Array:
    """A loop whose length an edit decides."""
    return lax.while_loop(lambda y: jnp.abs(y).max() > 0.1, lambda y: 0.01 * (y @ W[0]), x)


def branched(x: jax.Array) -> jax.Array:
    """A branch of which one side alone is reached by an edit, and one that an edit chooses."""
    one = lax.cond(jnp.asarray(W).sum() > 100, lambda x: x @ W[0], lambda x: jnp.ones_like(x), x)
    other = lax.cond(jnp.asarray(W).sum() < 100, lambda x: x @ W[0], lambda x: jnp.ones_like(x), x)
    return one + other + lax.cond(x.sum() > 0, lambda x: x @ W[1], lambda x: x - 1, x)


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return 2 * x @ W[2]


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (g,))

FUNCTIONS: dict[str, Callable[[jax.Array], Any]] = {
    "both factors": lambda x: jax.nn.softmax(x @ x.T) @ x,
    "calls": lambda x: (
        jax.checkpoint(lambda y: jax.nn.relu(y) @ W[0])(jax.nn.silu(x)) + doubled(x) + jax.jit(counted)(x)
    ),
    "convolution": lambda x: lax.conv_general_dilated(
        x[None], KERNEL, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "experts": lambda x: (
        lax.ragged_dot(x, W, jnp.array([2, 1, 1]))
        + lax.ragged_dot(x, W, jnp.where(x[0, 0] > 0, jnp.array([1, 3, 0]), jnp.array([0, 2, 2])))
    ),
    "integers": lambda x: (jnp.round(x).astype(int) @ jnp.ones((D, D), int), jnp.argsort(x)),
    "scan": scanned,
    "loop": counted,
    "search": searched,
    "branch": branched,
    "untouched": lambda x: jnp.ones((2, D)) @ W[0],
}


def values(change: float = 1.0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(2)
    x, own = rng.normal(size=(2, 4, D)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x + change * own)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_is_itself(name: str):
    function, (unedited, edited) = FUNCTIONS[name], values()
    exact = jax.jit(paired(function, ExactProduct()))(unedited, edited)
    jax.tree.map(lambda own, other: np.testing.assert_allclose(own, other, atol=1e-5), exact, function(edited))
    if name == "experts":
        return  # JAX itself has no `vmap` of this product
    copies = jnp.stack([edited, unedited, -edited])
    together = jax.vmap(lambda copy: paired(function, ExactProduct())(unedited, copy))(copies)
    expected = [function(copy) for copy in copies]
    for number, own in enumerate(expected):
        jax.tree.map(
            lambda x, other, number=number: np.testing.assert_allclose(x[number], other, atol=1e-5), together, own
        )


@pytest.mark.parametrize(("terms", "error"), [(1, 0.01), (2, 3e-4)])
def test_the_error_is_relative_to_the_change(terms: int, error: float):
    def layers(x: jax.Array) -> jax.Array:
        for w in W:
            x = x + jnp.tanh(x @ w) @ w.T
        return jax.nn.softmax(x @ x.T) @ x

    unedited, edited = values(1e-2)
    change = layers(edited) - layers(unedited)
    own = jax.jit(paired(layers, DifferenceProduct(terms)))(unedited, edited) - layers(unedited)
    rounded = with_product(layers, RoundedProduct(7))(edited) - with_product(layers, RoundedProduct(7))(unedited)
    size = np.sqrt(np.square(change).mean())
    assert np.sqrt(np.square(own - change).mean()) < error * size
    assert np.sqrt(np.square(rounded - change).mean()) > 0.1 * size


def test_the_unedited_run_is_computed_once_and_copies_in_bfloat16():
    copies, batch = 7, 4

    def layer(x: jax.Array) -> jax.Array:
        return counted(jax.nn.softmax(x @ x.T) @ x @ W[0])

    def together(unedited: jax.Array, edited: jax.Array) -> jax.Array:
        return jax.vmap(lambda copy: paired(layer)(unedited, copy))(edited)

    shape = (batch, D)
    kinds = Counter(
        (str(operands[0].dtype), any(copies in x.shape for x in operands))
        for operands in multiplied(jax.make_jaxpr(together)(jnp.ones(shape), jnp.ones((copies, *shape))).jaxpr)
    )
    # Four products; two of them have two factors that the edit reaches, hence two differences.
    assert kinds == {("float32", False): 4, ("bfloat16", True): 6}


def multiplied(jaxpr: Any) -> list[list[Any]]:
    """The types of the factors of every product in a jaxpr."""
    own = [[v.aval for v in equation.invars] for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    inner = (x for equation in jaxpr.eqns for x in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr))
    return own + [factors for x in inner if is_jaxpr(x) for factors in multiplied(x.jaxpr)]


def is_jaxpr(x: Any) -> bool:
    return hasattr(x, "jaxpr") and hasattr(x.jaxpr, "eqns")


@pytest.mark.parametrize(("name", "bits"), [("emulated bfloat16", 7), ("emulated tf32", 10)])
def test_emulations_round_all_factors(name: Any, bits: int):
    @compiled
    def product(x: jax.Array) -> jax.Array:
        return counted(x)

    x, _ = values()
    with products(name):
        own = product(x)
    expected = x
    for w in W:
        expected = jnp.sin(round_bits(expected, bits) @ round_bits(w, bits))
    np.testing.assert_allclose(own, expected, atol=1e-6)
    assert np.abs(own - product(x)).max() > 1e-4


def round_bits(x: Any, bits: int) -> jax.Array:
    return lax.reduce_precision(jnp.asarray(x), 8, bits)


def test_a_program_is_not_taken_for_that_of_another_arithmetic():
    @compiled
    def product(x: jax.Array) -> jax.Array:
        return jnp.asarray(len(precision.arithmetic_used()))

    def both() -> tuple[int, int]:
        return int(product(jnp.ones(2))), int(jax.jit(lambda x: product(x))(jnp.ones(2)))

    for arithmetic in ("full", "differences", "fine differences", "fast", "full"):
        with products(arithmetic):
            assert both() == (len(arithmetic), len(arithmetic))


def test_a_cpu_without_bfloat16_computes_in_full_and_says_so_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: False)
    precision._warn_of_slow_bfloat16.cache_clear()
    model, batch = small_model("gpt2"), random_batch((4, 4))
    with pytest.warns(UserWarning, match="computed as 'full': this CPU has no instructions"):
        table = jh.ablate(model, batch, jh.loss(), "zero", arithmetic="differences")
    assert table.provenance["arithmetic"] == "full"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert available("differences", "cpu") == "full"
    assert available("differences", "tpu") == "differences"
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: True)
    assert available("differences", "cpu") == "differences"
    assert available("differences", "tpu", copies=False) == "full"
    assert available("fast", "cpu", copies=False) == "fast"


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16", "avx2"])
def test_the_cpu_tells_what_it_multiplies(flag: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision.Path, "read_text", lambda _: f"processor : 0\nflags : fpu {flag} sse\n")
    assert precision._multiplies_bfloat16.__wrapped__() == (flag != "avx2")
