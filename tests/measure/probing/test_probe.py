"""Probes of all heads: planted values are found as well as they can be, and sums over chunks are those of the whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from jaxheads.execution.resources import Resources
from jaxheads.measure.probing.passes import Reading, centred_moments
from jaxheads.measure.probing.solving import Ascent, Moments
from jaxheads.measure.probing.units import Units, token_shares

from . import planted

SIDES = ("left", "right")


def two_classes(words: int = 4000) -> tuple[jh.Model, Sentences]:
    """Head 0 holds a number of each word with class means ±1 and standard deviation 1; head 1 noise alone."""
    rng = np.random.default_rng(0)
    side = rng.permutation(words) % 2
    values = rng.normal(size=(words, 2, 1))
    values[:, 0, 0] += 2 * side - 1
    return planted.model(values), planted.sentences(np.arange(words).reshape(-1, 8), [SIDES[own] for own in side])


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_class_means_apart_by_two_deviations_are_told_apart_by_the_normal_distribution(method: Any):
    model, sentences = two_classes()
    table = jh.probe(model, sentences, "class", method=method, progress=False)
    [accurate, noise] = table.grid("accuracy")[0]
    # The best boundary is at 0: Φ(1) of the words are on the right side.
    assert accurate == pytest.approx(stats.norm.cdf(1), abs=0.03)
    assert table.grid("accuracy_low")[0, 0] < stats.norm.cdf(1) < table.grid("accuracy_high")[0, 0]
    assert noise == pytest.approx(0.5, abs=0.04)
    assert table.grid("selectivity")[0, 0] == pytest.approx(stats.norm.cdf(1) - 0.5, abs=0.05)
    # Every word comes once: all of the test are unseen.
    np.testing.assert_allclose(table.grid("unseen"), table.grid("accuracy"))
    np.testing.assert_allclose(table.grid("lexical"), table.grid("majority"))


def type_constant() -> tuple[jh.Model, Sentences]:
    """Each of 12 words has a dimension of its own in head 0, and one label wherever it comes; head 1 is empty."""
    values = np.zeros((12, 2, 12))
    values[:, 0] = np.eye(12)
    words = np.random.default_rng(0).integers(0, 12, (120, 6))
    return planted.model(values), planted.sentences(words, [f"label {word % 3}" for word in range(12)])


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_labels_that_are_constant_by_word_type_have_no_selectivity(method: Any):
    table = jh.probe(*type_constant(), "class", method=method, progress=False)
    assert table.grid("accuracy")[0, 0] == table.grid("control")[0, 0] == table.grid("lexical")[0, 0] == 1
    assert table.grid("selectivity")[0, 0] == table.grid("gain")[0, 0] == 0
    # A head without any value can only name the majority.
    assert table.grid("accuracy")[0, 1] == table.grid("majority")[0, 1]
    assert "unseen" not in table.metrics


def test_shuffled_control_labels_can_not_be_learnt():
    table = jh.probe(*type_constant(), "class", control="shuffled", progress=False)
    assert table.grid("selectivity")[0, 0] > 0.4


def gpt2(words: int = 30) -> jh.Model:
    config = {"model_type": "gpt2", "vocab_size": words + 2, "n_positions": 16, "n_embd": 12, "n_layer": 3, "n_head": 2}
    return jh.Model(jh.init(config).network, planted.tokenizer(words), name="random")


def random_sentences(count: int = 24) -> Sentences:
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 30, rng.integers(3, 9)) for _ in range(count)]
    made = []
    for number, row in enumerate(rows):
        words = tuple(f"w{word}" for word in row)
        labels = tuple(None if word == 5 else "abc"[word % 3] for word in row)
        links = (Link(0, -1, "root"), *(Link(own, 0, "ab"[own % 2]) for own in range(1, len(row))))
        about = {"topic": "xy"[number % 2]}
        made.append(Sentence(words, labels={"class": labels}, links={"tree": links}, properties=about))
    return Sentences(tuple(made))


def by_hand(model: jh.Model, sentences: Sentences, label: str, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of all labelled words `[L,N,units,F]` and their classes, from a run of one sentence at a time."""
    names, rows, classes = sentences.names(label), [], []
    for one in sentences:
        batch = model.encode(Sentences((one,)))
        seen = np.asarray(jh.run(model, batch, capture=(of,)).seen[of], np.float64)[:, 0]
        seen = seen[:, :, None] if of == "resid_post" else seen
        for word, token in enumerate(np.asarray(batch.words)[0]):
            assert word == token
            if one.labels[label][word] is not None:
                rows.append(np.moveaxis(seen[:, word], 0, 0))
                classes.append(names.index(one.labels[label][word]))
    return np.moveaxis(np.array(rows), 0, 2), np.array(classes)


@pytest.mark.parametrize("of", ["z", "resid_post"])
def test_streamed_moments_are_those_of_the_whole_matrix(of: Any):
    model, sentences = gpt2(), random_sentences()
    units = Units.of(sentences, "class")
    resources = Resources(memory=1 << 16)
    reading = Reading(
        model, model.stack(), sentences, units, of, "mean", [units.classes], resources, lambda count: None
    )
    probe, moments = centred_moments(reading, np.arange(len(sentences)))
    features, classes = by_hand(model, sentences, "class", of)
    rows = np.concatenate([features - probe.center[:, :, None], np.ones((*features.shape[:3], 1))], axis=-1)
    squares = np.einsum("lnuf,lnug->lnfg", rows, rows)
    by_class = np.einsum("lnuf,uc->lnfc", rows, np.eye(3)[classes])
    for streamed, whole in ((moments.squares, squares), (moments.classes, by_class)):
        np.testing.assert_allclose(streamed, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
    assert moments.count == len(classes)


def test_a_ridge_probe_is_that_of_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    rows, hot = rng.normal(size=(50, 4)) * [1, 2, 3, 1] + 3, np.eye(3)[rng.integers(0, 3, 50)]
    wide = np.concatenate([rows, np.ones((50, 1))], axis=1)
    moments = Moments(wide.T @ wide, wide.T @ hot)
    variance = rows.var(axis=0).mean()
    expected = Ridge(alpha=50 * 0.1 * variance).fit(rows, hot)
    weights = moments.ridge(0.1)
    np.testing.assert_allclose(weights[:-1], expected.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(weights[-1], expected.intercept_, rtol=1e-6)


def test_a_logistic_probe_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 400)
    rows = rng.normal(size=(400, 4)) + np.eye(3, 4)[classes]
    wide, hot = np.concatenate([rows, np.ones((400, 1))], axis=1), np.eye(3)[classes]
    ascent = Ascent(Moments((wide.T @ wide)[None], (wide.T @ hot)[None]), 0.01)
    for _ in range(200):
        scores = wide @ ascent.at[0]
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        ascent.step((wide.T @ (hot - chances))[None])
    strength = 400 * 0.01 * rows.var(axis=0).mean()
    expected = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=1000).fit(rows, classes)
    np.testing.assert_allclose(ascent.weights[0, :-1], expected.coef_.T, atol=1e-4)


def test_chunks_resumption_and_eight_lengths_change_nothing(tmp_path: Path):
    model, sentences = gpt2(), random_sentences()
    whole = jh.probe(model, sentences, "class", progress=False)
    small = jh.probe(model, sentences, "class", progress=False, memory=1 << 16, resume=tmp_path)
    again = jh.probe(model, sentences, "class", progress=False, memory=1 << 16, resume=tmp_path)
    np.testing.assert_allclose(small.values, whole.values, atol=1e-6)
    np.testing.assert_array_equal(again.values, small.values)


@pytest.mark.parametrize("of", ["z", "pattern", "resid_post"])
@pytest.mark.parametrize("label", ["class", "tree", "topic"])
def test_words_links_and_sentences_are_probed(of: Any, label: str):
    model, sentences = gpt2(), random_sentences()
    table = jh.probe(model, sentences, label, of=of, progress=False)
    assert table.values.shape[1:] == ((3,) if of == "resid_post" else (3, 2))
    assert np.isfinite(table.grid("accuracy")).all()
    assert ("lexical" in table.metrics) is (label != "topic")
    if label == "topic":
        assert table.provenance["units_in_test"] == table.provenance["sentences_in_test"] == 12
        assert table.provenance["control"] == "shuffled"


@pytest.mark.parametrize(("look_at", "expected"), [(10.0, 0.8), (0.0, 1.0)])
def test_whether_a_word_is_the_last_is_read_from_the_pattern_that_looks_beyond_it(look_at: float, expected: float):
    # A head that looks at its own token alone has the same pattern at every word: its probe names the majority.
    model = planted.model(np.zeros((4, 1, 1)), causal=False, look_at=look_at)
    words = np.random.default_rng(0).integers(0, 4, (40, 5))
    rows = planted.sentences(words)
    labelled = [replace(one, labels={"end": ("no",) * 4 + ("yes",)}) for one in rows]
    table = jh.probe(model, Sentences(tuple(labelled)), "end", of="pattern", progress=False)
    assert table.grid("accuracy")[0, 0] == pytest.approx(expected)


def test_tokens_that_stand_for_a_word():
    words = [[-1, 0, 0, 0, 1, -1], [-1, 0, -1, -1, -1, -1]]
    batch = jh.Batch(np.zeros((2, 6), int), [[True] * 6, [True] * 3 + [False] * 3], words=words)
    np.testing.assert_allclose(token_shares(batch, "mean", 2)[0], [[0, 1 / 3, 1 / 3, 1 / 3, 0, 0], [0, 0, 0, 0, 1, 0]])
    assert token_shares(batch, "first", 2)[0, 0].tolist() == [0, 1, 0, 0, 0, 0]
    assert token_shares(batch, "last", 2)[0, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert token_shares(batch, "mean", 2)[1, 1].tolist() == [0] * 6
    # A sentence: special tokens are its first and last, but not in its mean.
    assert token_shares(batch, "mean", None)[1, 0].tolist() == [0, 1, 0, 0, 0, 0]
    assert token_shares(batch, "last", None)[1, 0].tolist() == [0, 0, 1, 0, 0, 0]


def test_a_test_of_its_own_has_its_own_documents():
    model, sentences = two_classes(800)
    table = jh.probe(model, sentences[:60], "class", test=sentences[60:], progress=False)
    assert table.provenance["sentences_in_training"] == 60
    assert table.provenance["sentences_in_test"] == 40
    assert table.examples == 40
    assert jh.held_out(table, "accuracy", n=1).index[0] == ("decoder", 0, 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": "upos"}, "the name of labels"),
        ({"of": "q"}, "of"),
        ({"labels": "topic", "control": "word type"}, "no word type"),
        ({"penalty": -1.0}, "penalty"),
        ({"at": "middle"}, "at"),
    ],
)
def test_what_can_not_be_probed_is_refused(more: dict[str, Any], message: str):
    options: Any = {"labels": "class"} | more
    with pytest.raises((ValueError, TypeError), match=message):
        jh.probe(gpt2(), random_sentences(), **options)


def test_one_class_is_no_probe():
    with pytest.raises(ValueError, match="at least two classes"):
        jh.probe(gpt2(), planted.sentences(np.zeros((8, 3), int), ["a"]), "class")
