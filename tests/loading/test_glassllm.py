import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jaxheads.models.loading.checkpoint import Checkpoint
from jaxheads.models.loading.glassllm import LAYER, glassllm_checkpoint

SETTINGS = {
    "vocab_size": 12,
    "d_model": 16,
    "n_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "max_len": 32,
    "rope_base": 100.0,
    "eps": 1e-6,
    "init_std": 0.02,
}
SHAPES = dict(
    zip(LAYER, [(16,), (16, 16), (16, 8), (16, 8), (16, 16), (16,), (16, 20), (16, 20), (20, 16)], strict=True)
)
TOKENIZER = {
    "version": 1,
    "alphabet": ["\n", "a", "b", "c", "▁"],
    "merges": [["a", "b"], ["▁", "ab"], ["ab", "c"]],
}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = {"E": (12, 16), "norm_f.gamma": (16,)} | {f"blocks.0.{name}": shape for name, shape in SHAPES.items()}
    return {name: draw.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def opened(directory: Path, arrays: dict[str, np.ndarray]) -> Checkpoint:
    settings = {"__config__": np.array(json.dumps(SETTINGS))}
    np.savez(directory / "x.npz", allow_pickle=False, **settings, **arrays)
    (directory / "x.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
    return glassllm_checkpoint(directory / "x.npz", directory / "x.json", name="x")


def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain


def rotate_pairs(x_NTH: np.ndarray) -> np.ndarray:
    """Rotate dimensions (2i, 2i + 1) by position · base^(-2i/H), as glassllm does."""
    _, positions, size = x_NTH.shape
    angle = np.outer(np.arange(positions), 100.0 ** (-np.arange(0, size, 2) / size))
    even, odd, rotated = x_NTH[..., 0::2], x_NTH[..., 1::2], np.empty_like(x_NTH)
    rotated[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    rotated[..., 1::2] = even * np.sin(angle) + odd * np.cos(angle)
    return rotated


def logits(w: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """The model as glassllm computes it, in NumPy: one layer."""
    x = w["E"][ids]
    h = norm(x, w["blocks.0.norm1.gamma"])
    q, k, v = ((h @ w[f"blocks.0.attn.W_{name}"]).reshape(len(ids), -1, 8).swapaxes(0, 1) for name in ("Q", "K", "V"))
    scores = rotate_pairs(q) @ rotate_pairs(k).swapaxes(1, 2) / np.sqrt(8)
    scores[:, np.triu(np.ones((len(ids), len(ids)), bool), 1)] = -np.inf
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    z = pattern / pattern.sum(-1, keepdims=True) @ v
    x = x + z.swapaxes(0, 1).reshape(len(ids), 16) @ w["blocks.0.attn.W_O"]
    h = norm(x, w["blocks.0.norm2.gamma"])
    gate = h @ w["blocks.0.ffn.W1"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w["blocks.0.ffn.W3"])) @ w["blocks.0.ffn.W2"]
    return norm(x, w["norm_f.gamma"]) @ w["E"].T


def test_transformers_llama_gives_the_same_logits(tmp_path, arrays):
    checkpoint = opened(tmp_path, arrays)
    model = LlamaForCausalLM(LlamaConfig(**checkpoint.config)).double().eval()
    state = {name: torch.tensor(tensor.read().astype(np.float64)) for name, tensor in checkpoint.tensors.items()}
    assert model.load_state_dict(state, strict=False) == (["lm_head.weight"], [])
    ids = np.arange(12)
    with torch.no_grad():
        got = model(torch.tensor(ids)[None]).logits[0].numpy()
    expected = logits({name: array.astype(np.float64) for name, array in arrays.items()}, ids)
    # transformers rotates and normalises in float32, whatever the model's dtype
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_shapes_and_dtypes_are_told_before_reading(tmp_path, arrays):
    for tensor in opened(tmp_path, arrays).tensors.values():
        assert tensor.read().shape == tensor.shape
        assert str(tensor.read().dtype) == tensor.dtype == "float16"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab abc", [9, 10, 7]),  # merges by rank: "▁ab" comes before "abc"
        ("abc", [11]),
        ("  ab", [8, 10]),
        ("a\n\nb", [5, 4, 4, 6]),
        ("<bos>", [1, 6, 1, 1, 1]),  # the text of a special token is text
        ("xyz", [1, 1, 1]),
        ("", []),
    ],
)
def test_the_tokenizer_cuts_as_glassllm_s(tmp_path, arrays, text, ids):
    tokenizer = opened(tmp_path, arrays).tokenizer
    assert tokenizer is not None
    assert tokenizer(text)["input_ids"] == ids


def test_tensors_missing_or_too_many_are_named(tmp_path, arrays):
    arrays["more"] = arrays.pop("E")
    with pytest.raises(ValueError, match="E, more"):
        opened(tmp_path, arrays)


def test_a_file_cut_off_is_named(tmp_path, arrays):
    opened(tmp_path, arrays)
    path = tmp_path / "x.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"x\.npz can't be read as a file of glassllm"):
        glassllm_checkpoint(path, tmp_path / "x.json", name="x")
