"""Curves over windows are the loop of whole runs with a window; a planted head needs what it was made to need."""

import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import random_batch, small_model
from ..models.test_by_hand import V, induction_transformer


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_curve_is_the_loop_of_runs_with_a_window(family: str):
    model, batch = small_model(family), random_batch((9, 6, 3), "left")
    objective = jh.logit_difference(1, 2, positions=[8, 8, 8])
    table = jh.context_use(model, batch, objective, windows=[2, 4], sink=1)
    assert table.metrics == ("window_2", "window_4")
    assert table.per_example is not None
    for number, recent in enumerate((2, 4)):
        for layer, head in [(0, 0), (0, 3), (1, 2)]:
            runs = [
                jh.run(model, batch, (), edits).output
                for edits in ((), jh.window(model, [(layer, head)], recent=recent, sink=1))
            ]
            clean, cut = (np.asarray(own)[:, -1, 1] - np.asarray(own)[:, -1, 2] for own in runs)
            np.testing.assert_allclose(table.per_example[number, :, layer, head], cut - clean, atol=2e-5)
    # The third example is no longer than the window.
    assert (table.per_example[1, 2] == 0).all()
    assert np.abs(table.per_example[0, 0]).max() > 1e-3


def test_a_planted_induction_head_needs_its_distance_and_a_stream_is_its_batches():
    model = induction_transformer()
    halves = [np.random.default_rng(seed).permutation(V - 1) for seed in range(4)]
    batch = jh.Batch([[V - 1, *half, *half] for half in halves])
    second = np.broadcast_to(np.arange(2 * V - 1) > V, (4, 2 * V - 1))
    windows = [V - 2, V - 1]
    table = jh.context_use(model, batch, jh.loss(second), windows=windows, sink=0)
    np.testing.assert_allclose(table.values[1], 0, atol=1e-5)  # what comes next is V - 2 tokens back
    assert table.values[0, 1, 0] > 1
    parts = [np.array([0, 1]), np.array([2, 3])]
    stream = ((batch.take(part), jh.loss(second[part])) for part in parts)
    again = jh.context_use(model, stream, windows=windows, sink=0)
    assert again.per_example is not None
    assert table.per_example is not None
    np.testing.assert_allclose(again.per_example, table.per_example, atol=1e-6)


def test_windows_that_can_not_be():
    model, batch = small_model("llama"), random_batch((5,))
    for windows in ([], [4, 2], [2, 2]):
        with pytest.raises(ValueError, match="ascending"):
            jh.context_use(model, batch, windows=windows)
