"""Windows of heads: what they hide, in one piece and in blocks, on every side of padding; a planted head is broken."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.inputs import query_rows

from .models.huggingface import assert_close, random_batch, small_model
from .models.test_by_hand import induction_transformer

HEADS = [(0, 1), (1, 0), (1, 3)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_window_hides_what_a_mask_of_positions_hides(family: str, side: str):
    """The slow way: the distance of each pair of real tokens, one by one."""
    model, batch = small_model(family), random_batch((9, 5), side)
    clean, cut = (
        jh.run(model, batch, ["pattern", "scores"], edits) for edits in ((), jh.window(model, HEADS, recent=3, sink=1))
    )
    for example in range(2):
        real = np.flatnonzero(np.asarray(batch.mask)[example])
        # Layer 0 reads an unedited stream: its windowed pattern is the softmax of the scores that are left.
        scores = np.asarray(clean.seen["scores"])[0, example, 1].astype(np.float64)
        for place, query in enumerate(real):
            seen = [abs(place - other) < 3 or other < 1 for other in range(len(real))]
            seen = [own and (other <= place or family == "bert") for other, own in enumerate(seen)]
            weights = np.where(seen, np.exp(scores[query, real] - scores[query, real].max()), 0)
            assert_close(np.asarray(cut.seen["pattern"])[0, example, 1, query, real], weights / weights.sum())
    other = np.asarray(cut.seen["pattern"])[0, :, 0]
    np.testing.assert_array_equal(other, np.asarray(clean.seen["pattern"])[0, :, 0])


def test_a_window_as_long_as_the_text_is_full_attention():
    model, batch = small_model("llama"), random_batch((9, 5))
    clean, cut, less = (
        jh.run(model, batch, (), jh.window(model, HEADS, recent=recent, sink=sink)).output
        for recent, sink in ((10**6, 0), (9, 0), (8, 1))
    )
    np.testing.assert_array_equal(clean, cut)
    np.testing.assert_array_equal(clean, less)  # the first token is a sink
    short = jh.run(model, batch, (), jh.window(model, HEADS, recent=2, sink=0)).output
    assert np.abs(np.asarray(short) - np.asarray(clean)).max() > 1e-3


def test_windows_in_blocks_of_rows_and_of_packed_texts(monkeypatch: pytest.MonkeyPatch):
    model = small_model("llama")
    edit: Any = jh.window(model, HEADS, recent=3, sink=1)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 37, size) for size in (7, 9)]
    packed = jh.Batch([np.concatenate(texts)], segments=[[0] * 7 + [1] * 9])
    whole = np.asarray(jh.run(model, packed, edits=edit).output)
    assert_close(whole[0, 7:], np.asarray(jh.run(model, jh.Batch([texts[1]]), edits=edit).output)[0])
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 4 * 4 * 16 * 3)
    model = small_model.__wrapped__("llama")  # no program of whole patterns is known for it
    assert_close(np.asarray(jh.run(model, packed, edits=[edit, edit]).output), whole)


def test_a_planted_induction_head_needs_its_past():
    """Text of two equal halves of 8 tokens: the head looks back 7 positions, and a window of 7 breaks it."""
    model = induction_transformer()
    half = np.random.default_rng(0).permutation(8)
    batch = jh.Batch([[*half, *half]])
    seen, cut = (
        jh.measure(model, batch, "induction", edits=jh.window(model, [(1, 0)], recent=recent, sink=0)).values[1, 0]
        for recent in (8, 7)
    )
    assert seen == pytest.approx(1, abs=1e-5)
    assert cut == 0


def test_cross_attention_has_no_recent_keys():
    from .models.specs.spec import small

    with pytest.raises(ValueError, match="reads another sequence"):
        jh.window(small("bart").ours, [(0, 0)], recent=2, stack="cross")
