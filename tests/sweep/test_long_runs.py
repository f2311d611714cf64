"""A run that is killed goes on where it was and ends with the same bytes; its parts can be read by anyone."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from ..kept import assert_equal_parts, example_count, files, frame
from ..models.huggingface import assert_close
from . import long_run

ROOT = Path(__file__).parent.parent.parent


def start(directory: Path, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.sweep.long_run", str(directory), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    running = start(killed, 10_000)
    deadline = time.monotonic() + 300
    while len(files(killed / "parts", "effects")) < 5 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    kept = example_count(killed / "parts", "effects") // 4
    assert 5 <= kept < 10_000
    count = kept + 10
    for directory in (killed, whole):
        table = long_run.jh.ablate(
            long_run.model(), long_run.batches(count), long_run.jh.loss(), "zero", resume=directory / "parts"
        )
        table.save(directory)
    for name in ("ablate.parquet", "ablate.csv", "ablate.per_example.parquet"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for kind in ("effects", "baselines"):
        assert_equal_parts(killed / "parts", whole / "parts", kind)


def test_parts_are_tables_that_anyone_can_read(tmp_path: Path):
    table = long_run.jh.ablate(
        long_run.model(), long_run.batches(3), long_run.jh.loss(), "zero", resume=tmp_path / "parts"
    )
    found = frame(tmp_path / "parts", "effects")
    assert list(found) == ["example", "layer", "head", "value"]
    assert sorted(found["example"].unique()) == list(range(12))
    effects = found.set_index(["example", "layer", "head"])["value"].sort_index().to_numpy().reshape(12, 2, 2)
    assert table.per_example is not None
    assert_close(table.per_example, effects)
    baselines = frame(tmp_path / "parts", "baselines")
    assert list(baselines) == ["run", "example", "value"]
    assert baselines["run"].unique().tolist() == [0]
    assert_close(table.provenance["unedited"], baselines.set_index("example")["value"].sort_index().mean())
