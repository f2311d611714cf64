"""Files made to harm, each of a kind that once did: they are refused at once, and by name."""

import base64
import json
import logging
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxheads as jh
from jaxheads.models.loading.pickles import pickle_tensors

from . import small_files
from .small_files import CONFIG

BUILD, GET, POP = b"b", b"h\x00", b"0"
STORAGE = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def torch_file(path: Path, description: bytes) -> Path:
    """A file of torch.save with one storage of four floats."""
    members = {"archive/data.pkl": description, "archive/byteorder": b"little", "archive/data/0": bytes(16)}
    path.write_bytes(small_files.zipped(members))
    return path


def whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def test_a_pickle_can_t_write_into_a_storage_to_read_beyond_it(tmp_path: Path):
    """The storage is made longer, a view is checked against it, and then it gets its length back."""

    def length(number: int) -> bytes:
        return b"}U\x06length" + whole(number) + b"s" + BUILD

    view = whole(0) + b"(" + whole(100_000) + b"t(K\x01t"
    data = b"\x80\x02}U\x01a" + REBUILD + STORAGE + b"q\x00" + length(100_000) + view + b"tR"
    path = torch_file(tmp_path / "x.bin", data + GET + length(4) + POP + b"s.")
    with pytest.raises(ValueError, match=r"x\.bin can't be read.*changes a Storage as if it were a dict"):
        pickle_tensors(path)


@pytest.mark.parametrize(
    "target", [b"ccollections\nOrderedDict\n", REBUILD, b"ctorch\nFloatStorage\n", b"U\x01s", STORAGE]
)
def test_a_pickle_can_t_change_what_is_no_dict(tmp_path: Path, target: bytes):
    for state in (b"}U\x04namesK\x01s", b"}U\x04namesK\x01s\x86"):
        with pytest.raises(ValueError, match=r"x\.bin can't be read"):
            pickle_tensors(torch_file(tmp_path / "x.bin", b"\x80\x02" + target + state + BUILD + b"."))


VIEWS = {
    "negative stride": (b"K\x03", b"(K\x02t", b"(" + whole(-1) + b"t"),
    "negative offset": (whole(-1), b"(K\x02t", b"(K\x01t"),
    "negative size": (b"K\x00", b"(" + whole(-2) + b"t", b"(K\x01t"),
    "a bool": (b"\x88", b"(K\x02t", b"(K\x01t"),
    "a float": (b"K\x00", b"(G@\x00\x00\x00\x00\x00\x00\x00t", b"(K\x01t"),
    "huge sizes without strides": (b"K\x00", b"(" + whole(2**30) * 3 + b"t", b"(K\x00K\x00K\x00t"),
    "a size of 500 bits": (b"K\x00", b"(\x8a\x40" + b"\x7f" * 64 + b"t", b"(K\x00t"),
    "more axes than strides": (b"K\x00", b"(K\x01K\x01t", b"(K\x01t"),
    "a list": (b"K\x00", b"(K\x01l", b"(K\x01t"),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_that_no_tensor_has_are_refused(tmp_path: Path, view: str):
    data = b"\x80\x02}U\x01a" + REBUILD + STORAGE + b"".join(VIEWS[view]) + b"tRs."
    with pytest.raises(ValueError, match=r"x\.bin can't be read as a file of torch\.save: (a|its) (tensor|pickle)"):
        pickle_tensors(torch_file(tmp_path / "x.bin", data))


def test_overlapping_views_may_not_multiply_the_file(tmp_path: Path):
    """Every one of 4,000 tensors repeats one float as often as the file allows."""
    first = b"X" + struct.pack("<I", 4) + b"0000" + REBUILD + STORAGE + b"q\x00"
    view = b"K\x00(" + whole(50_000) + b"t(K\x00ttRs"
    more = (b"X" + struct.pack("<I", 4) + b"%04d" % number + REBUILD + b"(" + GET + view for number in range(1, 4000))
    path = torch_file(tmp_path / "x.bin", b"\x80\x02}" + first + view + b"".join(more) + b".")
    with pytest.raises(ValueError, match=r"more values than a file of .* bytes can hold"):
        pickle_tensors(path)


def test_keys_that_take_for_ever_to_hash_and_memos_that_fill_memory_do_nothing(tmp_path: Path):
    doubled = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
    with pytest.raises(ValueError, match="a key of type tuple"):
        pickle_tensors(torch_file(tmp_path / "x.bin", doubled))
    with pytest.raises(ValueError, match="holds a list"):
        pickle_tensors(torch_file(tmp_path / "x.bin", b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."))


def gguf(*, tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


GGUFS = {
    "an array of 2⁶² strings": gguf(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 8, 2**62)),
    "an array of 2⁶² bytes": gguf(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 0, 2**62) + bytes(30)),
    "2⁶⁴ − 1 keys": gguf(keys=2**64 - 1, rest=bytes(80)),
    "2⁶⁴ − 1 tensors": gguf(tensors=2**64 - 1, rest=bytes(80)),
    "a string of 2⁶³ bytes": gguf(keys=1, rest=struct.pack("<Q", 2**63) + bytes(80)),
    "an array of arrays": gguf(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 9, 5) * 5),
    "a tensor of 2³² axes": gguf(tensors=1, rest=text("a") + struct.pack("<I", 2**32 - 1) + bytes(80)),
    "a tensor of 2¹²⁶ values": gguf(
        tensors=1, rest=text("a") + struct.pack("<IQQIQ", 2, 2**63, 2**63, 0, 0) + bytes(80)
    ),
}


@pytest.mark.parametrize("claim", GGUFS)
def test_a_gguf_that_claims_more_than_it_holds_is_refused(tmp_path: Path, claim: str):
    (tmp_path / "x.gguf").write_bytes(GGUFS[claim])
    with pytest.raises(ValueError, match=r"x\.gguf can't be read as GGUF"):
        jh.load(tmp_path / "x.gguf")


def test_a_gguf_of_endless_layers_is_refused(tmp_path: Path):
    key = text("llama.block_count") + struct.pack("<I", 4)
    content = small_files.gguf().replace(key + struct.pack("<I", 1), key + struct.pack("<I", 2**32 - 1))
    (tmp_path / "x.gguf").write_bytes(content)
    message = r"x\.gguf: .*num_hidden_layers must be a whole number of 1\.\.10,000, .*4294967295"
    with pytest.raises(ValueError, match=message):
        jh.load(tmp_path / "x.gguf")


def test_a_ctranslate2_of_endless_layers_is_refused(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(small_files.ctranslate2().replace(b"/layer_0/", b"/layer_9/"))
    with pytest.raises(ValueError, match=r"there is no variable encoder/layer_0"):
        jh.load(tmp_path)
    name = b"encoder/layer_1/ffn/linear_0/bias\0"
    longer = name.replace(b"layer_1", b"layer_100000000")
    content = small_files.ctranslate2()
    assert name in content
    content = content.replace(struct.pack("<H", len(name)) + name, struct.pack("<H", len(longer)) + longer)
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.bin: .*encoder_layers must be a whole number of 1\.\.10,000"):
        jh.load(tmp_path)


def directory(path: Path, files: dict[str, bytes] | None = None, **config: Any) -> Path:
    """A Hugging Face directory, some of its files others."""
    path.mkdir(exist_ok=True)
    for name, content in {**small_files.hugging_face(), **(files or {})}.items():
        (path / name).write_bytes(content)
    if config:
        (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return path


def test_sizes_of_a_config_are_compared_with_the_weights(tmp_path: Path):
    larger = directory(tmp_path / "x", vocab_size=2**31 - 1, num_hidden_layers=9_999)
    message = (
        r"does not fit its config: that says vocab_size=2,147,483,647, num_hidden_layers=9,999, .*472 values in all"
    )
    with pytest.raises(ValueError, match=message):
        jh.load(larger)
    assert sum(array.size for array in small_files.arrays().values()) == 472


def test_layers_that_the_file_lacks_are_counted_not_computed(tmp_path: Path):
    with pytest.raises(ValueError, match=r"does not fit its config: 3591 tensors are missing: model\.layers\.1"):
        jh.load(directory(tmp_path / "x", num_hidden_layers=400))


JSON = {
    "lists in lists": b"[" * 100_000,
    "a number of 5,000 digits": b'{"vocab_size": ' + b"1" * 5000 + b"}",
    "no UTF-8": b'{"a": "\xff"}',
    "a key twice": b'{"vocab_size": 4, "vocab_size": 8}',
    "nothing": b"",
    "a list": b"[1]",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", JSON)
def test_json_of_every_broken_kind_is_refused(tmp_path: Path, name: str, content: str):
    with pytest.raises(ValueError, match=rf"{name} (isn't valid JSON|holds a JSON list)"):
        jh.load(directory(tmp_path / "x", {name: JSON[content]}))


def test_the_config_is_checked_before_the_tokenizer_is_touched(tmp_path: Path):
    broken = directory(
        tmp_path / "x", {"tokenizer.json": b"{", "tokenizer_config.json": b"\xff"}, rms_norm_eps=float("nan")
    )
    with pytest.raises(ValueError, match="rms_norm_eps must be a finite number above 0, got nan"):
        jh.load(broken)
    (broken / "config.json").write_text(json.dumps(CONFIG))
    assert "can't be read as a tokenizer" in jh.load(broken).no_tokenizer


NAMES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model-1.safetensors",
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("name", [*NAMES, "model.safetensors", "preprocessor_config.json", "chat_template.jinja"])
def test_a_pipe_in_a_file_s_stead_keeps_nobody_waiting(tmp_path: Path, name: str):
    folder = directory(tmp_path / "x")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert f"{name} is a named pipe" in jh.load(folder).no_tokenizer
        return
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        jh.load(folder)


@pytest.mark.parametrize("name", ["x.gguf", "pytorch_model.bin", "model.bin"])
def test_a_pipe_is_no_container(tmp_path: Path, name: str):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a named pipe, expected a file"):
        jh.load(tmp_path / name if name.endswith(".gguf") else tmp_path)


def test_links_in_a_circle_and_devices_are_told(tmp_path: Path):
    for name in ("config.json", "model.safetensors", "x.gguf"):
        folder = directory(tmp_path / "x")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(name)
        with pytest.raises(OSError, match=name):
            jh.load(folder / name if name.endswith(".gguf") else folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(ValueError, match="is a device, expected a file"):
            jh.load(folder / name if name.endswith(".gguf") else folder)
        (folder / name).unlink()


def test_safetensors_is_preferred_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The pickle beside it is not even opened."""
    folder = directory(tmp_path / "x", {"pytorch_model.bin": b"no zip"})
    with caplog.at_level(logging.INFO, "jaxheads"):
        jh.load(folder)
    assert "read from model.safetensors.index.json, not from pytorch_model.bin" in caplog.text


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.bool_])
def test_whole_numbers_without_scales_are_no_weights(tmp_path: Path, dtype: Any):
    folder = directory(tmp_path / "x")
    (folder / "model.safetensors.index.json").unlink()
    arrays = {**small_files.arrays(), "model.layers.0.mlp.up_proj.weight": np.ones((8, 8), dtype)}
    save_file(arrays, folder / "model.safetensors")
    message = r"1 tensors hold whole numbers, weights that lack their scales: model\.layers\.0\.mlp\.up_proj\.weight \("
    with pytest.raises(ValueError, match=message):
        jh.load(folder)


@pytest.mark.parametrize(
    ("stored", "dtype"), [(np.float32, "float16"), (np.float64, "float32"), (ml_dtypes.bfloat16, "float16")]
)
def test_weights_that_a_dtype_can_t_hold_are_named(tmp_path: Path, stored: Any, dtype: str):
    folder = directory(tmp_path / "x")
    (folder / "model.safetensors.index.json").unlink()
    large = np.full(8, 1e30 if stored != np.float64 else 1e300).astype(stored)
    save_file({**small_files.arrays(), "model.norm.weight": large}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"as {dtype}, hold NaN or infinite values: model\.norm\.weight"):
        jh.load(folder, dtype=dtype)


def test_a_chunk_of_orbax_larger_than_its_tensor_is_not_unpacked(tmp_path: Path):
    import tensorstore

    small_files.put(tmp_path, small_files.orbax())
    kvstore = {"driver": "ocdbt", "base": f"file://{tmp_path}/weights.orbax/"}
    store, key = tensorstore.KvStore.open(kvstore).result(), b"model.norm.weight/.zarray"
    described = {**json.loads(store.read(key).result().value), "chunks": [2**40]}
    store.write(key, json.dumps(described).encode()).result()
    with pytest.raises(ValueError, match=r"files of .* bytes claim to hold 1,099,511,628,\d+ values"):
        jh.load(tmp_path)


@pytest.mark.parametrize("name", ["Precompiled", "\\u0050recompiled"])
def test_a_map_of_characters_that_claims_too_much_does_not_end_the_process(tmp_path: Path, name: str):
    charsmap = base64.b64encode(struct.pack("<I", 2**32 - 4) + bytes(8)).decode()
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NAME", "precompiled_charsmap": charsmap}]}
    hostile = json.dumps({**small_files.TOKENIZER, "normalizer": normalizer}).replace("NAME", name)
    model = jh.load(directory(tmp_path / "x", {"tokenizer.json": hostile.encode()}))
    assert "precompiled_charsmap is cut off" in model.no_tokenizer
