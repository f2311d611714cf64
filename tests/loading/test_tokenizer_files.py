"""Tokenizer files of every age: each makes the tokenizer that its model was trained with, or none with a reason."""

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from jaxheads.models.loading.checkpoint import Checkpoint
from jaxheads.models.loading.hf_directory import directory_checkpoint
from jaxheads.models.loading.hf_tokenizer import directory_tokenizer

TEXT = "the cat sat"
BYTES = ["the", "Ġcat", "Ġ", "s", "at"]
WORDS = ["the", "cat", "sat"]


@cache
def sentencepieces(**settings: Any) -> bytes:
    """A model of sentencepiece."""
    sentences = ["the cat sat on the mat", "a dog and a cat", "hello world again and again"] * 20
    file = io.BytesIO()
    defaults = {"vocab_size": 42, "model_type": "unigram", "minloglevel": 2, "hard_vocab_limit": False}
    settings = {"sentence_iterator": iter(sentences), "model_writer": file, **defaults, **settings}
    sentencepiece.SentencePieceTrainer.train(**settings)
    return file.getvalue()


def pieces(model: bytes) -> list[str]:
    """What sentencepiece makes of TEXT."""
    return sentencepiece.SentencePieceProcessor(model_proto=model).encode(TEXT, out_type=str)


def t5() -> bytes:
    return sentencepieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def xlm() -> bytes:
    return sentencepieces(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)


def llama() -> bytes:
    return sentencepieces(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, model_type="bpe", byte_fallback=True, vocab_size=340)


def albert() -> bytes:
    return sentencepieces(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP]")


def byte_pairs(*special: str) -> dict[str, bytes]:
    """vocab.json and merges.txt."""
    merges = ["h e", "t he", "Ġ the", "a t", "Ġ c", "Ġc at"]
    tokens = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges), *special]
    return {
        "vocab.json": json.dumps({token: number for number, token in enumerate(tokens)}).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }


def words(*special: str) -> dict[str, bytes]:
    """vocab.txt."""
    return {"vocab.txt": "\n".join([*special, "the", "cat", "sat", "##s", "mat"]).encode()}


def settings(**fields: Any) -> dict[str, bytes]:
    """tokenizer_config.json."""
    return {"tokenizer_config.json": json.dumps(fields).encode()}


def added(content: str, **more: bool) -> dict[str, Any]:
    """A special token as an object, as special_tokens_map.json and old tokenizer_config.json have it."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **more}


BERT = words("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>")
GPT2 = byte_pairs("<|endoftext|>")
OPT = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
MAP = {"special_tokens_map.json": json.dumps({"cls_token": added("[CLS]"), "unk_token": "[UNK]"}).encode()}


def marian() -> dict[str, bytes]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=t5())
    tokens = ["</s>", "<unk>", *(processor.id_to_piece(number) for number in range(3, len(processor))), "<pad>"]
    vocabulary = json.dumps({piece: number for number, piece in enumerate(tokens)}).encode()
    return {"source.spm": t5(), "target.spm": t5(), "vocab.json": vocabulary}


FRAMED, ENDED = ["[CLS]", *WORDS, "[SEP]"], [*pieces(t5()), "</s>"]
MADE: dict[str, tuple[str, dict[str, bytes], list[str]]] = {
    "bert, vocab.txt alone": ("bert", BERT, FRAMED),
    "bert, without a class": ("bert", BERT | settings(do_lower_case=True), FRAMED),
    "bert, objects in the map": ("bert", BERT | MAP, FRAMED),
    "bert, added_tokens.json": ("bert", BERT | {"added_tokens.json": b'{"[NEW]": 10}'}, FRAMED),
    "bert, the fast class": ("bert", BERT | settings(tokenizer_class="BertTokenizerFast"), FRAMED),
    "distilbert": ("distilbert", BERT, FRAMED),
    "distilbert, the fast class": ("distilbert", BERT | settings(tokenizer_class="DistilBertTokenizerFast"), FRAMED),
    "electra": ("electra", BERT, FRAMED),
    "mpnet": ("mpnet", words("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), ["<s>", *WORDS, "</s>"]),
    "gpt2, vocab.json and merges.txt": ("gpt2", GPT2, BYTES),
    "gpt2, its class": ("gpt2", GPT2 | settings(tokenizer_class="GPT2Tokenizer"), BYTES),
    "gptj": ("gptj", GPT2, BYTES),
    "gpt_neo": ("gpt_neo", GPT2, BYTES),
    "gpt_neox": ("gpt_neox", GPT2 | settings(tokenizer_class="GPTNeoXTokenizer"), BYTES),
    "qwen2": ("qwen2", GPT2, BYTES),
    "opt": (
        "opt",
        byte_pairs("<s>", "<pad>", "</s>", "<unk>")
        | settings(
            bos_token=OPT | {"content": "</s>"},
            eos_token=OPT | {"content": "</s>"},
            pad_token=OPT | {"content": "<pad>"},
            unk_token=OPT | {"content": "</s>"},
            add_prefix_space=False,
            add_bos_token=True,
            special_tokens_map_file=None,
        ),
        ["</s>", *BYTES],
    ),
    "roberta": ("roberta", ROBERTA, ["<s>", *BYTES, "</s>"]),
    "bart": ("bart", ROBERTA, ["<s>", *BYTES, "</s>"]),
    "t5, spiece.model alone": ("t5", {"spiece.model": t5()}, ENDED),
    "t5, the fast class": ("t5", {"spiece.model": t5()} | settings(tokenizer_class="T5TokenizerFast"), ENDED),
    "mt5, an old class": ("mt5", {"spiece.model": t5()} | settings(tokenizer_class="MT5Tokenizer"), ENDED),
    "albert": ("albert", {"spiece.model": albert()}, ["[CLS]", *pieces(albert()), "[SEP]"]),
    "xlm-roberta": ("xlm-roberta", {"sentencepiece.bpe.model": xlm()}, ["<s>", *pieces(xlm()), "</s>"]),
    "camembert": ("camembert", {"sentencepiece.bpe.model": xlm()}, ["<s>", *pieces(xlm()), "</s>"]),
    "marian": ("marian", marian() | settings(source_lang="en", target_lang="de"), ENDED),
    "llama, tokenizer.model": (
        "llama",
        {"tokenizer.model": llama()} | settings(tokenizer_class="LlamaTokenizer", add_bos_token=True, legacy=False),
        ["<s>", *pieces(llama())],
    ),
    "llama, its first class and empty tokens": (
        "llama",
        {"tokenizer.model": llama(), "special_tokens_map.json": b"{}"}
        | settings(tokenizer_class="LLaMATokenizer", bos_token="", eos_token="", unk_token=""),
        pieces(llama()),
    ),
}


def put(directory: Path, family: str | None, files: dict[str, bytes]) -> Path:
    (directory / "config.json").write_text(json.dumps({} if family is None else {"model_type": family}))
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("layout", MADE)
def test_tokenizer_files_of_every_age_make_the_tokenizer(tmp_path, layout):
    family, files, expected = MADE[layout]
    tokenizer, reason = directory_tokenizer(put(tmp_path, family, files))
    assert tokenizer is not None, reason
    assert tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"]) == expected


def test_a_chat_template_in_a_file_of_its_own_is_used(tmp_path):
    template = b"{% for message in messages %}{{ message.content }}!{% endfor %}"
    tokenizer, _ = directory_tokenizer(put(tmp_path, "gpt2", GPT2 | {"chat_template.jinja": template}))
    assert tokenizer is not None
    assert tokenizer.apply_chat_template([{"role": "user", "content": TEXT}], tokenize=False) == f"{TEXT}!"


def test_where_the_config_lacks_the_family_the_recognised_one_counts(tmp_path):
    directory = put(tmp_path, None, BERT)
    checkpoint = Checkpoint(
        {}, {}, lambda: (None, ""), "x", str, None, lambda family: directory_tokenizer(directory, family)
    )
    tokenizer = checkpoint.with_config({"model_type": "bert"}).tokenizer
    assert tokenizer is not None
    assert tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"]) == FRAMED
    assert checkpoint.with_config({}).tokenizer is None


@pytest.mark.parametrize(
    ("family", "files", "reason"),
    [
        ("t5", {"spiece.model": b"broken"}, "can't be read as a tokenizer|found no vocabulary"),
        (
            "marian",
            {"source.spm": t5(), "target.spm": t5()},
            "The directory holds .*source.spm",
        ),
        (
            "bert",
            BERT | settings(tokenizer_class="MyTokenizer"),
            "name MyTokenizer, a class that transformers lacks",
        ),
        ("gpt2", {"vocab.json": b"{", "merges.txt": b""}, "can't be read as a tokenizer"),
        ("bloom", settings(tokenizer_class="BloomTokenizerFast"), "no tokenizer files"),
        ("llama", {"tokenizer.model": b""}, "."),
    ],
)
def test_a_tokenizer_that_can_t_be_made_is_none_with_a_reason(tmp_path, family, files, reason):
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    checkpoint = directory_checkpoint(put(tmp_path, family, files), name="x")
    assert checkpoint.tokenizer is None
    assert re.search(reason, checkpoint.no_tokenizer), checkpoint.no_tokenizer
