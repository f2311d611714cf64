"""Measurements of the house: docstrings, sizes, comments. `python tests/house.py [PATH …]` lists what is amiss."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES, MOST_CODE_LINES = 400, 45

# A first line that opens with one of these is a fragment: it leans on something above it.
FRAGMENTS = (
    "a same|after|all but|also|and|as|at|before|but|by|during|for|from|how|if|in|its|like|likewise|of|on|one by one|"
    "only|or|so|that|the latter|the other|the rest|the same|their|theirs|then|those|till|to|too|until|what|when|where|"
    "which|while|who|whose|why|with|without"
)
FRAGMENT = re.compile(rf"\W*({FRAGMENTS})\b", re.IGNORECASE)


def sources(*folders: str) -> list[Path]:
    """Return every Python file of these folders of the project."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring of a file: of modules, classes, functions, and of fields and constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for before, statement in zip([None, *node.body], node.body, strict=False):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str) and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                    yield statement.lineno, text


def fragments(path: Path) -> list[str]:
    """Return the first lines of a file's docstrings that open with a fragment."""
    return [f"{path}:{line} {text.splitlines()[0]}" for line, text in docstrings(path) if FRAGMENT.match(text)]


def comment_lines(path: Path) -> set[int]:
    """Return the numbers of a file's lines that hold a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def long_functions(path: Path) -> list[str]:
    """Return the functions of a file with too many lines of code: no signature, docstring, comment or blank line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    silent = {number for number, line in enumerate(lines, 1) if not line.strip() or line.lstrip().startswith("#")}
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            body = node.body[1:] if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else node.body
            count = len(set(range(body[0].lineno, (body[-1].end_lineno or 0) + 1)) - silent) if body else 0
            if count > MOST_CODE_LINES:
                found.append(f"{path}:{node.lineno} {node.name}: {count} lines of code")
    return found


def long_files(path: Path) -> list[str]:
    """Return a line about the file if it is too long."""
    count = len(path.read_text(encoding="utf-8").splitlines())
    return [f"{path}: {count} lines"] if count > MOST_LINES else []


def hand_formatted(path: Path) -> list[str]:
    """Return the lines of a file that the formatter is told to leave alone."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"{path}:{number}" for number, line in enumerate(lines, 1) if re.search(r"# fmt: (skip|off)", line)]


def main(arguments: list[str]) -> None:
    """Print what is amiss in some files or folders."""
    roots = [Path(argument) for argument in arguments] or [ROOT / "jaxheads", ROOT / "experiments"]
    files = [file for path in roots for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    for file in files:
        for line in [*fragments(file), *long_functions(file), *long_files(file), *hand_formatted(file)]:
            print(line)
    count, wrong = sum(len(list(docstrings(file))) for file in files), sum(len(fragments(file)) for file in files)
    print(f"{wrong} fragments among {count} docstrings")


if __name__ == "__main__":
    main(sys.argv[1:])
