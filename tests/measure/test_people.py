"""Heads beside people's reading: planted gaze, the slow way by patterns that are kept, and surprisal of words."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Sentences
from tests import language

KINDS = language.KINDS


def received(model: jh.Model, sentences: Sentences, number: int) -> np.ndarray:
    """Return what each word of a sentence receives, `[L,N,W]`, from the pattern that is kept."""
    batch = model.encode(sentences[number : number + 1])
    [pooled] = jh.pool_words(jh.run(model, batch, capture=("pattern",)).seen["pattern"], batch)
    inside = np.flatnonzero(pooled.words >= 0)
    sums = np.full((*pooled.pattern.shape[:2], len(sentences[number].words)), np.nan)
    sums[..., pooled.words[inside]] = pooled.pattern[:, :, inside][..., inside].sum(axis=2)
    return sums


@pytest.mark.parametrize("kind", KINDS)
def test_gaze_that_is_what_a_head_gives_correlates_with_it_alone_by_1(kind: str):
    model, sentences = language.model(kind), language.drawn(20, longest=9)
    gaze = [received(model, sentences, number)[1, 2] for number in range(len(sentences))]
    table = jh.human(model, sentences, gaze)
    spearman = table.values[0]
    assert spearman[1, 2] == pytest.approx(1)
    assert np.delete(spearman.ravel(), 6).max() < 0.99
    # What the controls leave of the gaze is what they leave of the head.
    assert table.values[1][1, 2] == pytest.approx(1)
    # Out of itself nothing is left.
    beyond = jh.human(model, sentences, gaze, beyond={"gaze": gaze})
    assert beyond.values[0][1, 2] == pytest.approx(1)
    assert beyond.values[1][1, 2] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_sentence_has_the_correlation_of_its_kept_pattern(kind: str):
    model, sentences = language.model(kind), language.drawn(12, longest=9)
    rng = np.random.default_rng(0)
    gaze = [rng.random(len(one.words)) for one in sentences]
    gaze[0][1] = np.nan
    table = jh.human(model, sentences, gaze, beyond={})
    assert table.per_example is not None
    for number in range(len(sentences)):
        own, known = received(model, sentences, number), ~np.isnan(gaze[number])
        known &= ~np.isnan(own[0, 0])
        if known.sum() < 4:
            assert np.isnan(table.per_example[:, number]).all()
            continue
        expected = jh.statistics.partial_rank_correlation(np.round(own[..., known], 6), gaze[number][known])
        np.testing.assert_allclose(table.per_example[0, number], expected, atol=1e-6)
        np.testing.assert_allclose(table.per_example[1, number], expected, atol=1e-6)
    assert table.clusters is not None
    assert len(set(table.clusters.tolist())) == 6


def test_chunks_lists_of_words_and_a_resumed_run_give_one_table(tmp_path: Path):
    model = language.model("bert")
    words = [list(one.words) for one in language.drawn(12, longest=9)]
    gaze = [np.arange(len(own)) % 3 for own in words]
    whole = jh.human(model, words, gaze)
    for _ in range(2):
        parts = jh.human(model, words, gaze, memory=1, resume=tmp_path)
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-6)
    documents = ["a", "b", "c", "d"] * 3
    frame = jh.human(model, words, gaze, documents=documents).frame
    assert np.asarray(frame["spearman_n"]).max() <= 4


def test_norms_and_relevance_are_numbers_of_their_own():
    model, sentences = language.model("gpt2"), language.drawn(12, longest=9)
    gaze = [np.arange(len(one.words), dtype=float) for one in sentences]
    tables = [
        jh.human(model, sentences, gaze),
        jh.human(model, sentences, gaze, "norms"),
        jh.human(model, sentences, gaze, "relevance", jh.loss()),
    ]
    for table in tables:
        assert np.isfinite(table.values[0]).all()
    assert not np.allclose(tables[0].values, tables[1].values)
    assert not np.allclose(tables[0].values, tables[2].values)
    with pytest.raises(ValueError, match="objective"):
        jh.human(model, sentences, gaze, "relevance")


def test_relevance_of_words_is_pattern_times_its_gradient():
    from jaxheads.execution.resources import Resources
    from jaxheads.measure.patterns.word_pooling import Words
    from jaxheads.measure.people.human import relevance_of_words
    from jaxheads.measure.relevance.batch_objective import BatchObjective

    model, sentences = language.model("gpt2"), language.drawn(12, longest=9)[3:4]
    batch = model.encode(sentences)
    words = Words.of(batch)
    explained = BatchObjective.of(model, batch, jh.loss(), Resources.of({}))
    ours = relevance_of_words(explained, "decoder", words.of_tokens, words.numbers.shape[1])
    # The whole is what relevance by Chefer et al. says of each head.
    heads = jh.relevance(model, batch, jh.loss(), "chefer").heads
    assert heads is not None
    np.testing.assert_allclose(ours.sum(axis=-1)[0], heads.values, rtol=1e-4, atol=1e-7)


def test_numbers_that_do_not_fit_are_named():
    model, sentences = language.model("bert"), language.drawn(4)
    gaze = [np.ones(len(one.words)) for one in sentences]
    with pytest.raises(ValueError, match=r"values\[2\] must be a number for each"):
        jh.human(model, sentences, [*gaze[:2], np.ones(99), gaze[3]])
    with pytest.raises(ValueError, match="values"):
        jh.human(model, sentences, gaze)  # constant
    with pytest.raises(ValueError, match="language"):
        jh.human(model, sentences, gaze, language="xx")


def slow_surprisal(model: jh.Model, sentences: Sentences, number: int, edits: Any = ()) -> np.ndarray:
    """Return −log p of each word's tokens by all before them, from whole logits."""
    batch = model.encode(sentences[number : number + 1])
    log_p = np.asarray(jax.nn.log_softmax(jh.run(model, batch, edits=edits).output[0]))
    assert batch.words is not None
    own, words = np.full(len(sentences[number].words), np.nan), np.asarray(batch.words)[0]
    for position in range(1, len(words)):
        if words[position] != words[0]:
            token = int(batch.tokens[0, position])
            own[words[position]] = np.nan_to_num(own[words[position]]) - log_p[position - 1, token]
    return own


@pytest.mark.parametrize("kind", KINDS)
def test_word_controls_are_the_usual_ones_and_pieces(kind: str):
    model, sentences = language.model(kind), language.drawn(12, longest=9)
    controls = jh.word_controls(sentences, model=model)
    assert list(controls) == ["length", "log_frequency", "position", "pieces"]
    for number, one in enumerate(sentences):
        assert controls["length"][number].tolist() == [len(word) for word in one.words]
        assert controls["position"][number].tolist() == list(range(len(one.words)))
        ids = model.tokenizer(one.text, add_special_tokens=False)["input_ids"]
        assert controls["pieces"][number].sum() == len(ids)
        assert len(controls["pieces"][number]) == len(one.words)
    gaze = [np.random.default_rng(number).random(len(one.words)) for number, one in enumerate(sentences)]
    usual = {name: controls[name] for name in ("length", "log_frequency", "position")}
    given, default = (jh.human(model, sentences, gaze, beyond=beyond) for beyond in (usual, None))
    np.testing.assert_array_equal(given.values, default.values)


def test_surprisal_is_the_sum_over_a_word_s_pieces():
    model, sentences = language.model("gpt2"), language.drawn(12, longest=9)
    fast = jh.surprisal(model, sentences)
    for number in range(len(sentences)):
        np.testing.assert_allclose(fast[number], slow_surprisal(model, sentences, number), rtol=1e-4)
        assert np.isnan(fast[number][0])
    np.testing.assert_allclose(jh.surprisal(model, sentences, memory=1)[3], fast[3], rtol=1e-5)


def masked_model() -> jh.Model:
    from dataclasses import replace

    own = language.tokenizer("bert")
    config = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "vocab_size": len(own),
        **language._SIZES["bert"],
    }
    return replace(jh.random_weights(jh.init(config), 0), tokenizer=own)


@pytest.mark.parametrize("whole_words", [False, True])
def test_surprisal_of_a_masked_model_masks_each_piece(whole_words: bool):
    model, sentences = masked_model(), language.drawn(6, longest=5)
    fast = jh.surprisal(model, sentences, whole_words=whole_words)
    for number in range(len(sentences)):
        batch = model.encode(sentences[number : number + 1])
        assert batch.words is not None
        tokens, words = np.asarray(batch.tokens)[0], np.asarray(batch.words)[0]
        expected = np.zeros(len(sentences[number].words))
        for position in np.flatnonzero(words >= 0):
            masked = tokens.copy()
            masked[position] = model.tokenizer.mask_token_id
            if whole_words:
                masked[(words == words[position]) & (np.arange(len(words)) > position)] = model.tokenizer.mask_token_id
            logits = jh.run(model, jh.Batch(masked[None])).output[0, position]
            expected[words[position]] -= float(jax.nn.log_softmax(logits)[tokens[position]])
        np.testing.assert_allclose(fast[number], expected, rtol=1e-4)


def test_sentences_that_are_too_long_have_no_surprisal():
    model, sentences = language.model("gpt2"), language.drawn(4)
    words = [list(one.words) for one in sentences] + [["barking"] * 60]
    assert np.isnan(jh.surprisal(model, words)[-1]).all()


def test_models_without_a_prediction_of_words_are_refused():
    with pytest.raises(ValueError, match="surprisal needs logits"):
        jh.surprisal(language.model("bert"), language.drawn(4))
