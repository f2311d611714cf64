"""A DistilBERT tagger in an ONNX file with weights of 8 bits, as ONNX Runtime's static quantisation writes it.

A weight is (stored − zero point) × scale. The file rounds activations to 8 bits as well; a checkpoint has no such step,
so that its logits are those of the file without it.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, Tensor, files_identity
from .config_fields import check_fields
from .containers import reading, reason
from .hf_directory import read_json
from .hf_tokenizer import directory_tokenizer
from .onnx_file import constant, onnx_graph

_STORED = re.compile(r"(distilbert\..+|classifier)\.(weight|bias)")
_MATRIX = re.compile(r"/((?:distilbert/transformer/layer\.\d+/.+)|classifier)/MatMul")
_FIRST = "/distilbert/transformer/layer.0/attention"
_QUANTIZED = "_quantized"
_EPSILON = 1e-12
"""Epsilon of DistilBERT's norms, which no config names."""


def tagger_checkpoint(path: Path, tokenizer: Path, tags: Path, *, name: str) -> Checkpoint:
    """Open a tagger: its ONNX file, its tokenizer.json, and a JSON object whose "tags" are the names of its classes.

    Raises:
        ValueError: for a file that is broken, or a model of another structure.
    """
    graph = onnx_graph(path)
    labels = read_json(tags).get("tags")
    try:
        tensors = _tensors(path, graph)
        config = _config(graph, {key: tensor.shape for key, tensor in tensors.items()}, labels)
        check_fields(config)
    except (LookupError, StopIteration, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} holds no tagger that is built like DistilBERT: {reason(error)}") from error
    identity = partial(files_identity, [path])
    return Checkpoint(config, tensors, partial(directory_tokenizer, tokenizer.parent), name, identity)


def _tensors(path: Path, graph: Any) -> dict[str, Tensor]:
    """Return all weights under Hugging Face's names: a matrix is named by the node that multiplies by it."""
    stored = {str(weight.name): weight for weight in graph.initializer}
    tensors = {key: _tensor(path, [weight]) for key, weight in stored.items() if _STORED.fullmatch(key)}
    quantised = {
        node.output[0]: list(node.input)
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    for parts in quantised.values():
        if _STORED.fullmatch(key := parts[0].removesuffix(_QUANTIZED)):
            tensors[key] = _tensor(path, [stored[part] for part in parts])
    for node in graph.node:
        matched = _MATRIX.fullmatch(node.name)
        if node.op_type == "MatMul" and matched and node.input[1] in quantised:
            weights = [stored[part] for part in quantised[node.input[1]]]
            tensors[f"{matched[1].replace('/', '.')}.weight"] = _tensor(path, weights, transposed=True)
    return tensors


def _config(graph: Any, shapes: Mapping[str, tuple[int, ...]], labels: Any) -> dict[str, Any]:
    """Infer a config.json's contents from the shapes and a few constants."""
    vocabulary, width = shapes["distilbert.embeddings.word_embeddings.weight"]
    layers = [int(key.split(".")[3]) for key in shapes if key.startswith("distilbert.transformer.layer.")]
    nodes = {node.name: node for node in graph.node}
    makers = {output: node for node in graph.node for output in node.output}
    split = makers[nodes[f"{_FIRST}/Reshape"].input[1]]  # to [batch, positions, heads, size]
    for node in graph.node:
        epsilon = [attribute.f for attribute in node.attribute if attribute.name == "epsilon"]
        if node.op_type == "LayerNormalization" and not np.allclose(epsilon, _EPSILON, rtol=1e-3, atol=0):
            raise ValueError(f"the epsilon of {node.name} is {epsilon}, expected {_EPSILON}")
    if not isinstance(labels, list) or [len(labels)] != list(shapes["classifier.bias"]):
        raise ValueError(f"expected names of {shapes['classifier.bias'][0]} classes")
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertForTokenClassification"],
        "vocab_size": vocabulary,
        "dim": width,
        "n_layers": max(layers) + 1,
        "n_heads": width // int(constant(makers[split.input[3]])[0]),
        "hidden_dim": shapes["distilbert.transformer.layer.0.ffn.lin1.bias"][0],
        "activation": "gelu",
        "max_position_embeddings": shapes["distilbert.embeddings.position_embeddings.weight"][0],
        "id2label": {str(number): str(label) for number, label in enumerate(labels)},
    }


def _tensor(path: Path, weights: list[Any], *, transposed: bool = False) -> Tensor:
    """Return a tensor of a stored weight, or of an integer one with its scale and zero point."""
    from onnx import helper

    if any(part.dims for part in weights[1:]):
        raise ValueError(f"{weights[0].name} has several scales, expected one")
    shape, kind = tuple(weights[0].dims), str(helper.tensor_dtype_to_np_dtype(weights[0].data_type))
    dtype = kind if len(weights) == 1 else f"{kind} with its scale"
    return Tensor(shape[::-1] if transposed else shape, dtype, partial(_read, path, weights, transposed))


def _read(path: Path, weights: list[Any], transposed: bool) -> np.ndarray:
    from onnx import numpy_helper

    with reading(path, "an ONNX file"):  # a weight's sizes need not fit its values
        values, *scaling = map(numpy_helper.to_array, weights)
    if scaling:
        scale, *zero = scaling
        values = (values.astype(np.float32) - (zero[0].astype(np.float32) if zero else 0)) * scale
    return np.ascontiguousarray(values.T) if transposed else values
