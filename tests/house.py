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
    """Return the functions of a file whose body has too many lines of code."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    blank = {n for n, line in enumerate(lines, 1) if not line.strip() or line.lstrip().startswith("#")}
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                body = body[1:]
            if body:
                count = len(set(range(body[0].lineno, (body[-1].end_lineno or 0) + 1)) - blank)
                if count > MOST_CODE_LINES:
                    found.append(f"{path}:{node.lineno} {node.name}: {count} lines of code")
    return found


def main(arguments: list[str]) -> None:
    """Print what is amiss in some files or folders."""
    given = [Path(argument) for argument in arguments] or [ROOT / "jaxheads", ROOT / "experiments"]
    files = [file for path in given for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    wrong = [line for file in files for line in fragments(file)]
    count = sum(1 for file in files for _ in docstrings(file))
    print(*wrong, sep="\n")
    print(f"{len(wrong)} fragments among {count} docstrings")
    for file in files:
        print(*long_functions(file), sep="\n", end="\n" if long_functions(file) else "")
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > MOST_LINES:
            print(f"{file}: {len(text.splitlines())} lines")
        if "fmt: skip" in text or "fmt: off" in text:
            print(f"{file}: {text.count('fmt: skip')} fmt: skip")


if __name__ == "__main__":
    main(sys.argv[1:])
