"""What a run checks before it computes, and what it keeps when it is stopped."""

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax.numpy as jnp
import pytest

from experiments import factors, lab
from jaxheads.train import loop

ROOT = Path(__file__).parent.parent.parent
EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem not in ("__init__", "__main__", "lab")
)


def _kinds(hint: Any) -> set[Any]:
    return {hint}.union(*(_kinds(inner) for inner in get_args(hint)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_numbers_that_cannot_be_meant_are_refused_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "check_writable", lambda folder: pytest.fail("was not checked"))
    module = importlib.import_module(f"experiments.{name}")
    hints, tried = get_type_hints(module.Options), 0
    for option in (entry.name for entry in fields(module.Options)):
        kinds = {int, float} & _kinds(hints[option])
        below = "-1" if module.Options.least.get(option, 1) < 1 else "0"
        for value in (below, "-3", *(["nan", "inf"] if float in kinds else [str(2**32)])) if kinds else ():
            with pytest.raises(SystemExit, match=rf"^{name}: --{option}: expected a number .*, got {value}(\.0)?$"):
                module.main([f"--{option}", value, "--out", str(tmp_path)])
            tried += 1
    assert tried, f"{name} takes no number"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("translation_heads", ["--strengths"], "--strengths: expected at least one value"),
        ("translation_heads", ["--strengths", "0.1"], "--strengths: expected 0 first"),
        ("translation_heads", ["--order", "up"], "order is one of copy, reverse, swap"),
        ("factors", ["--heads", "3"], "--heads: expected divisors of 32, half of the width, got 3"),
        ("factors", ["--heads", "1", "64"], "--heads: expected divisors of 32, half of the width, got 64"),
        ("markov_phases", ["--width", "3"], "--width: expected an even number"),
        ("pruned_speed", ["--tokens", "513"], "--tokens: expected at most 512"),
        ("markov_phases", ["--states", "1"], "--states: expected a number from 2 up"),
        ("speed", ["--works"], "--works: expected at least one value"),
        ("speed_profile", ["--works", "walk"], "works may be ablate"),
    ],
)
def test_other_options_too(name: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lab, "check_writable", lambda folder: pytest.fail("was not checked"))
    with pytest.raises(SystemExit, match=message):
        importlib.import_module(f"experiments.{name}").main(arguments)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_folder_that_cannot_be_written_is_noticed_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module(f"experiments.{name}")
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        with pytest.raises(SystemExit, match=rf"^{name}: .*can't write .*{out}: Not a directory\. Choose"):
            module.main(["--quick", "--out", str(tmp_path / out)])
    monkeypatch.setattr("jaxheads.files.os.fsync", full)
    with pytest.raises(SystemExit, match=rf"^{name}: .*can't write .*: No space left on device\. Free some space"):
        module.main(["--quick", "--out", str(tmp_path)])
    assert os.listdir(tmp_path) == ["file"]


def full(descriptor: int) -> None:
    raise OSError(28, os.strerror(28))


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        seed: of nothing.
    """

    seed: int = 0


def row(number: int) -> list[dict[str, Any]]:
    print(f"computed {number}", flush=True)
    return [{"number": number, "half": number / 2, "none": float("nan"), "word": "a"}]


def test_kept_rows_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = Options(out=tmp_path)
    first = options.keep(row, 3)
    assert repr(options.keep(row, 3)) == repr(first) == repr(row(3))
    assert capsys.readouterr().out == "computed 3\n" * 2
    options.keep(row, 4)
    Options(out=tmp_path, seed=1).keep(row, 3)
    assert capsys.readouterr().out == "computed 4\ncomputed 3\n"
    for path in options.unfinished.iterdir():
        path.write_text(path.read_text()[:-3])
    assert repr(options.keep(row, 3)) == repr(first)
    assert capsys.readouterr().out == "computed 3\n"


def test_options_that_ask_for_other_numbers_have_another_folder(tmp_path: Path):
    folders = {Options(out=tmp_path, seed=seed, quick=quick).unfinished for seed in (0, 1) for quick in (True, False)}
    assert len(folders) == 4
    assert Options(out=tmp_path).unfinished.name == Options(out=tmp_path / "other").unfinished.name


def test_a_second_process_in_the_folder_is_told_so(tmp_path: Path):
    def run(options: Options) -> lab.Results:
        with pytest.raises(SystemExit, match="another process runs this command"):
            lab.command(Options, lambda options: pytest.fail("ran"), None)(["--out", str(tmp_path)])
        raise ValueError("over")

    with pytest.raises(SystemExit, match="over"):
        lab.command(Options, run, None)(["--out", str(tmp_path)])
    assert os.listdir(tmp_path) == []


STOPPED = """
import os, signal, sys
from pathlib import Path
from experiments import factors, lab
from jaxheads.train import loop
from tests.experiments.test_stopped import Options, row
import pandas as pd
def run(options):
    rows = [*options.keep(row, 1), *options.keep(row, 2)]
    print("waiting", flush=True)
    if "wait" in os.environ:
        sys.stdin.read()
    return lab.Results("page", {}, {"rows": pd.DataFrame(rows)})
run.__code__ = run.__code__.replace(co_filename="/stopped.py")
lab.command(Options, run, None)()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on(number: int, tmp_path: Path):
    command = [sys.executable, "-c", STOPPED, "--out", str(tmp_path / "stopped")]
    waiting = {**os.environ, "wait": "yes", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, text=True, env=waiting, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout is not None
    while process.stdout.readline() != "waiting\n":
        assert process.poll() is None
    process.send_signal(number)
    _, words = process.communicate()
    if number != signal.SIGKILL:
        assert (process.returncode, words) == (130, "stopped; the same command goes on from here\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, text=True, env=environment, capture_output=True, check=True)
    assert "computed" not in done.stdout
    assert sorted(os.listdir(tmp_path / "stopped")) == ["provenance.json", "rows.csv", "summary.md"]
    assert (tmp_path / "stopped" / "rows.csv").read_text() == "number,half,none,word\n1,0.5,,a\n2,1.0,,a\n"


def no_penalty(network: Any, sample: Any, hyper: Any) -> Any:
    return jnp.float32(0)


def test_a_training_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(factors, "EVALUATED", 16)
    monkeypatch.setattr(factors, "LONGER", 2)
    options = ["--quick", "--seeds", "1", "--heads", "1", "--depths", "1", "--out"]
    factors.main([*options, str(tmp_path / "whole")])
    save, saves = loop.save, []

    def stopped(path: Path, tree: Any) -> None:
        save(path, tree)
        saves.append(path)
        if len(saves) == 3:  # the second cell has its parameters, and no state
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", stopped)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        factors.main([*options, str(tmp_path / "stopped")])
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    with monkeypatch.context() as changed:
        changed.setattr(factors, "train", partial(loop.train, penalty=no_penalty))
        with pytest.raises(SystemExit, match=r"holds another training \(penalty differ\).*: remove .*\.partial/"):
            factors.main([*options, str(tmp_path / "stopped")])
    factors.main([*options, str(tmp_path / "stopped")])
    assert saves[0].parents[1] not in {path.parents[1] for path in saves[3:]}, "the first cell is not trained again"
    whole, after = (
        {
            # The page names its command, and with it the folder.
            path.name: path.read_bytes().replace(name.encode(), b"FOLDER")
            for path in (tmp_path / name).iterdir()
            if path.name != "provenance.json"
        }
        for name in ("whole", "stopped")
    )
    assert after == whole
