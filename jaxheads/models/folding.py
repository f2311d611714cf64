"""Norms folded into what reads them: the same network in fewer words, for those who read circuits off its weights."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .blocks import InputNorm
from .model import Model
from .norms import affine, centred, remove_affine
from .stack import Stack


def fold_norms(model: Model) -> Model:
    """The same model with its layers' norms folded into the projections that read them: same outputs, other weights.

    A norm is `x̂ * scale + bias`, with x̂ the stream over its size, for LayerNorm without its mean. A projection that
    reads it is `(x̂ * scale + bias) W + b`, the same as `x̂ W' + b'` with `W' = scale W` and `b' = b + bias W`. So in
    every layer queries, keys, values and the MLP's inputs take scale and bias in, and the norm is left with 1 and 0;
    biases appear where there were none. Where x̂ has no mean (LayerNorm), W' is rid of its own over the stream's
    dimensions, which x̂ does not see (Elhage et al. 2021, "Handling Layer Normalization"). For each layer of norms that
    some layers skip, this is done or left as the layer does.

    Left as they are: norms of each head's queries and keys; those of what a layer writes (Gemma 2); and the last norm,
    for the unembedding may be the embedding too: `jh.eigenvalue_copying` and its like count its scale by themselves.

    Returns:
        A model that runs, with the weights of the old one's dtype. It is no longer what its config describes, and
        can't be written as a Hugging Face directory.

    Raises:
        ValueError: for a model with layers that go on with what a norm gives (BERT, BART): every head then reads a
            normed stream, but so does the sum, and no projection can take the norm in for it.
    """
    for stack in model.network.stacks:
        if not stack.blocks.residual:
            raise ValueError(
                f"the {stack.name} of {model.name} norms the stream itself, not what heads read of it: there is no "
                "norm to fold. Its weights read the stream as it is"
            )
    network = nnx.clone(model.network)
    for stack in network.stacks:
        fold_stack(stack)
    of_the_real = model.identity
    return replace(
        model,
        network=network,
        name=f"{model.name} with norms folded",
        identity=lambda: f"norms folded of {of_the_real()}",
        hf_config=_without_type(model.hf_config),
    )


def fold_stack(stack: Stack) -> None:
    """Fold the norms of one stack's layers, in place."""
    blocks: Any = stack.blocks
    for norm in blocks.input_norms():
        _fold(blocks.attention, norm)
        remove_affine(norm.norm)


def _fold(attention: Any, one: InputNorm) -> None:
    scale_LD, bias_LD = affine(one.norm)
    no_mean_L = centred(one.norm)
    for letter in one.heads:
        weight_LDNH = getattr(attention, f"W_{letter}")[...]
        folded, more = _folded(weight_LDNH, scale_LD, bias_LD, no_mean_L)
        setattr(attention, f"W_{letter}", nnx.Param(folded))
        _add_bias(attention, f"b_{letter}", more)
    for linear in () if one.mlp is None else one.mlp.inputs:
        folded, more = _folded(linear.kernel[...], scale_LD, bias_LD, no_mean_L)
        linear.kernel = nnx.Param(folded)
        _add_bias(linear, "bias", more)
        linear.use_bias = linear.bias is not None


def _folded(weight: Array, scale_LD: Array, bias_LD: Array | None, no_mean_L: Array) -> tuple[Array, Array | None]:
    """Of a weight `[L,D,…]`: what it becomes, and what comes to its bias, `[L,…]`."""
    wide = weight.astype(jnp.float32)
    over = (*scale_LD.shape, *(1,) * (weight.ndim - 2))
    more = None if bias_LD is None else (wide * bias_LD.astype(jnp.float32).reshape(over)).sum(axis=1)
    wide = wide * scale_LD.astype(jnp.float32).reshape(over)
    mean = jnp.where(no_mean_L.reshape(-1, *(1,) * (weight.ndim - 1)), wide.mean(axis=1, keepdims=True), 0)
    return (wide - mean).astype(weight.dtype), None if more is None else more.astype(weight.dtype)


def _add_bias(module: Any, name: str, more: Array | None) -> None:
    if more is not None:
        old = getattr(module, name)
        setattr(module, name, nnx.data(nnx.Param(more if old is None else old[...] + more)))


def _without_type(config: Any) -> Any:
    """The config without the family that its tensors would be written as."""
    return None if config is None else {key: value for key, value in config.items() if key != "model_type"}
