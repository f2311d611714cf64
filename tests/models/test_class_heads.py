"""Heads of classes of texts: the logits of `transformers`, whatever the family and the head, and files both ways."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import jaxheads as jh

from .huggingface import assert_close
from .specs import SPECS

LABELS = {0: "sad", 1: "calm", 2: "glad"}
ENCODERS = {
    "albert": "Albert",
    "bert": "Bert",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "modernbert": "ModernBert",
    "mpnet": "MPNet",
    "roberta": "Roberta",
    "xlm_roberta": "XLMRoberta",
}
DECODERS = {
    "bloom": "Bloom",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gpt2": "GPT2",
    "gpt_neo": "GPTNeo",
    "gpt_neox": "GPTNeoX",
    "gptj": "GPTJ",
    "llama": "Llama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "olmo": "Olmo",
    "olmo2": "Olmo2",
    "opt": "OPT",
    "phi": "Phi",
    "phi3": "Phi3",
    "qwen2": "Qwen2",
    "qwen2_moe": "Qwen2Moe",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
}
SEQUENCE, TOKENS, ANSWERS = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
WITHOUT = {"GPTJ" + TOKENS, "OPT" + TOKENS, "Gemma2" + ANSWERS}
CASES = [
    *((spec, stem + end, {}) for spec, stem in (ENCODERS | DECODERS).items() for end in (SEQUENCE, TOKENS, ANSWERS)),
    ("modernbert", "ModernBert" + SEQUENCE, {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True}),
    ("gemma3_text", "Gemma3TextForSequenceClassification", {}),
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
    [pytest.param(*case, id=f"{case[1]}-{i}") for i, case in enumerate(CASES) if case[1] not in WITHOUT],
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
    back = getattr(transformers, architecture).from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    assert_close(their_logits(back, batch, 0), their_logits(other, batch, 0))
    stored = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab"]
    assert stored[0]["architectures"] == stored[1]["architectures"] == [architecture]
    assert stored[0].get("id2label") == stored[1].get("id2label")
    if architecture.endswith((SEQUENCE, TOKENS)):
        assert model.labels == tuple(LABELS.values())
