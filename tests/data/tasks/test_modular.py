import math

import numpy as np
import pytest

from jaxheads.data.tasks import ModularAddition

from .laws import Host, constant_loss, drawn, right

TASK = ModularAddition(113)


def pairs_of(sample: Host) -> list[tuple[int, int]]:
    return [tuple(row[:2].tolist()) for row in sample.batch["tokens"]]


def everything(task: ModularAddition) -> tuple[np.ndarray, np.ndarray]:
    sample = task.everything()
    assert sample.targets is not None
    return np.asarray(sample.batch.tokens), np.asarray(sample.targets)[:, 2]


def test_addition_is_right():
    for task in (TASK, TASK.held_out(), ModularAddition(59)):
        sample = drawn(task)
        right(sample, lambda example, _, s=sample, t=task: int(s.batch["tokens"][example, :2].sum()) % t.prime)
        assert (sample.weights == [0, 0, 1]).all()
        assert (sample.batch["tokens"][:, 2] == task.prime).all()


def test_the_parts_are_all_pairs_once():
    train, test = everything(TASK)[0], everything(TASK.held_out())[0]
    assert (TASK.pairs, TASK.held_out().pairs) == (3831, 113**2 - 3831)
    assert (len(train), len(test)) == (3831, 113**2 - 3831)
    both = np.concatenate([train, test])[:, :2]
    assert len(set(map(tuple, both.tolist()))) == 113**2
    assert set(pairs_of(drawn(TASK, 300))) <= set(map(tuple, train[:, :2].tolist()))
    assert set(pairs_of(drawn(TASK.held_out(), 300))) <= set(map(tuple, test[:, :2].tolist()))
    other = everything(ModularAddition(113, seed=1))[0]
    assert set(map(tuple, other.tolist())) != set(map(tuple, train.tolist()))


def test_losses():
    assert TASK.optimum == TASK.held_out().optimum == TASK.control().optimum == 0
    assert TASK.anchors["uniform"] == TASK.control().held_out().optimum == pytest.approx(math.log(113))
    assert constant_loss(drawn(TASK, 3000)) == pytest.approx(math.log(113), abs=0.06)


def test_the_controls_table_is_one_but_no_sum():
    control = TASK.control()
    tokens, answers = everything(control)
    assert (everything(TASK)[0] == tokens).all()
    # As often right as chance: 1 in 113, 34 of the pairs.
    assert (answers == tokens[:, :2].sum(axis=1) % 113).sum() < 70
    table = dict(zip(map(tuple, tokens[:, :2].tolist()), answers.tolist(), strict=True))
    sample = drawn(control)
    right(sample, lambda example, _: table[pairs_of(sample)[example]])
    assert np.bincount(answers, minlength=113).max() < 70


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="part is one of train, test"):
        ModularAddition(part="all")
    with pytest.raises(ValueError, match="leaves pairs"):
        ModularAddition(share=1.0)
