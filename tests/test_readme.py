"""What the README shows can be done as it stands there."""

import importlib.util
import re
import shlex
import tomllib
import types
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from tests import language

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SHELL = ("bash", "sh", "shell", "console")


class Block(NamedTuple):
    """One fenced block: its language, the README line its text starts on, and the text."""

    language: str
    line: int
    text: str


def blocks(*languages: str, page: Path = README) -> list[Block]:
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    fences = re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)
    found = [Block(f[1], text.count("\n", 0, f.start(2)) + 1, f[2]) for f in fences]
    return [block for block in found if block.language in languages]


def commands() -> list[list[str]]:
    """The words of every shell command, without comments, prompts, variables and the venv's path."""
    lines = [line for block in blocks(*SHELL) for line in block.text.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        for command in re.split(r"\s(?:&&|\|\||\||;)\s", line.removeprefix("$ ")):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            if words:
                found.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
    return found


def starting(*names: str) -> list[list[str]]:
    return [words for words in commands() if words[0] in names]


def test_the_model_of_the_zoo_is_named_in_full():
    """The zoo has SmolLM2-135M-Instruct in 4 bits, which isn't the base model."""
    sources = [path for room in ("experiments", "jaxheads") for path in (ROOT / room).rglob("*.py")]
    for path in [README, ROOT / "CONTRIBUTING.md", *sources]:
        text = path.read_text(encoding="utf-8")
        assert not re.search("SmolLM2-135M(?!-Instruct)", text), path
    assert re.search(r"SmolLM2-135M-Instruct, quantised to 4 bits", README.read_text(encoding="utf-8"))


def test_there_is_something_to_check():
    assert blocks("python"), "README.md has no ```python block: nothing was checked"
    assert starting("jaxheads"), "README.md shows no `jaxheads` command"
    assert starting("make"), "README.md shows no `make` command"


def run_in_order(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    # Dataclasses look up the module that they are defined in.
    module = types.ModuleType("page")
    module.__dict__.update(namespace)
    for block in blocks("python", page=page):
        # Blank lines in front make a traceback name the page's own line.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(page), "exec"), module.__dict__)


@pytest.mark.weights
def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_in_order(README)


PAGES = [ROOT / "docs/your-own-model.md"]
"""Pages whose blocks stand for themselves; those of others continue a run on a cluster."""


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_python_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert blocks("python", page=page)
    assert f"(docs/{page.name})" in README.read_text(encoding="utf-8"), "README links to the page"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        run_in_order(page)


@pytest.mark.weights
def test_the_python_blocks_on_language_run_on_sentences_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "en_ewt-ud-dev.conllu").write_text(language.as_conllu(language.drawn(60)), encoding="utf-8")
    (tmp_path / "blimp").mkdir()
    pair = '{{"sentence_good": "The {} sit here.", "sentence_bad": "The {} sits here.", "linguistics_term": "{}"}}\n'
    rows = [pair.format(word, word, "subject_verb_agreement") for word in ("dogs", "cats", "men", "boys")]
    (tmp_path / "blimp/pairs.jsonl").write_text("".join(rows), encoding="utf-8")
    page = ROOT / "docs/language.md"
    assert f"(docs/{page.name})" in README.read_text(encoding="utf-8"), "README links to the page"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        run_in_order(page)


def test_the_bridge_to_a_model_of_one_s_own_is_short():
    _, bridge, _ = blocks("python", page=ROOT / "docs/your-own-model.md")
    assert len([line for line in bridge.text.splitlines() if line.strip()]) <= 40


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    for _, *words in starting("make"):
        named = [word for word in words if not word.startswith("-") and "=" not in word]
        assert set(named) <= targets, f"make {' '.join(words)}: the Makefile has {sorted(targets)}"


def test_the_modules_exist():
    for words in starting("python", "python3"):
        if "-m" in words:
            module = words[words.index("-m") + 1]
            assert importlib.util.find_spec(module), f"python -m {module}: there is no such module"


def test_the_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"(?:jaxheads|\.)\[([\w,]+)\]", " ".join(" ".join(words) for words in commands()))
    for extra in ",".join(named).split(",") if named else []:
        assert extra in project["optional-dependencies"], f"there is no extra {extra!r}"


def test_the_jaxheads_commands_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from jaxheads.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    for _, *words in starting("jaxheads"):
        name = [word for word in words[:1] if not word.startswith("-")]
        monkeypatch.setattr("sys.argv", ["jaxheads", *name, "--help"])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        assert stop.value.code in (0, None), f"jaxheads {' '.join(words)}: {shown.out}{shown.err}"
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            assert option in shown.out, f"jaxheads {' '.join(words)}: --help does not name {option}"
