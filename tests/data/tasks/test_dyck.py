import numpy as np
import pytest

from jaxheads.data.tasks import Dyck

from .laws import constant_loss, drawn, right

# Of the previous token, and the mean offset; published, from simulations: the second is ± 0.1.
TABLE = {16: (0.561, 3.51), 24: (0.539, 4.37), 40: (0.522, 5.97)}


def matches(row: np.ndarray, types: int = 2) -> dict[int, int]:
    """Of each closing bracket its opening one, with a stack; raises where they don't fit."""
    stack, pairs = [], {}
    assert row[0] == 0
    for at, token in enumerate(row[1:].tolist(), start=1):
        if token <= 2:
            assert 1 <= token <= types
            stack.append(at)
        else:
            pairs[at] = stack.pop()
            assert token == row[pairs[at]] + 2
    assert not stack
    return pairs


def test_brackets_balance_and_the_marks_are_their_matches():
    sample = drawn(Dyck())
    for example, row in enumerate(sample.batch["tokens"]):
        pairs = matches(row)
        assert len(pairs) == 12
        assert sorted(map(tuple, np.argwhere(sample.marks["pair"][example]).tolist())) == sorted(pairs.items())
        expected = sorted((closing - 1, opening) for closing, opening in pairs.items())
        assert sorted(map(tuple, np.argwhere(sample.marks["match"][example]).tolist())) == expected
        assert np.flatnonzero(sample.weights[example]).tolist() == sorted(closing - 1 for closing in pairs)

    def predict(example: int, position: int) -> int:
        row = sample.batch["tokens"][example]
        [opening] = np.flatnonzero(sample.marks["match"][example, position])
        return row[opening] + 2

    right(sample, predict)


@pytest.mark.parametrize("brackets", TABLE)
def test_where_matches_are(brackets: int):
    task = Dyck(brackets=brackets)
    share, offset = TABLE[brackets]
    assert task.previous_token == pytest.approx(share, abs=0.004)
    assert task.mean_offset == pytest.approx(offset, abs=0.13)
    sample = drawn(task, 4000)
    closing, opening = np.nonzero(sample.marks["pair"])[1:]
    assert (closing - opening == 1).mean() == pytest.approx(task.previous_token, abs=0.006)
    assert (closing - opening).mean() == pytest.approx(task.mean_offset, abs=0.15)
    assert sample.batch["tokens"].shape == (4000, 1 + brackets)


def test_short_ones_by_hand():
    # (()) or ()(), with equal chances: one or two of two closing brackets follow their match.
    task = Dyck(brackets=4)
    assert (task.previous_token, task.mean_offset) == (0.75, (4 / 2 + 2 / 2) / 2)
    assert (Dyck(brackets=2).previous_token, Dyck(brackets=2).mean_offset) == (1, 1)


def test_losses():
    assert Dyck().optimum == 0
    assert constant_loss(drawn(Dyck(), 2000)) == pytest.approx(Dyck().anchors["unigram"], abs=1e-3)
    assert Dyck(types=3).anchors["unigram"] == pytest.approx(np.log(3))
    assert drawn(Dyck(types=3), 300).batch["tokens"].max() == 6


def test_one_type_leaves_nothing_to_say():
    task = Dyck().control()
    sample = drawn(task)
    for row in sample.batch["tokens"]:
        assert len(matches(row, types=1)) == 12
    assert constant_loss(sample) == task.optimum == 0


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="even number of brackets"):
        Dyck(brackets=7)
