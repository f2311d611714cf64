"""jaxheads: what each attention head does, whether it matters, and how it came to do it.

The public names are in `__init__.pyi`, in the order of reading. Each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
