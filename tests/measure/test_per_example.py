"""Numbers of each example: chunks, devices, and a journal that a later call goes on from."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.execution.batching import OutOfMemory
from jaxheads.execution.resources import Resources
from jaxheads.measure.per_example import per_example
from jaxheads.measure.relevance import methods

from ..models.huggingface import random_batch, small_model

HERE = Path(__file__).parent
OBJECTIVE = jh.logit_difference(1, 2)
LENGTHS = (6, 4, 5, 2, 6)

QUESTIONS: dict[str, Any] = {
    "attnlrp": lambda model, batch, **options: jh.relevance(model, batch, OBJECTIVE, **options).tokens,
    "rollout": lambda model, batch, **options: jh.relevance(model, batch, None, "rollout", **options).tokens,
    "direct_effects": lambda model, batch, **options: jh.direct_effects(model, batch, OBJECTIVE, **options).per_example,
    "direct_parts": lambda model, batch, **options: jh.direct_parts(model, batch, OBJECTIVE, **options).total,
    "logit_lens": lambda model, batch, **options: jh.logit_lens(model, batch, **options).per_example,
    "logit_copying": lambda model, batch, **options: jh.logit_copying(model, batch, **options).per_example,
    "name_copying": lambda model, batch, **options: (
        jh.name_copying(model, batch, np.asarray(batch.tokens)[0], **options).per_example
    ),
}


def test_on_eight_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "per_example_on_eight_devices.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "8"}
    run = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.usefixtures("each_part_a_file")
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_stopped_question_goes_on_to_the_same_bytes(question: str, tmp_path: Path):
    model, batch, ask = small_model("gpt2"), random_batch(LENGTHS), QUESTIONS[question]
    expected = ask(model, batch, memory=1)
    ask(model, batch, memory=1, resume=tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) >= len(LENGTHS)
    for file in files[::2]:
        file.unlink()
    before = {file: file.stat().st_mtime_ns for file in files[1::2]}
    again = ask(model, batch, memory=1, resume=tmp_path)
    assert again.tobytes() == expected.tobytes()
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(sorted(tmp_path.rglob("*.parquet"))) == len(files)


def test_a_finished_question_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("gpt2"), random_batch(LENGTHS)
    expected = jh.relevance(model, batch, OBJECTIVE, resume=tmp_path)
    monkeypatch.setattr(methods, "propagate", None)
    again = jh.relevance(model, batch, OBJECTIVE, resume=tmp_path)
    assert again.tokens.tobytes() == expected.tokens.tobytes()
    assert again.heads is not None
    assert expected.heads is not None
    assert np.asarray(again.heads.per_example).tobytes() == np.asarray(expected.heads.per_example).tobytes()


@pytest.mark.parametrize(
    "change",
    [{"method": "cplrp"}, {"method": "integrated-gradients", "steps": 3}, {"rules": jh.Rules(epsilon=0.1)}],
)
def test_another_question_has_another_journal(change: dict[str, Any], tmp_path: Path):
    model, batch = small_model("gpt2"), random_batch(LENGTHS)
    jh.relevance(model, batch, OBJECTIVE, resume=tmp_path)
    jh.relevance(model, batch, OBJECTIVE, **change, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    jh.relevance(model, batch, OBJECTIVE, **change, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_chunks_are_halved_where_memory_ends():
    model, batch = small_model("gpt2"), random_batch(LENGTHS)
    sizes: list[int] = []

    def compute(examples: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(examples))
        if len(examples) > 2:
            raise OutOfMemory
        return {"double": 2.0 * examples, "pair": np.stack([examples, -examples], axis=1)}

    names = ("double", "pair")
    arrays = per_example("doubling", names, compute, model, batch, Resources(), example_bytes=1)
    np.testing.assert_array_equal(arrays["double"], 2 * np.arange(5))
    np.testing.assert_array_equal(arrays["pair"], np.stack([np.arange(5), -np.arange(5)], axis=1))
    assert sizes == [5, 3, 2, 1, 2]


def test_memory_that_holds_no_example_is_an_error():
    model, batch = small_model("gpt2"), random_batch((3, 2))

    def compute(examples: np.ndarray) -> dict[str, Any]:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(MemoryError, match="one example"):
        per_example("nothing", ("value",), compute, model, batch, Resources(), example_bytes=1)
