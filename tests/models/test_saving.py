"""What is written is what was held, bit for bit; `transformers` makes the same of it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import jaxheads as jh

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small, their_run

families = pytest.mark.parametrize("name", SPECS)


def assert_same_bits(ours: jh.Model, theirs: jh.Model) -> None:
    for one, other in zip(jax.tree.leaves(ours.network), jax.tree.leaves(theirs.network), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@families
def test_a_round_trip_keeps_every_bit(name: str, tmp_path: Path):
    model = small(name).ours
    assert_same_bits(jh.load(jh.to_hf(model, tmp_path / "hf")), model)
    assert_same_bits(jh.load(jh.to_orbax(model, tmp_path / "orbax")), model)


@families
def test_transformers_loads_what_was_written(name: str, tmp_path: Path):
    both = small(name)
    theirs = type(both.theirs).from_pretrained(jh.to_hf(both.ours, tmp_path / "hf"), attn_implementation="eager").eval()
    batch = SPECS[name].batch(both.theirs)
    assert_close(their_run(theirs, batch, 0)["output"], their_run(both.theirs, batch, 0)["output"])


def test_bfloat16_stays_bfloat16(tmp_path: Path):
    jh.to_hf(small("llama").ours, tmp_path / "float32")
    model = jh.load(tmp_path / "float32", dtype=jnp.bfloat16)
    for write in (jh.to_hf, jh.to_orbax):
        assert_same_bits(jh.load(write(model, tmp_path / write.__name__), dtype=jnp.bfloat16), model)
    assert json.loads((tmp_path / "to_hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to_hf").dtype.is_floating_point


def test_nothing_is_overwritten_unasked(tmp_path: Path):
    model = small("gpt2").ours
    (tmp_path / "here").mkdir()
    jh.to_hf(model, tmp_path / "here")  # an empty directory is free
    (tmp_path / "here" / "notes.txt").write_text("mine")
    for write in (jh.to_hf, jh.to_orbax):
        with pytest.raises(FileExistsError, match="is not empty: choose another directory, or overwrite=True"):
            write(model, tmp_path / "here")
    assert (tmp_path / "here" / "notes.txt").read_text() == "mine"
    jh.to_hf(model, tmp_path / "here", overwrite=True)
    assert not (tmp_path / "here" / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]  # nothing is left beside it


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small("gpt2").ours
    jh.to_hf(model, tmp_path / "kept")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxheads.models.saving.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        jh.to_hf(model, tmp_path / "kept", overwrite=True)
    assert_same_bits(jh.load(tmp_path / "kept"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_broken_orbax_directory_says_so(tmp_path: Path):
    place = jh.to_orbax(small("gpt2").ours, tmp_path / "orbax")
    for path in (place / "weights.orbax").rglob("*"):
        if path.is_file() and "METADATA" in path.name.upper():
            path.unlink()
    with pytest.raises(ValueError, match="can't be read as an orbax checkpoint"):
        jh.load(place)


def test_a_model_made_of_a_config_is_written_and_read(tmp_path: Path):
    config = {"model_type": "attention_only", "vocab_size": 11, "d_model": 8, "n_layers": 2, "n_heads": 2}
    model = jh.init({**config, "max_position_embeddings": 16, "norm": "layer_norm", "bias": True}, seed=3)
    assert_same_bits(jh.load(jh.to_hf(model, tmp_path / "toy")), model)
    other = jh.init(model.hf_config or {}, seed=4)
    assert not np.array_equal(other.network.embed.embedding[...], model.network.embed.embedding[...])
