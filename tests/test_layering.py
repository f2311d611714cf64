"""Imports run one way, down the list below; files and functions stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top down. Names on one line are siblings: they don't import each other. "jaxheads" alone is the
# public face, jaxheads/__init__.py: only what stands above it may import through it.
LAYERS = (
    ("cli", "experiments"),
    ("jaxheads",),
    ("report",),
    ("train", "probe"),
    ("sweep",),
    ("evidence",),
    ("measure", "data"),
    ("execution",),
    ("edits", "objectives"),
    ("models",),
    ("tables", "statistics"),
    ("provenance", "files", "progress", "checks"),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def is_part(name: str) -> bool:
    """Whether jaxheads has, or is to have, a module or folder of this name."""
    return name in LEVEL or any((ROOT / "jaxheads" / file).exists() for file in (name, f"{name}.py"))


def part_of(module: str) -> str:
    """The name in the list that a dotted module belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "jaxheads" and len(names) > 1 else names[0]


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import of ours; `package` resolves the relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from jaxheads import edits` imports a part, `from jaxheads import load` the face.
            parts = [a.name if base == "jaxheads" and is_part(a.name) else "" for a in node.names]
            names = [f"{base}.{part}" if part else base for part in parts]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in ("jaxheads", "experiments"))


def violations(source: str, module: str, package: str) -> list[str]:
    """Every import in one file that doesn't run down the list."""
    part, wrong = part_of(module), []
    for line, name in imported(ast.parse(source), package):
        other = part_of(name)
        if other not in LEVEL:
            wrong.append(f"{module}:{line} imports {name}, which has no place in the list")
        elif part in LEVEL and other != part and LEVEL[other] <= LEVEL[part]:
            wrong.append(f"{module}:{line} imports {name}: {part} stands level with or below {other}")
    return wrong


def test_every_part_has_its_place():
    parts = {part_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in sources("jaxheads")}
    assert "models" in parts
    unplaced = sorted(parts - {"__init__", "__main__"} - set(LEVEL))
    assert not unplaced, f"no place in the list of layers: {', '.join(unplaced)}"


def test_imports_run_one_way():
    wrong = []
    for path in sources("jaxheads", "experiments"):
        names = path.relative_to(ROOT).with_suffix("").parts
        if names in (("jaxheads", "__main__"),):
            names = ("jaxheads", "cli")
        module = ".".join(names[:-1] if names[-1] == "__init__" else names)
        wrong += violations(path.read_text(encoding="utf-8"), module, ".".join(names[:-1]))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "line", "fine"),
    [
        ("jaxheads.sweep.exact.patch", "from jaxheads.models.stack import run", True),
        ("jaxheads.sweep.exact.patch", "from .engine import sweep", True),
        ("jaxheads.sweep.exact.patch", "from ..models import stack", True),
        ("jaxheads.sweep.exact.patch", "from ..report import page", False),
        ("jaxheads.sweep.exact.patch", "def f():\n    import jaxheads.report.page", False),
        ("jaxheads.measure.patterns", "from jaxheads.data import passages", False),
        ("jaxheads.measure.patterns", "from jaxheads import tables, edits", True),
        ("jaxheads.measure.patterns", "from jaxheads import sweep", False),
        ("jaxheads.measure.patterns", "from jaxheads import load", False),
        ("jaxheads.measure.patterns", "import jaxheads as jh", False),
        ("jaxheads.measure.patterns", "from jaxheads.novelty import x", False),
        ("jaxheads.tables", "from jaxheads.statistics import interval", False),
        ("jaxheads.tables", "import numpy, jaxheadsup", True),
        ("jaxheads", "from jaxheads.models.model import Model", True),
        ("jaxheads", "from .cli import main", False),
        ("experiments.induction", "import jaxheads as jh", True),
        ("experiments.induction", "from experiments.common import table", True),
        ("experiments.induction", "from jaxheads.cli import main", False),
        ("jaxheads.cli", "import jaxheads", True),
    ],
)
def test_the_check_itself(module: str, line: str, fine: bool):
    package = module if module == "jaxheads" else module.rpartition(".")[0]
    assert (not violations(line, module, package)) is fine


def test_files_are_short():
    counts = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources("jaxheads", "experiments", "tests")
    }
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in counts.items() if n > MOST_LINES]
    assert not long, f"at most {MOST_LINES} lines a file\n" + "\n".join(long)


def test_functions_are_short():
    long = []
    for path in sources("jaxheads", "experiments", "tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not long, f"at most {MOST_FUNCTION_LINES} lines a function\n" + "\n".join(long)
