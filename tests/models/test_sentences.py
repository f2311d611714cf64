"""Sentences with labels as batches: their words, labels, links and documents."""

from dataclasses import replace

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from jaxheads.execution.sentence_batches import SentenceBatches
from jaxheads.models.inputs.token_words import words_of_tokens
from tests import language

TREE = (Link(0, 3, "nsubj"), Link(1, 3, "aux"), Link(3, -1, "root"))
BOTH = Sentences(
    (
        Sentence(
            ("dogs", "do", "n't", "bark", "."),
            (True, False, True, False, False),
            {"upos": ("NOUN", "AUX", None, "VERB", "PUNCT")},
            {"deprel": TREE},
            {"genre": "news"},
            "one",
        ),
        Sentence(("can", "not"), (False, False), document="two"),
    )
)


def words_by_piece(batch: jh.Batch, tokenizer, example: int) -> list[tuple[str, int]]:
    tokens, words = (np.asarray(field)[example] for field in (batch.tokens, batch.words))
    real = np.asarray(batch.mask)[example]
    return list(zip(tokenizer.convert_ids_to_tokens(tokens[real].tolist()), words[real].tolist(), strict=True))


def test_pieces_know_their_words_where_words_are_written_together():
    model = language.model("bert")
    batch = model.encode(BOTH)
    pieces = words_by_piece(batch, model.tokenizer, 0)
    assert [word for _, word in pieces] == [-1, 0, 0, 1, 1, 2, 2, 2, 3, 4, -1]
    assert [piece for piece, _ in pieces][:6] == ["[CLS]", "dog", "##s", "d", "##o", "##n"]
    causal = language.model("gpt2")
    assert {word for _, word in words_by_piece(causal.encode(BOTH), causal.tokenizer, 0)} == {0, 1, 2, 3, 4}


def test_a_piece_of_two_words_is_of_the_one_that_it_has_more_of():
    joined = Sentence(("do", "n't", "go"), (False, True, False))
    # "don", "'t", " ", "go", and a special token that covers nothing
    spans = [(0, 3), (3, 5), (5, 6), (6, 8), (0, 0)]
    assert words_of_tokens(joined, spans, [0, 0, 0, 0, 1]) == [0, 1, 2, 2, -1]
    # One piece of two words with as many characters: the first one, and the second has none.
    assert words_of_tokens(Sentence(("can", "not"), (False, False)), [(0, 6)], [0]) == [0]


@pytest.mark.parametrize("kind", language.KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_encoded_as_its_words_are_written(kind: str, side: str):
    model = language.model(kind)
    batch, plain = model.encode(BOTH, side=side), model.encode([one.text for one in BOTH], side=side)
    np.testing.assert_array_equal(batch.tokens, plain.tokens)
    np.testing.assert_array_equal(batch.mask, plain.mask)
    assert (np.asarray(batch.words)[~np.asarray(batch.mask)] == -1).all()


def test_labels_are_numbers_whose_names_are_kept():
    batch = language.model("bert").encode(BOTH)
    labels = batch.labels
    assert labels is not None
    assert labels.names == {
        "upos": ("AUX", "NOUN", "PUNCT", "VERB"),
        "deprel": ("aux", "nsubj", "root"),
        "genre": ("news",),
    }
    assert np.asarray(labels["upos"])[:, :5].tolist() == [[1, 0, -1, 3, 2], [-1] * 5]
    assert np.asarray(labels["genre"]).tolist() == [0, -1]
    assert np.asarray(labels["deprel"])[0, :4].tolist() == [[0, 3, 1], [1, 3, 0], [3, -1, 2], [-2, -2, -2]]
    assert (np.asarray(labels["deprel"])[1] == -2).all()
    assert sorted(labels) == ["deprel", "genre", "upos"]
    assert "upos" in labels
    assert "coref" not in labels
    with pytest.raises(ValueError, match="did you mean 'upos'"):
        labels["upoS"]


def test_a_batch_takes_its_labels_along_and_models_do_not_read_them():
    model = language.model("bert")
    batch = model.encode(BOTH)
    second = batch.take([1])
    assert second.labels is not None
    assert (np.asarray(second.labels["deprel"]) == -2).all()
    assert batch.model_inputs.labels is None
    np.testing.assert_array_equal(jh.run(model, batch).output, jh.run(model, batch.model_inputs).output)
    with pytest.raises(ValueError, match="labels must be of 1 examples"):
        jh.Batch(np.ones((1, 3), int), labels=batch.labels)
    with pytest.raises(ValueError, match="labels must be"):
        jh.Batch(np.ones((1, 3), int), labels={"upos": [1]})  # pyright: ignore[reportArgumentType]


def test_documents_are_clusters_with_the_same_label_in_all_batches():
    model = language.model("bert")
    whole, last = model.encode(BOTH), model.encode(BOTH[1:])
    assert whole.cluster_labels is not None
    assert last.cluster_labels is not None
    assert whole.cluster_labels[1] == last.cluster_labels[0] != whole.cluster_labels[0]
    assert model.encode(Sentences((Sentence(("a",)),))).clusters is None
    mixed = model.encode([BOTH[0], Sentence(("a",)), Sentence(("dog",))]).cluster_labels
    assert mixed is not None
    assert len(np.unique(mixed)) == 3


def test_slices_keep_the_numbers_of_labels():
    model, part = language.model("bert"), BOTH[1:]
    assert part.label_names == BOTH.label_names
    labels = model.encode(part).labels
    assert labels is not None
    assert labels.names == BOTH.label_names


def test_sentences_beside_texts_are_refused_and_one_alone_is_taken():
    model = language.model("bert")
    with pytest.raises(ValueError, match="sentences and other texts are no batch together"):
        model.encode([BOTH[0], "dog"])
    assert len(model.encode(BOTH[0])) == 1


def test_batches_have_every_sentence_once_and_count_what_is_too_long():
    model, sentences = language.model("bert"), language.drawn(30)
    long = Sentence(("barking",) * 50)
    batches = SentenceBatches(model, Sentences((*sentences, long)), examples=8)
    assert batches.left_out.tolist() == [30]
    seen = []
    lengths = []
    for indices, batch in batches:
        assert len(indices) == len(batch) <= 8
        for index, words in zip(indices, np.asarray(batch.words), strict=True):
            assert set(words.tolist()) - {-1} == set(range(len(sentences[index].words)))
        seen += indices.tolist()
        lengths.append(batch.tokens.shape[1])
    assert sorted(seen) == batches.kept.tolist() == list(range(30))
    assert lengths == sorted(lengths)
    assert all(length % 8 == 0 for length in lengths)
    assert len(batches) == len(lengths) == 4


def test_a_model_that_no_sentence_fits_or_without_a_tokenizer_is_refused():
    model = language.model("bert")
    with pytest.raises(ValueError, match="none of 1 sentences fits the 40 tokens"):
        SentenceBatches(model, Sentences((Sentence(("barking",) * 50),)))
    with pytest.raises(ValueError, match="sentences need a tokenizer"):
        SentenceBatches(replace(model, tokenizer=None), BOTH)


def test_a_stream_of_sentences_is_one_question_and_says_what_it_leaves_out():
    model, sentences = language.model("bert"), language.drawn(30)
    whole = jh.measure(model, jh.data.sentence_batches(model, sentences, examples=8), "entropy", over="words")
    assert whole.provenance["examples"] == 30
    slow = [
        jh.measure(model, model.encode(sentences[number : number + 1]), "entropy", over="words") for number in (3, 17)
    ]
    assert whole.per_example is not None
    for one in slow:
        assert np.abs(whole.per_example - one.values).max(axis=(1, 2)).min() < 1e-5
    long = Sentences((*sentences, Sentence(("barking",) * 50)))
    with pytest.warns(UserWarning, match="1 of 31 sentences are longer than 40 tokens"):
        assert sum(map(len, jh.data.sentence_batches(model, long))) == 30
