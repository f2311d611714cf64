"""A CTranslate2 directory written by hand from a small Whisper of `transformers`."""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import jaxheads as jh
from jaxheads.models.loading.sources import open_checkpoint

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import their_run

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}
SPECIALS = ["<|endoftext|>", "<|startoftranscript|>"]
ALIAS = {"decoder/projection/weight": "decoder/embeddings/weight"}

WHOLE = {
    "encoder.conv1": "encoder/conv1",
    "encoder.conv2": "encoder/conv2",
    "encoder.embed_positions": "encoder/position_encodings",
    "encoder.layer_norm": "encoder/layer_norm",
    "decoder.embed_tokens": "decoder/embeddings",
    "decoder.embed_positions": "decoder/position_encodings",
    "decoder.layer_norm": "decoder/layer_norm",
}
LAYER = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2",
    "final_layer_norm": "ffn/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}
FUSED = {"self_attn": ("self_attention/linear_0", "qkv"), "encoder_attn": ("attention/linear_1", "kv")}


def converted(model: Any) -> dict[str, np.ndarray]:
    """A model's tensors as CTranslate2 has them."""
    state = {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()}
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", module)
        part = LAYER.get(layer[3]) if layer else None
        stored = f"{layer[1]}/layer_{layer[2]}/{part}" if layer and part else WHOLE.get(module)
        if stored is not None:
            found[f"{stored}/{_kind(stored, kind)}"] = value
    for side, heads in (("encoder", model.config.encoder_attention_heads), ("decoder", None)):
        found[f"{side}/num_heads"] = np.array(heads or model.config.decoder_attention_heads, np.int16)
        for layer in range(getattr(model.config, f"{side}_layers")):
            for own, (stored, letters) in FUSED.items():
                at = f"{side}.layers.{layer}.{own}"
                if f"{at}.q_proj.weight" in state:
                    weights = [state[f"{at}.{letter}_proj.weight"] for letter in letters]
                    biases = [state.get(f"{at}.{x}_proj.bias", np.zeros(len(weights[0]), "f4")) for x in letters]
                    found[f"{side}/layer_{layer}/{stored}/weight"] = np.concatenate(weights)
                    found[f"{side}/layer_{layer}/{stored}/bias"] = np.concatenate(biases)
    settings = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
    found |= {f"decoder/{name}": np.array(value, np.int8) for name, value in settings.items()}
    return found | {"decoder/alignment_heads": np.array(1, np.int16), "decoder/alignment_layer": np.array(-1, np.int16)}


def _kind(stored: str, kind: str) -> str:
    if stored.endswith("layer_norm"):
        return {"weight": "gamma", "bias": "beta"}[kind]
    return "encodings" if stored.endswith("encodings") else kind


def name_bytes(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def written(
    variables: Mapping[str, np.ndarray],
    aliases: Mapping[str, str] = ALIAS,
    *,
    version: int = 6,
    spec: str = "WhisperSpec",
    revision: int = 3,
) -> bytes:
    content = struct.pack("<I", version) + name_bytes(spec) + struct.pack("<II", revision, len(variables))
    for name, value in variables.items():
        content += name_bytes(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        content += struct.pack("<BI", CODES[str(value.dtype)], value.nbytes) + value.tobytes()
    content += struct.pack("<I", len(aliases))
    return content + b"".join(name_bytes(name) for pair in aliases.items() for name in pair)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return SPECS["whisper"].build()


@pytest.fixture
def variables(theirs: Any) -> dict[str, np.ndarray]:
    return converted(theirs)


def directory(place: Path, content: bytes, config: Mapping[str, Any] | None = None) -> Path:
    (place / "model.bin").write_bytes(content)
    if config is not None:
        (place / "config.json").write_text(json.dumps(config))
    return place


def rounded(variables: Mapping[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    return {name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in variables.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_it_is_the_model_of_transformers(tmp_path: Path, theirs: Any, variables: dict[str, np.ndarray], dtype: Any):
    model = jh.load(directory(tmp_path, written(rounded(variables, dtype))))
    same = SPECS["whisper"].build()
    with torch.no_grad():
        for value in same.parameters():
            value.copy_(torch.tensor(value.numpy().astype(dtype).astype(np.float32)))
    batch = SPECS["whisper"].batch(theirs)
    ours = jh.run(model, batch, ("cross.pattern",))
    for example in range(len(batch)):
        expected, real = their_run(same, batch, example), np.asarray(batch.target_mask)[example]
        assert_close(np.asarray(ours.output)[example, real], expected["output"])
        assert_close(np.asarray(ours.seen["cross.pattern"])[:, example][:, :, real], expected["cross.pattern"])


def test_the_config_is_read_from_shapes_and_settings(tmp_path: Path, theirs: Any, variables: dict[str, np.ndarray]):
    said = {"alignment_heads": [[1, 0]], "suppress_ids": [3], "lang_ids": [4], "suppress_ids_begin": [5]}
    config = open_checkpoint(directory(tmp_path, written(variables), said)).config
    names = (
        "vocab_size d_model num_mel_bins encoder_layers encoder_ffn_dim encoder_attention_heads decoder_layers "
        "decoder_ffn_dim decoder_attention_heads max_source_positions max_target_positions tie_word_embeddings "
        "activation_function model_type"
    ).split()
    assert {name: config[name] for name in names} == {name: getattr(theirs.config, name) for name in names}
    assert (config["alignment_heads"], config["suppress_tokens"]) == ([[1, 0]], [3])
    assert jh.load(tmp_path).no_tokenizer.endswith("has no tokenizer.json")


def test_an_unembedding_of_its_own_is_not_tied(tmp_path: Path, variables: dict[str, np.ndarray]):
    own = {**variables, "decoder/projection/weight": 2 * variables["decoder/embeddings/weight"]}
    checkpoint = open_checkpoint(directory(tmp_path, written(own, {})))
    assert not checkpoint.config["tie_word_embeddings"]
    weight = jh.load(tmp_path).network.unembedding.weight
    np.testing.assert_array_equal(weight, own["decoder/projection/weight"])


def test_tensors_say_what_they_are_before_they_are_read(tmp_path: Path, variables: dict[str, np.ndarray]):
    for tensor in open_checkpoint(directory(tmp_path, written(rounded(variables, np.float16)))).tensors.values():
        assert tensor.read().shape == tensor.shape
        assert str(tensor.read().dtype) == tensor.dtype == "float16"


def test_special_tokens_are_the_tokenizer_s(tmp_path: Path, variables: dict[str, np.ndarray]):
    inner = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(SPECIALS)
    inner.save(str(tmp_path / "tokenizer.json"))
    checkpoint = open_checkpoint(directory(tmp_path, written(variables)))
    assert checkpoint.tokenizer is not None
    assert [checkpoint.config[f"{name}_token_id"] for name in ("decoder_start", "eos", "pad")] == [4, 3, 3]
    assert checkpoint.tokenizer("ab", add_special_tokens=False)["input_ids"] == [2]
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json can't be read as a tokenizer" in open_checkpoint(tmp_path).no_tokenizer


@pytest.mark.parametrize("share", [0, 0.0002, 0.001, 0.3, 0.99, 0.9999])
def test_a_file_cut_off_is_named(tmp_path: Path, variables: dict[str, np.ndarray], share: float):
    whole = written(variables)
    with pytest.raises(ValueError, match=r"model\.bin is cut off \([\d,]+ bytes\) or corrupt\. Fetch it again"):
        open_checkpoint(directory(tmp_path, whole[: int(share * len(whole))]))


def test_a_file_that_goes_on_is_named(tmp_path: Path, variables: dict[str, np.ndarray]):
    with pytest.raises(ValueError, match="goes on after its end"):
        open_checkpoint(directory(tmp_path, written(variables) + b"\0"))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"version": 5}, "no CTranslate2 file of version 6: it begins with 5"),
        ({"spec": "TransformerSpec"}, "is a 'TransformerSpec' of revision 3; known is 'WhisperSpec' of revision 3"),
        ({"revision": 4}, "is a 'WhisperSpec' of revision 4"),
        ({"aliases": {"decoder/other": "decoder/embeddings/weight"}}, "aliases that are not known: decoder/other"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, variables: dict[str, np.ndarray], about: Any, message: str):
    with pytest.raises(ValueError, match=message):
        open_checkpoint(directory(tmp_path, written(variables, **about)))


QKV = "decoder/layer_1/self_attention/linear_0"


@pytest.mark.parametrize(
    ("changed", "gone", "message"),
    [
        (
            {"decoder/layer_0/gate/weight": np.ones((2, 3), "f4")},
            (),
            r"not known: decoder/layer_0/gate/weight \[2",
        ),
        ({f"{QKV}/weight_scale": np.ones(3, "f4")}, (), "weight_scale.*quantised weights can't be read"),
        ({"encoder/layer_0/attention/linear_0/weight": np.ones((2, 2), "f4")}, (), "not known: encoder/layer_0/att"),
        ({f"{QKV}/weight": np.ones((70, 24), "f4")}, (), r"not known: .*linear_0/weight \[70, 24\]"),
        ({f"{QKV}/bias": np.ones(72, "f4")}, (), f"{QKV}/bias gives keys a bias"),
        ({"decoder/activation": np.array(0, np.int8)}, (), "decoder/activation is 0; supported is 3 only"),
        ({"decoder/pre_norm": np.array(0, np.int8)}, (), "decoder/pre_norm is 0; supported is 1 only"),
        ({}, ("decoder/pre_norm",), "there is no variable decoder/pre_norm"),
        ({}, ("encoder/conv1/weight",), "there is no variable encoder/conv1/weight"),
        ({"encoder/conv1/weight": np.ones(3, "f4")}, (), r"encoder/conv1/weight has shape \(3,\)"),
        ({}, (f"{QKV}/weight",), "3 tensors are missing: model.decoder.layers.1.self_attn.q_proj.weight"),
    ],
)
def test_what_is_no_whisper_is_refused(
    tmp_path: Path, variables: dict[str, np.ndarray], changed: Any, gone: Iterable[str], message: str
):
    kept = {name: value for name, value in (variables | changed).items() if name not in gone}
    with pytest.raises(ValueError, match=message):
        jh.load(directory(tmp_path, written(kept)))


def test_sizes_that_contradict_each_other_are_named(tmp_path: Path, variables: dict[str, np.ndarray]):
    whole = written({"decoder/alibi": np.array(0, np.int8), **variables})
    at = whole.index(b"decoder/alibi\0") + len(b"decoder/alibi\0") + 1
    for kind, size in ((1, 2), (9, 1)):
        broken = whole[:at] + struct.pack("<BI", kind, size) + whole[at + 5 :]
        with pytest.raises(ValueError, match=rf"'decoder/alibi' of shape \(\), dtype {kind} and {size} bytes"):
            open_checkpoint(directory(tmp_path, broken))
