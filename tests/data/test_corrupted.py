"""Changed sentences: what changes, and that labels, links and documents stay right."""

import random
from dataclasses import replace

import numpy as np
import pytest

from jaxheads.data import Sentence, Sentences, corrupted
from jaxheads.data.corrupted import KINDS, mistyped

from ..measure import planted


def capitals() -> Sentences:
    """Return sentences whose first word is in capitals."""
    made = [replace(one, words=("NASA", *one.words[1:])) for one in planted.sentences(12)]
    return Sentences(tuple(made))


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_words_the_tree_and_the_document_stay(kind):
    before = planted.sentences(20)
    after = corrupted(before, kind)
    assert len(after) == len(before)
    assert after.label_names == before.label_names
    for old, new in zip(before, after, strict=True):
        assert (len(new.words), new.document, new.properties) == (len(old.words), old.document, old.properties)
        # Each word's tag, and the tags of its head: wherever the word went.
        pairs = [
            sorted((one.labels["upos"][link.dependent], link.label, link.head >= 0) for link in one.links["deprel"])
            for one in (old, new)
        ]
        assert pairs[0] == pairs[1]


def test_shuffled_words_take_their_labels_and_links_along():
    before = planted.sentences(30)
    after = corrupted(before, "shuffled", seed=3)
    for one in after:
        for link in one.links["deprel"]:
            head = planted.HEADS[one.words[link.dependent]]
            assert (one.words[link.head] if link.head >= 0 else None) == head
    assert any(old.words != new.words for old, new in zip(before, after, strict=True))
    assert [one.words for one in corrupted(before, "shuffled", seed=3)] == [one.words for one in after]
    assert [one.words for one in corrupted(before, "shuffled", seed=4)] != [one.words for one in after]


def test_lower_case_is_all_that_changes():
    for old, new in zip(capitals(), corrupted(capitals(), "lower"), strict=True):
        assert new.words == ("nasa", *old.words[1:])


def test_a_slip_is_one_letter_or_two_neighbours_and_the_ends_stay():
    rng, lengths = random.Random(0), []
    for _ in range(200):
        wrong = mistyped("house", rng)
        assert wrong != "house"
        assert (wrong[0], wrong[-1]) == ("h", "e")
        lengths.append(len(wrong))
        if len(wrong) == 5:
            assert sorted(wrong) == sorted("house")
    assert set(lengths) == {4, 5, 6}
    assert [mistyped(word, rng) for word in ("the", "1984", "a.m.")] == ["the", "1984", "a.m."]
    # Equal neighbours can't change places.
    assert "aooa" not in {mistyped("aooa", rng) for _ in range(50)}


def test_the_share_of_slips_is_the_share_asked_for():
    sentences = Sentences(tuple(Sentence(("letters",) * 50) for _ in range(40)))
    wrong = [
        float(np.mean([word != "letters" for word in one.words])) for one in corrupted(sentences, "typos", share=0.3)
    ]
    assert np.mean(wrong) == pytest.approx(0.3, abs=0.03)
    assert [one.words for one in corrupted(sentences, "typos", share=0.0)] == [one.words for one in sentences]


def test_other_words_have_the_same_tags_and_grammar_stays():
    rows = [("The old dog sleeps", "DET ADJ NOUN VERB"), ("A King saw it", "DET NOUN VERB PRON")]
    made = [Sentence(tuple(words.split()), labels={"upos": tuple(tags.split())}) for words, tags in rows] * 20
    tags = {"dog": "NOUN", "king": "NOUN", "sleeps": "VERB", "saw": "VERB", "old": "ADJ"}
    for old, new in zip(made, corrupted(Sentences(tuple(made)), "nonce"), strict=True):
        for before, after, tag in zip(old.words, new.words, old.labels["upos"], strict=True):
            assert after == before if tag in ("DET", "PRON") else tags[after.lower()] == tag
            assert after[0].isupper() >= before[0].isupper()


def test_what_can_not_be_changed_is_refused():
    plain = Sentences((Sentence(("a", "b")),))
    with pytest.raises(ValueError, match='no label "upos"'):
        corrupted(plain, "nonce")
    with pytest.raises(ValueError, match="share"):
        corrupted(plain, "typos", share=2.0)
