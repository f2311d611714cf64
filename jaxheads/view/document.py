"""One HTML text with everything in it: style, script and data, without a network."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arguments import checked
from .bundle import script

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}

_START = "jaxheads.start();\n"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
img-src data: blob:; script-src 'sha256-{hash}'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
html {{ background: #fff; }}
body {{ margin: 0; }}
main {{ padding: 1rem; max-width: 90rem; margin: 0 auto; }}
section + section {{ margin-top: 2rem; }}
@media (prefers-color-scheme: dark) {{ html {{ background: #15181d; }} }}
@media print {{ html {{ background: #fff; }} }}
</style>
</head>
<body>
<main>
{body}
</main>
<script type="module">{script}</script>
</body>
</html>
"""


@checked()
def document(title: str, payloads: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML text of a file that draws payloads, one under the other.

    Nothing in it comes from elsewhere, and no text of a payload can become markup or script: JSON is escaped, all text
    is put in as text, and a content security policy lets only the package's own script run.
    """
    parts = []
    for number, payload in enumerate(payloads):
        own = f"jaxheads-{number}"
        parts.append(
            f'<section id="{own}"></section>\n'
            f'<script type="application/json" data-jaxheads="{own}">{inlined(payload)}</script>'
        )
    source = script() + _START
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return _PAGE.format(title=html.escape(title), body="\n".join(parts), script=source, hash=digest)


def inlined(payload: Mapping[str, Any]) -> str:
    """Return JSON for a script element: `< > &` and line separators are escapes, so that no text ends the element.

    Raises:
        ValueError: for NaN or infinity, which JSON lacks: give `packed` arrays.
    """
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.translate(_ESCAPES)


def _plain(value: Any) -> Any:
    """Return a NumPy number as one of Python; raises TypeError for all else that JSON lacks."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a payload holds plain values and packed arrays, got {type(value).__name__}")
