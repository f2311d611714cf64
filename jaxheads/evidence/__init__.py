"""Evidence for names and claims about heads: nulls, roles, specialisation, and selection on held-out examples."""

from ..models.random_weights import random_weights
from .nulls import shuffled_marks, shuffled_pairs
from .roles import Evidence, name_heads
from .selection import held_out, with_intervals
from .specialisation import Specialisation, specialisation

__all__ = [
    "Evidence",
    "Specialisation",
    "held_out",
    "name_heads",
    "random_weights",
    "shuffled_marks",
    "shuffled_pairs",
    "specialisation",
    "with_intervals",
]
