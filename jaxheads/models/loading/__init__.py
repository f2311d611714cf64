"""From a source (zoo name, directory, GGUF file, hub id) to a `Checkpoint`. Knows nothing of models."""

from .checkpoint import Checkpoint, Tensor
from .sources import open_checkpoint
from .zoo import zoo_table

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "zoo_table"]
