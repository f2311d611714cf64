"""What tensors say of a checkpoint whose config is silent, old or wrong: its family, its head, its pooler."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import jaxheads as jh
from jaxheads.models.families import FAMILIES

from ..models.huggingface import SIZES, assert_close, build, random_batch

BERT: dict[str, Any] = {"model_type": "bert", **SIZES["Bert"]}
BATCH = random_batch((5, 3))


@cache
def whole() -> Any:
    """A BERT with its head, its next-sentence head and its pooler."""
    return build("BertForPreTraining")


def tensors(*, prefix: bool = True, pooler: bool = True, head: bool = True) -> dict[str, torch.Tensor]:
    """Its tensors, or some of them."""
    kept = {}
    for name, value in whole().state_dict().items():
        if (head or name.startswith("bert.")) and (pooler or "pooler" not in name):
            kept[name if prefix else name.removeprefix("bert.")] = value.clone()
    return kept


def put(directory: Path, stored: dict[str, torch.Tensor], config: dict[str, Any]) -> str:
    save_file(stored, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def assert_bare(model: jh.Model) -> None:
    with torch.no_grad():
        theirs = whole().bert(torch.tensor(BATCH.tokens), torch.tensor(BATCH.mask)).last_hidden_state
    real = BATCH.mask
    assert_close(jh.run(model, BATCH).output[real], theirs.numpy()[real])


def assert_logits(model: jh.Model) -> None:
    with torch.no_grad():
        theirs = whole()(torch.tensor(BATCH.tokens), torch.tensor(BATCH.mask)).prediction_logits
    assert_close(jh.run(model, BATCH).output[BATCH.mask], theirs.numpy()[BATCH.mask])


def test_a_config_without_family_and_architecture_is_told_by_the_tensors(tmp_path):
    model = jh.load(put(tmp_path, tensors(), SIZES["Bert"]))
    assert model.hf_config is not None
    assert model.hf_config["model_type"] == "bert"
    assert model.hf_config["architectures"] == ["BertForPreTraining"]
    assert_logits(model)


def test_a_family_is_told_by_the_architecture(tmp_path):
    assert_logits(jh.load(put(tmp_path, tensors(), {**SIZES["Bert"], "architectures": ["BertForMaskedLM"]})))
    assert FAMILIES.by_architecture("TFXLMRobertaForMaskedLM") == "xlm-roberta"
    assert FAMILIES.by_architecture("MarianMTModel") == "marian"
    assert FAMILIES.by_architecture("T5WithLMHeadModel") == "t5"
    assert FAMILIES.by_architecture("MyModel") is None


def test_where_several_families_fit_the_name_counts(tmp_path):
    stored = tensors(prefix=False, head=False)
    with pytest.raises(ValueError, match=r"no model_type, and its tensors may be those of bert or .*roberta"):
        jh.load(put(tmp_path, stored, SIZES["Bert"]))
    directory = tmp_path / "bert-tiny"
    directory.mkdir()
    assert_bare(jh.load(put(directory, stored, SIZES["Bert"])))


def test_where_no_family_fits_the_error_says_what_is_missing(tmp_path):
    (tmp_path / "vocab.txt").write_text("broken")
    with pytest.raises(ValueError, match="no model_type, and neither its architectures nor the tensors show"):
        jh.load(put(tmp_path, {"w": torch.zeros(3)}, {}))
    with pytest.raises(ValueError, match="of the family 'bort'"):
        jh.load(put(tmp_path, {"w": torch.zeros(3)}, {"model_type": "bort"}))


def test_a_file_without_the_head_of_its_config_is_the_bare_network_and_says_so(tmp_path):
    config = {**BERT, "architectures": ["BertForMaskedLM"]}
    with pytest.warns(UserWarning, match="no tensor of the head of BertForMaskedLM.*loaded as BertModel"):
        model = jh.load(put(tmp_path, tensors(head=False), config))
    assert_bare(model)
    assert model.network.unembedding is None
    saved = jh.to_hf(model, tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["BertModel"]


def test_a_part_of_a_head_is_no_head_and_no_bare_network(tmp_path):
    stored = tensors()
    del stored["cls.predictions.transform.dense.weight"]
    with pytest.raises(ValueError, match=r"1 tensors are missing: cls\.predictions\.transform\.dense\.weight"):
        jh.load(put(tmp_path, stored, {**BERT, "architectures": ["BertForMaskedLM"]}))


def test_a_bare_network_may_lack_its_pooler(tmp_path):
    model = jh.load(put(tmp_path, tensors(prefix=False, pooler=False, head=False), BERT))
    assert_bare(model)
    with pytest.raises(ValueError, match="no pooler"):
        model.network.pooled(jh.run(model, BATCH).output, BATCH)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_bare_network_of_any_class_can_be_had(tmp_path, prefix):
    stored = tensors(prefix=prefix, pooler=False, head=False) | {"classifier.weight": torch.zeros(2, 24)}
    source = put(tmp_path, stored, {**BERT, "architectures": ["Contriever"]})
    with pytest.raises(ValueError, match=r'Contriever is not covered.*head="none" of jh.load leaves the head out'):
        jh.load(source)
    assert_bare(jh.load(source, head="none"))


def test_other_heads_than_none_and_families_without_a_bare_network_are_refused(tmp_path):
    with pytest.raises(ValueError, match="head must be one of none"):
        jh.load(put(tmp_path, tensors(), BERT), head="mlm")
    sizes = {"vocab_size": 5, "d_model": 4, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 8}
    saved = jh.to_orbax(jh.init({"model_type": "attention_only", **sizes}), tmp_path / "toy")
    with pytest.raises(ValueError, match="attention_only has no network without a head"):
        jh.load(saved, head="none")


def test_fields_that_transformers_does_not_read_are_passed_over_with_one_warning(tmp_path):
    noise = {"n_special": 0, "predict_special_tokens": True, "emb_size": 7, "is_decoder": False, "use_alibi": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = jh.load(put(tmp_path, tensors(), {**BERT, "architectures": ["BertForPreTraining"], **noise}))
    [only] = [str(warning.message) for warning in caught]
    assert "passed over (emb_size, n_special, predict_special_tokens)" in only
    assert_logits(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"use_alibi": True, "n_special": 0}, "not understood: use_alibi"),
        ({"quantization_config": {"bits": 4}}, "quantization_config|quantis"),
    ],
)
def test_fields_that_change_the_computation_are_not_passed_over(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        jh.load(put(tmp_path, tensors(), {**BERT, **fields}))


def test_a_field_under_another_name_may_repeat_it():
    config = {"model_type": "gpt2", **SIZES["GPT2"]}
    jh.init({**config, "num_hidden_layers": 2, "hidden_size": 24})
    with pytest.raises(ValueError, match="not understood: num_hidden_layers"):
        jh.init({**config, "num_hidden_layers": 3})
