"""A run on disk: what is written comes back, and what is damaged is refused."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxheads as jh

from .networks import batch_of, random_model

BATCH = batch_of((5, 8)).marked({"noun": np.eye(2, 8)}).clustered(["a", "b"])


@pytest.fixture(scope="module")
def run() -> jh.Run:
    return jh.run(model(), BATCH, ("pattern", "decoder.z", "resid_post"), jh.zero_heads(model(), [(0, 1)]))


def model() -> jh.Model:
    return replace(random_model("llama"), name="tiny", identity=lambda: "sha256:0")


def test_a_run_comes_back(run: jh.Run, tmp_path: Path):
    path = run.save(tmp_path / "new" / "run.safetensors")
    assert [entry.name for entry in path.parent.iterdir()] == ["run.safetensors"]
    loaded = jh.Run.load(path)
    assert list(loaded.seen) == list(run.seen)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(run), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert loaded.source is not None
    assert (loaded.source.name, loaded.source.identity()) == ("tiny", "sha256:0")
    assert loaded.source.edits == ("mix at decoder.z, 1 layers",)
    assert loaded.source.provenance["versions"]["jax"]
    batch = loaded.source.batch
    assert jax.tree.structure(batch) == jax.tree.structure(BATCH)
    for one, other in zip(jax.tree.leaves(batch), jax.tree.leaves(BATCH), strict=True):
        np.testing.assert_array_equal(one, other)
    assert batch.lengths.tolist() == [5, 8]
    # What is saved again is saved with its first provenance.
    again = loaded.save(tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()
    assert list(jh.Run.load(path, ["pattern"]).seen) == ["pattern"]
    with pytest.raises(ValueError, match=r"holds decoder\.z, pattern, resid_post; got q"):
        jh.Run.load(path, ["q"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.bool_])
def test_dtypes_and_layouts_are_kept(tmp_path: Path, dtype: Any):
    values = jnp.arange(12).reshape(3, 4).astype(dtype)
    views: dict[str, Any] = {"turned": np.asarray(values).T, "empty": values[:0], "scalar": values[0, 1]}
    if dtype == jnp.int32:
        views["big endian"] = np.arange(12, dtype=">i4")
    loaded = jh.Run.load(jh.Run(values, views).save(tmp_path / "run"))
    assert loaded.source is None
    for name, array in views.items():
        assert loaded.seen[name].dtype == dtype
        np.testing.assert_array_equal(loaded.seen[name], array)
    assert loaded.output.dtype == dtype


def test_numbers_of_64_bits_need_them(tmp_path: Path):
    path = jh.Run(np.ones(2), {}).save(tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output was saved in float64: enable it"):
        jh.Run.load(path)


def test_every_damaged_byte_is_noticed(run: jh.Run, tmp_path: Path):
    path = replace(run, seen={"z": run.seen["decoder.z"]}).save(tmp_path / "run")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    # Of the header only names, shapes and hashes matter; in the values every bit does.
    for at in [*rng.integers(header, len(whole), 25).tolist(), 0, 7, header - 1, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        if at == header - 1 and damaged[at : at + 1].isspace():
            continue
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run again|no run of this version"):
            jh.Run.load(path)
    for length in (0, 4, header, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no whole safetensors file"):
            jh.Run.load(path)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="not there"):
        jh.Run.load(tmp_path)
    path = tmp_path / "weights.safetensors"
    for metadata in (None, {"jaxheads_run": "{"}, {"jaxheads_run": json.dumps({"format": 2, "sha256": {}})}):
        save_file({"output": np.ones(2, np.float32)}, path, metadata)
        with pytest.raises(ValueError, match="no run of this version of jaxheads"):
            jh.Run.load(path)
    save_file(
        {"output": np.ones(2, np.float32)}, path, {"jaxheads_run": json.dumps({"format": 1, "seen": [], "sha256": {}})}
    )
    with pytest.raises(ValueError, match=r"is damaged \(output\)"):
        jh.Run.load(path)


def test_what_can_t_be_written_leaves_what_was_there(run: jh.Run, tmp_path: Path):
    path = run.save(tmp_path / "run")
    before = path.read_bytes()
    with pytest.raises(OSError, match="can't write"):
        run.save(tmp_path)
    odd = replace(run, seen={"z": np.zeros(3, complex)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"values of complex128 can't be written; known are float64"):
        odd.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run"]
