"""Import each module of jaxheads alone, in a process where no other was imported: `python -m tests.fresh_imports`.

Third-party packages are imported once; each module then has a fork of that process to itself.
"""

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

# Forks share what is imported here. None of it starts JAX's backend, whose threads a fork would lose.
import flax.nnx  # noqa: F401
import jax.numpy  # noqa: F401
import pandas  # noqa: F401

ROOT = Path(__file__).parent.parent


def modules() -> list[str]:
    paths = sorted((ROOT / "jaxheads").rglob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names if parts[-1] != "__main__"]


def check(module: str) -> None:
    """Import a module, then look whether the function `measure` is still there, or its package in its place."""
    importlib.import_module(module)
    import jaxheads as jh

    assert not isinstance(vars(jh).get("measure"), ModuleType), f"{module} put the package in place of the function"
    if module.startswith("jaxheads.measure"):
        assert callable(jh.measure)
        assert callable(jh.relevance)


def main() -> int:
    assert not any(name.split(".")[0] == "jaxheads" for name in sys.modules)
    failed = 0
    for module in modules():
        child = os.fork()
        if child == 0:
            try:
                check(module)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        failed += os.waitpid(child, 0)[1] != 0
    print(f"{len(modules())} modules, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
