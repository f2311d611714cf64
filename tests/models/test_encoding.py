"""From text to a batch."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh

from .huggingface import SMALL, build, loaded, small_model
from .specs.spec import small

WORDS = ["<pad>", "<s>", "<unk>", "the", "cat", "sat", "on", "a", "mat"]
THE, CAT, SAT, BOS, PAD = 3, 4, 5, 1, 0


def tokenizer(*, adds_bos: bool, bos: bool = True, types: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", BOS)]
        )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    special = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", model_input_names=names, **special
    )


def model(**options: Any) -> jh.Model:
    return jh.Model(small_model("llama").network, tokenizer(**options), name="tiny")


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("bos", [True, False, None])
def test_bos_is_added_or_taken_away_once(adds_bos: bool, bos: bool | None, types: bool):
    batch = model(adds_bos=adds_bos, types=types).encode("the cat", bos=bos)
    lead = [BOS] if (adds_bos if bos is None else bos) else []
    assert batch.tokens.tolist() == [[*lead, THE, CAT]]
    assert batch.mask.all()


def test_a_text_of_unknown_tokens_warns_once_for_each_model():
    tiny = model(adds_bos=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode(["the cat", "Chat"], bos=True)  # one of three: beginnings and padding do not count
    with pytest.warns(UserWarning, match="67% of these tokens are the unknown token '<unk>' of tiny"):
        tiny.encode(["le chat", "the"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode("le chat")
    with pytest.warns(UserWarning, match="100%"):
        model(adds_bos=True).encode("le chat")


def test_texts_are_padded_to_the_longest_on_either_side():
    texts = ["the cat sat", "the"]
    right = model(adds_bos=False).encode(texts)
    assert right.tokens.tolist() == [[THE, CAT, SAT], [THE, PAD, PAD]]
    assert right.mask.tolist() == [[True] * 3, [True, False, False]]
    left = model(adds_bos=False).encode(texts, side="left")
    assert left.tokens.tolist() == [[THE, CAT, SAT], [PAD, PAD, THE]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]


def test_texts_are_cut_only_when_asked_and_keep_their_bos():
    tiny = model(adds_bos=False)
    assert tiny.encode("the cat sat", max_length=2, bos=True).tokens.tolist() == [[BOS, THE]]
    assert tiny.encode(" the cat sat " * 21).tokens.shape == (1, 63)
    with pytest.raises(ValueError, match=r"takes up to 64 tokens; got 66\. Cut or split"):
        tiny.encode("the cat sat " * 22)
    assert tiny.encode("the cat sat " * 22, max_length=64).tokens.shape == (1, 64)


def test_token_types_follow_their_tokens():
    class Pairs:
        """The last word of a text is of type 1."""

        bos_token_id, pad_token_id = BOS, PAD

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            ids = [BOS, *(WORDS.index(word) for word in text.split())]
            return {"input_ids": ids, "token_type_ids": [*[0] * (len(ids) - 1), 1]}

    tiny = jh.Model(small_model("bert").network, Pairs())
    assert tiny.encode(["the cat", "the cat sat"], side="left").token_types.tolist() == [[0, 0, 0, 1]] * 2
    assert tiny.encode("the cat sat", bos=False).token_types.tolist() == [[0, 0, 1]]
    assert tiny.encode("the cat sat", bos=True, max_length=3).token_types.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text to encode"),
        ("", {}, r"every text needs at least one token; these are empty: \[0\]"),
        (["the", "  "], {}, r"these are empty: \[1\]"),
        (["the", 3], {}, r"texts must be strings, got int; for token ids use jh\.Batch"),
        ("the", {"side": "middle"}, "side must be one of right, left; got 'middle'"),
        ("the", {"max_length": 0}, "max_length must be at least 1, got 0"),
    ],
)
def test_what_is_no_text_is_refused(texts: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        model(adds_bos=True).encode(texts, **options)


def test_bos_of_a_tokenizer_without_one_is_refused_and_its_absence_taken():
    tiny = model(adds_bos=False, bos=False)
    with pytest.raises(ValueError, match="has no beginning-of-sequence token"):
        tiny.encode("the", bos=True)
    assert tiny.encode("the", bos=False).tokens.tolist() == [[THE]]


def test_a_saved_tokenizer_is_loaded_with_its_model(tmp_path: Path):
    tokenizer(adds_bos=True).save_pretrained(tmp_path)
    tiny = loaded(build(SMALL["gpt2"]), tmp_path)
    assert tiny.encode(["the cat", "a"]).tokens.tolist() == [[BOS, THE, CAT], [BOS, 7, PAD]]


def test_a_model_without_tokenizer_says_why(tmp_path: Path):
    tiny = loaded(build(SMALL["gpt2"]), tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer \(.*no tokenizer files.*give token ids: jh\.Batch"):
        tiny.encode("the cat")


def test_a_pair_is_one_example_of_two_segments():
    batch = model(adds_bos=True).encode([("the cat", "sat"), ("the", "cat sat")])
    assert batch.tokens.tolist() == [[BOS, THE, CAT, SAT]] * 2
    assert batch.token_types.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1]]
    assert model(adds_bos=True).encode(("the cat", "sat")).tokens.shape == (1, 4)


@pytest.mark.parametrize(("side", "words"), [("right", [0, 1, 1]), ("left", [0, 1, 1])])
def test_words_say_what_each_piece_belongs_to(side: str, words: list[int]):
    tiny = model(adds_bos=True)
    batch = tiny.encode([["the", "cat sat"], ["on"]], side=side)
    assert batch.words is not None
    assert batch.words[0].tolist() == [-1, *words]
    assert batch.words[1].tolist() == ([-1, 0, -1, -1] if side == "right" else [-1, -1, -1, 0])
    assert batch.mask[1].tolist() == ([True, True, False, False] if side == "right" else [False, False, True, True])
    without = tiny.encode([["the", "cat"]], bos=False).words
    assert without is not None
    assert without.tolist() == [[0, 1]]
    assert tiny.encode(["the cat"]).words is None


def test_what_is_neither_text_nor_pair_nor_words_is_refused():
    tiny = model(adds_bos=False)
    for wrong, message in (
        ([("the", "cat", "sat")], "a tuple is a pair of texts; got one of 3"),
        ([["the", 3]], "texts must be strings, got int"),
        ([["the", " "]], "these are empty"),
        ([("the", "")], "these are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this model has no decoder beside an encoder"):
        tiny.encode("the cat", targets="sat")


def test_targets_follow_the_start_token():
    pair = small("bart").ours
    tiny = jh.Model(pair.network, tokenizer(adds_bos=True), name="tiny", hf_config=pair.hf_config)
    batch = tiny.encode(["the cat sat", "the"], targets=["sat on", "a"])
    assert batch.targets is not None
    assert batch.target_mask is not None
    assert batch.targets.tolist() == [[2, BOS, SAT, 6], [2, BOS, 7, PAD]]
    assert batch.target_mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    alone = tiny.encode("the cat").targets
    assert alone is not None
    assert alone.tolist() == [[2]]
    with pytest.raises(ValueError, match="for each of 2 examples; got 1"):
        tiny.encode(["the", "cat"], targets=["sat"])
    nameless = jh.Model(pair.network, tokenizer(adds_bos=True), name="tiny")
    with pytest.raises(ValueError, match="has no decoder_start_token_id"):
        nameless.encode("the cat")
