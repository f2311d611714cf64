"""Log-mel spectrograms of audio, as Whisper reads them (Radford et al. 2022, section 2.2), by `transformers` in NumPy.

Dimension key: F frames, M mel bands, W the samples of a window, C = W // 2 + 1 its frequencies.
"""

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..loading.transformers_import import import_transformers

RATE = 16_000
"""Samples per second."""

HOP, WINDOW = 160, 400
"""Samples from one frame to the next, and in one frame: 10 and 25 ms."""

Audio = ArrayLike | Sequence[ArrayLike]
"""One mono recording, an array of floats, or several in a list."""


def audio_features(audio: Audio, *, mels: int, frames: int, rate: int | None = None) -> np.ndarray:
    """Return log-mel spectrograms `[B,M,F]`, float32, of recordings, padded with silence to `frames`.

    Args:
        rate: sampling rate of the recordings; RATE when left out.

    Raises:
        ValueError: for no recording, another rate, or a recording that is not a one-dimensional array of finite floats,
            is empty, or is longer than `frames`.
    """
    if rate not in (None, RATE):
        raise ValueError(f"audio must have {RATE} samples a second, got {rate}; resample it first")
    recordings = [np.asarray(recording) for recording in (audio if isinstance(audio, list | tuple) else [audio])]
    if not recordings:
        raise ValueError("there is no audio to encode: give at least one array")
    most = frames * HOP
    for index, recording in enumerate(recordings):
        _check(recording, index, most)
    padded = [np.pad(recording, (0, most - len(recording))) for recording in recordings]
    return np.stack([_log_mel(samples, mels) for samples in padded])


def _check(recording: np.ndarray, index: int, most: int) -> None:
    got = f"got {recording.dtype} of shape {recording.shape} as number {index}"
    if recording.ndim != 1:
        raise ValueError(
            f"audio must be mono, one-dimensional arrays of samples, several of them in a list; {got}. "
            "The mean over its channels is mono"
        )
    if not np.issubdtype(recording.dtype, np.floating):
        raise ValueError(f"audio must be floats from -1 to 1, {got}; divide 16-bit integers by 32768")
    if not len(recording):
        raise ValueError(f"audio must have at least one sample; number {index} is empty")
    if len(recording) > most:
        raise ValueError(
            f"audio must be of {most / RATE:g} s at most, got {len(recording) / RATE:g} s as number {index}; cut it"
        )
    if not np.isfinite(recording).all():
        raise ValueError(f"audio must be finite, got NaN or infinite samples as number {index}")


def _log_mel(samples: np.ndarray, mels: int) -> np.ndarray:
    """Return the log power of each band, `[M,F]`, cut off 8 powers of ten below the highest, from about -1 to 1."""
    hann = audio_utils().window_function(WINDOW, "hann")
    bands: dict[str, Any] = {"power": 2.0, "mel_filters": mel_filters(mels), "log_mel": "log10"}
    log_MF = audio_utils().spectrogram(samples, hann, WINDOW, HOP, **bands)[:, :-1]
    return ((np.maximum(log_MF, log_MF.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


@cache
def mel_filters(mels: int) -> np.ndarray:
    """Return Slaney's triangular filters, `[C,M]` (Auditory Toolbox, 1998): even in mels, each of an area of 1 Hz."""
    return audio_utils().mel_filter_bank(WINDOW // 2 + 1, mels, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")


@cache
def audio_utils() -> ModuleType:
    """Return the NumPy functions of `transformers` for sound, which need no torch."""
    import_transformers()
    from transformers import audio_utils as functions

    return functions
