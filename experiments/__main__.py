"""The list of experiments: `python -m experiments`."""

import ast
from collections.abc import Iterator
from pathlib import Path


def experiments() -> Iterator[tuple[str, str]]:
    """Yield the name and the question of each experiment, the first line of its docstring, without importing it."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "main" for node in tree.body):
            yield path.stem, (ast.get_docstring(tree) or "").splitlines()[0]


def main() -> None:
    """Print the experiments, their questions, and how one is run."""
    listed = list(experiments())
    width = max(len(name) for name, _ in listed)
    print(f"python -m {__package__}.NAME runs an experiment; with --quick in a minute; --help tells more.\n")
    print("\n".join(f"{name:{width}}  {question}" for name, question in listed))


if __name__ == "__main__":
    main()
