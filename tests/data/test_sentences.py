"""Sentences: their words, labels and links."""

import pytest

from jaxheads.data import Link, Sentence, Sentences

TREE = {"deprel": (Link(0, 1, "nsubj"), Link(1, -1, "root"), Link(2, 1, "punct"))}


def test_a_sentence_has_its_text_and_its_tree():
    sentence = Sentence(("Heads", "look", "."), (True, False, False), links=TREE)
    assert sentence.text == "Heads look."
    assert sentence.heads == (1, -1, 1)
    assert Sentence(("a", "b")).text == "a b"
    assert Sentence(("a", "b")).heads is None


def test_sentences_know_their_names_and_are_taken_by_index():
    labels = {"upos": ("NOUN", "VERB", None)}
    both = Sentences(
        (
            Sentence(("Heads", "look", "."), links=TREE, labels=labels, properties={"genre": "news"}),
            Sentence(("Go",), links={"deprel": (Link(0, -1, "root"),)}),
        )
    )
    assert both.names("deprel") == ("nsubj", "punct", "root")
    assert both.names("upos") == ("NOUN", "VERB")
    assert both.names("genre") == ("news",)
    assert [len(both), len(both[:1]), both[1].words] == [2, 1, ("Go",)]
    assert [one.words for one in both.where(lambda one: "genre" in one.properties)] == [("Heads", "look", ".")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ()}, "at least one"),
        ({"words": ("a", " ")}, "not empty"),
        ({"words": ("a",), "labels": {"upos": ("X", "Y")}}, "upos must be one for each of 1 words, got 2"),
        ({"words": ("a",), "spaces": ()}, "spaces must be one for each of 1 words, got 0"),
        ({"words": ("a",), "links": {"coref": (Link(0, 1, "it"),)}}, "link .* is to a word that is not among 1"),
    ],
)
def test_what_does_not_fit_its_words_is_refused_by_file_and_line(fields: dict, message: str):
    with pytest.raises(ValueError, match=f"file:3: .*{message}"):
        Sentence(**fields, source="file:3")
