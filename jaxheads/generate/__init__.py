"""Writing: text that a model continues, under edits, with cached keys and values."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={})
