"""A run that was stopped goes on where it was, and takes nothing for an answer to another question."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxheads as jh
from jaxheads.execution.batching import Chunks
from jaxheads.execution.identity import fingerprint
from jaxheads.execution.journal import Journal
from jaxheads.execution.parts import Parts
from jaxheads.sweep.exact import work as module

from ..kept import files
from ..models.huggingface import random_batch, small_model
from . import naive

BATCH = random_batch((5, 4, 3))
CALLS = 4
"""Engine calls of the sweep below: 2 chunks of examples in each of 2 layers."""


class Calls(list):
    """One entry a call; `limit`: at this many the user presses Ctrl-C."""

    limit: int | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every call of the engine so far."""
    calls = Calls()
    real = module.edited

    def counted(*arguments: Any, **named: Any) -> Any:
        if len(calls) == calls.limit:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(module, "edited", counted)
    monkeypatch.setattr(module, "choose_chunks", lambda *_, **__: Chunks(2, 4))
    monkeypatch.setattr("jaxheads.sweep.exact.plan.FILE_FLOPS", {"cpu": 1})
    return calls


def ask(directory: Path | None, **changes: Any) -> jh.tables.HeadTable:
    arguments = {"model": small_model("gpt2"), "batch": BATCH, "objective": jh.loss(), "method": "zero", **changes}
    return jh.ablate(**arguments, resume=directory)


def assert_same_bytes(one: Any, other: Any) -> None:
    assert one.values.tobytes() == other.values.tobytes()
    assert one.per_example.tobytes() == other.per_example.tobytes()
    assert one.frame.equals(other.frame)


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_stopped_run_goes_on(calls: Calls, tmp_path: Path, done: int):
    whole = ask(None)
    calls.clear()
    calls.limit = done
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    calls.clear()
    calls.limit = None
    assert_same_bytes(ask(tmp_path), whole)
    assert len(calls) == CALLS - done
    calls.clear()
    assert_same_bytes(ask(tmp_path), whole)
    assert not calls


MEAN = {"method": "mean", "reference": random_batch((5,) * 6, seed=2)}


def edited_weights() -> jh.Model:
    return naive.changed(small_model("gpt2"), lambda path, weight: weight * 2 if path.endswith("W_O") else weight)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"batch": random_batch((5, 4, 3), seed=1)}),
        ({}, {"batch": random_batch((5, 4, 3), "left")}),
        ({}, {"method": "mean"}),
        ({}, {"objective": jh.logit_difference(3, 7)}),
        ({"objective": jh.logit_difference(3, 7)}, {"objective": jh.logit_difference(3, 8)}),
        (MEAN, {**MEAN, "per_position": True}),
        (MEAN, {**MEAN, "per_position": False}),
        (MEAN, {**MEAN, "groups": [0, 1, 0], "reference_groups": [0, 1] * 3}),
        (
            {**MEAN, "groups": ["a", "b", "a"], "reference_groups": ["a", "b"] * 3},
            {**MEAN, "groups": ["a", "b", "b"], "reference_groups": ["a", "b"] * 3},
        ),
        ({"method": "mean"}, {"method": "mean", "reference": random_batch((5, 5, 5))}),
        ({"method": "resample", "reference": random_batch((5,) * 6)},) * 2,
        ({}, {"model": edited_weights}),
    ],
)
def test_another_question_takes_none_of_its_parts(calls: Calls, tmp_path: Path, before: Any, after: Any):
    after = {**after, "seed": 3} if after is before else after
    after = {key: value() if value is edited_weights else value for key, value in after.items()}
    ask(tmp_path, **before)
    calls.clear()
    assert_same_bytes(ask(tmp_path, **after), ask(None, **after))
    assert len(calls) == 2 * CALLS


@pytest.mark.usefixtures("each_part_a_file")
def test_a_part_that_is_no_longer_whole_is_computed_again(calls: Calls, tmp_path: Path):
    whole = ask(tmp_path)
    parts = files(tmp_path, "effects")
    assert len(parts) == CALLS
    for path, content in zip(parts, (b"", parts[1].read_bytes()[:-3], b"PAR1", b"PK\x03\x04..."), strict=True):
        path.write_bytes(content)
    calls.clear()
    assert_same_bytes(ask(tmp_path), whole)
    assert len(calls) == CALLS
    assert_same_bytes(ask(tmp_path), whole)
    assert len(calls) == CALLS


def test_a_finished_part_is_not_computed_again(tmp_path: Path):
    for _ in range(2):  # in the process that has computed it, and in another one
        journal = Journal(Parts(tmp_path / "q", waits=False), "q")
        np.testing.assert_array_equal(journal.part("a", lambda: np.arange(3.0)), np.arange(3))
        np.testing.assert_array_equal(journal.part("a", lambda: np.zeros(9)), np.arange(3))
    assert sorted(path.name for path in (tmp_path / "q").iterdir()) == ["question.json", "values"]
    assert len(files(tmp_path)) == 1


def test_nothing_is_kept_without_a_directory():
    journal, computed = Journal(None), []
    for _ in range(2):
        journal.part("a", lambda: computed.append(1) or np.zeros(1))
    assert len(computed) == 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_fingerprint_is_of_the_weights_as_they_are(family: str):
    model = small_model(family)
    assert fingerprint(model, "a", 1) == fingerprint(model, "a", 1)
    half = naive.changed(model, lambda _, weight: weight.astype("bfloat16") if weight.dtype == "float32" else weight)
    other_config = replace(model, network=jax.tree.map(lambda weight: weight, model.network))
    other_config.network.config = replace(model.config, vocab_size=99)
    prints = {
        fingerprint(one, *parts) for one in (model, half, other_config) for parts in (("a",), ("b",), (1,), (True,))
    }
    assert len(prints) == 12


def test_a_fingerprint_of_words_in_a_table_column_is_of_the_words():
    model = small_model("gpt2")
    one, other = (fingerprint(model, np.array(words, object)) for words in (["a", "b"], ["a", "c"]))
    assert one != other
    assert one == fingerprint(model, np.array(["a", "b"], object))


def _rewritten(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write other values into a part's file, well formed and with all else as it was."""
    table = pq.read_table(path)
    values = change(table["value"].to_numpy())
    position = table.column_names.index("value")
    pq.write_table(table.set_column(position, "value", pa.array(values)), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "values + 5": lambda path: _rewritten(path, lambda values: values + 5),
    "NaN": lambda path: _rewritten(path, lambda values: values * np.nan),
    "other order": lambda path: _rewritten(path, lambda values: values[::-1]),
    "float32": lambda path: _rewritten(path, lambda values: values.astype(np.float32)),
    "without its hash": lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(None), path),
    "another part's content": lambda path: path.write_bytes(max(path.parent.glob("*.parquet")).read_bytes()),
}


@pytest.mark.usefixtures("each_part_a_file")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_with_other_values_is_computed_again(
    calls: Calls, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    whole = ask(tmp_path)
    path = files(tmp_path, "effects")[0]
    DAMAGES[damage](path)
    calls.clear()
    assert_same_bytes(ask(tmp_path), whole)
    assert len(calls) == 1
    assert (f"{path} is damaged" in caplog.text) == (damage != "another part's content")


def test_no_flipped_byte_of_a_part_is_believed(tmp_path: Path):
    value = np.linspace(0, 1, 24).reshape(4, 6)
    Journal(Parts(tmp_path / "q", waits=False)).part("a", lambda: value)
    [path] = files(tmp_path)
    content = path.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        for written in files(tmp_path):
            written.unlink()
        path.write_bytes(flipped)
        np.testing.assert_array_equal(Journal(Parts(tmp_path / "q")).part("a", lambda: value), value)
