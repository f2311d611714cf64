"""Heads of classes of texts: the logits of `transformers`, whatever the family and the head, and files both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh

from .huggingface import assert_close
from .specs import SPECS

LABELS = {0: "sad", 1: "calm", 2: "glad"}
ENCODERS = {
    "albert": "Albert",
    "bert": "Bert",
    "camembert": "Camembert",
    "deberta": "Deberta",
    "deberta_v2": "DebertaV2",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "modernbert": "ModernBert",
    "mpnet": "MPNet",
    "roberta": "Roberta",
    "xlm_roberta": "XLMRoberta",
}
DECODERS = {
    "bloom": "Bloom",
    "falcon": "Falcon",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gpt2": "GPT2",
    "gpt_neo": "GPTNeo",
    "gpt_neox": "GPTNeoX",
    "gptj": "GPTJ",
    "gpt_oss": "GptOss",
    "llama": "Llama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "olmo": "Olmo",
    "olmo2": "Olmo2",
    "olmo3": "Olmo3",
    "opt": "OPT",
    "phi": "Phi",
    "phi3": "Phi3",
    "qwen2": "Qwen2",
    "qwen2_moe": "Qwen2Moe",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
    "smollm3": "SmolLM3",
    "stablelm": "StableLm",
}
SEQUENCE, TOKENS, ANSWERS = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
CASES = [
    *((spec, stem + SEQUENCE, {}) for spec, stem in (ENCODERS | DECODERS).items()),
    *((spec, stem + end, {}) for spec, stem in ENCODERS.items() for end in (TOKENS, ANSWERS)),
    *((spec, DECODERS[spec] + end, {}) for spec in ("gpt2", "llama", "mistral") for end in (TOKENS, ANSWERS)),
    ("qwen3_moe", "Qwen3Moe" + ANSWERS, {}),
    ("opt", "OPT" + ANSWERS, {}),
    ("modernbert", "ModernBert" + SEQUENCE, {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True}),
    ("gemma3_text", "Gemma3TextForSequenceClassification", {}),
    *(("gpt_bigcode", "GPTBigCode" + end, {}) for end in (SEQUENCE, TOKENS)),
    *(("mpt", "Mpt" + end, {}) for end in (SEQUENCE, TOKENS, ANSWERS)),
    *(("starcoder2", "Starcoder2" + end, {}) for end in (SEQUENCE, TOKENS)),
    ("bart", "Bart" + SEQUENCE, {"eos_token_id": 2}),
    ("bart", "Bart" + ANSWERS, {}),
    ("t5", "T5" + SEQUENCE, {"eos_token_id": 1}),
    ("t5", "T5" + ANSWERS, {}),
    ("bert", "BertForNextSentencePrediction", {}),
    *((spec, ENCODERS[spec] + "ForMultipleChoice", {}) for spec in ("bert", "roberta", "distilbert", "modernbert")),
]


def theirs(name: str, architecture: str, **config: Any) -> Any:
    if architecture.endswith((SEQUENCE, TOKENS)):
        config = {"id2label": LABELS, "label2id": {word: index for index, word in LABELS.items()}, **config}
    return SPECS[name].build(architecture, **{"pad_token_id": 1, **config})


def inputs(name: str, model: Any, side: str) -> jh.Batch:
    """Texts with an end token, for encoder–decoders with the same text as the decoder's input."""
    spec = SPECS[name]
    batch = spec.batch(model, side)
    if spec.inputs != "seq2seq":
        return batch
    tokens, mask = np.array(batch.tokens), np.array(batch.mask)
    for row, real in zip(tokens, mask, strict=True):
        row[np.flatnonzero(real)[-1]] = model.config.eos_token_id
    targets = np.where(mask, np.roll(tokens, 1, axis=1), 0)
    return jh.Batch(tokens, mask, targets=targets, target_mask=mask)


def their_logits(model: Any, batch: jh.Batch, example: int) -> np.ndarray:
    """Of one example without its padding: `[classes]`, `[T,classes]`, or of an answer `[T,2]`."""
    real = np.asarray(batch.mask[example])
    fields = {"input_ids": batch.tokens, "decoder_input_ids": batch.targets}
    if hasattr(model.config, "type_vocab_size"):
        fields["token_type_ids"] = batch.token_types
    given = {key: torch.tensor(np.asarray(ids[example])[real][None]) for key, ids in fields.items() if ids is not None}
    choices = type(model).__name__.endswith("MultipleChoice")
    with torch.no_grad():
        out = model(**{key: ids[:, None] if choices else ids for key, ids in given.items()})
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1).numpy()
    return out.logits[0].numpy()


@pytest.mark.parametrize(
    ("name", "architecture", "config"),
    [pytest.param(*case, id=f"{case[1]}-{i}") for i, case in enumerate(CASES)],
)
def test_logits_are_those_of_transformers_and_files_come_back(
    name: str, architecture: str, config: dict[str, Any], tmp_path: Path
):
    other = theirs(name, architecture, **config)
    other.save_pretrained(tmp_path / "a")
    model = jh.load(tmp_path / "a")
    for side in ("right", "left"):
        batch = inputs(name, other, side)
        output = np.asarray(jh.run(model, batch).output)
        for example in range(len(batch)):
            ours = output[example]
            ours = ours[np.asarray(batch.mask[example])] if ours.ndim == 2 else ours
            assert_close(ours, their_logits(other, batch, example))
    jh.to_hf(model, tmp_path / "b")
    written, read = (load_file(tmp_path / folder / "model.safetensors") for folder in "ba")
    assert written.keys() - read.keys() == set()
    assert all(np.array_equal(value, read[name]) for name, value in written.items())
    if written.keys() != read.keys():  # what is left out are copies of tied tensors
        again = getattr(transformers, architecture).from_pretrained(tmp_path / "b", output_loading_info=True)[1]
        assert not again["missing_keys"]
    stored = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"]
    assert stored[0]["architectures"] == stored[1]["architectures"] == [architecture]
    assert stored[0].get("id2label") == stored[1].get("id2label")
    if architecture.endswith((SEQUENCE, TOKENS)):
        assert model.labels == tuple(LABELS.values())


def test_a_decoder_reads_the_last_token_that_is_not_padding_s(tmp_path: Path):
    """Whatever the mask says: transformers passes over a text's own end tokens, where these are padding's too."""
    other = theirs("gpt2", "GPT2ForSequenceClassification", pad_token_id=5)
    other.save_pretrained(tmp_path)
    model = jh.load(tmp_path)
    tokens = np.array([[7, 8, 5, 9, 5, 5], [5, 5, 7, 8, 9, 10], [5, 5, 5, 5, 5, 5]])
    mask = np.array([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], bool)
    output = np.asarray(jh.run(model, jh.Batch(tokens, mask)).output)
    for example, read in enumerate((3, 5, 5)):
        seen = tokens[example][: read + 1][mask[example][: read + 1]]
        other.config.pad_token_id = None  # the last token of all
        with torch.no_grad():
            assert_close(output[example], other(torch.tensor(seen[None])).logits[0])
    np.testing.assert_array_equal(model.network.readout_positions(jh.Batch(tokens, mask)), [3, 5, 5])


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Words w4 … w36 with the special tokens at their ids, and "</s>" at the end of a text."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(4, 37))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, **special)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_decoder_of_a_classifier_reads_the_text_itself(tmp_path: Path, side: str):
    other = theirs("bart", "BartForSequenceClassification", eos_token_id=2)
    other.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    model, texts = jh.load(tmp_path), ["w7 w8 w9 w10", "w11 w30"]
    batch = model.encode(texts, side=side)
    output = np.asarray(jh.run(model, batch).output)
    for mine, text in zip(output, texts, strict=True):
        with torch.no_grad():
            assert_close(mine, other(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0])
    table = jh.ablate(model, batch, jh.class_loss(["sad", "glad"]), "zero", stack="cross")
    assert np.abs(table.values).min() > 1e-5
    with pytest.raises(ValueError, match=r"last end token \(2\)"):
        jh.run(model, jh.Batch([[7, 8]], targets=[[2, 7]]))
    with pytest.raises(ValueError, match="the targets must be the text shifted"):
        jh.run(model, jh.Batch(batch.tokens, batch.mask, targets=[[2], [2]]))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_network_below_a_head_is_loaded_by_itself(tmp_path: Path, kind: str):
    name, architecture = {"encoder": ("roberta", "Roberta"), "decoder": ("llama", "Llama")}[kind]
    other = theirs(name, f"{architecture}ForSequenceClassification")
    other.save_pretrained(tmp_path)
    model = jh.load(tmp_path, head="none")
    batch = inputs(name, other, "right")
    assert model.labels is None
    with torch.no_grad():
        hidden = other.base_model(torch.tensor(np.asarray(batch.tokens[:1]))).last_hidden_state[0]
    assert_close(jh.run(model, batch).output[0], hidden)


def test_names_of_classes_come_from_the_config_of_any_age():
    config = {**SPECS["bert"].sizes, "model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    assert jh.init(config).labels == ("LABEL_0", "LABEL_1")
    assert jh.init({**config, "_num_labels": 3}).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert jh.init({**config, "id2label": {"1": "yes", "0": "no"}}).labels == ("no", "yes")
    assert jh.init({**config, "num_labels": 1}).network.unembedding.weight.shape == (1, 24)
    assert jh.init({**config, "architectures": ["BertForMaskedLM"]}).labels is None
    pictures = {**SPECS["vit"].sizes, "model_type": "vit", "architectures": ["ViTForImageClassification"]}
    cats = jh.init({**pictures, "id2label": {str(n): f"cat {n}" for n in range(5)}})
    batch = jh.Batch(pixels=np.zeros((2, 8, 12, 3), np.float32))
    both = [jh.ablate(cats, batch, asked).values for asked in (jh.class_logit("cat 3"), jh.logit(3))]
    assert_close(*both)


def test_a_pooled_head_keeps_its_pooler(tmp_path: Path):
    """A file without it is no bare network that lost one, but a broken classifier."""
    other = theirs("bert", "BertForSequenceClassification")
    other.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if "pooler" not in key}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"2 tensors are missing: bert\.pooler\.dense\.weight"):
        jh.load(tmp_path)


def test_a_file_of_pre_training_whose_config_names_no_architecture_is_bare(tmp_path: Path):
    """Microsoft's DeBERTa v3, with the heads of its generator and its discriminator, and their positions' numbers."""
    other = SPECS["deberta_v2"].build("DebertaV2Model")
    other.save_pretrained(tmp_path)
    tensors = {f"deberta.{name}": value for name, value in load_file(tmp_path / "model.safetensors").items()}
    more = {
        "lm_predictions.lm_head.dense.weight": np.zeros((24, 24), np.float32),
        "mask_predictions.classifier.weight": np.zeros((1, 24), np.float32),
        "deberta.embeddings.position_ids": np.arange(64)[None],
        "deberta.embeddings.position_embeddings.weight": np.zeros((64, 24), np.float32),
    }
    save_file(tensors | more, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, batch = jh.load(tmp_path), SPECS["deberta_v2"].batch(other)
    assert model.labels is None
    types = torch.tensor(np.asarray(batch.token_types[:1]))
    with torch.no_grad():
        hidden = other(torch.tensor(np.asarray(batch.tokens[:1])), token_type_ids=types).last_hidden_state[0]
    assert_close(jh.run(model, batch).output[0], hidden)
