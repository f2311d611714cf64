"""Products of float32 ask for full precision themselves: on accelerators JAX would round their factors."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxheads as jh
from jaxheads.precision import arithmetic_used, precision_used, products
from jaxheads.programs import compiled

from .models.huggingface import random_batch, small_model
from .models.specs import SPECS
from .test_wrong_input import FUNCTIONS, good


@pytest.fixture
def users() -> Iterator[None]:
    """JAX as users have it: the suite itself sets a precision."""
    with jax.default_matmul_precision(None):
        yield


def called(name: str) -> None:
    arguments = dict(good(name))
    own = arguments.pop("self", None)
    function = FUNCTIONS[name] if own is None else getattr(own, name.split(".")[1])
    # Some good calls are refused for what is in a file, or for their sizes.
    with suppress(ValueError, OSError, AttributeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**arguments)


def rounded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that fills with the precision of each product of float32 that may be rounded."""
    seen: list[Any] = []
    for primitive in (lax.dot_general_p, lax.conv_general_dilated_p):

        def bind(*operands: Any, bind: Any = primitive.bind, **settings: Any) -> Any:
            precision = settings["precision"]
            if all(array.dtype == jnp.float32 for array in operands[:2]) and (
                precision is None or set(precision) != {lax.Precision.HIGHEST}
            ):
                seen.append(precision)
            return bind(*operands, **settings)

        monkeypatch.setattr(primitive, "bind", bind)
    return seen


@pytest.mark.usefixtures("users")
def test_every_public_function_multiplies_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for name in FUNCTIONS:
        good(name)
    jax.clear_caches()
    seen = rounded(monkeypatch)
    jnp.matmul(jnp.ones((3, 3)), jnp.ones((3, 3)))
    assert seen, "a product of the user's own is seen"
    amiss = []
    for name in FUNCTIONS:
        seen.clear()
        called(name)
        amiss += [name] * bool(seen)
    assert not amiss


VIT = {
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
}
WHISPER = {**SPECS["whisper"].sizes, "model_type": "whisper"}
INPUTS: dict[str, tuple[Callable[[], jh.Model], jh.Batch]] = {
    "gpt2": (lambda: small_model("gpt2"), random_batch((4, 4))),
    "vit": (lambda: jh.init(VIT), jh.Batch(pixels=np.ones((1, 8, 8, 3)))),
    "whisper": (lambda: jh.init(WHISPER), jh.Batch(features=np.ones((1, 5, 16)), targets=np.ones((1, 3), int))),
}


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("family", INPUTS)
def test_a_program_of_the_users_own_multiplies_in_full(family: str, monkeypatch: pytest.MonkeyPatch):
    model, batch = INPUTS[family][0](), INPUTS[family][1]
    seen = rounded(monkeypatch)

    def total(network: Any) -> jax.Array:
        last = network.hidden(batch, lambda stack, x, context: stack.run(x, context)[0])
        return network.output(last, batch).sum()

    jax.make_jaxpr(jax.grad(total, allow_int=True))(model.network)
    assert not seen


def test_what_the_user_sets_or_asks_for_comes_first():
    @compiled
    def product(x: jax.Array) -> jax.Array:
        return x @ x

    def precision() -> Any:
        return jax.make_jaxpr(lambda x: product(x))(jnp.ones((2, 2))).jaxpr.eqns[0].params["jaxpr"].eqns[0].params

    with jax.default_matmul_precision(None):
        assert precision()["precision"][0] == lax.Precision.HIGHEST
        assert (arithmetic_used(), precision_used()) == ("full", "highest")
        with products("fast"):
            assert precision()["precision"][0] == lax.Precision.DEFAULT
            with products():
                assert arithmetic_used() == "fast"
        with products("differences"):
            assert precision()["precision"][0] == lax.Precision.HIGHEST
    with jax.default_matmul_precision("bfloat16"):
        assert precision()["precision"][0] == lax.Precision.DEFAULT
        assert (arithmetic_used(), precision_used()) == ("bfloat16", "bfloat16")
        with products("full"):
            assert precision()["precision"][0] == lax.Precision.HIGHEST
        assert arithmetic_used() == "bfloat16"


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("ask", [jh.ablate, jh.attribute, jh.measure], ids=lambda ask: ask.__name__)
def test_every_question_takes_the_option_and_tells_it(ask: Any):
    model, batch, options = small_model("gpt2"), random_batch((4, 4)), {"arithmetic": "fast"}
    inputs = (model, batch, batch, jh.loss()) if ask is jh.attribute else (model, batch)
    inputs = (*inputs, jh.loss()) if ask is jh.ablate else inputs
    table, fast = ask(*inputs), ask(*inputs, **options)
    assert table.provenance["arithmetic"] == "full"
    assert fast.provenance["arithmetic"] == "fast"
    np.testing.assert_allclose(table.values, fast.values, atol=1e-5)  # a CPU multiplies float32 as such
    with pytest.raises(ValueError, match="arithmetic must be one of full, differences, fine differences, fast"):
        ask(*inputs, arithmetic="exact")
