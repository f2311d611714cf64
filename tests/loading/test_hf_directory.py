import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxheads.models.loading.sources import open_checkpoint

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4).astype(ml_dtypes.bfloat16)
CONFIG = {"model_type": "bert", "hidden_size": 24}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def shard(directory: Path, where: dict[str, str], held: dict[str, dict[str, np.ndarray]]) -> None:
    for name, arrays in held.items():
        save_file(arrays, directory / name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def test_one_safetensors_file_keeps_shapes_and_number_formats(directory):
    save_file({"a": A, "b": B, "half": A.astype(np.float16)}, directory / "model.safetensors")
    checkpoint = open_checkpoint(directory)
    assert checkpoint.config == CONFIG
    assert {name: tensor.dtype for name, tensor in checkpoint.tensors.items()} == {
        "a": "float32",
        "b": "bfloat16",
        "half": "float16",
    }
    assert checkpoint.tensors["a"].shape == (2, 3)
    assert checkpoint.tensors["b"].read().dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(checkpoint.tensors["a"].read(), A)
    assert checkpoint.identity().startswith("sha256:")


def test_a_directory_without_a_tokenizer_says_why(directory):
    save_file({"a": A}, directory / "model.safetensors")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    checkpoint = open_checkpoint(directory)
    assert checkpoint.tokenizer is None
    assert "no tokenizer files" in checkpoint.no_tokenizer


def test_a_tokenizer_that_can_t_be_made_is_none_and_says_why_and_what_to_do(directory, caplog):
    save_file({"a": A}, directory / "model.safetensors")
    (directory / "tokenizer.json").write_text('{"version": "1.0", "mod')
    checkpoint = open_checkpoint(directory)
    assert checkpoint.tokenizer is None
    assert "can't be read as a tokenizer" in checkpoint.no_tokenizer
    assert "The directory holds config.json, model.safetensors, tokenizer.json: fetch" in checkpoint.no_tokenizer
    assert "is loaded without its tokenizer" in caplog.text


def test_a_tokenizer_is_loaded_from_its_files(directory):
    save_file({"a": A}, directory / "model.safetensors")
    (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer = open_checkpoint(directory).tokenizer
    assert tokenizer is not None
    assert tokenizer("hello world")["input_ids"] == [2, 5, 6, 3]


@pytest.mark.parametrize(
    ("family", "file", "expected"), [("albert", "vocab.txt", "spiece.model"), ("t5", "vocab.json", "spiece.model")]
)
def test_a_vocabulary_that_the_tokenizer_does_not_read_is_no_tokenizer(tmp_path, family, file, expected):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (tmp_path / file).write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n")
    save_file({"a": A}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tokenizer is None
    assert "found no vocabulary" in checkpoint.no_tokenizer
    assert expected in checkpoint.no_tokenizer


def test_shards_are_joined(directory):
    shard(
        directory,
        {"a": "1.safetensors", "b": "2.safetensors"},
        {"1.safetensors": {"a": A}, "2.safetensors": {"b": B}},
    )
    checkpoint = open_checkpoint(directory)
    np.testing.assert_array_equal(checkpoint.tensors["a"].read(), A)
    np.testing.assert_array_equal(checkpoint.tensors["b"].read(), B)
    before = checkpoint.identity()
    save_file({"b": B[::-1].copy()}, directory / "2.safetensors")
    assert open_checkpoint(directory).identity() != before


def test_all_missing_shards_are_named_at_once(directory):
    shard(
        directory,
        {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors"},
        {"1.safetensors": {"a": A}},
    )
    with pytest.raises(FileNotFoundError, match=r"lacks 2 of 3 shards: 2\.safetensors, 3\.safetensors"):
        open_checkpoint(directory)


def test_all_tensors_missing_in_their_shard_are_named_at_once(directory):
    shard(
        directory,
        {"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"},
        {"1.safetensors": {"a": A}},
    )
    with pytest.raises(ValueError, match=r"b \(1.safetensors\), c \(1.safetensors\)"):
        open_checkpoint(directory)


def test_an_index_that_points_elsewhere_is_refused(directory):
    shard(directory, {"a": "../1.safetensors"}, {})
    with pytest.raises(ValueError, match="don't lie beside it"):
        open_checkpoint(directory)


@pytest.mark.parametrize("kept", [0, 5, 60, -3])
def test_a_safetensors_file_cut_off_anywhere_is_named(directory, kept):
    path = directory / "model.safetensors"
    save_file({"a": A}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        open_checkpoint(directory)


def test_a_directory_without_weights_or_config_says_what_it_holds(directory):
    (directory / "tf_model.h5").touch()
    with pytest.raises(FileNotFoundError, match=r"no weights.*tf_model\.h5"):
        open_checkpoint(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*tf_model\.h5"):
        open_checkpoint(directory)


def test_a_broken_config_is_named(directory):
    (directory / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json isn't valid JSON"):
        open_checkpoint(directory)
