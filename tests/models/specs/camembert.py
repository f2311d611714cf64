"""CamemBERT."""

from .roberta import spec

SPEC = spec("Camembert")
