"""Anchors: the unedited run's products with weights, given to differences in place of being computed again."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import precision
from jaxheads.anchors import anchored, anchors_of
from jaxheads.differences import DifferenceProduct, paired
from jaxheads.models.layer_norm import standardised
from jaxheads.sweep.exact import plan as planning
from jaxheads.sweep.exact import work

from .models.huggingface import random_batch, small_model
from .test_differences import multiplied

W: Any = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
B, T = 2, 4


def layer(x: jax.Array) -> jax.Array:
    """Products with weights before, between and after a product of two edited values, one of them in a loop."""
    scores = jax.nn.softmax(jnp.einsum("btd,bsd->bts", x @ W[0], x))
    looped = jax.lax.fori_loop(0, 2, lambda _, y: jnp.sin(y @ jnp.asarray(W[1])), x)
    return jnp.einsum("bts,bsd->btd", scores, x) @ W[2] + looped


def values() -> tuple[jax.Array, jax.Array]:
    x, change = np.random.default_rng(1).normal(size=(2, B, T, 6)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x + 0.1 * change)


def test_a_function_from_anchors_is_the_function_by_differences():
    unedited, edited = values()
    anchors = anchors_of(layer, unedited)
    assert [anchor.shape for anchor in anchors] == [(B, T, 6)] * 2
    own = jax.jit(paired(lambda x: anchored(layer, anchors, x)))(unedited, edited)
    np.testing.assert_allclose(own, jax.jit(paired(layer))(unedited, edited), atol=1e-6)
    np.testing.assert_allclose(own, layer(edited), atol=3e-2)


def test_products_with_weights_are_not_computed_again():
    unedited, edited = values()
    anchors = anchors_of(layer, unedited)

    def wide(function: Any) -> int:
        factors = multiplied(jax.make_jaxpr(paired(function, DifferenceProduct()))(unedited, edited).jaxpr)
        return sum(operands[0].dtype == jnp.float32 for operands in factors)

    assert wide(layer) - wide(lambda x: anchored(layer, anchors, x)) == len(anchors)


def test_an_edited_norm_takes_one_pass_and_is_the_norm():
    x, change = np.random.default_rng(2).normal(size=(2, 5, 64)).astype(np.float32)
    unedited, edited = jnp.asarray(100 + x), jnp.asarray(100 + x + 0.1 * change)
    own = paired(lambda x: standardised(x, 1e-5))(unedited, edited)
    np.testing.assert_allclose(own, standardised(edited, 1e-5), atol=1e-4)


SIZES = {"n_layer": 4, "n_embd": 16, "n_head": 2, "n_positions": 8, "vocab_size": 40}
WIDE = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 6, "vocab_size": 40}
LLAMA = {**WIDE, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 16}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **SIZES},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **LLAMA},
}
BATCH, OTHER = random_batch((6, 6, 5)), random_batch((6, 6, 5), seed=1)
SWEEPS: dict[str, Any] = {
    "gpt2 z": lambda model, **on: jh.ablate(model, BATCH, jh.loss(), "zero", **on),
    "gpt2 by position": lambda model, **on: jh.patch(
        model, BATCH, OTHER, jh.loss(), "resid_pre", ("layer", "position"), **on
    ),
    "llama keys": lambda model, **on: jh.patch(
        model, BATCH, OTHER, jh.logit_difference(right=1, wrong=2), "k", ("layer", "kv_head"), **on
    ),
    "llama sets": lambda model, **on: jh.ablate(
        model,
        BATCH,
        jh.logit_difference(right=1, wrong=2),
        "zero",
        sets={"a": [(0, 1), (2, 3)], "b": [(1, 0), (2, 5)], "c": [(2, 1), (3, 2)]},
        **on,
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_from_anchors_have_the_effects_of_sweeps_without(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: True)
    model, ask = jh.init(MODELS[name.split()[0]]), SWEEPS[name]
    used: list[bool] = []
    run = work.run_unedited

    def run_unedited(*arguments: Any, **named: Any) -> Any:
        unedited = run(*arguments, **named)
        used.append(bool(unedited.anchors))
        return unedited

    monkeypatch.setattr(work, "run_unedited", run_unedited)
    own, full = ask(model, arithmetic="differences").per_example, ask(model, arithmetic="full").per_example
    monkeypatch.setattr(planning, "ANCHORED_GROUPS", 1000)
    without = ask(model, arithmetic="differences").per_example
    assert used == [True, False, False]
    size = np.nanmax(np.abs(full))
    np.testing.assert_allclose(own, without, atol=1e-4 * size)
    np.testing.assert_allclose(own, full, atol=2e-2 * size)


def test_anchors_that_take_much_memory_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: True)
    model = jh.init(MODELS["gpt2"])
    ask: Any = partial(jh.plan, jh.ablate, model, BATCH, jh.loss(), "zero", arithmetic="differences")
    plans = ask(), ask(memory=40_000)
    assert [plan.anchored for plan in plans] == [True, False]
    assert plans[0].costs.cached > plans[1].costs.cached


def test_a_tpu_runs_as_many_tokens_as_its_chip_holds(monkeypatch: pytest.MonkeyPatch):
    cells: Any = jh.plan(jh.ablate, small_model("gpt2"), random_batch((4, 4)), jh.loss(), "zero")
    costs, placement = cells.costs, cells.placement
    assert planning.tokens_together(costs, placement) == planning.matmul_tokens()
    monkeypatch.setattr(planning, "platform", lambda: "tpu")
    monkeypatch.setattr(planning, "matmul_tokens", lambda: 8192)
    wide = planning.replace(costs, widest=1 << 12)
    assert planning.tokens_together(wide, placement) == (48 << 20) // (4 * 4096)
    assert planning.tokens_together(planning.replace(costs, widest=1 << 20), placement) == planning.LEAST_TOKENS
    assert planning.tokens_together(costs, placement) == 8192
    assert planning.tokens_together(wide, planning.replace(placement, kind="gathered")) == 8192
