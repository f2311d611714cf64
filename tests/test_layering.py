"""Imports run one way, down the list below, and in no circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the top down. Names on one line are siblings: they don't import each other. "jaxheads" alone is the
# public face, jaxheads/__init__.py: only what stands above it may import through it.
LAYERS = (
    ("cli", "experiments"),
    ("commands",),
    ("jaxheads",),
    ("report",),
    ("train", "steering"),
    ("sweep",),
    ("generate",),
    ("evidence",),
    ("measure", "data"),
    ("execution",),
    ("edits", "objectives", "class_objectives", "log_probabilities", "masked_losses", "minimal_pairs", "networks"),
    ("class_reads",),
    ("reads",),
    ("models",),
    ("tables", "statistics"),
    ("view",),
    ("plots",),
    ("provenance", "files", "progress", "arguments", "programs", "anchors"),
    ("kinds", "interrupts", "compile_cache", "emulation"),
    ("differences",),
    ("cache",),
    ("checks", "columns", "extras", "precision", "source_state"),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


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
        ("jaxheads.sweep.exact.patch", "from ...models import stack", True),
        ("jaxheads.sweep.exact.patch", "from ...report import page", False),
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


def modules(tree: ast.AST, module: str, package: str, known: set[str]) -> Iterator[str]:
    """Yield our modules that one file imports, type-only imports included; a package stands for its `__init__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                target = inner if inner in known else base
                if target in known and target != module:
                    yield target


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; nothing where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if found := walk(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def import_graph(*folders: str) -> dict[str, set[str]]:
    files = {}
    for path in sources(*folders):
        names = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    graph = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = set(modules(ast.parse(path.read_text(encoding="utf-8")), module, package, set(files)))
    return graph


def test_no_modules_import_each_other():
    assert not circle(import_graph("jaxheads", "experiments")), "a circle of imports"


def rooms(graph: dict[str, set[str]], folder: str) -> dict[str, set[str]]:
    """The graph between what lies directly in a folder: its files and its folders."""

    def room(module: str) -> str | None:
        return module.removeprefix(f"{folder}.").split(".")[0] if module.startswith(f"{folder}.") else None

    found: dict[str, set[str]] = {}
    for module, others in graph.items():
        if (own := room(module)) is not None:
            found.setdefault(own, set()).update(other for name in others if (other := room(name)) not in (None, own))
    return found


def test_the_rooms_of_sweep_are_few_and_import_one_way():
    graph = rooms(import_graph("jaxheads"), "jaxheads.sweep")
    assert len(graph) <= 10
    assert sum(map(len, graph.values())) <= 30
    assert not circle(graph)


def test_a_circle_is_noticed():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
