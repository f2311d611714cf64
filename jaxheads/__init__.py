"""jaxheads: what each attention head does, whether it matters, and how it came to do it.

The public names are in `__init__.pyi`, in the order of reading. Each is imported when it is first used.
"""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .source_state import version

        return version("jaxheads")
    return _public(name)
