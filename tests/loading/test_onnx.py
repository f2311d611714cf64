"""DINOv2 out of an ONNX file: by node names where matrices have lost theirs; the zoo's against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import jaxheads as jh
from jaxheads.models.load import build
from jaxheads.models.loading.fetch import fetch
from jaxheads.models.loading.onnx_file import onnx_checkpoint

from ..models.huggingface import assert_close

D, INNER, PATCH, GRID = 8, 16, 2, 3
LAYER = "/backbone/encoder/layer.0"
MATRICES = {
    "attention/attention/query": (D, D),
    "attention/attention/key": (D, D),
    "attention/attention/value": (D, D),
    "attention/output/dense": (D, D),
    "mlp/fc1": (D, INNER),
    "mlp/fc2": (INNER, D),
}


def weights() -> dict[str, np.ndarray]:
    """Of one layer of two heads, as the exporter leaves them: matrices and positions have no names."""
    at = "backbone.encoder.layer.0"
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.embeddings.cls_token": (1, 1, D),
        "backbone.embeddings.patch_embeddings.projection.weight": (D, 3, PATCH, PATCH),
        "backbone.embeddings.patch_embeddings.projection.bias": (D,),
        "onnx::Concat_1": (1, 1, D),
        "onnx::Reshape_2": (1, GRID * GRID, D),
        **{f"{at}.{name}.{part}": (D,) for name in ("norm1", "norm2") for part in ("weight", "bias")},
        **{f"{at}.layer_scale{number}.lambda1": (D,) for number in (1, 2)},
        **{f"{at}.{name.replace('/', '.')}.bias": shape[1:] for name, shape in MATRICES.items()},
        **{f"onnx::MatMul_{number}": shape for number, shape in enumerate(MATRICES.values())},
        "backbone.layernorm.weight": (D,),
        "backbone.layernorm.bias": (D,),
        "decoder.final_conv.bias": (1,),
    }
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def written(path: Path, stored: dict[str, np.ndarray]) -> Path:
    """A file with the nodes that say what the weights are; nothing could run it."""

    def constant(name: str, value: Any) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(np.asarray(value)))

    attention = f"{LAYER}/attention/attention"
    nodes = [
        helper.make_node("Concat", ["onnx::Concat_1", "resized"], ["a"], "/backbone/embeddings/Concat_6", axis=1),
        helper.make_node("Reshape", ["onnx::Reshape_2", "size"], ["b"], "/backbone/embeddings/Reshape_1"),
        constant("eps", np.float32(1e-3)),
        helper.make_node("Add", ["variance", "eps"], ["c"], f"{LAYER}/norm1/Add"),
        *(constant(f"c{place}", np.array([size])) for place, size in enumerate((-1, -1, 2, 4))),
        helper.make_node("Concat", ["c0", "c1", "c2", "c3"], ["split"], f"{attention}/Concat", axis=0),
        helper.make_node("Reshape", ["value", "split"], ["d"], f"{attention}/Reshape"),
        helper.make_node("MatMul", ["q", "k"], ["scores"], f"{attention}/MatMul"),
        *(
            helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], [f"y{number}"], f"{LAYER}/{name}/MatMul")
            for number, name in enumerate(MATRICES)
        ),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "toy", [], [], held)), path)
    return path


def test_weights_are_known_by_the_nodes_that_use_them(tmp_path: Path):
    stored = weights()
    checkpoint = onnx_checkpoint(written(tmp_path / "toy.onnx", stored), name="toy")
    model = build(checkpoint)
    c = model.config
    assert (c.num_hidden_layers, c.num_attention_heads, c.intermediate_size, c.image_size) == (1, 2, INNER, (6, 6))
    assert c.layer_norm_eps == pytest.approx(1e-3, rel=1e-6)
    network = model.network
    value = stored["onnx::MatMul_2"].reshape(1, D, 2, D // 2)
    np.testing.assert_array_equal(network.encoder.blocks.attention.W_V[...], value)
    np.testing.assert_array_equal(network.encoder.blocks.mlp.down.kernel[...][0], stored["onnx::MatMul_5"])
    positions = np.concatenate([stored["onnx::Concat_1"], stored["onnx::Reshape_2"]], axis=1)[0]
    np.testing.assert_array_equal(network.positions[...], positions)
    pixels = model.encode(np.zeros((9, 7, 3), np.uint8)).pixels
    assert pixels is not None
    assert pixels.shape == (1, 224, 224, 3)
    assert jh.run(model, jh.Batch(pixels=np.zeros((1, 6, 8, 3), np.float32))).output.shape == (1, 1 + 3 * 4, D)


def test_what_is_no_dinov2_is_refused(tmp_path: Path):
    extra = {**weights(), "backbone.embeddings.token_type.weight": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"1 tensors are not known: .*token_type"):
        build(onnx_checkpoint(written(tmp_path / "extra.onnx", extra), name="toy"))
    with pytest.raises(ValueError, match=r"has weights that DINOv2 has not: onnx::Add_9"):
        onnx_checkpoint(written(tmp_path / "more.onnx", {**weights(), "onnx::Add_9": np.zeros(2)}), name="toy")
    lacking = {name: value for name, value in weights().items() if "patch_embeddings" not in name}
    with pytest.raises(ValueError, match="holds no backbone that is built like DINOv2"):
        onnx_checkpoint(written(tmp_path / "less.onnx", lacking), name="toy")
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="can't be read as an ONNX file"):
        onnx_checkpoint(tmp_path / "broken.onnx", name="toy")


@pytest.mark.weights
def test_dinov2_small_is_what_onnx_runtime_makes_of_the_file():
    """Output and the last layer's patterns, on images of another size than the positions'."""
    outputs = ["/backbone/layernorm/Add_1_output_0", "/backbone/encoder/layer.11/attention/attention/Softmax_output_0"]
    model, exported = jh.load("dinov2-small"), onnx.load(fetch("dinov2-small") / "vit_s_focus.onnx")
    exported.graph.output.extend(helper.make_tensor_value_info(one, TensorProto.FLOAT, None) for one in outputs)
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    pixels = np.random.default_rng(0).standard_normal((1, 224, 224, 3), np.float32)
    hidden, pattern = session.run(outputs, {"input_image": np.moveaxis(pixels, -1, 1)})
    run = jh.run(model, jh.Batch(pixels=pixels), "pattern")
    assert_close(run.output, hidden)
    assert_close(run.seen["pattern"][-1], pattern)
    assert (model.stack().layers, model.stack().heads, model.config.image_size) == (12, 6, (518, 518))
