"""Head analysis from weights alone: QK and OV circuits, composition, copying and attention by position."""

from .components import component_composition
from .copying_eigenvalues import eigenvalue_copying
from .extreme_pairs import TokenPairs, token_pairs
from .factored import Factored, ov_circuit, qk_circuit
from .head_composition import Composition, composition
from .positional import positional_kernel
from .projections import Projections, projection_kernel
from .token_pair_maps import salient_tokens, token_maps

__all__ = [
    "Composition",
    "Factored",
    "Projections",
    "TokenPairs",
    "component_composition",
    "composition",
    "eigenvalue_copying",
    "ov_circuit",
    "positional_kernel",
    "projection_kernel",
    "qk_circuit",
    "salient_tokens",
    "token_maps",
    "token_pairs",
]
