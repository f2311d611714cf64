import re
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxheads.data import IOIPrompts, ioi_prompts
from jaxheads.data.prompts import FRAMES, NAMES, OBJECTS, PLACES

LITERAL = sorted(set(re.findall(r"\w+|[^\w\s]", re.sub(r"\{\w+\}", " ", " ".join(FRAMES)))))


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word; whatever is not in `words` is <unk>."""
    vocabulary = ["<pad>", "<unk>", "<bos>", "and", *LITERAL, *words]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(vocabulary))}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([*NAMES.split(), *PLACES.split(), *OBJECTS.split()])


@pytest.fixture(scope="module", params=[False, True])
def prompts(tokenizer: PreTrainedTokenizerFast, request: pytest.FixtureRequest) -> IOIPrompts:
    return ioi_prompts(tokenizer, examples=100, seed=1, bos=request.param)


def test_the_candidate_lists_are_long_and_without_doubles():
    names, places, objects = NAMES.split(), PLACES.split(), OBJECTS.split()
    assert len(names) >= 100
    every = [*(name.lower() for name in names), *places, *objects]
    assert len(every) == len(set(every))
    assert not {thing for thing in objects if thing[0] in "aeiou"}
    assert len(FRAMES) >= 8


def test_tokens_are_those_of_the_texts(prompts: IOIPrompts, tokenizer: PreTrainedTokenizerFast):
    for text, tokens, mask in zip(prompts.texts, prompts.tokens, prompts.mask, strict=True):
        lead = [2] if tokens[0] == 2 else []
        assert tokens[mask].tolist() == lead + tokenizer.encode(text, add_special_tokens=False)
        assert (tokens[~mask] == 0).all()
    assert prompts.tokens.dtype == np.int32


def test_positions_point_at_the_names(prompts: IOIPrompts):
    rows = np.arange(len(prompts.texts))
    assert (prompts.tokens[rows, prompts.io] == prompts.indirect_object).all()
    assert (prompts.tokens[rows, prompts.s1] == prompts.subject).all()
    assert (prompts.tokens[rows, prompts.s2] == prompts.subject).all()
    assert (prompts.indirect_object != prompts.subject).all()
    assert (prompts.s1 < prompts.s2).all()
    assert (prompts.io < prompts.s2).all()
    assert (prompts.end == prompts.mask.sum(1) - 1).all()


def test_the_texts_read_as_the_paper_has_them(tokenizer: PreTrainedTokenizerFast, prompts: IOIPrompts):
    for row, text in enumerate(prompts.texts):
        io, subject = tokenizer.convert_ids_to_tokens([prompts.indirect_object[row], prompts.subject[row]])
        order = [word for word in re.findall(r"\w+", text) if word in (io, subject)]
        swapped = bool(prompts.template[row] % 2)
        assert order == ([subject, io, subject] if swapped else [io, subject, subject])
        assert text.endswith((" to", " for"))
        assert "  " not in text


def test_templates_are_balanced_and_each_has_its_own_positions(prompts: IOIPrompts):
    assert set(Counter(prompts.template.tolist()).values()) == {100 // (2 * len(FRAMES))}
    for name in ("io", "s1", "s2", "end"):
        values = getattr(prompts, name)
        pairs = zip(prompts.template.tolist(), values.tolist(), strict=True)
        assert len(set(pairs)) == 2 * len(FRAMES)
        assert values.dtype == np.int32


def test_corruption_puts_three_unrelated_names(prompts: IOIPrompts, tokenizer: PreTrainedTokenizerFast):
    corrupt = prompts.corrupted(7)
    names = set(prompts.names.values())
    for row, text in enumerate(corrupt.texts):
        at = [prompts.io[row], prompts.s1[row], prompts.s2[row]]
        new = {int(token) for token in corrupt.tokens[row, at]}
        assert len(new) == 3
        assert new <= names
        assert not new & {prompts.indirect_object[row], prompts.subject[row]}
        same = np.delete(corrupt.tokens[row], at) == np.delete(prompts.tokens[row], at)
        assert same.all()
        lead = [2] if prompts.tokens[row, 0] == 2 else []
        encoded = lead + tokenizer.encode(text, add_special_tokens=False)
        assert corrupt.tokens[row][corrupt.mask[row]].tolist() == encoded
    for name in ("mask", "io", "s1", "s2", "end", "template", "indirect_object", "subject"):
        assert getattr(corrupt, name) is getattr(prompts, name)


def test_the_seed_decides(tokenizer: PreTrainedTokenizerFast):
    first, again, other = (ioi_prompts(tokenizer, examples=5, seed=seed, bos=False) for seed in (3, 3, 4))
    assert first.texts == again.texts
    assert first.texts != other.texts
    assert first.corrupted(1).texts == again.corrupted(1).texts
    assert first.corrupted(1).texts != first.corrupted(2).texts


def test_only_single_tokens_are_used():
    names, places, objects = NAMES.split()[:12], PLACES.split()[:3], OBJECTS.split()[:3]
    prompts = ioi_prompts(word_tokenizer([*names, *places, *objects]), examples=40, seed=0, bos=False)
    assert set(prompts.names) == set(names)
    assert not (prompts.tokens == 1).any()


@pytest.mark.parametrize(
    ("names", "places", "objects", "message"),
    [
        (9, 5, 5, r"only 9 of the names .* at least 10 are needed"),
        (0, 5, 5, r"only 0 of the names tried are one token of this tokenizer \(none\)"),
        (20, 2, 5, r"only 2 of the places .* at least 3"),
        (20, 5, 1, r"only 1 of the objects"),
    ],
)
def test_a_vocabulary_too_small_is_refused(names: int, places: int, objects: int, message: str):
    words = [*NAMES.split()[:names], *PLACES.split()[:places], *OBJECTS.split()[:objects]]
    with pytest.raises(ValueError, match=message):
        ioi_prompts(word_tokenizer(words), examples=4, seed=0, bos=False)


def test_a_name_that_is_also_a_word_of_the_frames_is_left_out(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jaxheads.data.prompts.NAMES", NAMES + " Yesterday Friends")
    assert set(ioi_prompts(tokenizer, examples=40, seed=0, bos=False).names) == set(NAMES.split())


def test_an_uncased_tokenizer_will_do():
    words = [*LITERAL, *NAMES.split(), *PLACES.split(), *OBJECTS.split()]
    lower = word_tokenizer([word.lower() for word in words])
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    prompts = ioi_prompts(lower, examples=40, seed=0, bos=False)
    assert set(prompts.names) == set(NAMES.split())
    assert set(lower.convert_ids_to_tokens(prompts.subject.tolist())) <= set(NAMES.lower().split())


def test_wrong_arguments_are_refused(tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        ioi_prompts(tokenizer, examples=0, seed=0, bos=False)
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    with pytest.raises(ValueError, match="no BOS token"):
        ioi_prompts(without, examples=4, seed=0, bos=True)
