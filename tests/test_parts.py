"""Parts of a long computation: in few files, whatever the batch, and nothing of them lost by a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

import jaxheads as jh
from jaxheads import cli
from jaxheads.execution import parts
from jaxheads.execution.journal import Journal
from jaxheads.execution.parts import Parts

from .kept import example_count, files, frame
from .models.huggingface import random_batch, small_model


def stream(count: int) -> Any:
    return (random_batch((5, 4, 3), seed=seed) for seed in range(count))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds."""
    now = [0.0]
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])
    return now


def test_an_hour_of_parts_are_some_dozens_of_files(tmp_path: Path, clock: list[float]):
    journal = Journal(Parts(tmp_path / "q"), "a question")
    most = 0
    for number in range(3600):  # a part a second
        journal.part(f"part {number}", lambda number=number: np.full((2, 3), number))
        clock[0] += 1
        most = max(most, len(files(tmp_path))) if number % 50 == 0 else most
    assert most < 30
    written = frame(tmp_path, "values")
    assert len(written) >= 6 * (3600 - parts.SECONDS), "at most the parts of the last seconds wait"
    assert journal.parts is not None
    journal.parts.close(finished=True)
    again = Journal(Parts(tmp_path / "q"), "a question")
    for number in range(0, 3600, 97):
        value = again.part(f"part {number}", lambda: pytest.fail("computed again"))
        np.testing.assert_array_equal(value, np.full((2, 3), number))
    assert list(written.columns) == ["axis_0", "axis_1", "value"]


def test_what_took_long_is_written_at_once(tmp_path: Path, clock: list[float]):
    def long() -> np.ndarray:
        clock[0] += parts.SECONDS
        return np.zeros(3)

    journal = Journal(Parts(tmp_path / "q"), "a question")
    journal.part("quick", lambda: np.zeros(3))
    assert not files(tmp_path)
    journal.part("long", long)
    assert len(frame(tmp_path, "values")) == 6


def test_a_kill_between_a_merge_and_its_removals_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "SECONDS", 0)
    journal = Journal(Parts(tmp_path / "q"), "a question")
    for number in range(9):
        journal.part(f"part {number}", lambda number=number: np.full(3, number))
    aside = tmp_path / "aside"
    shutil.copytree(tmp_path / "q" / "values", aside)
    journal.part("part 9", lambda: np.full(3, 9))
    [merged] = files(tmp_path)
    for path in aside.iterdir():
        shutil.copy(path, merged.parent)
    assert len(files(tmp_path)) == 10
    assert Parts(tmp_path / "q").read("values", "a question/part 4") is not None
    assert files(tmp_path) == [merged]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from jaxheads import files
    from jaxheads.execution import parts
    from jaxheads.execution.journal import Journal

    parts.SECONDS, left = 0, [int(sys.argv[2])]
    real = {name: getattr(os, name) for name in ("replace", "unlink", "fsync")}

    def deadly(name):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments, **named)
        return call

    for name in real:
        setattr(os, name, deadly(name))
    journal = Journal(parts.Parts(Path(sys.argv[1]) / "q"), "a question")
    for number in range(12):
        journal.part(f"part {number}", lambda: np.full(3, float(number)))
        print(number, flush=True)
"""


@pytest.mark.parametrize("call", [3, 33, 34, 36, 40])
def test_a_process_that_is_killed_at_any_call_of_the_disk_loses_nothing_written(call: int, tmp_path: Path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(call)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = Journal(Parts(tmp_path / "q"), "a question")
    for number in map(int, done.stdout.split()):
        np.testing.assert_array_equal(
            journal.part(f"part {number}", lambda: pytest.fail("lost")), np.full(3, float(number))
        )
    values = frame(tmp_path, "values")["value"] if files(tmp_path) else []
    assert len(values) % 3 == 0
    assert len(values) == 3 * len(set(values)), "nothing is there twice"


def test_a_stream_has_one_folder_that_says_what_it_is_of(tmp_path: Path):
    model = small_model("gpt2")
    table = jh.ablate(model, stream(7), jh.loss(), "zero", resume=tmp_path, seed=3)
    [folder] = tmp_path.iterdir()
    words = json.loads((folder / "question.json").read_text())
    assert words["question"] == "ablate"
    assert words["model"] == model.name
    assert words["arguments"] == {"batch": "a stream", "objective": "loss", "method": "zero", "seed": 3}
    assert words["versions"]["jaxheads"]
    assert words["started"] <= words["finished"]
    found = pyarrow.dataset.dataset(folder / "effects").to_table().to_pandas()
    assert list(found.columns) == ["example", "layer", "head", "value"]
    effects = found.groupby(["layer", "head"])["value"].mean().to_numpy().reshape(table.values.shape)
    np.testing.assert_allclose(effects, table.values, atol=1e-6)
    assert found["example"].nunique() == 21


def test_a_question_that_was_stopped_is_not_finished(tmp_path: Path):
    def stopped() -> Any:
        yield from stream(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jh.measure(small_model("gpt2"), stopped(), "entropy", resume=tmp_path)
    [path] = tmp_path.glob("*/question.json")
    before = json.loads(path.read_text())
    assert before["finished"] is None
    assert example_count(tmp_path, "values") == 6
    jh.measure(small_model("gpt2"), stream(2), "entropy", resume=tmp_path)
    assert json.loads(path.read_text())["finished"], "all was there: nothing was computed"
    jh.measure(small_model("gpt2"), stream(3), "entropy", resume=tmp_path)
    after = json.loads(path.read_text())
    assert after["finished"]
    assert after["started"] == before["started"]


def test_runs_are_listed_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    jh.measure(small_model("gpt2"), stream(1), "entropy", resume=tmp_path)
    jh.ablate(small_model("gpt2"), stream(1), jh.loss(), "zero", resume=tmp_path)
    [path] = tmp_path.glob("ablate-*/question.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": None}))
    (tmp_path / "something-else").mkdir()
    assert cli.main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "method=zero" in out
    assert "2 runs" in out
    assert cli.main(["runs", str(tmp_path), "--prune", "--days", "1"]) == 0
    assert "removed 0 runs" in capsys.readouterr().out
    assert cli.main(["runs", str(tmp_path), "--prune"]) == 0
    assert "removed 1 runs" in capsys.readouterr().out
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["ablate", "something"]
    assert cli.main(["runs", str(tmp_path), "--prune", "--unfinished"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["something-else"]
    assert cli.main(["runs", str(tmp_path / "absent")]) == 1
    assert "is no directory" in capsys.readouterr().err
