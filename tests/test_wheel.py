"""The wheel and the sdist: built here, installed outside the checkout, used as the README's reader would."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

import jaxheads as jh
from jaxheads.provenance import code

from .test_readme import blocks

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and for the rest the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    [wheel] = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    # A line of a .pth file is searched for packages, but its own .pth files, such as the checkout's, are not read.
    [own] = folder.glob("lib/*/site-packages")
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def outside(program: Path, *words: str, cwd: Path) -> str:
    """Run a program far from the checkout, and return what it prints."""
    settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([program, *words], cwd=cwd, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_knows_its_version_and_its_commit(installed: Path, tmp_path: Path):
    script = """
import json, sys, pathlib
import jaxheads as jh
from jaxheads.provenance import environment
about = environment()
folder = pathlib.Path(jh.__file__).parent
versions = [jh.__version__, about["versions"]["jaxheads"]]
carried = all((folder / name).exists() for name in ("py.typed", "view/static/view.js"))
print(json.dumps([str(folder), *versions, about["git"], carried]))
"""
    folder, version, named, state, carried = json.loads(outside(installed / "python", "-c", script, cwd=tmp_path))
    assert Path(folder).is_relative_to(installed.parent)
    assert version == named == PROJECT["version"]
    assert state == code()
    assert state is None or len(state["revision"]) == 40
    assert carried


def test_the_experiments_run_from_the_wheel(installed: Path, tmp_path: Path):
    shown = outside(installed / "python", "-m", "jaxheads.experiments", cwd=tmp_path)
    assert shown.startswith("python -m jaxheads.experiments.NAME")
    name = "jaxheads.experiments.specialisation_power"
    page = outside(installed / "python", "-m", name, "--quick", "--models", "2", cwd=tmp_path)
    assert f"Made by `python -m {name} --quick --models 2` with jaxheads {PROJECT['version']}" in page
    assert (tmp_path / "results" / "specialisation-power" / "power.png").exists()


@pytest.mark.weights
def test_the_first_block_of_the_readme_runs_from_the_wheel(installed: Path, tmp_path: Path):
    outside(installed / "python", "-c", blocks("python")[0].text, cwd=tmp_path)
    assert jh.HeadTable.load(tmp_path / "effects" / "ablate").shape == (4, 4)
    assert "| smollm2-135m " in outside(installed / "jaxheads", "zoo", cwd=tmp_path)


def test_the_sdist_has_what_the_repository_has(built: Path):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {str(own.relative_to(ROOT)) for room in ("results", "notebooks") for own in (ROOT / room).rglob("*.*")}
    assert {name for name in tracked if "/." not in name and "__pycache__" not in name} <= names
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "tests/test_wheel.py", "experiments/ioi.py"} <= names


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] == PROJECT["version"] == jh.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['version']}" in changes


def test_the_classifiers_name_the_pythons_from_the_least_that_is_required():
    least = int(PROJECT["requires-python"].removeprefix(">=3."))
    named = [text.rpartition(" :: ")[2] for text in PROJECT["classifiers"] if text.count("3.")]
    assert named[0] == f"3.{least}"
    assert f"3.{sys.version_info.minor}" in named
