"""Load a model from a source of weights, or build one with random weights."""

import difflib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from ..arguments import among, checked
from ..checks import floating
from ..compile_cache import keep_by_default
from ..provenance import without_directories
from .families import FAMILIES, in_todays_words
from .families.bases.reading import UncoveredArchitecture, inner_config
from .loading.checkpoint import Checkpoint
from .loading.config_fields import largest_sizes
from .loading.sources import merge_adapter, open_checkpoint
from .loading.weights import Table, fill
from .model import Model
from .recognition import Recognised, recognise, with_family
from .removed_heads import HEADS, with_removed_heads
from .sharding import Arrangement, Rules
from .unfilled import unfilled


@checked(head=among(("none",)))
def load(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    head: str | None = None,
    adapter: str | os.PathLike | None = None,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules = (),
) -> Model:
    """Load a model with its pretrained weights.

    Args:
        source: a zoo name (`jaxheads zoo` lists them), a hub id "owner/name" or "gpt2", a local directory (Hugging
            Face's, or one that `to_orbax` wrote), or a `.gguf` file. Of a directory that holds both, safetensors is
            read, and the pickle (`pytorch_model.bin`) is not.
        revision: branch, tag or commit of a hub id.
        head: "none" leaves the head out: the bare network is loaded, of a class of any head, also one that is not
            covered. Without it the architecture of the config counts, or where that names none the tensors.
        adapter: a LoRA adapter of PEFT, merged into the weights: a directory with adapter_config.json, or a hub id.
            `source` may be such a directory itself; the base is then the one that it names.
        dtype: dtype in which weights are held and computed, whatever they are stored in: float32, bfloat16, float16,
            or float64 where `jax_enable_x64` is set.
        mesh: split the parameters over its axis "model" as they are read, so that no device ever holds the whole
            model (and, for safetensors and GGUF, the host no more than a parameter). On a mesh without that axis they
            rest in shares on all devices, and are gathered layer by layer; see `jaxheads.shard`.
        rules: rules for the mesh, tried before the default ones; see `jaxheads.shard`.

    Raises:
        ValueError: for a source, an architecture, a config field or a tensor that is not understood; for tensors that
            are missing or of a wrong shape (all in one message); for a file with a wrong hash or broken contents; for
            a dtype that is not floating, or rules that don't fit the mesh.
        OSError: if a file can't be fetched, read or written.
    """
    dtype = floating("dtype", dtype)  # before anything is fetched
    checkpoint = open_checkpoint(source, revision=revision)
    if adapter is not None:
        checkpoint = merge_adapter(checkpoint, adapter)
    return build(checkpoint, head=head, dtype=dtype, mesh=mesh, rules=rules)


@checked()
def init(
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: Any = jnp.float32,
    name: str = "unnamed",
    shapes_only: bool = False,
) -> Model:
    """Build a model with random weights, of the architecture that a Hugging Face config describes.

    Args:
        config: the contents of a config.json: `model_type`, sizes, and `architectures` for the head.
        seed: seed of the weights. Matrices are normal with standard deviation 0.02, norms and biases neutral.
        dtype: dtype in which weights are held and computed.
        name: the model's name in tables and messages.
        shapes_only: whether parameters are shapes without values, which take no memory: for `jaxheads.plan` and
            `jaxheads.rehearse`, of models that this machine could not hold.

    Raises:
        ValueError: for a family, a field or a value that is not understood, or a dtype that is not floating.
    """
    dtype, config = floating("dtype", dtype), with_family(in_todays_words(config))
    family = family_of(config, name)
    family_config = family.config_type.from_hf(config)
    keep_by_default()

    def new(key: jax.Array) -> Any:
        graph, parameters, rest = nnx.split(family(family_config, rngs=nnx.Rngs(key)), nnx.Param, ...)
        return nnx.merge(graph, jax.tree.map(lambda weight: weight.astype(dtype), parameters), rest)

    key = jax.random.key(seed)
    network = unfilled(jax.eval_shape(new, key)) if shapes_only else jax.jit(new)(key)
    identity = "shapes without values" if shapes_only else f"random, seed {seed}"
    return Model(network, name=name, identity=lambda: identity, hf_config=dict(config))


def family_of(config: Mapping[str, Any], name: str) -> Any:
    """Return the network class of a config's family; raise ValueError for an unknown one."""
    kind = config.get("model_type")
    if kind is None:
        raise ValueError(
            f"the config of {name} has no model_type, and neither its architectures nor the tensors show the family: "
            f"write into config.json one of {', '.join(FAMILIES)}"
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} is of the family {kind!r}; known are {', '.join(FAMILIES)}{hint}")
    return FAMILIES[kind]


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the model's name into the errors of its config."""
    try:
        yield
    except ValueError as error:
        if type(error) not in (ValueError, UncoveredArchitecture) or name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error


def _check_sizes(checkpoint: Checkpoint) -> None:
    """Raise ValueError for a config whose sizes exceed the number of all values of the tensors."""
    values = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    larger = [f"{name}={size:,}" for name, size in largest_sizes(checkpoint.config).items() if size > values]
    if larger:
        raise ValueError(
            f"{checkpoint.name} does not fit its config: that says {', '.join(larger)}, and its tensors have "
            f"{values:,} values in all"
        )


def build(
    checkpoint: Checkpoint,
    *,
    head: str | None = None,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules = (),
    table: Table | None = None,
) -> Model:
    """Build the model of an opened checkpoint, whose tensors `table` (or the family's) names; raises as `load` does."""
    dtype, config = floating("dtype", dtype), in_todays_words(checkpoint.config)
    stated = with_family({key: value for key, value in config.items() if key != HEADS}, checkpoint)
    checkpoint = checkpoint.with_config({**config, **stated})
    family = family_of(stated, checkpoint.name)
    with named(checkpoint.name):
        heads = inner_config(checkpoint.config, HEADS)
        if table is None:
            recognised = recognise(family, stated, checkpoint, head)
        else:
            recognised = Recognised(family.config_type.from_hf(stated), table, stated)
    _check_sizes(checkpoint)
    keep_by_default()
    tokenizer, no_tokenizer = checkpoint.tokenizer, checkpoint.no_tokenizer  # before the weights, which take long
    arrangement = None if mesh is None else Arrangement.of(mesh, rules)
    placement = {} if arrangement is None else {"arrange": arrangement}

    def new() -> Any:
        return with_removed_heads(family(recognised.config, rngs=nnx.Rngs(0)), heads)

    with named(checkpoint.name):
        network = fill(new, recognised.table, checkpoint, dtype, **placement)
    network = network if arrangement is None else arrangement.marked(network)
    removed = {HEADS: checkpoint.config[HEADS]} if HEADS in checkpoint.config else {}
    return Model(
        network,
        tokenizer,
        no_tokenizer,
        without_directories(checkpoint.name),  # tables get shared: they name the model, not a path on this machine
        cache(checkpoint.identity),
        recognised.hf_config | removed,
        checkpoint.preprocessor,
    )
