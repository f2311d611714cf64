"""From sound to spectrograms, as Whisper's own feature extractor makes them."""

from typing import Any

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.models.whisper import feature_extraction_whisper

from jaxheads.models.inputs.audio import HOP, RATE, WINDOW, audio_features, mel_filters


def sounds() -> dict[str, np.ndarray]:
    """Noise of full length, a chirp in silence, a click at the end, hardly anything, and nothing."""
    rng, time = np.random.default_rng(0), np.arange(3 * RATE)
    click = np.zeros(RATE, np.float32)
    click[-1] = 1
    return {
        "noise": (0.1 * rng.standard_normal(30 * RATE)).astype(np.float32),
        "chirp": np.sin(0.01 * time**1.3).astype(np.float32),
        "click": click,
        "one sample": np.ones(1, np.float64),
        "silence": np.zeros(777, np.float32),
    }


@pytest.mark.parametrize("mels", [80, 128])
def test_features_are_those_of_transformers(mels: int, monkeypatch: pytest.MonkeyPatch):
    """Its NumPy path: in torch it computes in float32, which is off by 5e-5 where a band is near silent."""
    monkeypatch.setattr(feature_extraction_whisper, "is_torch_available", lambda: False)
    extractor = WhisperFeatureExtractor(feature_size=mels)
    given = list(sounds().values())
    theirs = extractor(given, sampling_rate=RATE, return_tensors="np")["input_features"]
    ours = audio_features(given, mels=mels, frames=3000)
    assert ours.shape == (len(given), mels, 3000)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mels", [3, 80, 128])
def test_each_band_has_an_area_of_one(mels: int):
    """Riemann's sum over the 40 Hz between frequencies: near for wide bands only."""
    areas = mel_filters(mels).sum(axis=0) * 40
    np.testing.assert_allclose(areas[-mels // 3 :], 1, atol=0.1)


def test_a_tone_is_loudest_in_the_band_around_it():
    for hertz in (440, 2000, 6000):
        tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        loudest = audio_features(tone, mels=80, frames=100)[0].mean(axis=1).argmax()
        assert mel_filters(80)[hertz * WINDOW // RATE].argmax() == loudest


def test_later_sound_is_in_later_frames():
    early = np.sin(np.arange(20 * HOP))
    late = np.concatenate([np.zeros(7 * HOP), early])
    ours, later = audio_features([early, late], mels=80, frames=60)
    np.testing.assert_allclose(later[:, 17:50], ours[:, 10:43], atol=1e-6)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        ([], None, "no audio to encode"),
        (np.zeros(5), 44_100, "must have 16000 samples a second, got 44100; resample"),
        (np.zeros((2, 5)), None, r"must be mono.*got float64 of shape \(2, 5\) as number 0"),
        ([0.1, 0.2], None, r"one-dimensional arrays.*got float64 of shape \(\)"),
        ("hello", None, "one-dimensional arrays"),
        ([np.zeros(5), np.zeros(5, np.int16)], None, r"must be floats.*got int16 of shape \(5,\) as number 1.*32768"),
        (np.zeros(0), None, "at least one sample; number 0 is empty"),
        (np.zeros(30 * RATE + 1), None, r"of 30 s at most, got 30\.0001 s as number 0; cut it"),
        (np.array([0, np.nan]), None, "must be finite"),
    ],
)
def test_what_is_no_audio_is_refused(audio: Any, rate: int | None, message: str):
    with pytest.raises(ValueError, match=message):
        audio_features(audio, mels=80, frames=3000, rate=rate)
