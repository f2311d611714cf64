"""The bundle of JavaScript: `python -m jaxheads.view` joins the sources into one module.

Each source becomes a function that is called once and returns what it exports, so that names of one file are not seen
by the others. No tool of another language is needed.
"""

import json
import re
from functools import cache
from pathlib import Path

from ..files import write_atomically

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "javascript"
BUNDLE = FOLDER / "static" / "view.js"

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|const) (\w+)", re.MULTILINE)


def bundled(sources: Path = SOURCES) -> str:
    """Return the bundle of a folder's modules, from `main.js` on, with the style.

    Raises:
        ValueError: for modules that import each other in a circle.
    """
    styles = (path.read_text(encoding="utf-8") for path in sorted(sources.glob("*.css"), reverse=True))
    style = json.dumps("".join(styles))
    parts = [_module(name, (sources / f"{name}.js").read_text(encoding="utf-8")) for name in _order(sources)]
    face = "globalThis.jaxheads = $main;\nexport const { render, start } = $main;\nexport default $main.widget;\n"
    return "\n".join(["// Made by `python -m jaxheads.view`.", f"const STYLE = {style};", *parts, face])


def _order(sources: Path) -> list[str]:
    """Return the names of modules, each after those that it imports."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"modules import each other in a circle: {' → '.join((*path, name))}")
        if name in order:
            return
        for _, other in _IMPORT.findall((sources / f"{name}.js").read_text(encoding="utf-8")):
            visit(other, (*path, name))
        order.append(name)

    visit("main", ())
    return order


def _module(name: str, source: str) -> str:
    exports = ", ".join(_EXPORT.findall(source))
    body = _IMPORT.sub(r"const {\1} = $\2;\n", source)
    body = re.sub(r"^export ", "", body, flags=re.MULTILINE)
    return f"const ${name} = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();\n"


@cache
def script() -> str:
    """Return the bundle as it is in the package."""
    return BUNDLE.read_text(encoding="utf-8")


def main() -> None:
    """Write the bundle."""
    write_atomically(BUNDLE, bundled().encode())
