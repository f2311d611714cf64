"""What heads look at between words: planted heads, even attention, and the slow way by patterns that are kept."""

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from tests import language

from . import planted

TO_HEAD, TO_DEPENDENT, SHIFT = (("decoder", 0, head) for head in range(3))


def test_attention_along_the_tree_is_all_aligned_with_it_and_a_shift_is_positional():
    frame = jh.structure(planted.model(), planted.sentences()).frame
    assert frame.loc[TO_HEAD, "dependency_alignment"] == pytest.approx(1, abs=1e-5)
    assert frame.loc[TO_DEPENDENT, "dependency_alignment"] == pytest.approx(1, abs=1e-5)
    chains = planted.sentences(words="acdefgh")  # one piece a word: a shift of tokens is one of words
    frame = jh.structure(planted.model(offset=-2), chains).frame
    assert frame.loc[SHIFT, "positional_share"] == pytest.approx(1, abs=1e-6)
    assert frame.loc[SHIFT, "positional_offset"] == -2
    # The first word has no word two before it, and looks everywhere.
    assert frame.loc[SHIFT, "distance"] == pytest.approx(2, abs=0.2)
    assert frame.loc[SHIFT, "dependency_alignment"] < 0.6
    assert frame.loc[TO_HEAD, "positional_share"] < 0.6


def test_tags_share_the_attention_and_even_attention_has_the_base():
    model = planted.model(sharp=0.0)
    table = jh.structure(model, planted.sentences(words="acdefgh"))  # words of one piece
    shares = table.frame[[f"{tag}_share" for tag in ("NOUN", "VERB", "X")]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    for name in (*shares, "dependency_alignment", "distance"):
        np.testing.assert_allclose(table.frame[name], table.frame[f"{name}_base"], rtol=1e-5)


@pytest.mark.parametrize("kind", language.KINDS)
def test_every_column_is_that_of_patterns_which_are_kept(kind: str):
    model, sentences = language.model(kind), language.drawn(20)
    table = jh.structure(model, sentences)
    assert table.per_example is not None
    assert table.per_example.shape[1] == 20
    number = {name: index for index, name in enumerate(table.metrics)}
    for example, sentence in enumerate(sentences):
        batch = model.encode([sentence])
        [own] = jh.pool_words(jh.run(model, batch, capture="pattern").seen["pattern"], batch)
        words = np.flatnonzero(own.words >= 0)
        real = own.words[words]
        A = own.pattern[:, :, words][..., words] * (words > 0)
        total = A.sum(axis=(-2, -1))
        with np.errstate(invalid="ignore"):
            for tag in sentences.names("upos"):
                is_tag = np.array(sentence.labels["upos"])[real] == tag
                slow = (A * is_tag).sum(axis=(-2, -1)) / total
                np.testing.assert_allclose(table.per_example[number[f"{tag}_share"], example], slow, atol=1e-5)
            away = np.abs(real[:, None] - real)
            slow = (A * away).sum(axis=(-2, -1)) / total
            np.testing.assert_allclose(table.per_example[number["distance"], example], slow, atol=1e-4)
            linked = np.zeros(2 * [len(sentence.words)], bool)
            for link in sentence.links["deprel"]:
                if link.head >= 0:
                    linked[link.dependent, link.head] = linked[link.head, link.dependent] = True
            slow = (A * linked[real][:, real]).sum(axis=(-2, -1)) / total
            np.testing.assert_allclose(table.per_example[number["dependency_alignment"], example], slow, atol=1e-5)
    assert table.clusters is not None
    assert len(np.unique(table.clusters)) == 6
    assert table.frame["distance_n"].iloc[0] == 6


TEXTS = [("the", "dog", "barks", "."), ("a", "cat", "hidden"), ("the", "a", "the")]
"""Of the first two "barks" and "hidden" are the rarest words; the third has none."""


def test_a_rare_word_head_looks_at_the_least_frequent_word_of_sentences_that_have_one():
    rare = Sentences(
        tuple(
            Sentence(words, labels={"upos": ("X",) * len(words)}, document=str(number))
            for number, words in enumerate(
                [("the", "dog", "barks", "."), ("a", "cat", "hidden"), ("the", "a", "the")] * 4
            )
        )
    )
    model = language.model("bert")
    table = jh.structure(model, rare, language="en")
    assert table.per_example is not None
    rows = table.per_example[table.metrics.index("rare_word")]
    # "the" and "a" are frequent: no word of the third sentence is rare.
    assert np.isnan(rows[2::3]).all()
    for example, (index, sentence) in enumerate([(2, rare[0]), (2, rare[1])]):
        batch = model.encode([sentence])
        [own] = jh.pool_words(jh.run(model, batch, capture="pattern").seen["pattern"], batch)
        words = np.flatnonzero(own.words >= 0)
        A = own.pattern[:, :, words][..., words]
        A[..., np.arange(len(words)), np.arange(len(words))] = -1
        hits = np.delete(A.argmax(axis=-1) == index, index, axis=-1)
        np.testing.assert_allclose(rows[example], hits.mean(axis=-1), atol=1e-6)


def test_a_word_without_a_piece_of_its_own_keeps_its_place_in_the_tree():
    model = language.model("gpt2")
    links = {"deprel": (Link(0, 1, "det"), Link(1, -1, "root"), Link(2, 1, "mod"))}
    joined = Sentence(("the", "dog", "s"), (True, False, False), {"upos": ("D", "N", "X")}, links)
    words = np.asarray(model.encode([joined]).words)
    assert 2 not in words, "the tokenizer has a piece for both"
    table = jh.structure(model, Sentences((joined, *language.drawn(3))))
    assert table.per_example is not None
    assert table.per_example.shape[1] == 4


def test_sentences_without_the_tags_are_refused():
    with pytest.raises(ValueError, match="tags must be one of upos; got 'xpos'"):
        jh.structure(planted.model(), planted.sentences(), tags="xpos")


def test_chunks_and_devices_change_nothing():
    model, sentences = language.model("gpt2"), language.drawn(20)
    whole = jh.structure(model, sentences)
    less = jh.structure(model, sentences, memory=1 << 18, devices=jax.sharding.Mesh(np.array(jax.devices()), ("data",)))
    np.testing.assert_allclose(whole.values, less.values, atol=1e-6)
