"""Views of heads: pictures that answer to pointer and keyboard, in notebooks and as files without a network."""

from .arrays import packed
from .attention_views import attention
from .curve_views import curves, evolution
from .document import document
from .graph_views import graph
from .heatmap_views import heatmap, scatter
from .sides import Backdrop, Tokens
from .text_views import matrix, tokens
from .view import View

__all__ = [
    "Backdrop",
    "Tokens",
    "View",
    "attention",
    "curves",
    "document",
    "evolution",
    "graph",
    "heatmap",
    "matrix",
    "packed",
    "scatter",
    "tokens",
]
