"""What a changed property moves: nothing between equal sentences, and what whole runs show between others."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Sentence, Sentences

from . import planted
from .test_probe import gpt2


def lines(*texts: str) -> Sentences:
    return Sentences(tuple(Sentence(tuple(text.split())) for text in texts))


FIRST = lines("w1 w2 w3 w4", "w5 w6 w7", "w8 w9 w1 w2 w3")
CHANGED = lines("w1 w9 w3 w4", "w5 w11 w6 w7", "w8 w1 w2 w3")


def by_hand(model: jh.Model, first: list[str], second: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """JS and ‖Δz‖ of one pair, `[L,N]`, word by word."""
    seen = []
    for words in (first, second):
        batch = model.encode(lines(" ".join(words)))
        seen.append(jh.run(model, batch, capture=("pattern", "z")).seen)
    shared = [(i, second.index(word)) for i, word in enumerate(first) if word in second]
    js, change, size = [], [], []
    for i, j in shared:
        p, q = (np.asarray(own["pattern"], np.float64)[:, 0, :, row] for own, row in zip(seen, (i, j), strict=True))
        p, q = p[..., [a for a, _ in shared]], q[..., [b for _, b in shared]]
        p, q = (np.concatenate([x, 1 - x.sum(axis=-1, keepdims=True)], axis=-1).clip(1e-30) for x in (p, q))
        middle = (p + q) / 2
        js.append((p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=-1) / 2)
        z, other = (np.asarray(own["z"], np.float64)[:, 0, row] for own, row in zip(seen, (i, j), strict=True))
        change.append(np.linalg.norm(other - z, axis=-1))
        size.append(np.linalg.norm(z, axis=-1))
    return np.mean(js, axis=0), np.mean(change, axis=0) / np.mean(size, axis=0)


def test_a_contrast_is_that_of_two_runs_word_by_word():
    model = gpt2()
    table = jh.contrast(model, FIRST, CHANGED, progress=False)
    assert table.per_example is not None
    for number, (own, other) in enumerate(zip(FIRST, CHANGED, strict=True)):
        js, z = by_hand(model, list(own.words), list(other.words))
        np.testing.assert_allclose(table.per_example[0, number], js, atol=1e-5)
        np.testing.assert_allclose(table.per_example[1, number], z, rtol=1e-4)


def test_equal_sentences_move_nothing():
    table = jh.contrast(gpt2(), FIRST, FIRST, CHANGED, progress=False)
    assert table.metrics == ("js", "z", "control_js", "control_z", "js_excess", "z_excess")
    np.testing.assert_allclose(table.grid("js"), 0, atol=1e-6)
    np.testing.assert_array_equal(table.grid("z"), 0)
    np.testing.assert_allclose(table.grid("z_excess"), -table.grid("control_z"))


def test_a_head_that_reads_the_changed_word_moves_and_one_that_does_not_stays():
    # Heads look at all words alike. Head 0 holds the number of its noun, w0 or w1; head 1 which of two adverbs it is.
    values = np.zeros((6, 2, 1))
    values[:2, 0, 0], values[2:4, 1, 0] = (1, -1), (1, -1)
    model = planted.model(values, causal=False, look_at=0.0)
    table = jh.contrast(
        model,
        lines("w4 w0 w2", "w5 w0 w2"),
        lines("w4 w1 w2", "w5 w1 w2"),
        lines("w4 w0 w3", "w5 w0 w3"),
        progress=False,
    )
    [[number, adverb]] = table.grid("z_excess")
    assert number == pytest.approx(2)
    assert adverb == pytest.approx(-2)
    np.testing.assert_allclose(table.grid("js"), 0, atol=1e-6)


def test_the_change_of_a_logit_is_that_of_the_direct_effects():
    model, objective = gpt2(), jh.logit_difference(3, 7)
    table = jh.contrast(model, FIRST, CHANGED, objective=objective, progress=False)
    first, second = (jh.direct_effects(model, model.encode(own), objective) for own in (FIRST, CHANGED))
    np.testing.assert_allclose(table.grid("logit"), second.values - first.values, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FIRST[:2], FIRST), "changed: expected 2 sentences"),
        ((FIRST, FIRST, FIRST[:2]), "control: expected 3 sentences"),
        ((lines("w1 w2"), lines("w3 w4")), "share no word"),
    ],
)
def test_what_is_no_pair_is_refused(arguments: Any, message: str):
    with pytest.raises(ValueError, match=message):
        jh.contrast(gpt2(), *arguments, progress=False)
