"""The benchmark, whole on a tiny model, and its bookkeeping on sides that only say what they took."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import speed
from experiments.support.speed_jaxheads import JaxHeads
from experiments.support.speed_machine import peak_memory
from experiments.support.speed_peers import PyTorch
from experiments.support.speed_worker import Worker, WorkerError
from experiments.support.speed_works import WORKS, Inputs, save_inputs, save_weights
from jaxheads.precision import _multiplies_bfloat16

SMALL = ["--quick", "--sides", "jaxheads", "pytorch"]


def test_from_the_command_to_the_files(tmp_path: Path, capsys):
    speed.main([*SMALL, "--works", "ablate", "--no-curves", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "ablate, first call: jaxheads" in printed
    assert "ablation of all heads, zero" in printed
    assert not (tmp_path / ".partial").exists()
    calls = pd.read_csv(tmp_path / "calls.csv")
    assert list(zip(calls["side"], calls["repeat"], strict=True)) == [
        *(("jaxheads", 0), ("pytorch", 0)),
        *(("pytorch", 1), ("jaxheads", 1)),
    ]
    assert calls["difference"].to_numpy().max() < speed.TOLERANCE
    assert calls[["seconds", "cpu_seconds", "memory"]].to_numpy().min() > 0
    (lead,) = pd.read_csv(tmp_path / "lead.csv").to_dict("records")
    assert lead["run by run, TFLOP"] > lead["needed, TFLOP"]
    assert lead["share of peak"] > 0
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert (about["sides"], about["sizes"]["layers"], about["repeats"]) == (["jaxheads", "pytorch"], 2, 1)
    written = [path for path in tmp_path.iterdir() if path.suffix in (".md", ".json", ".csv")]
    assert not [path.name for path in written if str(tmp_path) in path.read_text(encoding="utf-8")]


def test_differences_beside_full_products(tmp_path: Path):
    sides = ["--sides", "jaxheads", "jaxheads_differences", "--works", "ablate", "measure"]
    speed.main(["--quick", *sides, "--no-curves", "--out", str(tmp_path)])
    calls: Any = pd.read_csv(tmp_path / "calls.csv").set_index(["work", "side"])["difference"]
    assert set(calls.index) == {("ablate", sides[1]), ("ablate", sides[2]), ("measure", sides[1])}
    differences = calls["ablate", "jaxheads_differences"].max()
    assert differences < 0.01
    assert differences > 0 or not _multiplies_bfloat16()  # a CPU without bfloat16 computes all in full
    assert "jaxheads_differences within 0.01" in (tmp_path / "summary.md").read_text()


def test_a_point_on_two_devices(tmp_path: Path):
    options, journal = speed.Options(quick=True), speed.Journal(tmp_path, "a measurement")
    point = speed.measure_point("devices", 2, options, journal, tmp_path)
    assert (point["axis"], point["value"], len(point["seconds"])) == ("devices", 2, 1)
    assert journal.get("devices-2") == point


@cache
def sides(directory: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    weights = save_weights(speed.QUICK, 0, directory)
    threads = torch.get_num_threads()
    loaded = {"jaxheads": JaxHeads(weights), "pytorch": PyTorch(weights)}
    torch.set_num_threads(threads)
    return loaded, save_inputs(speed.QUICK, 0, directory)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speed")


@pytest.mark.parametrize("work", WORKS)
def test_both_sides_give_one_table(work: str, scratch: Path):
    loaded, paths = sides(scratch)
    inputs = Inputs.load(paths[WORKS[work].inputs])
    ways = {(name, way): run for name, side in loaded.items() for way, run in side.ways(WORKS[work], inputs).items()}
    results = {key: run() for key, run in ways.items()}
    differences = speed.differences(work, results)
    assert set(differences) == set(results)
    assert max(differences.values()) < 1e-5
    assert all(np.abs(table).max() > 0.01 for table in results.values())


def test_pairs_share_what_they_are_said_to_share(scratch: Path):
    paths = save_inputs(speed.QUICK, 0, scratch)
    prefixed, pairs = Inputs.load(paths["prefixed"]), Inputs.load(paths["pairs"])
    assert prefixed.source is not None
    assert pairs.source is not None
    same = prefixed.source == prefixed.tokens
    assert same[:, : speed.QUICK.prefix].all()
    assert not same[:, speed.QUICK.prefix :].all()
    assert not (pairs.source == pairs.tokens).all(axis=0).any()
    assert (pairs.right != pairs.wrong).all()


RIGHT = np.linspace(-2, 2, 24).reshape(2, 3, 4)


def tables(**changed: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    by_side = {"jaxheads": RIGHT, "pytorch": RIGHT, "other": RIGHT} | changed
    return {(side, "a way"): table for side, table in by_side.items()}


def off(by: float) -> np.ndarray:
    table = RIGHT.copy()
    table[1, 2, 0] += by
    return table


def test_differences_are_relative_to_the_largest_value():
    differences = speed.differences("ablate", tables(jaxheads=off(1e-4)))
    assert differences["jaxheads", "a way"] == pytest.approx(1e-4 / 2)
    assert differences["other", "a way"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"other": off(1e-3)}, r"of pytorch, .*: other \(a way\) gives 1.47926 for 1.47826 at \(1, 2, 0\)$"),
        ({"jaxheads": off(np.nan)}, "jaxheads .* gives nan"),
        ({"jaxheads": RIGHT[:, :, ::-1]}, "jaxheads"),
        ({"pytorch": off(1)}, "jaxheads .*; other"),
        ({"other": RIGHT[:1]}, r"\(1, 3, 4\)"),
    ],
)
def test_a_side_that_says_something_else_is_named(changed: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        speed.differences("ablate", tables(**changed))


class Pretender:
    """A worker that only says what it took: `asked` is what it was asked, in all processes."""

    asked: tuple[str, ...] = ()
    wrong = ""
    stop_after = 1000
    took: Mapping[str, float] = {"slow": 9.0, "fast": 3.0, "one call": 1.0}

    def __init__(self, path: str, settings: Any = None):
        self.side = path.partition(":")[2].removesuffix("OnDevices").lower()

    def load(self, weights: Path, work: str, inputs: Path) -> dict[str, Any]:
        assert (weights / "model.safetensors").exists()
        assert inputs.exists()
        ways = ["one call"] if self.side == "jaxheads" else ["slow", "fast"]
        return {"ways": ways, "about": {"needed": 6e9, "loop": 24e9} if self.side == "jaxheads" else {}}

    def run(self, way: str) -> tuple[np.ndarray, dict[str, float]]:
        if len(Pretender.asked) == Pretender.stop_after:
            raise KeyboardInterrupt
        Pretender.asked = (*Pretender.asked, f"{self.side}: {way}")
        table = off(1) if self.side == Pretender.wrong else RIGHT
        return table, {"seconds": self.took[way], "cpu_seconds": 1.0, "memory": 2e9}

    def matmul(self) -> float:
        return 8e9 if self.side == "jaxheads" else 4e9

    def close(self) -> None:
        pass


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    monkeypatch.setattr(speed, "Worker", Pretender)
    for name, value in (("asked", ()), ("wrong", ""), ("stop_after", 1000)):
        monkeypatch.setattr(Pretender, name, value)
    return Pretender


def measure(directory: Path, *more: str) -> None:
    speed.main([*SMALL, "--works", "ablate", "--no-curves", "--repeats", "2", "--out", str(directory), *more])


def test_curves_change_one_size_at_a_time(tmp_path: Path, pretend: type[Pretender]):
    measure(tmp_path, "--curves")
    assert pretend.asked == (*IN_ALL, *["jaxheads: one call"] * 3 * sum(map(len, speed.QUICK_CURVES.values())))
    curves = pd.read_csv(tmp_path / "curves.csv", index_col=["axis", "value"])
    assert curves.index.tolist() == [("layers", 1), ("layers", 2), ("devices", 2)]
    assert curves["GFLOP/s"].tolist() == [6, 6, 6]
    for name in ("times", "curves"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


IN_ALL = (
    *("jaxheads: one call", "pytorch: slow", "pytorch: fast"),
    *("pytorch: fast", "jaxheads: one call"),
    *("jaxheads: one call", "pytorch: fast"),
)


def test_sides_take_turns_and_only_the_fastest_way_goes_on(tmp_path: Path, pretend: type[Pretender]):
    measure(tmp_path)
    assert pretend.asked == IN_ALL
    times = pd.read_csv(tmp_path / "times.csv", index_col="side")
    assert times["way"].to_dict() == {"jaxheads": "one call", "pytorch": "fast"}
    assert times["times jaxheads"].to_dict() == {"jaxheads": 1, "pytorch": 3}


def test_the_lead_is_the_product_of_its_parts(tmp_path: Path, pretend: type[Pretender]):
    measure(tmp_path)
    lead = pd.read_csv(tmp_path / "lead.csv", index_col="work").loc["ablate"]
    parts = [lead[f"of {part}"] for part in ("FLOPs not spent", "matrix products", "the rest")]
    assert parts == pytest.approx([4, 2, 3 / 8])
    assert lead["lead"] == pytest.approx(np.prod(parts))
    assert lead["share of peak"] == pytest.approx(6 / 8)
    assert lead["over pytorch at the peak"] == pytest.approx(lead["lead"] / lead["share of peak"])


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, pretend: type[Pretender], monkeypatch, capsys):
    monkeypatch.setattr(pretend, "stop_after", 4)  # in the middle of the second round
    with pytest.raises(SystemExit) as exit:
        measure(tmp_path)
    assert exit.value.code == 130
    assert "goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "times.csv").exists()
    monkeypatch.setattr(pretend, "stop_after", 1000)
    monkeypatch.setattr(pretend, "asked", ())
    measure(tmp_path)
    warming = ("jaxheads: one call", "pytorch: fast")  # new processes: their first calls are not counted
    assert pretend.asked == (*warming, *IN_ALL[3:])
    assert len(pd.read_csv(tmp_path / "calls.csv")) == len(IN_ALL)
    assert not (tmp_path / ".partial").exists()


def test_other_inputs_do_not_go_on_from_these(tmp_path: Path, pretend: type[Pretender], monkeypatch):
    monkeypatch.setattr(pretend, "stop_after", 4)
    with pytest.raises(SystemExit):
        measure(tmp_path)
    monkeypatch.setattr(pretend, "stop_after", 1000)
    monkeypatch.setattr(pretend, "asked", ())
    measure(tmp_path, "--seed", "1")
    assert pretend.asked == IN_ALL


def test_a_wrong_table_ends_the_run(tmp_path: Path, pretend: type[Pretender], monkeypatch):
    monkeypatch.setattr(pretend, "wrong", "jaxheads")
    with pytest.raises(SystemExit, match=r"ablate: not the table of pytorch.* jaxheads \(one call\) gives"):
        measure(tmp_path)
    assert not (tmp_path / "times.csv").exists()


def test_a_process_that_fails_says_why():
    worker = Worker("experiments.nothing:Side")
    try:
        with pytest.raises(WorkerError, match=r"(?s)ended with 1.*No module named 'experiments.nothing'"):
            worker.load(Path("weights"), "ablate", Path("inputs"))
    finally:
        worker.close()


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(speed.SIDES, "nnsight", speed.Library("somewhere:Side", "a_package_that_nobody_has"))
    assert list(speed.installed(["jaxheads", "nnsight"])) == ["jaxheads"]
    assert "nnsight is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sides", "jaxheads", "tensorflow"], "sides may be jaxheads, .*; got tensorflow"),
        (["--works", "everything"], "works may be ablate, .*; got everything"),
        (["--sides", "pytorch"], "expected jaxheads among the sides"),
        (["--repeats", "0"], "--repeats: expected a number from 1 up"),
    ],
)
def test_what_can_t_be_measured_is_refused(arguments: list[str], message: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=message):
        speed.main([*arguments, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory()
    held = np.ones(before // 8 + 10_000_000)
    assert peak_memory() > before
    assert held.sum() > 0


def test_a_page_without_curves_or_plans_is_whole(pretend: type[Pretender], tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pretend, "load", lambda self, *_: {"ways": ["one call"], "about": {}})
    measure(tmp_path)
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "## Where the lead comes from" not in summary
    assert WORKS["ablate"].title in summary
    assert not (tmp_path / "lead.csv").exists()
