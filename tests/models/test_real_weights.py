"""Real weights against their own references, and the heads that are known to be in them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertForMaskedLM, BertModel, MPNetModel

import jaxheads as jh
from jaxheads.data import passages, repeated_tokens
from jaxheads.models.loading.fetch import fetch

pytestmark = pytest.mark.weights

HEAVY_CHAIN = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNG"
    "YTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
"""The variable domain of trastuzumab (Carter et al. 1992)."""


@pytest.fixture(scope="module")
def smollm2() -> jh.Model:
    return jh.load("smollm2-135m")


def test_smollm2_is_what_transformers_makes_of_the_same_file(smollm2):
    path = fetch("smollm2-135m")
    file = path if path.is_file() else next(path.glob("*.gguf"))
    auto: Any = AutoModelForCausalLM  # whose `generate` pyright can't bind
    theirs = auto.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    batch = smollm2.encode(passages()[:3], max_length=64)
    mask = np.asarray(batch.mask)
    ours = np.asarray(jh.run(smollm2, batch).output)[mask]
    with torch.no_grad():
        given = torch.tensor(np.asarray(batch.tokens, np.int64)), torch.tensor(mask).long()
        expected = theirs(given[0], attention_mask=given[1]).logits.numpy()[mask]
    assert np.abs(ours - expected).max() < 1e-3
    assert (ours.argmax(axis=-1) == expected.argmax(axis=-1)).all()


def test_smollm2_writes_what_transformers_writes(smollm2):
    path = fetch("smollm2-135m")
    file = path if path.is_file() else next(path.glob("*.gguf"))
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    batch = smollm2.encode(["The capital of France is", "Once upon a time, in a small", "2 + 2 ="], side="left")
    ours = jh.generate(smollm2, batch, 20)
    given = {"inputs": torch.tensor(np.asarray(batch.tokens, np.int64)), "attention_mask": torch.tensor(batch.mask)}
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
    with torch.no_grad():
        expected = theirs.generate(**given, **settings).numpy()[:, batch.tokens.shape[1] :]
    assert (ours.tokens[:, : expected.shape[1]] == expected).all()
    assert "Paris" in ours.texts[0]


def test_smollm2_has_the_heads_it_is_known_for(smollm2):
    made = repeated_tokens(49152, examples=4, shortest=30, longest=30, first=1, avoid=range(17), seed=0)
    table = jh.measure(smollm2, jh.Batch(made.tokens, made.mask), metrics=("induction", "previous_token"))
    induction, previous = (table.top(metric, 3).index for metric in table.metrics)
    assert {index[1:] for index in induction} == {(18, 6), (17, 3), (17, 4)}
    assert [index[1:] for index in previous[:2]] == [(16, 0), (11, 1)]
    assert table.frame.loc[("decoder", 18, 6), "induction"] == pytest.approx(0.84, abs=0.04)
    assert table.frame.loc[("decoder", 16, 0), "previous_token"] == pytest.approx(0.90, abs=0.04)


def test_smollm2_gives_the_drink_to_mary(smollm2):
    batch = smollm2.encode("When Mary and John went to the store, John gave a drink to")
    mary, john = (smollm2.tokenizer(name)["input_ids"][0] for name in (" Mary", " John"))
    logits = np.asarray(jh.run(smollm2, batch).output)[0, -1]
    assert logits[mary] - logits[john] == pytest.approx(6.1, abs=0.1)


def test_minilm_is_what_transformers_makes_of_the_same_directory():
    model = jh.load("minilm-l6")
    theirs = BertModel.from_pretrained(fetch("minilm-l6"), attn_implementation="eager").eval()
    batch = model.encode(passages()[:4], max_length=100)
    mask = np.asarray(batch.mask)
    run = jh.run(model, batch, capture="pattern")
    with torch.no_grad():
        tokens, real = torch.tensor(np.asarray(batch.tokens, np.int64)), torch.tensor(mask).long()
        expected = theirs(tokens, attention_mask=real, output_attentions=True)
    largest = max(1.0, float(expected.last_hidden_state.abs().max()))
    assert np.abs(np.asarray(run.output) - expected.last_hidden_state.numpy())[mask].max() < 1e-5 * largest
    for ours, pattern in zip(run.seen["pattern"], expected.attentions, strict=True):
        assert np.abs(np.asarray(ours) - pattern.numpy()).transpose(0, 2, 1, 3)[mask].max() < 1e-5


def same_as_transformers(model: jh.Model, architecture: Any, batch: jh.Batch, output: str) -> None:
    """Output and patterns, to 1e-5 of the largest value."""
    theirs = architecture.from_pretrained(fetch(model.name), attn_implementation="eager", dtype=torch.float32).eval()
    run = jh.run(model, batch, capture="pattern")
    with torch.no_grad():
        expected = theirs(torch.tensor(np.asarray(batch.tokens, np.int64)), output_attentions=True)
    found = expected[output].numpy()
    assert np.abs(np.asarray(run.output) - found).max() < 1e-5 * max(1.0, float(np.abs(found).max()))
    patterns = torch.stack(expected.attentions).numpy()
    assert np.abs(np.asarray(run.seen["pattern"]) - patterns).max() < 1e-5


def test_mpnet_is_what_transformers_makes_of_the_same_directory():
    with pytest.warns(UserWarning, match="no tensor of the head of MPNetForMaskedLM"):
        model = jh.load("mpnet-base")
    batch = model.encode("The capital of France is Paris, which lies on the Seine.")
    same_as_transformers(model, MPNetModel, batch, "last_hidden_state")


def test_antiberty_is_what_transformers_makes_of_the_same_directory():
    model = jh.load("antiberty")
    batch = model.encode([list(HEAVY_CHAIN)])
    assert model.tokenizer.convert_ids_to_tokens(batch.tokens[0].tolist()) == ["[CLS]", *HEAVY_CHAIN, "[SEP]"]
    same_as_transformers(model, BertForMaskedLM, batch, "logits")


def test_tiny_bert_is_what_transformers_makes_of_the_same_directory_with_its_head_for_words():
    model = jh.load("bert-mlm-tiny")
    batch = model.encode("The capital of [MASK] is Paris, which lies on the Seine.")
    same_as_transformers(model, BertForMaskedLM, batch, "logits")
    assert (model.stack().layers, model.stack().heads, model.config.head) == (2, 2, "mlm")


def test_antiberty_knows_the_residue_that_is_masked():
    model = jh.load("antiberty")
    places = [21, 35, 95]  # the cysteines and the tryptophan that nearly all antibodies have
    residues = [*HEAVY_CHAIN]
    assert [residues[place] for place in places] == ["C", "W", "C"]
    masked = [[*residues[:place], "[MASK]", *residues[place + 1 :]] for place in places]
    logits = np.asarray(jh.run(model, model.encode(masked)).output)
    guesses = [int(logits[example, place + 1].argmax()) for example, place in enumerate(places)]
    assert model.tokenizer.convert_ids_to_tokens(guesses) == ["C", "W", "C"]


def test_minilm_has_a_previous_token_head():
    model = jh.load("minilm-l6")
    table = jh.measure(model, model.encode(passages()[:8]), metrics=("previous_token", "next_token", "first_token"))
    assert table.top("previous_token", 1).index[0][1:] == (0, 2)
    assert table.frame.loc[("encoder", 0, 2), "previous_token"] > 0.95
    assert table.top("next_token", 1).index[0][1:] == (1, 8)


def test_glassllm_is_what_its_own_numpy_model_computes(glassllm):
    own, _ = glassllm.load_pretrained("en")
    ids = np.random.default_rng(0).integers(0, 1024, (2, 128))
    with glassllm.no_grad():
        expected = own.forward(ids).data
    ours = jh.run(jh.load("glassllm-en"), jh.Batch(jnp.asarray(ids))).output
    assert np.abs(np.asarray(ours) - expected).max() < 1e-4
