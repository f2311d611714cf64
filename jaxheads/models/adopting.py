"""Models of weights that a user holds in memory."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from ..arguments import checked
from ..checks import floating, shown
from .families.bases.reading import inner_config
from .load import build, family_of, named
from .loading.checkpoint import Checkpoint
from .loading.quantised import dequantised
from .loading.transformer_lens import as_toy
from .loading.weights import Table
from .model import Model
from .own_parameters import (
    PathTable,
    by_table,
    flat_arrays,
    own_table_of,
    parameter_shapes,
    parameters_identity,
    tensors,
)
from .recognition import recognise, with_family
from .removed_heads import HEADS, with_removed_heads
from .sharding import Rules


def _is_tokenizer(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a tokenizer of transformers, got {shown(value)}")


def _is_config(name: str, value: object) -> None:
    if not isinstance(value, Mapping) and not callable(getattr(value, "to_dict", None)):
        raise ValueError(
            f"{name} must be the contents of a config.json, or a config of transformers; got {shown(value)}"
        )


@checked(tokenizer=_is_tokenizer, config=_is_config)
def adopt(
    config: Any,
    parameters: Any,
    table: PathTable | None = None,
    *,
    tokenizer: Any = None,
    name: str = "adopted",
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules = (),
) -> Model:
    """Build a model from weights in memory: a state dict, or the parameters of a training loop.

        jh.adopt(torch_model.config, torch_model)
        jh.adopt(config, state.params, {"block_{layer}.attn.query.kernel": "decoder.blocks.attention.W_Q", …})

    The arrays are copied.

    Args:
        config: the contents of a config.json, as for `init`, or a config of `transformers`; for the weights of a
            HookedTransformer its `cfg`.
        parameters: a pytree of arrays of NumPy, JAX or PyTorch: a dict by Hugging Face's names, nested dicts (such as
            those of Flax Linen), a module of PyTorch or Flax NNX, or its state.
        table: where the arrays belong, by their paths in the pytree, joined by dots. A value is a parameter's path in
            our network (`jh.placement(jh.init(config))` lists them, with shapes) or a tensor's name in Hugging Face's
            checkpoints; or a pair of a name and a function that makes its array of yours; or a pair of several names
            and a function that returns as many arrays. `{layer}` stands for the number of a layer: arrays of layers
            are stacked where the name is without it, and split where only the name has it. Arrays that the table does
            not name keep their paths as names.
        tokenizer: a tokenizer of `transformers`.
        name: the model's name in tables and messages.
        dtype, mesh, rules: as in `load`.

    Raises:
        ValueError: for a config that is not understood; for a table that does not fit; for arrays that are missing,
            left over or of a wrong shape (all in one message), or not finite.
    """
    dtype = floating("dtype", dtype)
    arrays = by_table(flat_arrays(parameters), table or {})
    reason = "the weights were adopted without one: jh.adopt(…, tokenizer=…)"
    read_tokenizer = lambda: (tokenizer, "" if tokenizer is not None else reason)  # noqa: E731
    fields = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    checkpoint = Checkpoint(fields, tensors(arrays), read_tokenizer, name, lambda: "unknown")
    checkpoint = as_toy(dequantised(checkpoint))
    model = build(checkpoint, dtype=dtype, mesh=mesh, rules=rules, table=_own_table(checkpoint))
    return replace(model, identity=cache(partial(parameters_identity, model.network)))


def _own_table(checkpoint: Checkpoint) -> Table | None:
    """Return the table of tensors that are named as the network's parameters; None for Hugging Face's names."""
    stated = with_family({key: value for key, value in checkpoint.config.items() if key != HEADS}, checkpoint)
    family = family_of(stated, checkpoint.name)
    with named(checkpoint.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `build` reads the config again
        recognised = recognise(family, stated, checkpoint)
        heads = inner_config(checkpoint.config, HEADS)
    network = nnx.eval_shape(lambda: with_removed_heads(family(recognised.config, rngs=nnx.Rngs(0)), heads))
    return own_table_of(checkpoint.tensors, parameter_shapes(network), recognised.table, checkpoint.name)
