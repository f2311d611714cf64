import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jaxheads.models.loading.gguf_tokenizer import CONTROL, PRE_TOKENIZERS, USER_DEFINED, gguf_tokenizer

TEXT = ["the cat sat on the mat 1234", "the dog's in 2024 and it's the end of the road, isn't it?"]


def metadata(**changes: Any) -> dict[str, Any]:
    """A byte-level BPE trained on two sentences, as a GGUF file holds one."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        TEXT * 3, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    model = trained.model
    assert isinstance(model, models.BPE)
    state = json.loads(trained.to_str())["model"]
    tokens = ["<|end|>", "<|start|>", "<tool>", *sorted(state["vocab"], key=state["vocab"].__getitem__)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["merges"]],
        "tokenizer.ggml.token_type": [CONTROL, CONTROL, USER_DEFINED] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def build(**changes: Any) -> Any:
    tokenizer, why = gguf_tokenizer(metadata(**changes), 64)
    assert tokenizer is not None, why
    return tokenizer


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_decoding_gives_back_the_text(pre):
    tokenizer = build(pre=pre)
    for text in (*TEXT, "  spaces\n\nand \t tabs ", "naïve 東京 🙂", ""):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_ids_are_the_file_s_and_control_tokens_are_found_in_text():
    tokenizer = build()
    assert len(tokenizer) == len(metadata()["tokenizer.ggml.tokens"])
    ids = tokenizer("<|start|>the<tool> cat<|end|>")["input_ids"]
    assert ids[0] == 1
    assert ids[-1] == 0
    assert 2 in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the<tool> cat"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0, None)
    assert tokenizer.model_max_length == 64


def test_bos_is_added_only_where_the_file_or_its_kind_says_so():
    assert build()("the")["input_ids"][0] != 1
    assert build(add_bos_token=True)("the")["input_ids"][0] == 1
    assert build(pre="llama-bpe")("the")["input_ids"][0] == 1
    assert build(pre="llama-bpe", add_bos_token=False)("the")["input_ids"][0] != 1


def cut(pre: str, text: str) -> list[str]:
    return [text[a:b] for _, (a, b) in build(pre=pre).backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def test_numbers_are_cut_as_each_kind_cuts_them():
    assert cut("gpt-2", "in 12345") == ["in", " 12345"]
    assert cut("smollm", "in 12345") == ["in", " ", "1", "2", "3", "4", "5"]
    assert cut("llama-bpe", "in 12345") == ["in", " ", "123", "45"]
    assert cut("qwen2", "in 12345") == ["in", " ", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "llama"}, "'llama'"),
        ({"pre": "tekken"}, "'tekken'; known are"),
        ({"model": None}, "no tokenizer"),
    ],
)
def test_what_can_t_be_rebuilt_exactly_is_none_with_a_reason(changes, reason):
    tokenizer, why = gguf_tokenizer(metadata(**changes), 64)
    assert tokenizer is None
    assert reason in why


def test_a_contradiction_is_an_error_not_none():
    with pytest.raises(ValueError, match="the tokenizer inside can't be read"):
        gguf_tokenizer(metadata(merges=["no suchtoken"]), 64)
    with pytest.raises(ValueError, match="the tokenizer inside can't be read"):
        gguf_tokenizer(metadata(bos_token_id=10**6), 64)
