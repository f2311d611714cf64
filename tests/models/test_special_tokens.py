"""Special tokens: those of a text that is cut, those that a text holds already, and tokens that no text is made of."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import ordinary_tokens, text_batches
from jaxheads.report.inputs import prose, random_repeats

from .specs.spec import small

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "[unused0]", "<|extra_7|>", "dog"]
CLS, SEP, THE, CAT, SAT, UNUSED = 1, 2, 4, 5, 6, 10
LONG = "the cat sat on a mat the dog sat on the mat a cat"


def bert_like(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that puts [CLS] and [SEP] around a text."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=names, **special, **options)


def chat_like() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that begins texts with <s> and ends them with </s>, as its chat template does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    )
    return tokenizer


def model(tokenizer: Any, vocabulary: int = len(WORDS)) -> jh.Model:
    config = {"model_type": "llama", "vocab_size": vocabulary, "hidden_size": 8, "intermediate_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    return replace(jh.init(config), tokenizer=tokenizer)


def rows(batch: jh.Batch) -> list[list[int]]:
    return [np.asarray(ids)[np.asarray(mask)].tolist() for ids, mask in zip(batch.tokens, batch.mask, strict=True)]


@pytest.mark.parametrize("cut_from", ["right", "left"])
@pytest.mark.parametrize("length", [3, 4, 10, 30])
def test_texts_are_cut_as_their_tokenizer_cuts_them(length: int, cut_from: str):
    tokenizer = bert_like(truncation_side=cut_from)
    tiny = model(tokenizer)
    several: list[Any] = [[LONG, "the"], [(LONG, "a cat sat on a mat"), ("the cat", LONG)]]
    for texts in several:
        if length < 5 and isinstance(texts[0], tuple):
            continue
        expected = tokenizer(texts, truncation=True, max_length=length)
        batch = tiny.encode(texts, max_length=length)
        assert rows(batch) == expected["input_ids"]
        types = zip(batch.token_types, batch.mask, strict=True)
        assert [np.asarray(t)[np.asarray(m)].tolist() for t, m in types] == expected["token_type_ids"]
    split: Any = [LONG.split()]
    words = tiny.encode(split, max_length=length)
    assert words.words is not None
    expected = tokenizer(split, is_split_into_words=True, truncation=True, max_length=length)
    assert rows(words) == expected["input_ids"]
    assert words.words[0].tolist() == [-1 if word is None else word for word in expected.word_ids()]
    assert rows(tiny.encode(LONG)) == [tokenizer(LONG)["input_ids"]]


def test_a_length_that_leaves_no_token_of_a_text_is_refused():
    for length in (1, 2):
        with pytest.raises(ValueError, match=f"max_length={length} leaves no token of a text: the tokenizer adds 2"):
            model(bert_like()).encode(LONG, max_length=length)


def test_targets_are_cut_as_their_tokenizer_cuts_them_and_count_their_start():
    pair = small("bart").ours
    tiny = jh.Model(pair.network, bert_like(), name="tiny", hf_config=pair.hf_config)
    batch = tiny.encode([LONG, "the"], targets=[LONG, "a"], max_length=8)
    assert batch.targets is not None
    start = [pair.hf_config["decoder_start_token_id"]]  # type: ignore[index]
    expected = bert_like()(LONG, truncation=True, max_length=7)["input_ids"]
    assert batch.targets[0].tolist() == start + expected
    assert batch.tokens.shape == (2, 8)
    with pytest.raises(ValueError, match="leaves no token of a target"):
        tiny.encode("the", targets=LONG, max_length=3)
    with pytest.raises(ValueError, match=r"every target needs at least one token; these are empty: \[1\]"):
        tiny.encode(["the", "cat"], targets=["a", " "])


@pytest.mark.parametrize("bos", [None, True, False])
def test_the_special_tokens_of_a_chat_template_come_once(bos: bool | None):
    tokenizer = chat_like()
    tiny = model(tokenizer, 300)
    prompt = str(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))
    with pytest.warns(UserWarning, match="the text holds <s>, which the tokenizer puts there as well"):
        [ids] = rows(tiny.encode(prompt, bos=bos))
    [plain] = rows(tiny.encode("hi", bos=bos))
    assert ids == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode(prompt, bos=bos)  # it is said once for each model
    [cut] = rows(tiny.encode(prompt + prompt, bos=bos, max_length=4))
    assert cut == [*plain[:-1], 1]
    [window] = text_batches(tiny, [prompt], length=16, examples=1, bos=bos)
    assert rows(window) == [plain]


def test_white_space_that_has_tokens_is_a_text():
    tiny = model(chat_like(), 300)
    assert tiny.encode(["\n", " ", "\t\n"]).lengths.tolist() == [3, 3, 4]
    with pytest.raises(ValueError, match=r"at least one token; these are empty: \[1\]"):
        tiny.encode(["\n", ""])
    with pytest.raises(ValueError, match=r"these are empty: \[0, 2\]"):
        model(bert_like()).encode([" ", "the", "\n"])  # to this tokenizer white space only separates


def test_windows_have_the_special_tokens_of_a_text_of_their_own():
    tokenizer = bert_like()
    for batch in text_batches(model(tokenizer), [LONG, "the cat"], length=7, examples=8):
        assert rows(batch) == [
            tokenizer(tokenizer.decode(row, skip_special_tokens=True))["input_ids"] for row in rows(batch)
        ]
        assert batch.lengths.tolist() == [7, 7, 6, 4]
    with pytest.raises(ValueError, match="windows of 2 tokens hold nothing beside 2 special tokens"):
        text_batches(model(tokenizer), [LONG], length=2, examples=8)
    for row in rows(next(text_batches(model(tokenizer), [LONG], length=7, examples=8, bos=False))):
        assert row[0] != CLS
        assert row[-1] == SEP


def test_the_atlas_draws_tokens_that_texts_are_made_of(tmp_path: Path):
    tiny = model(bert_like(), 40)  # a vocabulary padded to 40
    ordinary = [word for word in WORDS if word[0] not in "[<"]
    assert ordinary_tokens(tiny).tolist() == [WORDS.index(word) for word in ordinary]
    drawn = random_repeats(tiny, 200, 2, 3, 0)
    assert set(drawn.tokens[:, 1:][drawn.mask[:, 1:]].tolist()) == set(ordinary_tokens(tiny).tolist())
    assert set(drawn.shuffled(1).tokens[drawn.second].tolist()) <= set(ordinary_tokens(tiny).tolist())
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join([LONG] * 8))
    assert {(row[0], row[-1]) for batch in prose(tiny, text) for row in rows(batch)} == {(CLS, SEP)}


def test_parts_of_a_character_are_no_ordinary_tokens():
    tokenizer = chat_like()
    decoded = tokenizer.batch_decode(ordinary_tokens(model(tokenizer, 300))[:, None])
    assert len(decoded) == 128
    assert all(len(text) == 1 and text.isascii() for text in decoded)


def test_a_model_without_tokenizer_draws_from_its_vocabulary():
    assert ordinary_tokens(model(None, 12)).tolist() == list(range(12))


COLUMNS = {
    "series": lambda texts: pd.Series(texts, index=range(7, 7 + len(texts))),
    "pandas strings": lambda texts: pd.Series(texts, dtype="string"),
    "categories": lambda texts: pd.Series(texts).astype("category"),
    "index": pd.Index,
    "objects": lambda texts: np.array(texts, object),
    "strings": np.array,
    "arrow": pa.array,
    "chunks": lambda texts: pa.chunked_array([texts]),
    "generator": iter,
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_columns_of_texts_are_taken_as_lists_are(column: Any):
    texts = ["the cat sat", "a mat"]
    tiny = model(bert_like())
    assert rows(tiny.encode(column(texts))) == rows(tiny.encode(texts))
    [ours], [plain] = (list(text_batches(tiny, given, length=9, examples=2)) for given in (column(texts), texts))
    assert rows(ours) == rows(plain)
    pair = small("bart").ours
    translator = jh.Model(pair.network, bert_like(), hf_config=pair.hf_config)
    targets = texts if column is iter else column(texts)
    ours, plain = (translator.encode(texts, targets=given) for given in (targets, texts))
    assert (np.asarray(ours.targets) == np.asarray(plain.targets)).all()


def test_columns_of_pairs_and_words_are_taken_as_lists_are():
    tiny = model(bert_like())
    pairs = [("the cat", "sat"), ("a", "mat")]
    assert rows(tiny.encode(pd.Series(pairs))) == rows(tiny.encode(tuple(pairs))) == rows(tiny.encode(pairs))
    words = tiny.encode(pd.Series([np.array(["the", "cat"]), ["sat"]]))
    assert words.words is not None
    assert words.words.tolist() == [[-1, 0, 1, -1], [-1, 0, -1, -1]]


def test_tables_and_missing_texts_are_refused():
    tiny, table = model(bert_like()), pd.DataFrame({"text": ["the", "cat"]})
    for wrong in (table, dict(table)):
        with pytest.raises(ValueError, match=r"expected one column, or a list; got a (DataFrame|dict)"):
            tiny.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="texts must be strings, got NoneType"):
        tiny.encode(pd.Series(["the", None], dtype=object))
    with pytest.raises(ValueError, match="there is no text to encode"):
        tiny.encode(pd.Series([], dtype=object))


def test_threads_may_encode_with_one_tokenizer():
    tiny = model(bert_like())
    lengths = [3 + number % 9 for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        batches = threads.map(lambda length: tiny.encode([LONG] * 20, max_length=length).tokens.shape[1], lengths)
        assert list(batches) == lengths
