"""Norms folded into the weights that read them, so that circuits can be computed from weights alone."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ..arguments import checked
from .blocks import InputNorm
from .model import Model
from .norms import centred, remove_scale_and_bias, scale_and_bias
from .stack import Stack


@checked()
def fold_norms(model: Model) -> Model:
    """Fold the layers' norms into the projections that read them: a model of equal outputs and other weights.

    A norm is `x̂ * scale + bias`, with x̂ the stream divided by its size (for LayerNorm, after subtracting its mean). A
    projection that reads it is `(x̂ * scale + bias) W + b`, which equals `x̂ W' + b'` with `W' = scale W` and
    `b' = b + bias W`. So in every layer the weights of queries, keys, values and the MLP's inputs are replaced by W'
    and b' (new biases where the layer had none), and the norm keeps scale 1 and bias 0. For LayerNorm the mean of W'
    over the stream's dimensions is subtracted too: x̂ has mean 0, so it changes nothing (Elhage et al. 2021, "Handling
    Layer Normalization"). In a stack whose norms some layers skip, those layers' weights stay as they are.

    Not folded: norms of each head's queries and keys; norms of a layer's output (Gemma 2); and the last norm, since
    the unembedding may also be the embedding: `jh.eigenvalue_copying` and similar measures include its scale.

    Returns:
        A model that runs, with weights of unchanged dtype. Its config no longer describes it, so it can't be written
        as a Hugging Face directory.

    Raises:
        ValueError: for a model whose layers norm the stream itself (BERT, BART): the residual sum reads the norm too,
            and has no projection to fold it into.
    """
    for stack in model.network.stacks:
        if not stack.blocks.residual:
            raise ValueError(
                f"the {stack.name} of {model.name} norms the stream itself, not only what its heads read: there is no "
                "norm to fold. Its weights read the stream directly"
            )
    network = nnx.clone(model.network)
    for stack in network.stacks:
        fold_stack(stack)
    unfolded_identity = model.identity
    return replace(
        model,
        network=network,
        name=f"{model.name} with norms folded",
        identity=lambda: f"norms folded of {unfolded_identity()}",
        hf_config=_without_type(model.hf_config),
    )


def fold_stack(stack: Stack) -> None:
    """Fold the norms of one stack's layers in place."""
    blocks: Any = stack.blocks
    for norm in blocks.input_norms():
        _fold(blocks.attention, norm)
        remove_scale_and_bias(norm.norm)


def _fold(attention: Any, input_norm: InputNorm) -> None:
    scale_LD, bias_LD = scale_and_bias(input_norm.norm)
    centred_L = centred(input_norm.norm)
    for letter in input_norm.heads:
        weight_LDNH = getattr(attention, f"W_{letter}")[...]
        folded, added_bias = _fold_weight(weight_LDNH, scale_LD, bias_LD, centred_L)
        setattr(attention, f"W_{letter}", nnx.Param(folded))
        _add_bias(attention, f"b_{letter}", added_bias)
    for linear in () if input_norm.mlp is None else input_norm.mlp.inputs:
        # Experts have an axis of their own before the one that reads the stream.
        kernel_LDF = jnp.moveaxis(linear.kernel[...], -2, 1)
        folded, added_bias = _fold_weight(kernel_LDF, scale_LD, bias_LD, centred_L)
        linear.kernel = nnx.Param(jnp.moveaxis(folded, 1, -2))
        _add_bias(linear, "bias", added_bias)
        linear.use_bias = linear.bias is not None


def _fold_weight(weight: Array, scale_LD: Array, bias_LD: Array | None, centred_L: Array) -> tuple[Array, Array | None]:
    """Return the folded weight `[L,D,…]`, and what to add to its bias, `[L,…]`."""
    wide = weight.astype(jnp.float32)
    shape = (*scale_LD.shape, *(1,) * (weight.ndim - 2))
    added_bias = None if bias_LD is None else (wide * bias_LD.astype(jnp.float32).reshape(shape)).sum(axis=1)
    wide = wide * scale_LD.astype(jnp.float32).reshape(shape)
    mean = jnp.where(centred_L.reshape(-1, *(1,) * (weight.ndim - 1)), wide.mean(axis=1, keepdims=True), 0)
    return (wide - mean).astype(weight.dtype), None if added_bias is None else added_bias.astype(weight.dtype)


def _add_bias(module: Any, name: str, added_bias: Array | None) -> None:
    if added_bias is not None:
        old = getattr(module, name)
        setattr(module, name, nnx.data(nnx.Param(added_bias if old is None else old[...] + added_bias)))


def _without_type(config: Any) -> Any:
    """Return the config without its `model_type`, so that the model can't be written as that family."""
    return None if config is None else {key: value for key, value in config.items() if key != "model_type"}
