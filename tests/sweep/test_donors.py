"""Donors of resample ablation are drawn for each example of a stream by itself."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.sweep.exact.replacement import choose_donors

from ..models.huggingface import random_batch, small_model

REFERENCE = random_batch((5,) * 40, seed=9)


def stream(*sizes: int) -> list[jh.Batch]:
    """One set of examples, cut into batches of these sizes."""
    whole, edges = random_batch((5,) * sum(sizes), seed=1), np.cumsum((0, *sizes))
    return [whole.take(np.arange(*span)) for span in pairwise(edges)]


@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 4, 3)])
def test_how_a_stream_is_cut_changes_no_donor(sizes: tuple[int, ...]):
    model = small_model("gpt2")
    asked: dict[str, Any] = {"objective": jh.loss(), "method": "resample", "reference": REFERENCE, "seed": 3}
    whole, cut = (np.asarray(jh.ablate(model, stream(*parts), **asked).per_example) for parts in ((12,), sizes))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    one = np.asarray(jh.ablate(model, stream(12)[0], **asked).per_example)
    np.testing.assert_allclose(one, whole, atol=1e-6)


def test_batches_of_one_do_not_share_a_donor():
    chosen = [
        choose_donors(batch, REFERENCE, donors=1, seed=0, first=n)[0, 0] for n, batch in enumerate(stream(*[1] * 200))
    ]
    counts = np.bincount(chosen, minlength=40)
    assert counts.max() < 20  # 200 draws of 40: 5 each, give or take 2.2
    assert (counts > 0).sum() > 35


def test_seeds_and_numbers_decide_donors():
    batch = stream(8)[0]

    def donors(seed: int, first: int) -> list[int]:
        return choose_donors(batch, REFERENCE, donors=1, seed=seed, first=first)[0].tolist()

    assert donors(0, 0) == donors(0, 0)
    assert donors(0, 0) != donors(1, 0)
    assert donors(0, 0)[4:] == donors(0, 4)[:4]


def test_shuffled_marks_of_two_batches_are_shuffled_apart():
    mark = np.tile(np.arange(30), (2, 1))
    batch = jh.Batch(np.zeros((2, 30), int), marks={"number": mark})

    def shuffled(first: int) -> np.ndarray:
        marks = jh.shuffled_marks(batch, 0, first=first).marks
        assert marks is not None
        return np.asarray(marks["number"])

    assert (shuffled(0) != shuffled(2)).any(axis=1).all()
    np.testing.assert_array_equal(shuffled(0)[1], shuffled(1)[0])
