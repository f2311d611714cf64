"""The house stays readable: docstrings that read alone, short files and functions, names that can be told apart."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from . import house

LIBRARY = house.sources("jaxheads", "experiments")
EVERYTHING = house.sources("jaxheads", "experiments", "tests")


def test_docstrings_open_with_a_verb_or_a_noun():
    wrong = [line for path in LIBRARY for line in house.fragments(path)]
    count = sum(len(list(house.docstrings(path))) for path in LIBRARY)
    assert len(wrong) <= 0.02 * count, f"{len(wrong)} fragments among {count} docstrings\n" + "\n".join(wrong)


@pytest.mark.parametrize("check", [house.long_files, house.long_functions, house.hand_formatted])
def test_files_and_functions_are_short_and_formatted(check):
    wrong = [line for path in EVERYTHING for line in check(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["jaxheads/sweep", "jaxheads/measure"])
def test_file_names_can_be_told_apart(folder: str):
    paths = [path for path in house.sources(folder) if path.name not in ("__init__.py", "engine.py", "work.py")]
    twice = [name for name, count in Counter(path.name for path in paths).items() if count > 1]
    assert not twice, f"more than one file below {folder}: {', '.join(twice)}"
    as_folder = [str(path) for path in paths if path.stem == path.parent.name]
    assert not as_folder, f"named as its folder: {', '.join(as_folder)}"


def test_sweeps_say_why():
    paths = house.sources("jaxheads/sweep")
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    comments = sum(len(house.comment_lines(path)) for path in paths)
    assert comments >= 0.03 * lines, f"{comments} comments on {lines} lines"


def test_imports_inside_the_packages_are_relative():
    wrong = []
    for path in LIBRARY:
        package = path.relative_to(house.ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            wrong += [f"{path}:{node.lineno}" for name in names if name.split(".")[0] == package]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""Return the objective."""', 0),
        ('"""Of one batch."""', 1),
        ('"""What a user asked."""', 1),
        ('"""The same of a chunk."""', 1),
        ('"""Whether heads differ."""', 0),
        ('LIMIT = 1\n"""By layer."""', 1),
        ('def f():\n    "From a batch."', 1),
    ],
)
def test_a_fragment_is_noticed(text: str, count: int, tmp_path: Path):
    path = tmp_path / "example.py"
    path.write_text(text)
    assert len(house.fragments(path)) == count


def test_a_long_function_is_noticed(tmp_path: Path):
    path = tmp_path / "example.py"
    statements = "\n".join(f"    x = {number}" for number in range(house.MOST_CODE_LINES))
    path.write_text(f'def short():\n    """Do it.\n\n    At length.\n    """\n    # Why.\n\n{statements}\n')
    assert not house.long_functions(path)
    path.write_text(f"def long():\n{statements}\n    return x\n")
    assert len(house.long_functions(path)) == 1
