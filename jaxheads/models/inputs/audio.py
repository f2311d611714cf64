"""Log-mel spectrograms of audio, as Whisper reads them (Radford et al. 2022, section 2.2), in NumPy.

Dimension key: F frames, M mel bands, W the samples of a window, C = W // 2 + 1 its frequencies.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

RATE = 16_000
"""Samples per second."""

HOP, WINDOW = 160, 400
"""Samples from one frame to the next, and in one frame: 10 and 25 ms."""

_FLOOR = 1e-10
"""Least power of a band, so that silence has a logarithm."""

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
    filters_CM = mel_filters(mels)
    padded = [np.pad(recording, (0, most - len(recording))) for recording in recordings]
    return np.stack([_log_mel(samples, filters_CM) for samples in padded])


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


def _log_mel(samples: np.ndarray, filters_CM: np.ndarray) -> np.ndarray:
    """Return the log power of each band, `[M,F]`, cut off 8 powers of ten below the highest, from about -1 to 1."""
    reflected = np.pad(samples.astype(np.float64), WINDOW // 2, mode="reflect")
    windows_FW = np.lib.stride_tricks.sliding_window_view(reflected, WINDOW)[:-1:HOP]
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power_FC = np.abs(np.fft.rfft(windows_FW * hann_W)) ** 2
    log_FM = np.log10(np.maximum(power_FC @ filters_CM, _FLOOR))
    log_FM = np.maximum(log_FM, log_FM.max() - 8.0)
    return ((log_FM.T + 4.0) / 4.0).astype(np.float32)


@cache
def mel_filters(mels: int) -> np.ndarray:
    """Return Slaney's triangular filters, `[C,M]` (Auditory Toolbox, 1998).

    Their corners are evenly spaced in mels from 0 to RATE / 2, and each has an area of 1 Hz.
    """
    frequencies_C = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    corners = _hertz(np.linspace(0, _mel(RATE / 2), mels + 2))
    widths, offsets = np.diff(corners), corners[None] - frequencies_C[:, None]
    rising_CM, falling_CM = -offsets[:, :-2] / widths[:-1], offsets[:, 2:] / widths[1:]
    return np.maximum(0, np.minimum(rising_CM, falling_CM)) * 2 / (corners[2:] - corners[:-2])


_BREAK, _STEP = 1000.0, 200 / 3
"""Slaney's scale, in Hz: a mel is a step wide up to the break; above it, 27 mels are a factor of 6.4."""


def _mel(hertz: float) -> float:
    assert hertz >= _BREAK
    return _BREAK / _STEP + 27 * np.log(hertz / _BREAK) / np.log(6.4)


def _hertz(mels: np.ndarray) -> np.ndarray:
    above = _BREAK * np.exp((mels - _BREAK / _STEP) * np.log(6.4) / 27)
    return np.where(mels < _BREAK / _STEP, mels * _STEP, above)
