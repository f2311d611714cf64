import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxheads.models.loading.sources import open_checkpoint
from jaxheads.models.loading.zoo import ZOO


@pytest.mark.parametrize(
    ("source", "near"),
    [("smolm2-135m", "smollm2-135m"), ("glassllm", "glassllm-en"), ("MiniLM", "minilm-l6")],
)
def test_a_misspelled_zoo_name_is_told_the_nearest_and_all(source, near):
    with pytest.raises(ValueError, match=f"no model '{source}'. Did you mean .*'{near}'") as caught:
        open_checkpoint(source)
    for name in ZOO:
        assert name in str(caught.value)
    for kind in ("directory", ".gguf", "hub id"):
        assert kind in str(caught.value)


def test_the_zoo_says_that_smollm2_is_tuned_and_quantised():
    assert "SmolLM2-135M-Instruct" in ZOO["smollm2-135m"].what
    assert "quantised to 4 bits" in ZOO["smollm2-135m"].what


def test_the_zoo_says_what_distilbert_was_tuned_for():
    assert "fine-tuned as a tagger of 213 grammatical edits" in ZOO["distilbert-base-cased"].what


@pytest.mark.parametrize("source", ["gpt2", "bert-base-uncased", "t5-small"])
def test_an_old_id_without_an_owner_is_asked_of_the_hub_and_resembles_no_zoo_model(source):
    with pytest.raises(ValueError, match=r"As a hub id: .*the hub gave none.*its cache has none") as caught:
        open_checkpoint(source)
    assert "Did you mean" not in str(caught.value)
    assert f"hf download {source}" in str(caught.value)


@pytest.mark.parametrize("source", ["gpt2", "", "a/b/c", "owner/", "what is this?"])
def test_what_is_no_source_lists_the_sources(source):
    with pytest.raises(ValueError, match="A source is a zoo name"):
        open_checkpoint(source)


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "models/nowhere.gguf", "../x"])
def test_a_path_that_isn_t_there_is_told_as_such(source):
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        open_checkpoint(source)


def test_a_file_within_a_model_points_to_its_directory(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="name its directory"):
        open_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="unknown kind"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_directory_named_as_a_zoo_model_is_reached_as_a_path(tmp_path, monkeypatch):
    directory = tmp_path / "minilm-l6"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"w": np.zeros(1, np.float32)}, directory / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint("./minilm-l6")
    assert checkpoint.config == {"model_type": "bert"}
    assert checkpoint.name == "./minilm-l6"


def test_a_revision_of_something_local_is_refused(tmp_path):
    for source in ("smollm2-135m", str(tmp_path)):
        with pytest.raises(ValueError, match="revision='v1' is for hub ids"):
            open_checkpoint(source, revision="v1")
