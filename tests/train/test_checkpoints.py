"""A training's directory: what it is known by, damaged files, and two trainings at once."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
import pytest

import jaxheads as jh
from jaxheads.train.checkpoints import claimed, restore, restore_rows, save, save_rows
from jaxheads.train.gates import learn_gates
from jaxheads.train.loop import Trained, train

from .toy import CONFIG, Counting

ROOT = Path(__file__).parents[2]
ABOUT = {"task": "counting"}


def sgd(rate: float, hyper: Mapping[str, jax.Array]) -> optax.GradientTransformation:
    return optax.sgd(rate)


def trained(directory: Path | None, steps: int = 4, **options: Any) -> Trained:
    given = {"batch": 4, "checkpoints": (0, 2), "optimizer": functools.partial(sgd, 0.1), **options}
    return train(CONFIG, Counting(), steps, directory=directory, **given)


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.steps == other.steps
    pd.testing.assert_frame_equal(one.curve, other.curve)
    for ours, theirs in zip(jax.tree.leaves(one.kept), jax.tree.leaves(other.kept), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    directory = tmp_path_factory.mktemp("whole")
    return directory, trained(directory)


def copied(directory: Path, to: Path) -> Path:
    subprocess.run(["cp", "-r", directory, to], check=True)
    return to


def li_one(network: Any, sample: Any, hyper: Any) -> Any:
    return 0.0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"optimizer": functools.partial(sgd, 0.2)}, "optimizer"),
        ({"optimizer": lambda hyper: optax.sgd(0.1)}, "optimizer"),
        ({"penalty": li_one}, "penalty"),
    ],
)
def test_another_optimizer_or_penalty_is_another_training(whole: tuple[Path, Trained], change: dict, name: str):
    with pytest.raises(ValueError, match=rf"holds another training \({name} differ\)"):
        trained(whole[0], **change)


def test_another_precision_is_another_training(whole: tuple[Path, Trained]):
    with (
        jax.default_matmul_precision("bfloat16"),
        pytest.raises(ValueError, match=r"settings \(.*matmul_precision was highest, is bfloat16\) differ"),
    ):
        trained(whole[0])


def test_a_longer_directory_answers_a_shorter_training(whole: tuple[Path, Trained]):
    assert_equal(trained(whole[0], 2, checkpoints=(0,)), trained(None, 2, checkpoints=(0,)))
    with pytest.raises(ValueError, match=r"holds 4 steps .* at \[0, 2, 4\], but none at \[3\]: choose these"):
        trained(whole[0], 3, checkpoints=(0,))
    with pytest.raises(ValueError, match=r"none at \[1\]"):
        trained(whole[0], 4, checkpoints=(1,))


def test_a_penalty_without_content_needs_no_directory(tmp_path: Path):
    held = open(__file__)  # noqa: SIM115

    def penalty(network: Any, sample: Any, hyper: Any) -> Any:
        return 0.0 * held.fileno()

    trained(None, 1, checkpoints=(), penalty=penalty)
    with pytest.raises(TypeError, match="can't tell the content"):
        trained(tmp_path, 1, checkpoints=(), penalty=penalty)
    held.close()


@pytest.mark.parametrize("part", ["state", "parameters", "curve"])
def test_damaged_checkpoints_are_done_again(
    whole: tuple[Path, Trained], part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    directory = copied(whole[0], tmp_path / "damaged")
    files = [path for path in sorted((directory / part).rglob("*")) if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = largest.read_bytes()[::-1]
    largest.write_bytes(content)
    assert_equal(trained(directory), whole[1])
    assert "damaged checkpoints" in caplog.text
    assert (directory / "damaged-1" / largest.relative_to(directory)).read_bytes() == content
    caplog.clear()
    assert_equal(trained(directory), whole[1])
    assert not caplog.text


def test_no_flipped_byte_of_a_checkpoint_is_believed(tmp_path: Path):
    tree, frame = {"a": np.arange(5.0, dtype=np.float32)}, pd.DataFrame({"step": [0, 1], "loss": [0.5, 0.25]})
    save(tmp_path / "3", tree)
    save_rows(tmp_path / "r.parquet", frame)
    files = [path for path in [*(tmp_path / "3").rglob("*"), tmp_path / "r.parquet"] if path.is_file()]
    rng = np.random.default_rng(0)
    for path in files:
        content = path.read_bytes()
        for position in rng.choice(len(content), min(len(content), 12), replace=False):
            flipped = bytearray(content)
            flipped[position] ^= 0xFF
            path.write_bytes(flipped)
            for read in (restore(tmp_path / "3", tree), restore_rows(tmp_path / "r.parquet")):
                if isinstance(read, pd.DataFrame):
                    pd.testing.assert_frame_equal(read, frame)
                elif read is not None:
                    np.testing.assert_array_equal(read["a"], tree["a"])
        path.write_bytes(content)
    assert restore(tmp_path / "3", tree) is not None
    (tmp_path / "3").rename(tmp_path / "4")  # a checkpoint of another step
    assert restore(tmp_path / "4", tree) is None


def test_a_damaged_record_is_refused(whole: tuple[Path, Trained], tmp_path: Path):
    directory = copied(whole[0], tmp_path / "damaged")
    (directory / "about.json").write_text("{")
    with pytest.raises(ValueError, match=r"about.json is damaged"):
        trained(directory)


def test_gates_know_the_model_by_its_weights(tmp_path: Path):
    models = [
        jh.Model(jh.init(CONFIG, seed=seed).network, name="trained: induction (seed 0)", hf_config=CONFIG)
        for seed in (0, 1)
    ]
    learn_gates(models[0], Counting(), 1, batch=2, directory=tmp_path)
    with pytest.raises(ValueError, match=r"another training \(model differ\)"):
        learn_gates(models[1], Counting(), 1, batch=2, directory=tmp_path)


def test_a_damaged_state_of_gates_is_done_again(tmp_path: Path):
    model = jh.init(CONFIG)
    options: dict[str, Any] = {"batch": 2, "directory": tmp_path}
    whole = learn_gates(model, Counting(), 2, **options)
    largest = max((tmp_path / "2").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[::-1])
    again = learn_gates(model, Counting(), 2, **options)
    np.testing.assert_array_equal(again.log_a["decoder"], whole.log_a["decoder"])
    assert (tmp_path / "damaged-1" / "2").is_dir()


HOLD = """
import sys, time
from pathlib import Path
from jaxheads.train.checkpoints import claimed
with claimed(Path(sys.argv[1]), {"task": "counting"}):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_trainings_do_not_share_a_directory(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RuntimeError, match=rf"another training holds .* \(process {other.pid}, host .*, since 20"),
            claimed(tmp_path, ABOUT),
        ):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
    left = tmp_path / "state" / "5.orbax-checkpoint-tmp-17"
    left.mkdir(parents=True)
    with claimed(tmp_path, ABOUT):  # a process that died holds nothing
        assert json.loads((tmp_path / "in_use.json").read_text())["process"] == os.getpid()
        assert not left.exists()
        with pytest.raises(RuntimeError, match=f"process {os.getpid()}"), claimed(tmp_path, ABOUT):
            pass
    assert not (tmp_path / "in_use.json").exists()


def test_a_directory_that_cannot_be_written_is_told_before_training(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't write .*file.*: .*Choose another directory"):
        trained(tmp_path / "file")
