"""Objectives against the full logits, and what they refuse to read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxheads as jh
from jaxheads.models.stack import take_rows
from jaxheads.objectives import ProbabilityDifference, Reads, read_out

from .models.huggingface import VOCABULARY, alone, assert_close, pair, random_batch, small_model

BATCHES = {side: random_batch((5, 3), side) for side in ("right", "left")}
sides = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
DECODERS = ("llama", "gpt2")


@pytest.fixture(scope="module", params=DECODERS)
def model(request: pytest.FixtureRequest) -> jh.Model:
    return small_model(request.param)


def read(model: jh.Model, batch: jh.Batch, reads: Reads) -> jax.Array:
    """What the objective reads of the stream after the last layer, as a sweep reads it."""
    stream = jh.run(model, batch, capture="resid_post").seen["resid_post"][-1]
    return read_out(model.network, take_rows(stream, reads.rows), reads)


def objective_values(model: jh.Model, batch: jh.Batch, objective: Any) -> np.ndarray:
    """The objective's value of an unedited run."""
    reads = objective.reads(model, batch)
    return np.asarray(objective.value(read(model, batch, reads), reads))


@sides
def test_a_logit_difference_is_read_at_the_last_real_token(model: jh.Model, batch: jh.Batch):
    logits = np.asarray(jh.run(model, batch).output)
    last = [4, 2] if batch.mask[1, 0] else [4, 4]
    expected = [logits[b, last[b], right] - logits[b, last[b], 7] for b, right in enumerate((3, 36))]
    assert_close(objective_values(model, batch, jh.logit_difference([3, 36], 7)), expected)


@sides
def test_a_logit_difference_is_read_where_it_is_told(model: jh.Model, batch: jh.Batch):
    logits = np.asarray(jh.run(model, batch).output)
    each = objective_values(model, batch, jh.logit_difference(3, [7, 8], positions=[1, 2]))
    if batch.mask[1, 0]:
        assert_close(each, [logits[0, 1, 3] - logits[0, 1, 7], logits[1, 2, 3] - logits[1, 2, 8]])
    one = objective_values(model, batch, jh.logit_difference(3, 7, positions=2))
    assert_close(one, logits[:, 2, 3] - logits[:, 2, 7])


def test_a_logit_difference_reads_two_columns_of_one_row(model: jh.Model):
    reads = jh.logit_difference(3, 7).reads(model, BATCHES["right"])
    assert reads.rows.shape == (2, 1)
    assert reads.columns is not None
    assert reads.columns.tolist() == [[3, 7], [3, 7]]


def test_a_masked_language_model_has_logit_differences_but_no_loss():
    model, batch = small_model("bert"), BATCHES["right"]
    logits = np.asarray(jh.run(model, batch).output)
    ours = objective_values(model, batch, jh.logit_difference(3, 7, positions=1))
    assert_close(ours, logits[:, 1, 3] - logits[:, 1, 7])
    with pytest.raises(ValueError, match="needs a causal decoder"):
        jh.loss().reads(model, batch)


@pytest.mark.parametrize("architecture", ["BertModel", "GPT2Model"])
def test_a_model_without_logits_has_no_objectives(architecture: str):
    bare = pair(architecture).ours
    for objective in (jh.logit_difference(1, 2, name="mine"), jh.loss(name="mine")):
        with pytest.raises(ValueError, match="mine needs logits over a vocabulary"):
            objective.reads(bare, BATCHES["right"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], 4), "right must be one or 2, one for each example; got 3"),
        ((1, [2, 3, 4]), "wrong must be one or 2"),
        ((1, 2, [0, 1, 2]), "positions must be one number or 2"),
        ((VOCABULARY, 2), r"token ids in 0\.\.36, got \[\[37, 2\]"),
        ((1, -1), r"token ids in 0\.\.36"),
        ((1, 2, 5), r"positions must lie in 0\.\.4, got \[5, 5\]"),
        ((1, 2, -1), r"positions must lie in 0\.\.4"),
        ((1, 2, 4), r"can't be read at padding, as in examples \[1\]"),
        ((1.5, 2), "right must be a whole number"),
        (([[[1, 2]]], 2), "right must be a whole number"),
        (([[1], []], 2), "right must be a whole number"),
        (([], 2), "right must be a whole number"),
    ],
)
def test_what_a_logit_difference_cannot_read_is_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        jh.logit_difference(*arguments).reads(small_model("llama"), BATCHES["right"])


def plain_loss(model: jh.Model, batch: jh.Batch, where: np.ndarray | None = None) -> np.ndarray:
    """By optax, one example at a time and without padding."""
    losses = []
    for example in range(len(batch)):
        one = alone(batch, example)
        each = optax.softmax_cross_entropy_with_integer_labels(jh.run(model, one).output[0, :-1], one.tokens[0, 1:])
        kept = slice(None) if where is None else where[example][np.asarray(batch.mask[example])][1:]
        losses.append(np.asarray(each)[kept].mean())
    return np.array(losses)


@sides
def test_the_loss_is_the_mean_cross_entropy_of_each_example(model: jh.Model, batch: jh.Batch):
    assert_close(objective_values(model, batch, jh.loss()), plain_loss(model, batch))
    where = np.array([[0, 1, 0, 0, 1], [0, 1, 1, 1, 1]], bool)
    assert_close(objective_values(model, batch, jh.loss(where)), plain_loss(model, batch, where))


def test_a_loss_does_not_depend_on_the_examples_beside_it(model: jh.Model):
    objective, batch = jh.loss(), BATCHES["right"]
    reads = objective.reads(model, batch)
    rows = read(model, batch, reads)
    whole = objective.value(rows, reads)
    assert_close(objective.value(rows[1:], reads.take([1])), whole[1:])
    doubled = objective.value(jnp.concatenate([rows, rows]), reads.repeat(2))
    assert_close(doubled, np.tile(whole, 2))


@pytest.mark.parametrize(
    ("where", "lengths", "message"),
    [
        (np.ones((2, 4), bool), (5, 3), r"where must have the shape of tokens \(2, 5\), got \(2, 4\)"),
        (np.eye(2, 5, dtype=bool), (5, 3), r"examples \[0\] have none"),
        (None, (5, 1), r"a token to predict after a real one; examples \[1\] have none"),
        (None, (1, 1), r"examples \[0, 1\] have none"),
    ],
)
def test_a_loss_without_anything_to_predict_is_refused(where: Any, lengths: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        jh.loss(where).reads(small_model("llama"), random_batch(lengths))


def test_probability_difference_in_closed_form():
    """Hanna et al. 2023: uniform over the years 0..99, (99 − YY − (YY + 1)) / 100; sharpness 0."""
    year = 41
    signs = jnp.asarray(np.where(np.arange(100) > year, 1.0, -1.0)[None], jnp.float32)
    read = jnp.full((1, 100), -np.log(100), jnp.float32)
    rows = jnp.zeros((1, 100), jnp.int32)
    found = ProbabilityDifference.value(read, Reads(rows, None, rows, signs))
    assert float(found[0]) == pytest.approx((99 - year - (year + 1)) / 100, abs=1e-6)


def test_ablation_by_a_probability_difference_is_that_of_whole_runs():
    model, batch = small_model("gpt2"), random_batch((7, 5, 6))
    tokens, signs = np.array([3, 9, 20]), np.array([1.0, -1.0, 0.5])
    asked = jh.probability_difference(tokens, signs)

    def judge(edits=()) -> np.ndarray:
        logits = np.asarray(jh.run(model, batch, edits=edits).output, np.float64)
        last = logits[np.arange(3), np.asarray(batch.last)]
        p = np.exp(last - last.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True))[:, tokens] @ signs

    table = jh.ablate(model, batch, asked, "zero")
    expected = np.stack(
        [
            [judge([jh.zero_heads(model, [(layer, head)])]) - judge() for head in range(model.stack().heads)]
            for layer in range(model.stack().layers)
        ]
    )
    assert_close(table.per_example, np.moveaxis(expected, -1, 0))
    assert np.abs(expected).max() > 1e-3
    with pytest.raises(ValueError, match="a sign for each"):
        jh.probability_difference(tokens, signs[:2])
    with pytest.raises(ValueError, match="for each of 3"):
        jh.ablate(model, batch, jh.probability_difference(np.tile(tokens, (2, 1)), np.tile(signs, (2, 1))))
