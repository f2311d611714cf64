"""The reading that experiments on speech use: where it is cut, and that it is what it says."""

import numpy as np
import pytest

from jaxheads.data import two_cities
from jaxheads.data.speech import CUTS, RATE, cut


def test_sentences_are_cut_in_order_and_at_the_rate_of_whisper():
    seconds = np.arange(48_000 * 44) / 48_000
    sentences = list(cut(seconds.astype(np.float32), 48_000))
    assert [sentence.text for sentence in sentences] == [text for *_, text in CUTS]
    ends = 0.0
    for sentence, (start, comma, end, text) in zip(sentences, CUTS, strict=True):
        assert start >= ends
        ends = end
        assert (comma is None) == ("," not in text[:-1])
        assert sentence.pause is None or sentence.samples[sentence.pause] == pytest.approx(comma, abs=0.01)
        assert len(sentence.samples) == pytest.approx((end - start) * RATE, abs=1)
        assert sentence.samples[len(sentence.samples) // 2] == pytest.approx((start + end) / 2, abs=0.01)


@pytest.mark.weights
def test_the_reading_is_speech_between_pauses():
    sentences = two_cities()
    assert len(sentences) >= 10
    for sentence in sentences:
        energy = np.square(sentence.samples)
        assert sentence.samples.dtype == np.float32
        assert energy.mean() > 30 * energy[: RATE // 50].mean()
        if sentence.pause is not None:
            assert energy.mean() > 30 * energy[sentence.pause - RATE // 100 : sentence.pause + RATE // 100].mean()
