import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxheads.models.loading.hub import hub_checkpoint
from jaxheads.models.loading.sources import open_checkpoint


class ConnectError(Exception):
    """As the hub client's HTTP library has one: neither an OSError nor the client's own."""


OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache with two commits of owner/toy; main is the newer, v1 a tag of the older."""
    repository = tmp_path / "models--owner--toy"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    for commit, value in ((OLD, 1.0), (NEW, 2.0)):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        save_file({"w": np.full(3, value, np.float32)}, repository / "blobs" / f"w{value}")
        (repository / "blobs" / f"c{value}").write_text(json.dumps({"model_type": "llama", "value": value}))
        (snapshot / "model.safetensors").symlink_to(repository / "blobs" / f"w{value}")
        (snapshot / "config.json").symlink_to(repository / "blobs" / f"c{value}")
    return tmp_path


@pytest.mark.parametrize(
    ("revision", "commit", "value"), [(None, NEW, 2.0), ("main", NEW, 2.0), ("v1", OLD, 1.0), (OLD, OLD, 1.0)]
)
def test_a_model_in_the_cache_is_opened_offline_at_each_revision(cache, revision, commit, value):
    checkpoint = hub_checkpoint("owner/toy", revision=revision, cache_dir=cache)
    assert checkpoint.config["value"] == value
    assert checkpoint.tensors["w"].read().tolist() == [value] * 3
    assert checkpoint.identity() == f"hub:owner/toy@{commit}"
    assert checkpoint.name == "owner/toy"


def test_open_checkpoint_finds_it_by_its_id(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    assert open_checkpoint("owner/toy").config["value"] == 2.0
    assert open_checkpoint("owner/toy", revision="v1").config["value"] == 1.0


@pytest.mark.parametrize(("name", "revision"), [("owner/other", None), ("owner/toy", "v7")])
def test_what_neither_has_is_one_error(cache, name, revision):
    with pytest.raises(FileNotFoundError, match=f"no model '{name}'.*the hub gave none.*cache has none"):
        hub_checkpoint(name, revision=revision, cache_dir=cache)


def test_a_refusing_hub_leaves_the_cache(cache, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    assert hub_checkpoint("owner/toy", cache_dir=cache).config["value"] == 2.0
    with pytest.raises(FileNotFoundError, match="ConnectError: Name or service not known"):
        hub_checkpoint("owner/other", cache_dir=cache)


def test_files_that_were_never_wanted_are_not_missed(cache):
    trees = cache / "models--owner--toy" / "trees"
    trees.mkdir()
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5")
    listed = {name: {"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names}
    (trees / f"{NEW}.json").write_text(json.dumps(listed))
    assert hub_checkpoint("owner/toy", cache_dir=cache).config["value"] == 2.0


def test_a_snapshot_without_its_weights_says_so(cache):
    (cache / "models--owner--toy" / "snapshots" / NEW / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        hub_checkpoint("owner/toy", cache_dir=cache)


@pytest.mark.parametrize(
    ("there", "wanted", "unwanted"),
    [
        (("model.safetensors", "pytorch_model.bin"), "model.safetensors", "pytorch_model.bin"),
        (("model.safetensors.index.json", "pytorch_model.bin"), "*.safetensors", "pytorch_model.bin"),
        (
            ("model.safetensors.index.json", "model-00001-of-00001.safetensors", "consolidated.safetensors"),
            "model-00001-of-00001.safetensors",
            "consolidated.safetensors",
        ),
        (("pytorch_model-00001-of-00001.bin", "training_args.bin"), "pytorch_model-00001-of-00001.bin", "*.bin"),
        (("model.fp16.safetensors", "model.bf16.safetensors"), "model.bf16.safetensors", "model.fp16.safetensors"),
        (("pytorch_model.bin", "chat_template.jinja"), "chat_template.*", "*.bin"),
        (("pytorch_model.bin", "flax_model.msgpack"), "pytorch_model.bin", "flax_model.msgpack"),
        (("adapter_config.json", "adapter_model.safetensors"), "adapter_model.safetensors", "adapter_model.bin"),
        (("adapter_config.json", "adapter_model.bin", "model.safetensors"), "model.safetensors", "adapter_model.bin"),
    ],
)
def test_one_format_of_the_weights_is_fetched(monkeypatch, tmp_path, there, wanted, unwanted):
    class Info:
        siblings = tuple(type("Sibling", (), {"rfilename": name}) for name in (*there, "config.json"))

    asked = {}

    def download(_repository, *, allow_patterns, **_others):
        asked["patterns"] = allow_patterns
        (tmp_path / "config.json").write_text("{}")
        save_file({"w": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_args, **_kwargs: Info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub_checkpoint("owner/toy")
    assert wanted in asked["patterns"]
    assert "config.json" in asked["patterns"]
    assert unwanted not in asked["patterns"]


def test_a_repository_without_weights_of_ours_says_what_it_holds(monkeypatch):
    def answer(*files):
        siblings = tuple(type("Sibling", (), {"rfilename": name}) for name in files)
        monkeypatch.setattr(
            huggingface_hub.HfApi, "model_info", lambda *_, **__: type("Info", (), {"siblings": siblings})
        )

    answer("config.json", "tf_model.h5", "README.md")
    with pytest.raises(FileNotFoundError, match=r"has no weights.*holds README\.md, config\.json, tf_model\.h5\."):
        hub_checkpoint("owner/toy")
    answer("x-Q4_0.gguf", "README.md")
    with pytest.raises(FileNotFoundError, match=r"holds README.md, x-Q4_0\.gguf\. That is GGUF files: name one"):
        open_checkpoint("toy")
    answer("model.safetensors", "README.md")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json.*It holds README\.md, model\.safetensors"):
        hub_checkpoint("owner/toy")


def test_an_old_id_without_an_owner_is_found_under_either_name(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    shutil.copytree(cache / "models--owner--toy", cache / "models--gpt2")
    checkpoint = open_checkpoint("gpt2")
    assert (checkpoint.name, checkpoint.config["value"]) == ("gpt2", 2.0)
    assert open_checkpoint("gpt2", revision="v1").config["value"] == 1.0
    for name, whole in (
        ("distilgpt2", "distilbert--distilgpt2"),
        ("bert-base-uncased", "google-bert--bert-base-uncased"),
        ("t5-small", "google-t5--t5-small"),
        ("xlm-roberta-base", "FacebookAI--xlm-roberta-base"),
    ):
        shutil.copytree(cache / "models--owner--toy", cache / f"models--{whole}")
        assert open_checkpoint(name).config["value"] == 2.0
