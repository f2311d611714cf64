import numpy as np
import pytest

from jaxheads.data.tasks import Translation

from .laws import Host, drawn, loss, right

ORDERS = ("copy", "reverse", "swap")


def source_of(order: str, count: int) -> list[int]:
    """Written out: which source word each target word comes from."""
    words = list(range(count))
    if order == "reverse":
        return words[::-1]
    if order == "swap":
        return [word for start in range(0, count, 2) for word in words[start : start + 2][::-1]]
    return words


def aer(links: np.ndarray, gold: np.ndarray) -> float:
    """1 − 2 |A ∩ S| / (|A| + |S|): alignment error rate where all gold links are sure."""
    return 1 - 2 * (links & gold).sum() / (links.sum() + gold.sum())


@pytest.mark.parametrize("order", ORDERS)
def test_the_lexicon_and_the_order_give_every_word(order: str):
    task = Translation(order)
    sample = drawn(task)
    counts = set()
    for row, mask in zip(sample.batch["tokens"], sample.batch["mask"], strict=True):
        assert row[mask][-1] == 2
        assert ((row[mask][:-1] >= 3) & (row[mask][:-1] < 35)).all()
        assert not row[~mask].any()
        counts.add(int(mask.sum()) - 1)
    assert counts == set(range(5, 13))
    assert (sample.batch["target_mask"] == sample.batch["mask"]).all()
    assert ((sample.weights > 0) == sample.batch["mask"]).all()

    def predict(example: int, position: int) -> int:
        row = sample.batch["tokens"][example]
        words = row[row >= 3] - 3
        translated = [3 + 32 + task.lexicon[words[at]] for at in source_of(order, len(words))]
        return [*translated, 2][position]

    right(sample, predict)
    # What the decoder reads is what it has given.
    read = sample.batch["targets"]
    assert (read[:, 0] == 1).all()
    assert (read[:, 1:] == np.where(sample.batch["mask"], sample.targets, 0)[:, :-1])[sample.batch["mask"][:, 1:]].all()


@pytest.mark.parametrize("order", ORDERS)
def test_alignments_are_gold(order: str):
    sample = drawn(Translation(order))
    for example, mask in enumerate(sample.batch["mask"]):
        count = int(mask.sum()) - 1
        gold = np.zeros((13, 13), bool)
        gold[np.arange(count), source_of(order, count)] = True
        assert (sample.marks["alignment"][example] == gold).all()
        read = np.zeros_like(gold)
        read[1 : count + 1] = gold[:count]
        assert (sample.marks["alignment_input"][example] == read).all()
        assert aer(sample.marks["alignment"][example], gold) == 0
        diagonal = np.eye(13, dtype=bool) & (np.arange(13) < count)[:, None]
        if order == "reverse":  # only the middle word of an odd number stays where it is
            assert aer(diagonal, gold) == pytest.approx(1 - (count % 2) / count)
        # A copying head that aligns where words are read is always wrong where they are given.
        assert order != "copy" or aer(sample.marks["alignment_input"][example], gold) == 1


def test_losses():
    sample = drawn(Translation(), 2000)
    task = Translation()
    shares = np.bincount(sample.targets[sample.weights > 0], minlength=task.vocabulary)
    shares = shares / shares.sum()
    p_BUV = np.broadcast_to(shares, (*sample.targets.shape, len(shares)))
    assert loss(p_BUV, sample) == pytest.approx(task.anchors["unigram"], abs=0.005)
    assert task.anchors["uniform"] == pytest.approx(np.log(33))
    assert task.optimum == 0


def length_only(sample: Host) -> np.ndarray:
    """Any word where the source has one, EOS where it has not."""
    p_BUV = np.zeros((*sample.targets.shape, 67))
    words = sample.batch["tokens"] >= 3
    p_BUV[..., 35:] = words[..., None] / 32
    p_BUV[..., 2] = ~words
    return p_BUV


def test_the_controls_words_are_anyones():
    task = Translation().control()
    sample = drawn(task, 2000)
    assert loss(length_only(sample), sample) == pytest.approx(task.optimum, abs=0.01)
    words = sample.batch["tokens"] >= 3
    # Whatever source word is in the gold place, the target word is any one.
    table = np.zeros((32, 32))
    source, target = [], []
    for example in range(2000):
        count = int(words[example].sum())
        source += list(sample.batch["tokens"][example, :count][::-1] - 3)
        target += list(sample.targets[example, :count] - 35)
    np.add.at(table, (source, target), 1)
    expected = table.sum() / 1024
    # χ² with 961 degrees of freedom is 961 ± 44; the task's own table would give 31 · 17,000.
    assert ((table - expected) ** 2 / expected).sum() < 1250


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="order is one of copy, reverse, swap; got 'sort'"):
        Translation("sort")
    with pytest.raises(ValueError, match="shortest <= longest"):
        Translation(shortest=9, longest=8)
