"""Batches: what they count, and what they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.inputs.attention_inputs import AttentionInputs

MASK = [[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
BATCH = jh.Batch(np.arange(12).reshape(3, 4), MASK)


def test_positions_count_real_tokens_only():
    assert BATCH.positions.tolist() == [[0, 1, 2, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert BATCH.lengths.tolist() == [3, 2, 2]
    assert BATCH.last.tolist() == [2, 3, 3]
    assert len(BATCH) == 3


def test_what_is_left_out_is_filled_in():
    batch = jh.Batch([[1, 2], [3, 4]])
    assert batch.mask.all()
    assert batch.mask.dtype == bool
    assert batch.token_types.tolist() == [[0, 0], [0, 0]]
    assert batch.tokens.dtype == batch.token_types.dtype == jnp.int32


def test_examples_are_taken_by_index():
    some = BATCH.take([2, 0])
    assert some.tokens.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert some.mask.tolist() == [[False, True, False, True], [True, True, True, False]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([],), r"at least one of each, got shape \(0,\)"),
        ((np.zeros((0, 3), int),), r"got shape \(0, 3\)"),
        ((np.zeros((2, 0), int),), r"got shape \(2, 0\)"),
        (([1, 2, 3],), r"\[examples, positions\].*got shape \(3,\)"),
        ((np.zeros((1, 2, 3), int),), r"got shape \(1, 2, 3\)"),
        (([[1.0, 2.0]],), "tokens must be integers, got float64; use model.encode for text"),
        (([["a", "b"]],), "tokens must be integers, got <U1"),
        (([[True, False]],), "tokens must be integers, got bool"),
        (([[1, 2]], [[1, 1, 1]]), r"mask must have the shape of tokens \(1, 2\), got \(1, 3\)"),
        (([[1, 2]], [1, 1]), r"mask must have the shape of tokens \(1, 2\), got \(2,\)"),
        (([[1, 2]], None, [[0]]), r"token_types must have the shape of tokens \(1, 2\), got \(1, 1\)"),
        (([[1, 2]], None, [[0.5, 1.0]]), "token_types must be integers, got float64"),
        (([[1, 2], [3, 4]], [[1, 0], [0, 0]]), r"every example needs a real token.*examples \[1\]"),
    ],
)
def test_what_is_no_batch_is_refused(fields: tuple[Any, ...], message: str):
    with pytest.raises(ValueError, match=message):
        jh.Batch(*fields)


def test_a_batch_is_a_pytree_of_whatever_jax_puts_in_it():
    assert jax.tree.map(lambda field: field.shape, BATCH).mask == (3, 4)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(BATCH)]
    assert paths == [".tokens", ".mask", ".token_types"]
    assert jax.vmap(lambda one, times: one.tokens.sum() * times, in_axes=(None, 0))(BATCH, jnp.arange(3)).tolist() == [
        0,
        66,
        132,
    ]
    assert jax.eval_shape(lambda batch: batch, BATCH).tokens.shape == (3, 4)


def test_a_batch_can_be_made_while_tracing():
    made = jax.jit(lambda tokens: jh.Batch(tokens + 1))(jnp.zeros((2, 3), jnp.int32))
    assert made.tokens.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert made.mask.all()
    assert made.token_types.shape == (2, 3)


@pytest.mark.parametrize("causal", [True, False])
def test_a_context_shows_real_keys_that_are_not_later(causal: bool):
    mask = np.asarray(AttentionInputs.over(BATCH, causal=causal).visible)
    for b in range(3):
        for t in range(4):
            assert mask[b, t].tolist() == [bool(MASK[b][s]) and (s <= t or not causal) for s in range(4)]


def test_a_context_can_be_narrowed_to_rows():
    context = AttentionInputs.over(BATCH, causal=True)
    rows = context.rows(jnp.array([[2], [3], [1]]))
    whole = context.visible
    assert rows.visible.tolist() == [whole[b, t][None].tolist() for b, t in enumerate((2, 3, 1))]
    assert rows.queries.tolist() == [[2], [1], [0]]
    assert np.array_equal(rows.keys, context.keys)


def test_one_row_of_biases_serves_whatever_queries_are_left():
    bias = jnp.arange(12.0).reshape(3, 1, 1, 4)
    context = AttentionInputs.over(BATCH, causal=True, bias=bias)
    for narrowed in (context.after(2), context.rows(jnp.array([[2], [3], [1]]))):
        assert isinstance(narrowed.bias, jax.Array)
        assert np.array_equal(narrowed.bias, bias)
