"""The frame of the experiments: what is written, and what a user is told."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import lab
from jaxheads.statistics import mean_interval
from jaxheads.tables import Column


def head_table(*, examples: bool) -> jh.HeadTable:
    column = Column(np.ones((2, 3)), per_example=np.ones((4, 2, 3)) if examples else None)
    return jh.HeadTable.from_columns("effect", "decoder", {"effect": column}, squeeze=True)


def results(page: str = "# A page", *, examples: bool = True, folder: str = "") -> lab.Results:
    figure, [axes] = jh.plots.panels(1, (2, 2))
    axes.plot([0, 1])
    counted, named = pd.DataFrame({"loss": [0.5]}), pd.DataFrame({"loss": [0.5]}, pd.Index([7], name="step"))
    tables = {"counted": counted, "named": named}
    heads = {"heads": head_table(examples=examples)}
    return lab.Results(page, {"seed": 3}, tables, {"curve": figure}, heads, {"note.md": b"a note\n"}, folder)


def test_all_that_results_hold_is_written(tmp_path: Path):
    lab.write(results(), tmp_path)
    assert (tmp_path / "summary.md").read_text() == "# A page"
    assert (tmp_path / "counted.csv").read_text() == "loss\n0.5\n"
    assert (tmp_path / "named.csv").read_text() == "step,loss\n7,0.5\n"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "note.md").read_text() == "a note\n"
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert about["seed"] == 3
    assert about["versions"]["jax"] == jax.__version__
    assert jh.HeadTable.load(tmp_path / "heads").examples == 4


def test_nothing_is_written_where_one_file_can_t_be(tmp_path: Path):
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(OSError, match=r"can't write .*curve\.png"):
        lab.write(results(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_examples_of_an_earlier_run_are_removed(tmp_path: Path):
    lab.write(results(), tmp_path)
    lab.write(results(examples=False), tmp_path)
    assert jh.HeadTable.load(tmp_path / "heads").examples is None


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        fail: the name of an error.
    """

    fail: str = ""


def run(options: Options) -> Iterator[lab.Results]:
    options.unfinished.mkdir(parents=True)
    (options.unfinished / "finished").write_text("")
    yield results("# First", folder="first")
    if options.fail == "value":
        raise ValueError("that can't be measured")
    if options.fail == "full":  # as a library of C++ says it
        raise RuntimeError("INTERNAL: No space left on device")
    if options.fail == "stop":
        raise KeyboardInterrupt
    yield results("# Second", folder="second")


main = lab.command(Options, run, "About the experiment.")


def test_several_results_have_a_folder_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--out", str(tmp_path)])
    assert (tmp_path / "second" / "summary.md").read_text().startswith("# Second\n")
    printed = capsys.readouterr().out
    assert printed.index("# First") < printed.index(f"written to {tmp_path / 'first'}") < printed.index("# Second")
    assert not (tmp_path / ".partial").exists()


def test_an_error_is_one_line(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"^test_lab: that can't be measured$"):
        main(["--fail", "value", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^test_lab: INTERNAL: No space left on device$"):
        main(["--fail", "full", "--out", str(tmp_path)])
    assert (tmp_path / "first" / "summary.md").exists()
    assert not (tmp_path / "second").exists()


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        main(["--fail", "stop", "--out", str(tmp_path)])
    assert exit.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert (tmp_path / ".partial").exists()


def test_help_names_the_command_and_the_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m experiments.test_lab" in printed
    assert "About the experiment." in printed
    assert "the name of an error" in printed


class Training(lab.TrainingOptions):
    usual = (3, 400)
    short = (2, 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(Training(), (3, 400)), (Training(quick=True), (2, 5)), (Training(quick=True, steps=7), (2, 7))],
)
def test_a_quick_training_is_short_unless_told_otherwise(options: Training, expected: tuple[int, int]):
    assert options.trained == expected
    assert (options.about["seeds"], options.about["steps"]) == expected


@pytest.mark.parametrize(("quick", "expected"), [(True, True), (False, False)])
def test_a_quick_training_compiles_quickly(quick: bool, expected: bool, tmp_path: Path):
    settings = []

    def train(options: Training) -> lab.Results:
        settings.append(jax.config.values["jax_disable_most_optimizations"])
        return results()

    lab.command(Training, train, None)([*(["--quick"] if quick else []), "--out", str(tmp_path)])
    assert settings == [expected]
    assert not jax.config.values["jax_disable_most_optimizations"]


def test_few_examples_are_marked_in_tables():
    few = pd.DataFrame([lab.bounds("score", mean_interval([0.4, 0.5, 0.6]))])
    assert "3 †" in lab.markdown(few)
    assert lab.markdown(few).endswith("† fewer than 10 independent examples: the interval is rough.")
    many = pd.DataFrame([lab.bounds("score", mean_interval(np.linspace(0, 1, 10)))])
    assert "†" not in lab.markdown(many)
    assert list(many) == ["score", "score_low", "score_high", "score_n"]


def test_a_file_name_has_no_spaces():
    assert lab.file_name("K = 2, one layer") == "K2-one-layer"
