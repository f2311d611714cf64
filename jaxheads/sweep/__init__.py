"""Sweeps: questions asked of every head. What changes if this were different?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ("circuits", "exact", "gradients", "path_patching"))
