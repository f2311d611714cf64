"""Importance: the derivative by a head's gate, the mean size of ablation where that is linear, and the two grains."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.execution.cost import gradient_bytes
from jaxheads.execution.resources import Resources
from jaxheads.objectives import Reads
from jaxheads.sweep.gradients.backward import edit_weights, gradient_chunks, weight_gradient
from jaxheads.sweep.gradients.importance import importance

from ..models.huggingface import alone, assert_close, pair, random_batch, small_model
from . import naive
from .by_hand import OBJECTIVE, RIGHT, WRONG, judge
from .linear import linear_model

BATCH = random_batch((5, 4, 3), "left")


def values(model: jh.Model, batch: jh.Batch = BATCH, objective: Any = OBJECTIVE, **more: Any) -> np.ndarray:
    """Of every example, `[E,L,N]`."""
    table = importance(model, batch, objective, **more)
    assert table.per_example is not None
    return table.per_example


def mean_loss(logits_BTV: jax.Array, batch: jh.Batch) -> jax.Array:
    """The loss of each example from whole logits."""
    log_p_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    nats_BT = -jnp.take_along_axis(log_p_BTV, batch.tokens[:, 1:, None], axis=2)[..., 0]
    counted_BT = (batch.mask[:, 1:] & batch.mask[:, :-1]).astype(jnp.float32)
    return (nats_BT * counted_BT).sum(axis=1) / counted_BT.sum(axis=1)


@pytest.mark.parametrize(("family", "by_loss"), [("llama", False), ("gpt2", True), ("bert", False)])
def test_is_the_size_of_the_derivative_by_the_gate(family: str, by_loss: bool):
    model = small_model(family)
    objective_values, objective = (mean_loss, jh.loss()) if by_loss else (judge, OBJECTIVE)
    ones = jnp.ones((model.stack().layers, model.stack().heads))

    @jax.jit
    def run(gates_LN: jax.Array) -> jax.Array:
        return objective_values(jh.run(model, BATCH, edits=jh.gate(model, gates_LN)).output, BATCH)

    found = values(model, objective=objective)
    assert_close(found, np.abs(jax.jit(jax.jacfwd(run))(ones)))
    assert (found.max(axis=(1, 2)) > 0.01).all()
    step = 0.05
    far, near = (run(ones.at[1, 2].add(s * step)) - run(ones.at[1, 2].add(-s * step)) for s in (2, 1))
    np.testing.assert_allclose(found[:, 1, 2], np.abs(8 * near - far) / (12 * step), atol=3e-4)  # float32 over 2 steps


def test_is_the_size_of_ablation_where_that_is_linear():
    model = linear_model("llama")
    plain = judge(jh.run(model, BATCH).output, BATCH)

    @jax.jit
    def ablated(head_LN: jax.Array) -> jax.Array:
        return judge(jh.run(model, BATCH, edits=jh.gate(model, 1 - head_LN)).output, BATCH) - plain

    effects_E = np.stack([ablated(head.reshape(2, 4)) for head in jnp.eye(8)], axis=1)
    assert_close(values(model), np.abs(effects_E.reshape(3, 2, 4)))
    assert np.abs(effects_E).max() > 0.1


@dataclass(frozen=True)
class SecondMinusFirst:
    """The logit difference at the second token less that at the first."""

    name = "second_minus_first"

    def reads(self, model: jh.Model, batch: jh.Batch) -> Reads:
        del model
        each = jnp.ones((len(batch), 1), jnp.int32)
        return Reads(each * jnp.array([[0, 1]]), each * jnp.array([[RIGHT, WRONG]]))

    @staticmethod
    def value(read: jax.Array, reads: Reads) -> jax.Array:
        del reads
        by_row = read[..., 0] - read[..., 1]
        return by_row[:, 1] - by_row[:, 0]


def test_tokens_that_cancel_make_0_for_the_paper_and_2_for_its_code():
    """Two equal tokens, looked at alike: each head of the last layer says the same at both. In units of what it says
    there, they pull by +1 and -1."""
    model, batch = linear_model("llama"), jh.Batch([[5] * 5, [9] * 5, [2] * 5])
    unit = values(model, batch, jh.logit_difference(RIGHT, WRONG, 0))[:, 1]
    assert (unit > 0.01).all()
    one, two = (values(model, batch, SecondMinusFirst(), granularity=grain)[:, 1] for grain in ("example", "token"))
    np.testing.assert_allclose(one / unit, 0, atol=1e-4)
    np.testing.assert_allclose(two / unit, 2, atol=1e-4)


def test_normalising_makes_unit_layers():
    model = small_model("llama")
    for grain in ("example", "token"):
        raw = importance(model, BATCH, OBJECTIVE, granularity=grain, seed=1)
        unit = importance(model, BATCH, OBJECTIVE, granularity=grain, normalise="layer", seed=1)
        norm = np.linalg.norm(raw.values, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(unit.values, axis=1), 1, rtol=1e-6)
        for column in ("importance", "importance_low", "importance_high"):
            np.testing.assert_allclose(unit.grid(column) * norm, raw.grid(column), rtol=1e-5)
        assert unit.per_example is not None
        np.testing.assert_allclose(unit.per_example.mean(axis=0), unit.values, rtol=1e-5)


def test_a_layer_of_silent_heads_stays_0():
    mute = naive.changed(small_model("llama"), lambda path, weight: weight.at[1].set(0) if "W_O" in path else weight)
    found = importance(mute, BATCH, OBJECTIVE, normalise="layer").values
    np.testing.assert_array_equal(found[1], 0)
    assert np.linalg.norm(found[0]) == pytest.approx(1)


@pytest.mark.parametrize("granularity", ["example", "token"])
def test_padding_changes_nothing(granularity: Any):
    model = small_model("llama")
    bare = values(model, alone(BATCH, 2), granularity=granularity)
    assert_close(values(model, granularity=granularity)[2], bare[0])


def test_permuting_heads_permutes_the_table():
    order = np.array([2, 0, 3, 1])

    def permute(path: str, weight: Any) -> Any:
        name = path.rpartition(".")[2]
        if name not in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            return weight
        return weight[:, :, order] if name in ("W_Q", "W_K", "W_V") else weight[:, order]

    model = small_model("gpt2")
    permuted = values(naive.changed(model, permute), objective=jh.loss())
    assert_close(permuted, values(model, objective=jh.loss())[:, :, order])


def test_a_table_of_importance():
    model = small_model("llama")
    table = importance(model, BATCH, OBJECTIVE, granularity="token", seed=5, level=0.9)
    assert table.name == "importance"
    assert list(table.frame) == ["importance", "importance_low", "importance_high", "importance_n", "model"]
    assert table.frame.index[5] == ("decoder", 1, 1)
    assert table.values.shape == (2, 4)
    assert table.per_example is not None
    np.testing.assert_allclose(table.per_example.mean(axis=0), table.values, rtol=1e-6)
    assert (table.per_example >= values(model)).all()
    said = table.provenance
    assert (said["granularity"], said["normalise"], said["seed"], said["level"]) == ("token", None, 5, 0.9)
    assert (said["examples"], said["objective"], said["model"]) == (3, "logit_difference", model.name)
    assert said["unedited"] == pytest.approx(float(judge(jh.run(model, BATCH).output, BATCH).mean()), abs=1e-5)
    assert said["not_finite"] == []


def test_an_example_that_overflows_is_named_and_left_out():
    model = small_model("llama")
    tokens = np.where(np.asarray(BATCH.tokens) == 30, 0, np.asarray(BATCH.tokens))
    sound = jh.Batch(tokens, BATCH.mask)
    tokens[1, 4] = 30
    poisoned = naive.changed(model, lambda path, w: w.at[30].set(np.nan) if path.startswith("embed") else w)
    table = importance(poisoned, jh.Batch(tokens, BATCH.mask), OBJECTIVE, normalise="layer")
    assert {one["example"] for one in table.provenance["not_finite"]} == {1}
    expected = values(model, sound)[[0, 2]].mean(axis=0)
    assert_close(table.values, expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_pieces_change_nothing():
    model = small_model("llama")
    assert_close(values(model, memory=1), values(model))
    reads, stack, network = OBJECTIVE.reads(model, BATCH), model.stack(), model.network
    one = gradient_bytes(network, BATCH, reads, remat=False)
    for memory, expected in ((3 * one, (3, False)), (2 * one, (2, False)), (one, (1, False)), (one - 1, (1, True))):
        chunks, remat = gradient_chunks(network, stack, BATCH, reads, Resources(memory))
        assert (chunks.examples, remat) == expected


@pytest.mark.parametrize("remat", [False, True])
def test_memory_is_what_was_foreseen(remat: bool):
    model = pair("GPT2LMHeadModel", n_embd=64, n_layer=6, n_positions=128).ours
    batch, stack = jh.Batch(np.zeros((4, 96), int)), model.stack()
    reads = OBJECTIVE.reads(model, batch)
    edit = jh.SiteEdit(
        jnp.arange(6), jnp.asarray(edit_weights(stack, "z", batch)), jnp.zeros((6, 1, 1, 1, 1)), "z", stack.name
    )
    compiled = weight_gradient.lower(model.network, batch, reads, edit, value=OBJECTIVE.value, remat=remat).compile()
    foreseen = len(batch) * gradient_bytes(model.network, batch, reads, remat=remat)
    assert 0.5 < foreseen / attrgetter("temp_size_in_bytes")(compiled.memory_analysis()) < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"granularity": "head"}, "granularity must be one of example, token; got 'head'"),
        ({"normalise": "l2"}, "normalise must be one of layer or None; got 'l2'"),
        ({"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        ({"level": 0}, "level: expected a number between 0 and 1"),
        ({"objective": jh.logit_difference(3, 37)}, r"token ids in 0\.\.36"),
        ({"batch": jh.Batch([[37]])}, "lie in 0..36; got 37"),
    ],
)
def test_wrong_questions_are_refused(arguments: dict[str, Any], message: str):
    question: dict[str, Any] = {"batch": BATCH, "objective": OBJECTIVE, **arguments}
    with pytest.raises(ValueError, match=message):
        importance(small_model("llama"), **question)
