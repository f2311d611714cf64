"""DINOv2 as the `backbone` of a larger model in an ONNX file that `torch.onnx.export` wrote.

The export drops the names of matrices. The nodes that multiply by them identify them, such as
"/backbone/encoder/layer.3/mlp/fc1/MatMul". The file doesn't name its architecture: structure and names imply DINOv2.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import extra
from .checkpoint import Checkpoint, Tensor, files_identity
from .config_fields import check_fields
from .containers import file_size, listed, reading, reason

BACKBONE = "backbone."
PASSED_OVER = "decoder."
"""Prefix of the rest of the larger model, which is not ported."""

PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "resample": 3,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""The preprocessor of DINOv2's own checkpoints: an ONNX file has none."""

_MATRIX = re.compile(r"/backbone/(encoder/layer\.\d+/.+)/MatMul")
_FIRST = "/backbone/encoder/layer.0"


def onnx_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Open the backbone of a file. The file's contents are in memory as long as the checkpoint is.

    Raises:
        ValueError: for a file that is broken, or a backbone of another structure.
    """
    graph = onnx_graph(path)
    # A name that is no UTF-8 comes as bytes.
    weights = {str(weight.name): weight for weight in graph.initializer}
    stored = {name: weight for name, weight in weights.items() if not name.startswith(PASSED_OVER)}
    external = [name for name, weight in stored.items() if weight.external_data or weight.data_location]
    if external:
        raise ValueError(f"{path} stores weights in other files, which aren't read: {listed(external)}")
    try:
        positions, sources = _positions(graph, stored), _sources(graph, stored)
        config = _config(graph, {name: tuple(weight.dims) for name, weight in stored.items()}, positions)
        check_fields(config)
        tensors = {key: _tensor(path, [stored[source]], shape) for key, (source, shape) in sources.items()}
        cls, patches = (stored[source] for source in positions)
        shape = (1, cls.dims[1] + patches.dims[1], cls.dims[2])
        tensors["embeddings.position_embeddings"] = _tensor(path, [cls, patches], shape)
    except (LookupError, StopIteration, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} holds no backbone that is built like DINOv2: {reason(error)}") from error
    unused = set(stored) - {source for source, _ in sources.values()} - set(positions)
    if unused:
        raise ValueError(f"{path} has weights that DINOv2 has not: {listed(sorted(map(str, unused)))}")
    identity = partial(files_identity, [path])
    return Checkpoint(config, tensors, lambda: (None, "it reads images"), name, identity, dict(PREPROCESSOR))


def onnx_graph(path: Path) -> Any:
    """Return the graph of an ONNX file; raises ValueError for a broken one."""
    onnx = extra("onnx", f"{path.name}, an ONNX file,")
    file_size(path)
    with reading(path, "an ONNX file"):
        return onnx.load(path, load_external_data=False).graph


def _sources(graph: Any, stored: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Map Hugging Face's names, but for the positions, to names in the file and Hugging Face's shapes."""
    sources = {
        name.removeprefix(BACKBONE): (name, tuple(weight.dims))
        for name, weight in stored.items()
        if name.startswith(BACKBONE)
    }
    for node in graph.node:
        matched = _MATRIX.fullmatch(node.name)
        if node.op_type == "MatMul" and matched and node.input[1] in stored:
            shape = tuple(stored[node.input[1]].dims)[::-1]  # matrices without a name are stored [in, out]
            sources[f"{matched[1].replace('/', '.')}.weight"] = (node.input[1], shape)
    return sources


def _positions(graph: Any, stored: Mapping[str, Any]) -> tuple[str, str]:
    """Name the position of CLS, `[1,1,D]`, and those of the patches, `[1,P,D]`, which the file stores separately."""
    used = [
        (node.op_type, name)
        for node in graph.node
        if node.name.startswith("/backbone/embeddings/")
        for name in node.input
        if name in stored and not name.startswith(BACKBONE)
    ]
    return next(name for kind, name in used if kind == "Concat"), next(name for kind, name in used if kind == "Reshape")


def _config(graph: Any, shapes: Mapping[str, tuple[int, ...]], positions: tuple[str, str]) -> dict[str, Any]:
    """Infer a config.json's contents from the shapes and a few constants."""
    patches = shapes[f"{BACKBONE}embeddings.patch_embeddings.projection.weight"]
    layers = [int(name.split(".")[3]) for name in shapes if name.startswith(f"{BACKBONE}encoder.layer.")]
    inner = shapes[f"{BACKBONE}encoder.layer.0.mlp.fc1.bias"][0]
    nodes = {node.name: node for node in graph.node}
    makers = {output: node for node in graph.node for output in node.output}
    split = makers[nodes[f"{_FIRST}/attention/attention/Reshape"].input[1]]  # to [batch, positions, heads, size]
    return {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": patches[0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": int(constant(makers[split.input[2]])[0]),
        "mlp_ratio": inner / patches[0],
        "hidden_act": "gelu",
        "layer_norm_eps": round(float(constant(makers[nodes[f"{_FIRST}/norm1/Add"].input[1]])), 12),
        "image_size": round(shapes[positions[1]][1] ** 0.5) * patches[2],
        "patch_size": patches[2],
        "num_channels": patches[1],
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    }


def constant(node: Any) -> np.ndarray:
    """Return the value of a node `Constant`."""
    from onnx import numpy_helper

    return numpy_helper.to_array(next(attribute.t for attribute in node.attribute if attribute.name == "value"))


def _tensor(path: Path, weights: list[Any], shape: tuple[int, ...]) -> Tensor:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(weights[0].data_type)
    return Tensor(shape, str(dtype), partial(_read, path, weights))


def _read(path: Path, weights: list[Any]) -> np.ndarray:
    """Return a weight's values, transposed where it is a matrix without a name; several are joined along axis 1."""
    from onnx import numpy_helper

    with reading(path, "an ONNX file"):  # a weight's sizes need not fit its values
        arrays = [numpy_helper.to_array(weight) for weight in weights]
        if len(arrays) > 1:
            return np.concatenate(arrays, axis=1)
    return arrays[0] if weights[0].name.startswith(BACKBONE) else np.ascontiguousarray(arrays[0].T)
