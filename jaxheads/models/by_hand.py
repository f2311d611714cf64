"""Models of explicit weights, such as circuits whose answer is known and compiled programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike

from ..arguments import checked
from .families.attention_only import AttentionOnly, AttentionOnlyConfig
from .layers import activation as activation_named
from .model import Model

_HEADS, _HEAD_BIASES = ("W_Q", "W_K", "W_V", "W_O"), ("b_Q", "b_K", "b_V", "b_O")
_MLP, _MLP_BIASES = ("W_in", "W_out"), ("b_in", "b_out")
_PATHS = {
    **{name: f"decoder.blocks.attention.{name}" for name in (*_HEADS, *_HEAD_BIASES)},
    "W_in": "decoder.blocks.mlp.up.kernel",
    "b_in": "decoder.blocks.mlp.up.bias",
    "W_out": "decoder.blocks.mlp.down.kernel",
    "b_out": "decoder.blocks.mlp.down.bias",
}


@checked()
def by_hand(
    embed: ArrayLike,
    layers: Sequence[Mapping[str, ArrayLike]],
    unembed: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    scale: float = 1.0,
    causal: bool = True,
    activation: str | Callable[[Array], Array] = "relu",
    name: str = "by hand",
) -> Model:
    """Build a transformer without norms from explicit weights: a circuit whose answer is known, a compiled program.

    A layer adds to the stream what its heads write, and then what its MLP `act(x W_in + b_in) W_out + b_out` writes.

    Args:
        embed: the embedding of each token, `[V,D]`.
        layers: for each layer its heads' W_Q, W_K, W_V `[N,D,H]` and W_O `[N,H,D]`, with b_Q, b_K, b_V `[N,H]` and
            b_O `[D]` where it has them; and its MLP's W_in `[D,F]` and W_out `[F,D]`, with b_in `[F]` and b_out `[D]`
            where it has them. A layer may lack its heads or its MLP, which are then zero and write nothing. Heads are
            as many, and of one size, in all layers that have them. F may differ.
        unembed: the unembedding of each logit, `[V,D]`, for a vocabulary that may be another than that of `embed`.
        positions: the embedding of each position, `[context,D]`; without them the context is 2^30.
        scale: factor on the scores.
        activation: the MLPs' activation: a name of Hugging Face's ("relu", "gelu", "linear", …), or a function of
            `[…,F]`. A model with a function of its own can't be written to disk.

    Raises:
        ValueError: for no layer, weights that are missing, unknown, not finite, or whose shapes do not fit each other.
    """
    if isinstance(activation, str):
        activation_named(activation)
    tokens, reads = _array("embed", embed, 2), _array("unembed", unembed, 2)
    if tokens.shape[1] != reads.shape[1] or not layers:
        raise ValueError(
            f"by hand needs embed and unembed of one width, [V,D], and at least one layer; got {tokens.shape}, "
            f"{reads.shape} and {len(layers)} layers"
        )
    stacked = _stacked(layers, tokens.shape[1])
    places = None if positions is None else _array("positions", positions, 2)
    fields = {
        "vocab_size": tokens.shape[0],
        "d_model": tokens.shape[1],
        "n_layers": len(layers),
        "n_heads": stacked["W_Q"].shape[1],
        "d_head": stacked["W_Q"].shape[3],
        "max_position_embeddings": 1 << 30 if places is None else len(places),
        "positions": "none" if places is None else "learned",
        "scale": scale,
        "bias": "b_Q" in stacked,
        "causal": causal,
    }
    if len(reads) != len(tokens):
        fields["vocab_size_out"] = len(reads)
    if "W_in" in stacked:
        fields |= {"d_mlp": stacked["W_in"].shape[2], "mlp_bias": "b_in" in stacked}
        fields["activation"] = activation if isinstance(activation, str) else "linear"
    config = AttentionOnlyConfig.from_hf(fields)
    values = {"embed.embedding": tokens, "unembed.embedding": reads}
    if places is not None:
        values["embed_position.embedding"] = places
    for key, value in stacked.items():
        values[_PATHS[key]] = np.moveaxis(value, 1, 2) if key in ("W_Q", "W_K", "W_V") else value
    if isinstance(activation, str) or "W_in" not in stacked:
        return Model(_filled(config, values), name=name, hf_config={"model_type": config.model_type, **fields})
    return Model(_filled(replace(config, activation=activation), values), name=name)


def _filled(config: AttentionOnlyConfig, values: Mapping[str, np.ndarray]) -> AttentionOnly:
    """Build the network with the parameters of these values, by path."""
    graph, state = nnx.split(nnx.eval_shape(lambda: AttentionOnly(config, rngs=nnx.Rngs(0))))
    filled = []
    for path, variable in nnx.to_flat_state(state):
        value = values[".".join(map(str, path))]
        if value.shape != variable.shape:
            raise ValueError(f"{path[-1]} must have the shape {variable.shape}, got {value.shape}")
        filled.append((path, variable.replace(jnp.asarray(value))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _stacked(layers: Sequence[Mapping[str, ArrayLike]], model: int) -> dict[str, np.ndarray]:
    """Stack each weight over the layers, `[L,…]`; what a layer lacks is zero.

    Zero columns of W_in that widen a layer's MLP write nothing: their rows of W_out are zero too.
    """
    for number, layer in enumerate(layers):
        unknown = set(layer) - set(_PATHS)
        missing = {name for names in (_HEADS, _MLP) for name in names if _has(layer, names)} - set(layer)
        if missing or unknown or not layer:
            raise ValueError(
                f"layer {number} lacks {sorted(missing) or 'heads and an MLP'} and does not know {sorted(unknown)}"
            )
    kept = [name for names in (_HEADS, _HEAD_BIASES, _MLP, _MLP_BIASES) for name in names if _any(layers, names)]
    shape = next((_array("W_Q", layer["W_Q"], 3).shape for layer in layers if "W_Q" in layer), (1, model, 1))
    units = [_array("W_in", layer["W_in"], 2).shape[1] for layer in layers if "W_in" in layer]
    heads, size, width = shape[0], shape[2], max(units, default=0)
    shapes = {"W_O": (heads, size, model), "b_O": (model,), "b_out": (model,), "b_in": (width,)}
    shapes |= {f"b_{letter}": (heads, size) for letter in "QKV"} | {"W_in": (model, width), "W_out": (width, model)}
    shapes |= {f"W_{letter}": (heads, model, size) for letter in "QKV"}
    stacked: dict[str, Any] = {}
    for name in dict.fromkeys((*_HEADS, *kept)):
        arrays = [_fitting(name, layer, shapes[name]) for layer in layers]
        stacked[name] = np.stack(arrays)
    return stacked


def _fitting(name: str, layer: Mapping[str, ArrayLike], shape: tuple[int, ...]) -> np.ndarray:
    """Return a layer's weight in the shape of all layers: zeros where it has none, an MLP's widened by zeros."""
    if name not in layer:
        return np.zeros(shape, np.float32)
    array = _array(name, layer[name], len(shape))
    axis = {"W_in": 1, "b_in": 0, "W_out": 0}.get(name)
    own = list(shape)
    if axis is not None:
        own[axis] = np.shape(layer["W_in"])[1]
    if array.shape != tuple(own):
        every = "every layer" if axis is None else f"an MLP of {own[axis]} units"
        raise ValueError(f"{name} of {every} must have the shape {tuple(own)}, got {array.shape}")
    return np.pad(array, [(0, wide - narrow) for wide, narrow in zip(shape, array.shape, strict=True)])


def _has(layer: Mapping[str, ArrayLike], names: Sequence[str]) -> bool:
    """Whether a layer has heads, or an MLP: any of their weights or biases."""
    biases = _HEAD_BIASES if names is _HEADS else _MLP_BIASES
    return bool(set(layer) & {*names, *biases})


def _any(layers: Sequence[Mapping[str, ArrayLike]], names: Sequence[str]) -> bool:
    return any(set(layer) & set(names) for layer in layers)


def _array(name: str, value: ArrayLike, axes: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.ndim != axes or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers with {axes} axes, none of them empty; got {array.shape}")
    return array
