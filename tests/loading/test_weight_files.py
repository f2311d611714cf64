"""Weight files by all the names that the hub has for them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import jaxheads as jh
from jaxheads.models.loading.sources import open_checkpoint
from jaxheads.models.loading.weight_files import weight_files

from ..models.huggingface import build

SHARDS = {
    "shards of safetensors without an index": "model-0000{0}-of-00002.safetensors",
    "shards of pickles without an index": "pytorch_model-0000{0}-of-00002.bin",
    "shards with an underscore": "pytorch_model_0000{0}-of-00002.bin",
    "shards with short numbers": "model-{0}-of-2.safetensors",
    "shards of a variant": "model.fp16-0000{0}-of-00002.safetensors",
    "shards of a variant at the end": "model-0000{0}-of-00002.fp16.safetensors",
    "shards with a point": "model.0000{0}-of-00002.safetensors",
}
INDICES = {
    "safetensors and its index": ("model-0000{0}-of-00002.safetensors", "model.safetensors.index.json"),
    "pickles and their index": ("pytorch_model-0000{0}-of-00002.bin", "pytorch_model.bin.index.json"),
    "an index of a variant": ("model.fp16-0000{0}-of-00002.safetensors", "model.safetensors.index.fp16.json"),
    "an index of a variant, anew": (
        "model.fp16-0000{0}-of-00002.safetensors",
        "model.fp16.safetensors.index.json",
    ),
    "an index of other names": ("part{0}.safetensors", "model.safetensors.index.json"),
}
SINGLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "pytorch_model.fp32.bin",
    "weights.safetensors",
    "tiny-gpt2.safetensors",
    "model_00001-of-00001.safetensors",
)


@cache
def tensors() -> dict[str, torch.Tensor]:
    kept = build("GPT2LMHeadModel").state_dict()
    return {name: value.clone() for name, value in kept.items() if name != "lm_head.weight"}


def config(directory: Path) -> None:
    settings = build("GPT2LMHeadModel").config.to_dict()
    (directory / "config.json").write_text(json.dumps(settings | {"architectures": ["GPT2LMHeadModel"]}))


def save(path: Path, state: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path)


def put(directory: Path, pattern: str) -> dict[str, str]:
    """Two shards; returns the shard of each tensor."""
    config(directory)
    names = sorted(tensors())
    shards = {pattern.format(1): names[::2], pattern.format(2): names[1::2]}
    for shard, held in shards.items():
        save(directory / shard, {name: tensors()[name] for name in held})
    return {name: shard for shard, held in shards.items() for name in held}


def assert_whole(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    assert checkpoint.tensors.keys() == tensors().keys()
    for name, value in tensors().items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), value.numpy())
    assert checkpoint.identity().startswith("sha256:")


@pytest.mark.parametrize("layout", SHARDS)
def test_shards_without_an_index_are_joined(tmp_path, layout):
    put(tmp_path, SHARDS[layout])
    assert_whole(tmp_path)


@pytest.mark.parametrize("layout", INDICES)
def test_shards_with_an_index_are_joined(tmp_path, layout):
    pattern, index = INDICES[layout]
    shard_of = put(tmp_path, pattern)
    (tmp_path / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of}))
    assert_whole(tmp_path)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_file_of_another_name_is_read(tmp_path, name):
    config(tmp_path)
    save(tmp_path / name, tensors())
    for other in ("training_args.bin", "optimizer.bin", "tf_model.h5", "flax_model.msgpack"):
        (tmp_path / other).write_bytes(b"something else")
    assert_whole(tmp_path)
    if name == "weights.safetensors":
        jh.load(tmp_path)


def test_missing_shards_without_an_index_are_named(tmp_path):
    put(tmp_path, "model-0000{0}-of-00004.safetensors")
    with pytest.raises(FileNotFoundError, match=r"2 of the 4 shards beside model-00001-of-00004\.safetensors.*: 3, 4"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_two_shards_have_is_refused(tmp_path):
    put(tmp_path, "model-0000{0}-of-00002.safetensors")
    save(tmp_path / "model-00002-of-00002.safetensors", tensors())
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors has tensors that another shard has too"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("pytorch_model.bin", "model.fp16.safetensors"), "pytorch_model.bin"),
        (("model.fp16.safetensors", "model.bf16.safetensors", "model.fp32.safetensors"), "model.fp32.safetensors"),
        (("model.safetensors", "consolidated.safetensors", "adapter_model.safetensors"), "model.safetensors"),
        (("pytorch_model.bin", "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors"),
        (("onnx/model.safetensors", "pytorch_model.bin"), "pytorch_model.bin"),
    ],
)
def test_usual_names_and_precise_variants_go_first(names, chosen):
    weights: Any = weight_files(names)
    assert weights.files == (chosen,)


@pytest.mark.parametrize(
    ("held", "advice"),
    [
        ("tf_model.h5", "TensorFlow or Flax"),
        ("flax_model.msgpack", "TensorFlow or Flax"),
        ("x.Q4_K_M.gguf", "GGUF files: name one"),
        ("consolidated.00.pth", "names of their first release"),
        ("consolidated.safetensors", "names of their first release"),
        ("model_index.json", "a pipeline of several models"),
        ("README.md", "It holds README.md, config.json"),
    ],
)
def test_a_directory_with_nothing_that_fits_says_what_it_holds_and_what_to_do(tmp_path, held, advice):
    config(tmp_path)
    (tmp_path / held).touch()
    with pytest.raises(FileNotFoundError, match=advice) as caught:
        open_checkpoint(tmp_path)
    assert held in str(caught.value)
