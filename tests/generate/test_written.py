"""Objectives of written text: known scores, and heads ablated while a model writes, beside a loop of our own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.generate.scores import SCORES

from ..good_values import word_model
from ..models.huggingface import small_model


@pytest.mark.parametrize(
    ("score", "text", "references", "value"),
    [
        ("exact", " a b ", ["c", "a b"], 1.0),
        ("exact", "a b c", ["a b"], 0.0),
        ("contains", "a b c", ["x", "b c"], 1.0),
        ("contains", "a b c", ["c b"], 0.0),
        ("chrf", "the cat", ["the cat"], 100.0),
        ("chrf", "xyz", ["uvw"], 0.0),
        ("bleu", "the cat sat on the mat", ["the cat sat on the mat"], 100.0),
        ("rouge1", "the cat", ["the dog"], 0.5),
        ("rouge2", "a b c", ["a b d"], 0.5),
        ("rougeL", "a x b", ["a b"], 0.8),  # the longest common subsequence has 2 of 3 and 2 of 2 words
        ("wer", "a b x d", ["a b c d"], 0.25),
        ("wer", "a", ["b c", "a b"], 0.5),
    ],
)
def test_scores_of_known_texts(score: str, text: str, references: list[str], value: float):
    assert SCORES[score].of(text, references) == pytest.approx(value)
    assert SCORES[score].range[0] <= value <= SCORES[score].range[1]


def first_word(text: str, references: Any) -> float:
    """Return the number of words of a text that the reference has, too, weighted by their position."""
    known = references[0].split()
    return sum(place * (word in known) for place, word in enumerate(text.split(), 1))


def prompts() -> jh.Batch:
    return jh.Batch(np.random.default_rng(5).integers(4, 30, (3, 6)), clusters=[0, 0, 1])


def objective(model: jh.Model, steps: int = 4) -> Any:
    own = jh.generate(model, prompts(), steps).texts
    return jh.written(first_word, own, steps)


def model_of_words() -> jh.Model:
    """Weights so large that a head without its output changes the text."""
    return jh.Model(small_model("gpt2").network, word_model().tokenizer, name="words")


def assert_equal(table: jh.HeadTable, other: jh.HeadTable) -> None:
    assert table.per_example is not None
    assert other.per_example is not None
    np.testing.assert_array_equal(table.per_example, other.per_example)


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_ablation_by_text_is_the_loop_over_heads(method: Any):
    model, batch = model_of_words(), prompts()
    score = objective(model)
    reference = jh.Batch(np.random.default_rng(6).integers(4, 30, (5, 6)))
    more: dict[str, Any] = {} if method == "zero" else {"reference": reference}
    table = jh.ablate(model, batch, score, method, **more)
    z = np.asarray(jh.run(model, reference, "z").seen["z"]).mean(axis=(1, 2))
    unedited = score(model, batch)
    assert unedited.tolist() == [10.0, 10.0, 10.0]
    assert table.per_example is not None
    for layer, head in np.ndindex(2, 4):
        values = np.zeros((1, 1, 1, 1, 1)) if method == "zero" else z[[layer], None, None]
        edit = jh.replace_heads(model, [(layer, head)], values)
        np.testing.assert_allclose(table.per_example[:, layer, head], score(model, batch, edit) - unedited)
    assert np.abs(table.per_example).max() > 0
    assert table.provenance["unedited"] == 10.0
    assert table.clusters is not None
    assert table.clusters.tolist() == [0, 0, 1]


def test_layers_sets_and_little_memory(tmp_path: Path):
    model, batch = model_of_words(), prompts()
    score = objective(model)
    by_layer = jh.ablate(model, batch, score, "zero", by=["layer"], memory=1, resume=tmp_path)
    sets = {"first": [(0, head) for head in range(4)], "last": [(1, head) for head in range(4)]}
    by_set = jh.ablate(model, batch, score, "zero", sets=sets)
    assert_equal(by_layer, by_set)
    again = jh.ablate(model, batch, score, "zero", by=["layer"], memory=1, resume=tmp_path)
    assert_equal(by_layer, again)


def test_a_stream_brings_references_with_each_batch():
    model = model_of_words()
    score = objective(model)
    parts = [np.array([0, 1]), np.array([2])]
    own = [jh.written(first_word, [score.references[n][0] for n in part], 4) for part in parts]
    stream = ((prompts().take(part), each) for part, each in zip(parts, own, strict=True))
    table, whole = jh.ablate(model, stream, None, "zero"), jh.ablate(model, prompts(), score, "zero")
    assert_equal(table, whole)


def test_texts_that_are_written_have_no_plan():
    with pytest.raises(ValueError, match="exact of 2 tokens has no plan"):
        jh.plan(jh.ablate, model_of_words(), prompts(), jh.written("exact", "a", 2), "zero")


def test_what_can_not_be_asked():
    model, batch = model_of_words(), prompts()
    score = objective(model)
    with pytest.raises(ValueError, match="'mean' with reference="):
        jh.ablate(model, batch, score)
    with pytest.raises(ValueError, match="has no positions yet"):
        jh.ablate(model, batch, score, "zero", by=["layer", "head", "position"])
    with pytest.raises(ValueError, match=r"ask jh\.ablate"):
        jh.importance(model, batch, score)
    with pytest.raises(ValueError, match="references must be one or 3"):
        jh.ablate(model, batch, jh.written("exact", ["a", "b"], 2), "zero")
    with pytest.raises(ValueError, match="has no tokenizer"):
        jh.written("exact", "a", 2)(small_model("gpt2"), batch)
    with pytest.raises(ValueError, match="score"):
        jh.written("blue", "a", 2)
    with pytest.raises(ValueError, match="not blank"):
        jh.written("exact", ["a", " "], 2)
