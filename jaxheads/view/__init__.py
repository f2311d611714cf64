"""Views of heads: pictures that answer to pointer and keyboard, in notebooks and as files without a network."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrays": ["packed"],
        "attention_views": ["attention"],
        "curve_views": ["curves"],
        "document": ["document"],
        "graph_views": ["graph"],
        "heatmap_views": ["heatmap", "scatter"],
        "sides": ["Backdrop", "Tokens"],
        "text_views": ["matrix", "tokens"],
        "view": ["View"],
    },
)
