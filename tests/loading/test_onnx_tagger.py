"""A DistilBERT tagger out of an ONNX file with weights of 8 bits; the zoo's against ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import jaxheads as jh
from jaxheads.models.load import build
from jaxheads.models.loading.checkpoint import Checkpoint
from jaxheads.models.loading.fetch import fetch
from jaxheads.models.loading.onnx_tagger import tagger_checkpoint

from ..models.huggingface import assert_close

D, INNER, WORDS, LONGEST, TAGS = 8, 16, 11, 6, ("$KEEP", "$DELETE", "$APPEND_,")
LAYER = "distilbert.transformer.layer.0"
MATRICES = {
    f"{LAYER}.attention.q_lin": (D, D),
    f"{LAYER}.attention.k_lin": (D, D),
    f"{LAYER}.attention.v_lin": (D, D),
    f"{LAYER}.attention.out_lin": (D, D),
    f"{LAYER}.ffn.lin1": (D, INNER),
    f"{LAYER}.ffn.lin2": (INNER, D),
    "classifier": (D, len(TAGS)),
}
EMBEDDINGS = {"word_embeddings": (WORDS, D), "position_embeddings": (LONGEST, D)}
NORMS = ("distilbert.embeddings.LayerNorm", f"{LAYER}.sa_layer_norm", f"{LAYER}.output_layer_norm")


def integers() -> dict[str, np.ndarray]:
    """Return the matrices as they are stored: embeddings by name, the others by number and `[in,out]`."""
    rng = np.random.default_rng(0)
    shapes = {f"distilbert.embeddings.{name}.weight": shape for name, shape in EMBEDDINGS.items()}
    shapes |= {f"onnx::MatMul_{number}": shape for number, shape in enumerate(MATRICES.values())}
    return {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}


def written(path: Path, *, epsilon: float = 1e-12, scale: Any = 0.02) -> Path:
    """Write a file with the nodes that say what the weights are; nothing could run it."""
    rng = np.random.default_rng(1)
    held = {f"{name}.bias": rng.standard_normal(shape[1], np.float32) for name, shape in MATRICES.items()}
    held |= {f"{name}.{part}": rng.standard_normal(D, np.float32) for name in NORMS for part in ("weight", "bias")}
    nodes = []
    for name, values in integers().items():
        held |= {
            f"{name}_quantized": values,
            f"{name}_scale": np.asarray(scale, np.float32),
            f"{name}_zero_point": np.int8(3),
        }
        parts = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_values"]))
    for number, name in enumerate(MATRICES):
        inputs = [f"x{number}", f"onnx::MatMul_{number}_values"]
        nodes.append(helper.make_node("MatMul", inputs, [f"y{number}"], f"/{name.replace('.', '/')}/MatMul"))
    # Exporters leave the dot in "layer.0".
    for node in nodes:
        node.name = node.name.replace("layer/0", "layer.0")
    size = numpy_helper.from_array(np.array([D // 2]))
    attention = "/distilbert/transformer/layer.0/attention"
    nodes += [
        helper.make_node("Constant", [], ["size"], "size", value=size),
        helper.make_node("Concat", ["a", "b", "c", "size"], ["split"], f"{attention}/Concat", axis=0),
        helper.make_node("Reshape", ["value", "split"], ["d"], f"{attention}/Reshape"),
        helper.make_node("LayerNormalization", ["d", "e"], ["f"], "/norm", epsilon=epsilon),
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "toy", [], [], stored)), path)
    return path


def opened(path: Path, tags: tuple[str, ...] = TAGS) -> Checkpoint:
    names = path.with_name("tags.json")
    names.write_text(json.dumps({"tags": tags}))
    return tagger_checkpoint(path, path.with_name("tokenizer.json"), names, name="toy")


def test_weights_of_8_bits_are_multiplied_by_their_scale(tmp_path: Path):
    model = build(opened(written(tmp_path / "toy.onnx")))
    c, stored = model.config, integers()
    assert (c.n_layers, c.n_heads, c.hidden_dim, c.num_labels, c.head) == (1, 2, INNER, 3, "token_classes")
    network: Any = model.network

    def value(name: str) -> np.ndarray:
        return (stored[name].astype(np.float32) - 3) * np.float32(0.02)

    words = value("distilbert.embeddings.word_embeddings.weight")
    np.testing.assert_array_equal(network.embed.embedding[...], words)
    np.testing.assert_array_equal(network.encoder.blocks.mlp.down.kernel[...][0], value("onnx::MatMul_5"))
    keys = value("onnx::MatMul_1").reshape(1, D, 2, D // 2)
    np.testing.assert_array_equal(network.encoder.blocks.attention.W_K[...], keys)
    np.testing.assert_array_equal(network.classifier.weight[...], value("onnx::MatMul_6").T)
    batch = jh.Batch(np.arange(8).reshape(2, 4))
    assert jh.run(model, batch).output.shape == (2, 4, 3)


def test_what_is_no_tagger_is_refused(tmp_path: Path):
    path = written(tmp_path / "toy.onnx")
    with pytest.raises(ValueError, match=r"built like DistilBERT: .*expected names of 3 classes"):
        opened(path, TAGS[:2])
    with pytest.raises(ValueError, match="the epsilon of /norm is"):
        opened(written(tmp_path / "norm.onnx", epsilon=1e-5))
    with pytest.raises(ValueError, match="has several scales, expected one"):
        opened(written(tmp_path / "scales.onnx", scale=[0.1, 0.2]))
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="can't be read as an ONNX file"):
        opened(tmp_path / "broken.onnx")


def without_rounded_activations(model: onnx.ModelProto) -> None:
    """Take the steps out of a graph that round activations to 8 bits; weights stay as they are stored."""
    makers = {node.output[0]: node for node in model.graph.node}
    same = {
        node.output[0]: makers[node.input[0]].input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in makers
        and makers[node.input[0]].op_type == "QuantizeLinear"
    }
    kept = [node for node in model.graph.node if node.op_type != "QuantizeLinear" and node.output[0] not in same]
    for node in kept:
        for number, name in enumerate(node.input):
            node.input[number] = same.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)


@pytest.mark.weights
def test_distilbert_is_what_onnx_runtime_makes_of_the_file_without_rounded_activations():
    model, exported = jh.load("distilbert-base-cased"), onnx.load(fetch("distilbert-base-cased") / "tagger.onnx")
    last = "/distilbert/transformer/layer.5/attention/Softmax_output_0"
    exported.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    without_rounded_activations(exported)
    options = onnxruntime.SessionOptions()
    # Optimised, it would round activations again, to multiply in 8 bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options)
    batch = model.encode(["They was happy to see there friends.", "She sings."])
    mask = np.asarray(batch.mask)
    fed = {"input_ids": np.asarray(batch.tokens, np.int64), "attention_mask": mask.astype(np.int64)}
    outputs: Any = session.run(None, fed)
    logits, pattern = outputs
    run = jh.run(model, batch, "pattern")
    assert_close(np.asarray(run.output)[mask], logits[mask])
    real = np.broadcast_to(mask[:, None], (2, 12, mask.shape[1]))
    assert_close(np.asarray(run.seen["pattern"][-1])[real], pattern[real])
    pieces = model.tokenizer.convert_ids_to_tokens(np.asarray(batch.tokens)[0].tolist())
    tags = json.loads((fetch("distilbert-base-cased") / "tag_vocab.json").read_text())["tags"]
    found = {piece: tags[tag] for piece, tag in zip(pieces, np.asarray(run.output)[0].argmax(-1), strict=True)}
    assert (found["was"], found["there"], found["happy"]) == ("$REPLACE_were", "$REPLACE_their", "$KEEP")
