"""Streams: every token in one window, batches of one shape, nothing read before it is needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import jaxheads as jh
from jaxheads.data import array_batches, text_batches

from ..models.huggingface import small_model


class Letters:
    """A tokenizer whose tokens are letters; 0 is its BOS, put first unless it is told not to."""

    bos_token_id, cls_token_id = 0, None

    def __init__(self, adds_bos: bool = True):
        self.adds_bos = adds_bos

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        ids = [ord(letter) - 96 for letter in text if letter.isalpha()]
        return {"input_ids": [0, *ids] if add_special_tokens and self.adds_bos else ids}


def lettered(adds_bos: bool = True) -> jh.Model:
    model = small_model("llama")
    return jh.Model(model.network, Letters(adds_bos), name="letters")  # type: ignore[arg-type]


@pytest.mark.parametrize("adds_bos", [True, False])
def test_every_token_is_in_one_window(adds_bos: bool):
    texts = ["abcdefghijk", "ab", "abcdefg"]
    batches = list(text_batches(lettered(adds_bos), texts, length=6, examples=2))
    assert {batch.tokens.shape[1] for batch in batches} == {6}
    assert [len(batch) for batch in batches][:-1] == [2] * (len(batches) - 1)
    rows = [np.asarray(b.tokens[i])[np.asarray(b.mask[i])] for b in batches for i in range(len(b))]
    assert all((row[0] == 0) == adds_bos for row in rows)
    tokens = np.concatenate([row[int(adds_bos) :] for row in rows])
    assert "".join(chr(96 + token) for token in tokens) == "".join(texts)
    assert min(len(row) for row in rows) >= 2


def test_a_file_is_read_line_by_line(tmp_path: Path):
    path = tmp_path / "texts.txt"
    path.write_text("abc\n\n  \ndef\n", encoding="utf-8")
    [batch] = text_batches(lettered(), path, length=8, examples=4, bos=False)
    assert np.asarray(batch.lengths).tolist() == [3, 3]


def test_texts_are_taken_as_they_are_needed():
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "abcd"

    batches = text_batches(lettered(), endless(), length=8, examples=3)
    assert not taken
    next(batches)
    assert len(taken) == 3


def test_arrays_come_in_batches_of_rows():
    tokens = np.arange(10).reshape(5, 2)
    mask = tokens != 9
    batches = list(array_batches(tokens, mask, examples=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([batch.tokens for batch in batches]), tokens)
    np.testing.assert_array_equal(np.concatenate([batch.mask for batch in batches]), mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "2 to 64 tokens"),
        ({"length": 65}, "2 to 64 tokens"),
        ({"examples": 0}, "examples must be at least 1"),
        ({"texts": ["ab", "1"]}, "text number 1 is empty"),
        ({"texts": []}, "no text"),
        ({"texts": [3]}, r"texts\[0\] must be a text, got 3"),
        ({"texts": iter([3])}, r"texts\[0\] must be a text"),
        ({"model": small_model("llama")}, "no tokenizer"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str):
    asked = {"model": lettered(), "texts": ["ab"], "length": 8, "examples": 2, **arguments}
    model, texts = asked.pop("model"), asked.pop("texts")
    with pytest.raises(ValueError, match=message):
        list(text_batches(model, texts, **asked))


def test_arrays_and_files_that_can_not_be_read():
    with pytest.raises(ValueError, match="tokens must be"):
        array_batches(np.zeros((0, 2), int), examples=1)
    with pytest.raises(ValueError, match="tokens must be"):
        array_batches(np.zeros((2, 2), int), np.ones((2, 3), bool), examples=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        text_batches(lettered(), Path("nowhere.txt"), length=8, examples=1)


def test_texts_without_a_token_are_left_out_if_that_is_asked_for():
    texts: Any = ["abc", "", None, float("nan"), "12", "de"]
    [batch] = text_batches(lettered(), texts, length=8, examples=9, empty="skip")
    assert np.asarray(batch.clusters).tolist() == [0, 5], "a text keeps its number"
    with pytest.raises(ValueError, match=r'number 1 is empty.*empty="skip"'):
        list(text_batches(lettered(), ["abc", ""], length=8, examples=9))
    with pytest.raises(ValueError, match="no text"):
        list(text_batches(lettered(), ["", ""], length=8, examples=9, empty="skip"))
    with pytest.raises(ValueError, match="empty must be"):
        text_batches(lettered(), texts, length=8, examples=9, empty="drop")  # type: ignore[arg-type]


class Dataset:
    """Rows by name, read one by one, as a Hugging Face dataset gives them."""

    column_names: ClassVar = ["id", "text"]

    def __init__(self, texts: list[str]):
        self.texts = texts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"id": number, "text": text} for number, text in enumerate(self.texts))


STREAMED = [{"id": 0, "text": "abc"}, {"id": 1, "text": "de"}]


@pytest.mark.parametrize(
    "table",
    [
        Dataset(["abc", "de"]),
        STREAMED,
        iter(STREAMED),
        pd.DataFrame(STREAMED),
        pa.Table.from_pylist(STREAMED),
        {"id": [0, 1], "text": ["abc", "de"]},
    ],
    ids=lambda table: type(table).__name__,
)
def test_a_column_of_a_table_or_of_rows_is_named(table: Any):
    [batch] = text_batches(lettered(), table, column="text", length=8, examples=9, bos=False)
    assert np.asarray(batch.lengths).tolist() == [3, 2]


@pytest.mark.parametrize("table", [Dataset(["abc"]), STREAMED, pd.DataFrame(STREAMED), pa.Table.from_pylist(STREAMED)])
def test_a_column_that_is_not_there_is_one_error_with_those_that_are(table: Any):
    with pytest.raises(ValueError, match="id, text"):
        list(text_batches(lettered(), table, column="texts", length=8, examples=9))
    with pytest.raises(ValueError, match="column="):
        list(text_batches(lettered(), table, length=8, examples=9))
