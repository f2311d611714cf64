"""Steering of heads: a planted direction is found, moves what it should, and strength 0 changes nothing."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Sentences

from .measure.probing import planted
from .measure.probing.test_probe import gpt2, random_sentences

WORDS, EACH = 8, 6


def planted_model() -> jh.Model:
    """Head 1 writes a mark of its words to the logit of word 0: words 0–3 are good, the others bad. Head 0 can't
    tell them apart."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(WORDS, 2, 2))
    values[:, 1] = 0
    values[4:, 0] = values[:4, 0]
    values[:4, 1, 0], values[4:, 1, 0] = 1, -1
    width = 4 + EACH
    embed = np.zeros((WORDS + 2, width), np.float32)
    embed[:WORDS, :4] = values.reshape(WORDS, 4)
    zero = np.zeros((2, width, EACH), np.float32)
    value, write = np.zeros((2, width, EACH), np.float32), np.zeros((2, EACH, width), np.float32)
    for head in range(2):
        value[head, 2 * head : 2 * head + 2, :2] = np.eye(2)
    write[1, 0, 4] = 1
    unembed = np.zeros((WORDS + 2, width), np.float32)
    unembed[0, 4] = 1
    made = jh.by_hand(embed, [{"W_Q": zero, "W_K": zero, "W_V": value, "W_O": write}], unembed)
    return jh.Model(made.network, planted.tokenizer(WORDS), name="planted")


def good_and_bad() -> Sentences:
    rng, rows = np.random.default_rng(0), []
    for number in range(64):
        words = rng.integers(0, 4, EACH) + 4 * (number % 2)
        rows.extend(planted.sentences(words[None], properties={"side": ("good", "bad")[number % 2]}))
    return Sentences(tuple(jh.data.Sentence(one.words, properties=one.properties) for one in rows))


def steered(**more: Any) -> Any:
    options: dict[str, Any] = {"count": 1, "strengths": (0.0, 1.0, 2.0), "most_loss": 100.0, "progress": False} | more
    return jh.steer_heads(planted_model(), good_and_bad(), "side", "good", jh.logit_difference(0, 7), **options)


def test_a_planted_direction_is_found_and_moves_the_logit_by_what_is_added():
    steering = steered()
    assert steering.heads == ((0, 1),)
    assert steering.accuracy[0, 1] == 1
    np.testing.assert_allclose(np.abs(steering.directions[0, 1]), [1, 0, 0, 0, 0, 0], atol=1e-5)
    assert steering.directions[0, 1, 0] > 0
    # Means ±1, as many of both: the deviation is that of the two means.
    assert steering.deviations[0, 1] == pytest.approx(1, abs=0.1)
    frame = steering.frame
    np.testing.assert_allclose(frame.loc[0.0, ["effect", "control", "loss"]].astype(float), 0, atol=1e-6)
    np.testing.assert_allclose(frame.loc[2.0, "effect"], 2 * steering.deviations[0, 1], rtol=1e-4)
    assert steering.strength == 2.0
    assert frame["chosen"].tolist() == [False, False, True]


def test_the_edit_is_that_of_a_whole_run():
    model, steering = planted_model(), steered()
    batch = model.encode(good_and_bad()[:3])
    objective = jh.logit_difference(0, 7)
    output = np.asarray(jh.run(model, batch, edits=steering.edit(1.5)).output)
    expected = objective(model, batch) + 1.5 * steering.deviations[0, 1]
    np.testing.assert_allclose(output[:, -1, 0] - output[:, -1, 7], expected, rtol=1e-4)


def test_a_strength_that_costs_too_much_loss_is_not_chosen():
    assert steered(most_loss=0.0, strengths=(0.0, 4.0)).strength == 0.0


def test_any_model_is_steered_and_resumed(tmp_path: Any):
    sentences = Sentences(tuple(one for one in random_sentences(48)))
    arguments = (gpt2(), sentences, "topic", "x", jh.logit_difference(3, 7))
    whole = jh.steer_heads(*arguments, count=2, progress=False)
    small = jh.steer_heads(*arguments, count=2, progress=False, memory=1 << 16, resume=tmp_path)
    again = jh.steer_heads(*arguments, count=2, progress=False, memory=1 << 16, resume=tmp_path)
    np.testing.assert_allclose(small.frame["effect"], whole.frame["effect"], atol=1e-5)
    np.testing.assert_array_equal(small.frame["effect"], again.frame["effect"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"toward": "middling"}, "toward"),
        ({"labels": "class"}, "of words"),
        ({"count": 99}, "count"),
        ({"strengths": (-1.0,)}, "strengths"),
        ({"most_loss": -1.0}, "most_loss"),
    ],
)
def test_what_can_not_be_steered_is_refused(more: dict[str, Any], message: str):
    options: dict[str, Any] = {"labels": "topic", "toward": "x", "objective": jh.logit_difference(3, 7)}
    options |= {"count": 2} | more
    with pytest.raises(ValueError, match=message):
        jh.steer_heads(gpt2(), random_sentences(), progress=False, **options)
