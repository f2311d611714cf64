"""What is written is what was held, bit for bit; `transformers` makes the same of it."""

import json
import subprocess
import sys
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


def toy(seed: int) -> jh.Model:
    config = {"model_type": "attention_only", "vocab_size": 11, "d_model": 8, "n_layers": 1, "n_heads": 2}
    return jh.init({**config, "max_position_embeddings": 16, "norm": "layer_norm", "bias": True}, seed=seed)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_overwriting_takes_only_what_an_earlier_call_wrote(tmp_path: Path):
    place = jh.to_hf(toy(1), tmp_path / "model")
    (place / "notes.txt").write_text("mine")
    (place / "logs" / "deep").mkdir(parents=True)
    (place / "logs" / "deep" / "a.log").write_text("mine, too")
    (place / "empty").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (place / "link").symlink_to(outside)
    (place / "nowhere").symlink_to("nothing here")
    jh.to_orbax(toy(2), place, overwrite=True)
    assert_same_bits(jh.load(place), toy(2))
    assert not (place / "model.safetensors").exists()
    jh.to_hf(toy(3), place, overwrite=True)
    assert_same_bits(jh.load(place), toy(3))
    written = {".jaxheads.json", "config.json", "model.safetensors"}
    assert {path.name for path in place.iterdir()} == {*written, "notes.txt", "logs", "empty", "link", "nowhere"}
    assert (place / "notes.txt").read_text() == "mine"
    assert (place / "logs" / "deep" / "a.log").read_text() == "mine, too"
    assert (place / "link" / "kept").read_text() == "kept"
    assert (place / "link").is_symlink()
    assert (place / "nowhere").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "outside"]  # nothing is left beside it


def test_a_folder_of_other_files_gets_the_model_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):  # beside them, and over an earlier model
        jh.to_hf(toy(seed), ".", overwrite=True)
        assert_same_bits(jh.load("./"), toy(seed))
        assert (Path.cwd() / "notes.txt").read_text() == "mine"


def test_a_file_of_ours_that_was_changed_is_a_user_s(tmp_path: Path):
    place = jh.to_orbax(toy(1), tmp_path / "model")
    manifest = json.loads((place / ".jaxheads.json").read_text())
    (place / "more.json").write_text("{}")
    manifest["sha256"]["more.json"] = manifest["sha256"]["other.json"] = "of another content"
    (place / ".jaxheads.json").write_text(json.dumps(manifest))
    jh.to_orbax(toy(2), place, overwrite=True)
    assert (place / "more.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["tokenizer.json", "pytorch_model.bin", "weights.orbax/own", "config.json/own"])
def test_what_would_be_read_with_the_model_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(FileExistsError, match=f"holds {Path(name).parts[0]}.*no call of jaxheads wrote.*move them"):
        jh.to_hf(toy(1), tmp_path, overwrite=True)
    assert contents(tmp_path) == {name: b"{}"}


def test_a_link_to_a_directory_is_followed(tmp_path: Path):
    target = jh.to_hf(toy(1), tmp_path / "target")
    (target / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    jh.to_hf(toy(2), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_bits(jh.load(target), toy(2))
    assert (target / "notes.txt").read_text() == "mine"
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for wrong in ("loop", "file", "file/below"):
        with pytest.raises(OSError, match=r"[Cc]hoose a directory"):
            jh.to_hf(toy(2), tmp_path / wrong, overwrite=True)


def test_a_link_in_the_directory_is_replaced_and_its_target_kept(tmp_path: Path):
    place = jh.to_hf(toy(1), tmp_path / "model")
    (place / "model.safetensors").rename(tmp_path / "blob")
    (place / "model.safetensors").symlink_to("../blob")
    before = (tmp_path / "blob").read_bytes()
    jh.to_hf(toy(2), place, overwrite=True)
    assert (tmp_path / "blob").read_bytes() == before
    assert_same_bits(jh.load(place), toy(2))


def test_a_disk_without_the_exchange_takes_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = jh.to_hf(toy(1), tmp_path / "model")
    monkeypatch.setattr("jaxheads.files._exchanged", lambda one, other: False)
    jh.to_hf(toy(2), place, overwrite=True)
    assert_same_bits(jh.load(place), toy(2))
    place.rename(tmp_path / ".model.jaxheads.old")  # as a kill between the renames leaves it
    with pytest.raises(FileExistsError, match="not empty"):
        jh.to_hf(toy(3), place)
    assert_same_bits(jh.load(place), toy(2))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("write", [jh.to_hf, jh.to_orbax], ids=["hf", "orbax"])
def test_a_full_disk_is_an_os_error(write: Any, tmp_path: Path):
    place = write(toy(1), tmp_path / "model")
    before = contents(place)
    script = (
        "import sys, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        f"import jaxheads as jh; from tests.models.test_saving import toy\n"
        f"try: jh.{write.__name__}(toy(2), {str(place)!r}, overwrite=True)\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "File too large. Free some space, or choose a directory that can be written" in done.stdout
    assert contents(place) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, signal, sys
from pathlib import Path
import jaxheads as jh
from jaxheads.models import saving
from tests.models.test_saving import toy
when, place = sys.argv[1], Path(sys.argv[2])
swap = saving.swap
def killed(one, other):
    if when == "after":
        swap(one, other)
    os.kill(os.getpid(), signal.SIGKILL)
saving.swap = killed
jh.to_hf(toy(2), place, overwrite=True)
"""


@pytest.mark.parametrize(("when", "seed"), [("before", 1), ("after", 2)])
def test_a_kill_leaves_the_old_model_or_the_new_and_a_user_s_files(when: str, seed: int, tmp_path: Path):
    place = jh.to_orbax(toy(1), tmp_path / "model")
    (place / "notes.txt").write_text("mine")
    done = subprocess.run([sys.executable, "-c", KILLED, when, str(place)])
    assert done.returncode == -9
    assert_same_bits(jh.load(place), toy(seed))
    assert (place / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2  # what the killed process was about to remove
    jh.to_hf(toy(3), place, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (place / "notes.txt").read_text() == "mine"
