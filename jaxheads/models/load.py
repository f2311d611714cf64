"""From a source of weights to a model that runs."""

import difflib
import os
from functools import cache
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from ..provenance import without_places
from .families import FAMILIES
from .loading.checkpoint import Checkpoint
from .loading.sources import open_checkpoint
from .loading.weights import fill
from .model import Model
from .sharding import Rules, arrange


def load(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules = (),
) -> Model:
    """A model with its real weights.

    Args:
        source: a zoo name (`jaxheads zoo` lists them), a hub id "owner/name", a local Hugging Face directory, or a
            `.gguf` file.
        revision: of a hub id: branch, tag or commit.
        dtype: what the weights are held and computed in, whatever they are stored in.
        mesh: split the parameters over its axis "model" as they are read, so that no device ever holds the whole
            model (nor the host, of safetensors and GGUF, more than a parameter); see `jaxheads.shard`.
        rules: for the mesh, tried before the default ones; see `jaxheads.shard`.

    Raises:
        ValueError: for a source, an architecture, a config field or a tensor that is not understood; for tensors
            missing or misshapen (all in one message); for a file whose hash is wrong or that is broken; for a mesh
            without that axis, or rules that don't fit.
        OSError: where a file can't be fetched, read or written.
    """
    return build(open_checkpoint(source, revision=revision), dtype=dtype, mesh=mesh, rules=rules)


def build(checkpoint: Checkpoint, *, dtype: Any = jnp.float32, mesh: Mesh | None = None, rules: Rules = ()) -> Model:
    """The model of an opened checkpoint; raises as `load` does."""
    kind = checkpoint.config.get("model_type")
    if kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{checkpoint.name} is of the family {kind!r}; known are {', '.join(FAMILIES)}{hint}")
    family: Any = FAMILIES[kind]
    config = family.config_type.from_hf(checkpoint.config)
    where = {} if mesh is None else {"arrange": arrange(mesh, rules)}
    network = fill(lambda: family(config, rngs=nnx.Rngs(0)), family.table(config), checkpoint, dtype, **where)
    name = without_places(checkpoint.name)  # a table that is shared says which model, not where it lay
    return Model(network, checkpoint.tokenizer, checkpoint.no_tokenizer, name, cache(checkpoint.identity))
