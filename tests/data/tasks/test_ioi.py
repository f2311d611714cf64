import math

import numpy as np
import pytest

from jaxheads.data.tasks import ToyIOI
from jaxheads.data.tasks.ioi import TEMPLATES

from .laws import constant_loss, drawn, loss, right

TASK = ToyIOI()


def sentences(sample, task: ToyIOI) -> list[list[str]]:
    rows = zip(sample.batch["tokens"], sample.batch["mask"], strict=True)
    return [[task.words[token] for token in row[mask]] for row, mask in rows]


def names_of(words: list[str]) -> list[int]:
    return [at for at, word in enumerate(words) if word.startswith("name")]


def test_the_answer_is_the_name_that_is_said_once():
    sample = drawn(TASK, 200)
    texts = sentences(sample, TASK)
    orders = set()
    for example, words in enumerate(texts):
        assert (words[0], words[-1]) == ("[bos]", "to")
        first, second, subject = names_of(words)
        io, s1 = (first, second) if words[second] == words[subject] else (second, first)
        assert words[s1] == words[subject] != words[io]
        marked = {name: np.argwhere(mark[example]).tolist() for name, mark in sample.marks.items()}
        end = len(words) - 1
        assert marked == {
            "io": [[io]],
            "s1": [[s1]],
            "s2": [[subject]],
            "end": [[end]],
            "target": [[end, io]],
            "duplicate": [[subject, s1]],
        }
        assert np.flatnonzero(sample.weights[example]).tolist() == [end]
        orders.add((len(words), io < s1))
    assert len(orders) == 2 * len({len(template.split()) for template in TEMPLATES})

    def predict(example: int, _: int) -> int:
        words = texts[example]
        names = [words[at] for at in names_of(words)]
        [once] = [name for name in names if names.count(name) == 1]
        return TASK.words.index(once)

    right(sample, predict)


def test_templates_are_said_as_written():
    texts = {" ".join(words[1:]) for words in sentences(drawn(TASK, 300), TASK)}
    assert any(text.startswith("when name") and " went to the " in text for text in texts)
    heads = {template.split(" A ")[0].split()[0] for template in TEMPLATES if not template.startswith("A ")}
    assert heads <= {text.split()[0] for text in texts}
    assert not any("PLACE" in text or "THING" in text or "[pad]" in text for text in texts)


def test_losses():
    assert (TASK.optimum, TASK.anchors["uniform"]) == (0, math.log(30))
    assert constant_loss(drawn(TASK, 3000)) == pytest.approx(math.log(30), abs=0.01)


def test_the_control_is_the_corruption_of_the_same_sentences():
    clean, corrupt = drawn(TASK, 2000), drawn(TASK.control(), 2000)
    differ = clean.batch["tokens"] != corrupt.batch["tokens"]
    assert (differ == clean.marks["s2"]).all()
    assert (clean.targets == corrupt.targets).all()
    assert not corrupt.marks["duplicate"].any()
    p_BTV = np.zeros((*corrupt.targets.shape, TASK.vocabulary))
    for example, words in enumerate(sentences(corrupt, TASK)):
        first, second, subject = (words[at] for at in names_of(words))
        assert len({first, second, subject}) == 3
        for name in (first, second):
            p_BTV[example, :, TASK.words.index(name)] = 1 / 2
    assert loss(p_BTV, corrupt) == pytest.approx(TASK.control().optimum) == math.log(2)
    # Neither place is the better guess: the logit difference is 0 on average.
    is_first = [corrupt.marks["io"][e].argmax() < corrupt.marks["s1"][e].argmax() for e in range(2000)]
    assert np.mean(is_first) == pytest.approx(0.5, abs=0.04)


def test_names_are_needed():
    with pytest.raises(ValueError, match="at least three names; got 2"):
        ToyIOI(names=2)
