"""One token's log-probability, taken in pieces of the vocabulary, against the whole softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxheads.models import unembedding
from jaxheads.models.unembedding import Unembedding

from .huggingface import assert_close


@pytest.mark.parametrize("vocabulary", [5, 8, 16, 21])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_pieces_of_the_vocabulary_give_the_whole_softmax(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, biased: bool, cap: float | None
):
    monkeypatch.setattr(unembedding, "COLUMNS_AT_ONCE", 8)
    keys = jax.random.split(jax.random.key(vocabulary), 4)
    x_BTD, weight_VD = jax.random.normal(keys[0], (2, 3, 4)), 5 * jax.random.normal(keys[1], (vocabulary, 4))
    head = Unembedding(weight_VD, jax.random.normal(keys[2], (vocabulary,)) if biased else None, cap)
    target_BT = jax.random.randint(keys[3], (2, 3), 0, vocabulary)
    whole = jax.nn.log_softmax(head.logits(x_BTD), axis=-1)
    expected = jnp.take_along_axis(whole, target_BT[..., None], axis=-1)[..., 0]
    assert_close(head.log_probability(x_BTD, target_BT), expected)
    least_BT, most_BT = ((whole > expected[..., None] + apart).sum(axis=-1) for apart in (1e-5, -1e-5))
    rank_BT = head.rank(x_BTD, target_BT)
    assert ((least_BT <= rank_BT) & (rank_BT < most_BT)).all()  # a cap leaves some logits closer than rounding
    assert cap is not None or (rank_BT == least_BT).all()


def test_a_log_probability_survives_huge_logits():
    head = Unembedding(jnp.array([[1000.0], [-1000.0], [999.0]]))
    found = np.asarray(head.log_probability(jnp.ones((1, 3, 1)), jnp.array([[0, 1, 2]])))[0]
    np.testing.assert_allclose(found, [-0.3132617, -2000.3132, -1.3132617], rtol=1e-5)


def test_a_cap_bounds_logits_whichever_are_asked_for():
    head = Unembedding(jnp.array([[1.0], [-100.0], [0.5]]), jnp.array([0.5, 0.0, 0.0]), cap=2.0)
    expected = 2 * np.tanh(np.array([1.5, -100.0, 0.5]) / 2)
    assert_close(head.logits(jnp.ones((1, 1, 1)))[0, 0], expected)
    assert_close(head.logits(jnp.ones((1, 1, 1)), jnp.array([[2, 0]]))[0, 0], expected[[2, 0]])


def test_many_rows_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD, weight_VD = jax.random.normal(keys[0], (2, 7, 4)), jax.random.normal(keys[1], (11, 4))
    target_BT = jax.random.randint(keys[2], (2, 7), 0, 11)

    def asked(x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        head = Unembedding(weight_VD)
        return head.log_probability(x_BTD, target_BT), head.rank(x_BTD, target_BT)

    def gradient(x_BTD: jax.Array) -> jax.Array:
        return jax.grad(lambda x_BTD: (asked(x_BTD)[0] ** 2).sum())(x_BTD)

    whole, slope = asked(x_BTD), gradient(x_BTD)
    monkeypatch.setattr(unembedding, "ROWS_AT_ONCE", 6)  # three of each example
    assert_close(asked(x_BTD)[0], whole[0])
    np.testing.assert_array_equal(asked(x_BTD)[1], whole[1])
    assert_close(gradient(x_BTD), slope)


def test_logits_of_long_texts_and_their_derivatives_take_memory_for_a_few_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unembedding, "ROWS_AT_ONCE", 64)
    weight_VD, T = jnp.ones((512, 8)), 1024

    def total(x_BTD: jax.Array) -> jax.Array:
        return Unembedding(weight_VD).log_probability(x_BTD, jnp.zeros((1, T), int)).sum()

    memory = jax.jit(jax.grad(total)).lower(jnp.ones((1, T, 8))).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * T * 512 / 2
