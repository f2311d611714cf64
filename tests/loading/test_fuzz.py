"""Hostile files: every reader ends in one of the documented errors, within five seconds and a gigabyte."""

import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxheads.models.families import FAMILIES

from ..models.test_configs import config_of
from . import small_files
from .damage import changed_json, damaged
from .reader_process import ReaderProcess

DOCUMENTED = (
    "ValueError",
    "OSError",
    "FileNotFoundError",
    "IsADirectoryError",
    "NotADirectoryError",
    "PermissionError",
)
EXAMPLES = int(os.environ.get("JAXHEADS_FUZZ", "1"))
"""Factor on the number of files tried; `JAXHEADS_FUZZ=100 pytest tests/loading/test_fuzz.py` looks further."""


def tried(examples: int) -> Any:
    """Settings of a test that tries so many files."""
    return settings(
        max_examples=examples * EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


@pytest.fixture(scope="module")
def process() -> Iterator[ReaderProcess]:
    child = ReaderProcess()
    yield child
    child.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def check(process: ReaderProcess, container: str, path: Path) -> str:
    """Read and return what became of it; fail for anything but success or a documented error that names the path."""
    answer = process.ask(container, path)
    assert answer.kind in ("read", *DOCUMENTED), f"{answer.kind}: {answer.message}\n{answer.trace}"
    named = answer.kind == "read" or str(path) in answer.message
    assert named, f"the error does not name {path}: {answer.message}\n{answer.trace}"
    return answer.kind


SINGLE = {
    "x.gguf": ("source", small_files.gguf),
    "x.onnx": ("onnx", small_files.onnx),
    "x.bin": ("pickle", small_files.state_dict),
    "old.bin": ("pickle", partial(small_files.state_dict, old=True)),
    "x.safetensors": ("safetensors", lambda: small_files.hugging_face()["model-1.safetensors"]),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_whole_file_is_read(process, folder, name):
    container, content = SINGLE[name]
    small_files.put(folder, {name: content()})
    assert check(process, container, folder / name) == "read"


@pytest.mark.parametrize("name", SINGLE)
def test_a_damaged_file_is_read_or_refused(process, folder, name):
    container, content = SINGLE[name]

    @tried(60)
    @given(damaged(content()))
    def attempt(hostile: bytes):
        small_files.put(folder, {name: hostile})
        check(process, container, folder / name)

    attempt()


DIRECTORIES = {
    "ctranslate2": ("source", lambda: {"model.bin": small_files.ctranslate2(), "config.json": b"{}"}),
    "npz": ("npz", small_files.glassllm),
    "hugging_face": ("source", small_files.hugging_face),
    "orbax": ("orbax", small_files.orbax),
}


@pytest.mark.parametrize("layout", DIRECTORIES)
def test_a_whole_directory_is_read(process, folder, layout):
    container, content = DIRECTORIES[layout]
    small_files.put(folder, content())
    assert check(process, container, folder) == "read"


@pytest.mark.parametrize("layout", DIRECTORIES)
def test_a_directory_with_a_damaged_file_is_read_or_refused(process, folder, layout):
    container, content = DIRECTORIES[layout]
    files = content()

    @tried(15 if layout == "orbax" else 40)
    @given(st.data())
    def attempt(data: st.DataObject):
        name = data.draw(st.sampled_from(sorted(files)))
        json_too = [changed_json(files[name])] if name.endswith(".json") and files[name] != b"{}" else []
        small_files.put(folder, {**files, name: data.draw(st.one_of(*json_too, damaged(files[name])))})
        check(process, container, folder)

    attempt()


def test_a_damaged_pickle_in_a_whole_zip_is_read_or_refused(process, folder):
    members = small_files.unzipped(small_files.state_dict())
    [description] = [name for name in members if name.endswith("data.pkl")]

    @tried(100)
    @given(damaged(members[description]))
    def attempt(hostile: bytes):
        small_files.put(folder, {"x.bin": small_files.zipped({**members, description: hostile})})
        check(process, "pickle", folder / "x.bin")

    attempt()


def test_a_damaged_array_in_a_whole_zip_is_read_or_refused(process, folder):
    files = small_files.glassllm()
    members = small_files.unzipped(files["x.npz"])

    @tried(40)
    @given(st.data())
    def attempt(data: st.DataObject):
        name = data.draw(st.sampled_from(sorted(members)))
        hostile = data.draw(damaged(members[name], head=128))
        small_files.put(folder, {**files, "x.npz": small_files.zipped({**members, name: hostile})})
        check(process, "npz", folder)

    attempt()


def test_a_changed_header_of_safetensors_is_read_or_refused(process, folder):
    content = small_files.hugging_face()["model-1.safetensors"]
    end = 8 + struct.unpack("<Q", content[:8])[0]

    @tried(40)
    @given(changed_json(content[8:end]))
    def attempt(header: bytes):
        small_files.put(folder, {"x.safetensors": struct.pack("<Q", len(header)) + header + content[end:]})
        check(process, "safetensors", folder / "x.safetensors")

    attempt()


@pytest.mark.parametrize("family", [*FAMILIES])
def test_a_changed_config_is_refused(process, folder, family):
    """What is read describes a network, whose tensors the file then lacks."""
    whole = json.dumps(config_of(family)).encode()
    weights = small_files.hugging_face()["model-1.safetensors"]

    @tried(3)
    @given(changed_json(whole))
    def attempt(hostile: bytes):
        small_files.put(folder, {"config.json": hostile, "model.safetensors": weights})
        assert check(process, "source", folder) != "read"

    attempt()


@pytest.mark.parametrize(("container", "kind"), [("greedy", "MemoryError"), ("slow", "died")])
def test_a_reader_that_takes_too_much_would_be_noticed(process, folder, container, kind):
    assert process.ask(container, folder, seconds=0.1).kind == kind
