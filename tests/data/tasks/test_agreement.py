import math

import numpy as np
import pytest

from jaxheads.data.tasks import Agreement

from .laws import Host, constant_loss, drawn, loss, right

DET, PREPOSITIONS, NOUNS, VERBS = {4}, set(range(5, 10)), set(range(10, 52)), {52, 53}


def parse(row: np.ndarray, mask: np.ndarray) -> tuple[int, list[int], int]:
    """Of `[BOS, Det N (P Det N)^m V, EOS]`: where are the subject, the attractors and the verb (or its mask)?"""
    words = row[mask].tolist()
    assert (words[0], words[-1]) == (1, 2)
    assert words[-2] in VERBS | {3}
    assert words[1] in DET
    assert words[2] in NOUNS
    attractors = []
    for start in range(3, len(words) - 2, 3):
        assert words[start] in PREPOSITIONS
        assert words[start + 1] in DET
        assert words[start + 2] in NOUNS
        attractors.append(start + 2)
    return 2, attractors, len(words) - 2


@pytest.mark.parametrize("masked", [False, True])
def test_sentences_are_of_the_grammar_and_the_marks_are_right(masked: bool):
    sample = drawn(Agreement(masked))
    for example, (row, mask) in enumerate(zip(sample.batch["tokens"], sample.batch["mask"], strict=True)):
        subject, attractors, verb = parse(row, mask)
        marks = {name: np.argwhere(mark[example]).tolist() for name, mark in sample.marks.items()}
        asks = verb if masked else verb - 1
        assert marks == {
            "subject": [[subject]],
            "attractor": [[at] for at in attractors],
            "verb": [[verb]],
            "predicts": [[asks]],
            "agreement": [[asks, subject]],
        }
        assert (row == 3).any() == masked
        assert np.flatnonzero(sample.weights[example]).tolist() == [asks]
    # Nouns start with an even id, so that a form's number is its parity, and a verb's is its own.
    right(sample, lambda example, _: 52 + sample.batch["tokens"][example, 2] % 2)


@pytest.mark.parametrize("masked", [False, True])
def test_shortcuts_are_worth_what_they_are_worth(masked: bool):
    task = Agreement(masked)
    sample = drawn(task, 4000)
    assert (task.fixed_offset, task.nearest_noun) == (0.5, 0.75)
    asks, subjects = np.nonzero(sample.marks["agreement"])[1:]
    offsets = np.bincount(asks - subjects) / 4000
    assert offsets.max() == pytest.approx(0.5, abs=0.03)
    # P(m) = 1/2, 1/4, 1/8, and 1/8 for all the rest.
    assert offsets[offsets > 0] == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.03)
    is_noun = sample.marks["subject"] | sample.marks["attractor"]
    last = is_noun.shape[1] - 1 - is_noun[:, ::-1].argmax(axis=1)
    nearest = np.take_along_axis(sample.batch["tokens"], last[:, None], axis=1)[:, 0] % 2
    verb = sample.targets[np.arange(4000), asks] - 52
    assert (nearest == verb).mean() == pytest.approx(0.75, abs=0.03)
    p_BTV = np.zeros((*sample.targets.shape, task.vocabulary))
    p_BTV[..., 52] = np.where(nearest == 0, 0.75, 0.25)[:, None]
    p_BTV[..., 53] = 1 - p_BTV[..., 52]
    assert loss(p_BTV, sample) == pytest.approx(task.anchors["nearest"], abs=0.03)
    assert constant_loss(sample) == pytest.approx(task.anchors["unigram"], abs=0.01)
    assert task.optimum == 0


def number_agrees(sample: Host) -> float:
    asks = np.nonzero(sample.weights)
    return float((sample.targets[asks] % 2 == sample.batch["tokens"][:, 2] % 2).mean())


def test_the_controls_verbs_do_not_agree():
    assert number_agrees(drawn(Agreement(), 500)) == 1
    task = Agreement().control()
    sample = drawn(task, 4000)
    assert number_agrees(sample) == pytest.approx(0.5, abs=0.03)
    assert constant_loss(sample) == pytest.approx(task.optimum, abs=0.01)
    assert task.optimum == pytest.approx(math.log(2))


def test_without_attractors_a_fixed_distance_is_enough():
    task = Agreement(most=0)
    assert (task.fixed_offset, task.nearest_noun, task.length) == (1, 1, 5)
    sample = drawn(task)
    assert not sample.marks["attractor"].any()
    assert sample.marks["agreement"][:, 2, 2].all()


def test_more_verbs():
    task = Agreement(verbs=4)
    assert task.optimum == pytest.approx(math.log(4))
    sample = drawn(task, 2000)
    p_BTV = np.zeros((*sample.targets.shape, task.vocabulary))
    for example, row in enumerate(sample.batch["tokens"]):
        p_BTV[example, :, 52 + row[2] % 2 :: 2] = 1 / 4
    assert loss(p_BTV, sample) == pytest.approx(task.optimum)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="probability"):
        Agreement(more=1.5)
    with pytest.raises(ValueError, match="nouns must be at least 1, got 0"):
        Agreement(nouns=0)
