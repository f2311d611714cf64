"""Every page says how it was made, in words that run; the list of experiments has them all."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro

from experiments import lab
from experiments.__main__ import experiments, main
from jaxheads import cli

from ..check_results import ON_DATA, QUICK, command_of, disagreements

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "results").rglob("*.md"))
SUMMARIES = [page for page in PAGES if page.name == "summary.md" or page.parent.name == "results"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT / "results"))


@pytest.mark.parametrize("page", SUMMARIES, ids=page_id)
def test_a_page_names_the_command_that_made_it_in_words_that_run(page: Path, monkeypatch: pytest.MonkeyPatch):
    program, *words = command_of(page)
    if program == "jaxheads":
        options = tyro.cli(cli.COMMANDS, args=words)
        assert isinstance(options, cli.Atlas)
        assert options.out is not None
        assert ROOT / options.out == page.parent
        assert " ".join(["jaxheads", *words]) in " ".join(MAKEFILE.split())
        return
    assert (program, words[0]) == ("python", "-m")
    module = importlib.import_module(words[1])
    if words[1].startswith("experiments."):
        options = tyro.cli(module.Options, args=words[2:])
        assert isinstance(options, lab.Options)
        options.check()
        assert page.is_relative_to(ROOT / options.folder)
        assert not options.quick
    name = words[1].removeprefix("experiments.")
    assert re.search(rf"\b{re.escape(name)}\b", MAKEFILE), f"make results does not make {page_id(page)}"


def test_there_is_a_page_of_each_experiment():
    made = {" ".join(command_of(page)).split()[2] for page in SUMMARIES if command_of(page)[0] == "python"}
    assert {f"experiments.{name}" for name, _ in experiments()} <= made


def test_the_list_has_every_experiment_with_its_question(capsys: pytest.CaptureFixture[str]):
    names = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__", "lab"}
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python -m experiments.NAME")
    assert {line.split()[0] for line in lines[2:]} == names
    assert all(line.endswith("?") for line in lines[2:])


def test_the_list_is_printed_without_jax():
    code = "import runpy, sys; runpy.run_module('experiments', run_name='__main__'); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ioi" in done.stdout


def test_results_that_are_checked_are_there():
    assert all((ROOT / "results" / name / "summary.md") in SUMMARIES for name in QUICK)


def test_what_differs_from_committed_results_is_told():
    empty = pd.DataFrame({"role": ["", "sink"]}).replace("", None)
    assert not disagreements(empty, empty.copy())
    old = pd.DataFrame({"head": [f"0.{n}" for n in range(100)], "effect": np.linspace(0, 1, 100)})
    assert not disagreements(old, old)
    assert not disagreements(old, old.assign(effect=old["effect"] + 5e-4))
    other = old.assign(effect=old["effect"].where(old.index != 40, 3.0))
    assert disagreements(old, other) == [f"effect: 1 of 100 differ; row 40: {old['effect'][40]}, now 3.0"]
    assert disagreements(old, old.assign(effect=np.nan))[0].startswith("effect: 100 of 100 differ")
    renamed = old["head"].where(old.index > 4, "9.9")
    assert disagreements(old, old.assign(head=renamed))[0].startswith("head: 5 of 100 differ")
    assert not disagreements(old, old.assign(head=old["head"].where(old.index > 1, "9.9")))
    assert disagreements(old, old.head(3))[0].startswith("other columns or rows")


def test_experiments_on_data_that_is_not_committed_are_checked_on_sentences_of_their_own():
    loops = re.findall(r"for name in ([a-z_ ]+); do .*?\$\$name --[\w-]+ \$\(", MAKEFILE)
    alone = re.findall(r"-m experiments\.(\w+) --[\w-]+ \$\(", MAKEFILE)
    assert {*" ".join(loops).split(), *alone} == set(ON_DATA)
