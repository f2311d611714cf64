"""DINOv2 out of an ONNX file that `torch.onnx.export` wrote of a larger model, whose `backbone` it is.

Matrices have lost their names on the way: they are known by the nodes that multiply by them, as
"/backbone/encoder/layer.3/mlp/fc1/MatMul". That it is DINOv2 is inferred from structure and names: the file does not
say so.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, Tensor, files_identity

BACKBONE = "backbone."
PASSED_OVER = "decoder."
"""What the larger model makes of the backbone's features is not ported."""

PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "resample": 3,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""As DINOv2's own checkpoints have it: an ONNX file says nothing of its images."""

_MATRIX = re.compile(r"/backbone/(encoder/layer\.\d+/.+)/MatMul")
_FIRST = "/backbone/encoder/layer.0"


def onnx_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Open the backbone of such a file. The file's contents are in memory as long as the checkpoint is.

    Raises ValueError where the file is broken, or holds a backbone of another structure.
    """
    graph = _graph(path)
    stored = {one.name: one for one in graph.initializer if not one.name.startswith(PASSED_OVER)}
    try:
        places, tensors = _positions(graph, stored), _tensors(graph, stored)
        config = _config(graph, {one: tuple(stored[one].dims) for one in stored}, places)
    except (KeyError, StopIteration, IndexError) as error:
        raise ValueError(f"{path} holds no backbone that is built like DINOv2: {error!r} is not where it is") from error
    left = set(stored) - {one for _, parts in (*tensors.values(), ((), places)) for one in parts}
    if left:
        raise ValueError(f"{path} has weights that DINOv2 has not: {', '.join(sorted(left)[:8])}")
    held = {key: _tensor([stored[one] for one in parts], shape) for key, (shape, parts) in tensors.items()}
    [cls, grid] = [stored[one] for one in places]
    shape = (1, cls.dims[1] + grid.dims[1], cls.dims[2])
    held["embeddings.position_embeddings"] = _tensor([cls, grid], shape)
    identity = partial(files_identity, [path])
    return Checkpoint(config, held, None, "it reads images", name, identity, dict(PREPROCESSOR))


def _graph(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path).graph
    except DecodeError as error:
        raise ValueError(f"{path} isn't a whole ONNX file: {error}. Fetch it again.") from error


Found = Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]
"""By Hugging Face's name, a tensor's shape there, and the names in the file of what it is made of."""


def _tensors(graph: Any, stored: Mapping[str, Any]) -> Found:
    """All but the positions: those with a name of their own, and matrices, stored `[in, out]`."""
    found = {
        one.removeprefix(BACKBONE): (tuple(tensor.dims), (one,))
        for one, tensor in stored.items()
        if one.startswith(BACKBONE)
    }
    for node in graph.node:
        matched = _MATRIX.fullmatch(node.name)
        if node.op_type == "MatMul" and matched and node.input[1] in stored:
            shape = tuple(stored[node.input[1]].dims)[::-1]
            found[f"{matched[1].replace('/', '.')}.weight"] = (shape, (node.input[1],))
    return found


def _positions(graph: Any, stored: Mapping[str, Any]) -> tuple[str, str]:
    """The position of CLS, `[1,1,D]`, and those of the patches, `[1,P,D]`: the file has them apart."""
    used = [
        (node.op_type, one)
        for node in graph.node
        if node.name.startswith("/backbone/embeddings/")
        for one in node.input
        if one in stored and not one.startswith(BACKBONE)
    ]
    return next(one for kind, one in used if kind == "Concat"), next(one for kind, one in used if kind == "Reshape")


def _config(graph: Any, shapes: Mapping[str, tuple[int, ...]], places: tuple[str, str]) -> dict[str, Any]:
    """As a config.json would say it, read off the shapes and a few constants."""
    patches = shapes[f"{BACKBONE}embeddings.patch_embeddings.projection.weight"]
    layers = [int(one.split(".")[3]) for one in shapes if one.startswith(f"{BACKBONE}encoder.layer.")]
    inner = shapes[f"{BACKBONE}encoder.layer.0.mlp.fc1.bias"][0]
    nodes = {node.name: node for node in graph.node}
    makers = {output: node for node in graph.node for output in node.output}
    split = makers[nodes[f"{_FIRST}/attention/attention/Reshape"].input[1]]  # to [batch, positions, heads, size]
    return {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": patches[0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": int(_constant(makers[split.input[2]])[0]),
        "mlp_ratio": inner / patches[0],
        "hidden_act": "gelu",
        "layer_norm_eps": round(float(_constant(makers[nodes[f"{_FIRST}/norm1/Add"].input[1]])), 12),
        "image_size": round(shapes[places[1]][1] ** 0.5) * patches[2],
        "patch_size": patches[2],
        "num_channels": patches[1],
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    }


def _constant(node: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(next(one.t for one in node.attribute if one.name == "value"))


def _tensor(parts: Iterable[Any], shape: tuple[int, ...]) -> Tensor:
    from onnx import helper

    parts = list(parts)
    dtype = helper.tensor_dtype_to_np_dtype(parts[0].data_type)
    return Tensor(shape, str(dtype), partial(_read, parts, shape))


def _read(parts: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(part) for part in parts]
    if len(arrays) > 1:
        return np.concatenate(arrays, axis=1)
    # A matrix has no name of its own in the file, and lies the other way round.
    return arrays[0] if parts[0].name.startswith(BACKBONE) else np.ascontiguousarray(arrays[0].T)
