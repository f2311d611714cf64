"""Columns of tables reach every public function as lists and arrays do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import jaxheads as jh
from jaxheads.columns import listed, plain

from .models.networks import batch_of, random_model

BATCH = batch_of((6, 8, 8))
OBJECTIVE = jh.logit_difference(3, 5)


@pytest.fixture(scope="module")
def model() -> jh.Model:
    return random_model("llama")


COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "series": lambda values: pd.Series(values, index=range(50, 50 + len(values))),
    "category": lambda values: pd.Series(values).astype("category"),
    "nullable": lambda values: pd.Series(values).convert_dtypes(),
    "index": pd.Index,
    "array": np.array,
    "objects": lambda values: np.array(values, object),
    "arrow": pa.array,
    "chunks": lambda values: pa.chunked_array([values]),
    "tuple": tuple,
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_answers_as_a_list_does(model: jh.Model, column: Callable[[list[Any]], Any]):
    def answers(made: Callable[[list[Any]], Any]) -> list[Any]:
        objective = jh.logit_difference(made([1, 2, 3]), made([4, 5, 6]), positions=made([1, 2, 3]))
        table = jh.ablate(
            model,
            BATCH,
            objective,
            "mean",
            by=made(["layer", "head"]),
            groups=made([1, 1, 1]),
            clusters=made([7, 7, 8]),
        )
        measured = jh.measure(model, BATCH, made(["entropy", "induction"]), clusters=made(["a", "a", "b"]))
        zeros = np.zeros((2, 1, 1, 1, 1))
        edit = jh.mix(model, "z", zeros, layers=made([0, 1]), heads=made([1, 2]))
        run = jh.run(model, BATCH, made(["z", "pattern"]), edit)
        blocked = jh.knock_out(model, BATCH, objective, made([3, 3, 3]), made([1, 1, 1]))
        scores = jh.faithfulness(model, BATCH, OBJECTIVE, made(["gradient"]), points=2)
        return [
            table.values,
            table.frame["effect_low"],
            measured.values,
            measured.frame.filter(like="_low"),
            run.output,
            run.seen["z"],
            blocked.values,
            scores.frame.drop(columns="seconds"),
            BATCH.take(made([0, 2])).tokens,
            BATCH.clustered(made(["a", "a", "b"])).clusters,
        ]

    for ours, expected in zip(answers(column), answers(list), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def test_arrays_of_another_byte_order_and_layout_are_read(model: jh.Model):
    tokens, values = np.asarray(BATCH.tokens), np.asarray(jh.run(model, BATCH, "z").seen["z"])
    expected = jh.run(model, BATCH).output
    for turned in (tokens.astype(">i8"), np.asfortranarray(tokens), tokens[::-1][::-1]):
        np.testing.assert_array_equal(jh.run(model, jh.Batch(turned, np.asarray(BATCH.mask))).output, expected)
    frozen = jh.freeze(model, "z", values.astype(">f4"))
    np.testing.assert_array_equal(jh.run(model, BATCH, edits=frozen).output, expected)
    pixels = np.arange(48, dtype=">f4").reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(jh.Batch(pixels=pixels).pixels, pixels)


def test_what_is_no_column_is_left_as_it_is():
    for value in (
        [1, 2],
        "a",
        None,
        3,
        np.ones(2),
        np.array("a"),
        pa.table({"a": [1]}),
        {"a": 1},
        pd.DataFrame({"a": [1]}),
    ):
        assert plain(value) is value
    assert isinstance(plain(pd.Series([1.0, 2.0])), np.ndarray)
    for table in (pd.DataFrame({"a": [1]}), {"a": 1}, pa.table({"a": [1]})):
        with pytest.raises(ValueError, match="expected one column, or a list"):
            listed(table)
