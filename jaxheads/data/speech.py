"""Human speech with its words, from a package of Python's registry."""

import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import checked
from ..cache import cache_directory
from ..models.loading.fetch import fetch_files
from ..models.loading.zoo import ZooEntry

RATE = 16_000
"""Samples a second of the recordings, which is what Whisper reads."""

MOONSHINE = ZooEntry(
    package="moonshine-voice",
    version="0.1.5",
    files={"moonshine_voice/assets/two_cities.wav": "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e"},
    container="wav",
    megabytes=19.9,
    what="the opening of A Tale of Two Cities, read aloud: 44 seconds of English, 48 kHz",
    licence="MIT (package); the text is in the public domain",
)

CUTS = (
    (1.1, 2.9, 4.75, "It was the best of times, it was the worst of times."),
    (4.95, 6.41, 8.3, "It was the age of wisdom, it was the age of foolishness."),
    (8.75, 10.42, 13.0, "It was the epoch of belief, it was the epoch of incredulity."),
    (13.4, 14.87, 17.0, "It was the season of light, it was the season of darkness."),
    (17.5, 18.85, 20.8, "It was the spring of hope, it was the winter of despair."),
    (21.2, 22.68, 24.2, "We had everything before us, we had nothing before us."),
    (24.6, 26.27, 28.6, "We were all going direct to heaven, we were all going direct the other way."),
    (29.05, 29.76, 32.4, "In short, the period was so far like the present period,"),
    (32.7, None, 36.7, "that some of its noisiest authorities insisted on its being received,"),
    (36.9, 38.51, 42.0, "for good or for evil, in the superlative degree of comparison only."),
)
"""Start, pause at the first comma, end (seconds) and words of each sentence. Cut by hand at the reader's pauses."""


@dataclass(frozen=True)
class Spoken:
    """One sentence of a recording.

    Attributes:
        samples: from −1 to 1, float32, RATE a second.
        text: its words.
        pause: the sample in the middle of the pause at the first comma; None without a comma.
    """

    samples: np.ndarray
    text: str
    pause: int | None = None


@checked()
def two_cities(cache: str | os.PathLike[str] | None = None) -> list[Spoken]:
    """Return the opening of Dickens's *A Tale of Two Cities* (1859) as one person reads it, cut into sentences.

    The reading is `assets/two_cities.wav` of the package moonshine-voice 0.1.5, which does not name the reader. It is
    fetched through pip once, as models of the zoo are, and kept in the cache.

    Raises:
        FileNotFoundError: if it is neither cached nor can be downloaded.
        ValueError: for a download that differs from what is pinned.
        OSError: where the cache can't be written.
    """
    directory = fetch_files(MOONSHINE, cache_directory(cache) / "data" / "two-cities")
    with wave.open(str(directory / "two_cities.wav")) as file:
        samples = np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / 32768
        return list(cut(samples, file.getframerate()))


def cut(samples: np.ndarray, rate: int) -> Iterator[Spoken]:
    """Yield the sentences of the whole reading at RATE, which must divide its own rate."""
    from scipy.signal import resample_poly

    resampled: Any = resample_poly(samples, 1, rate // RATE)
    for start, comma, end, text in CUTS:
        pause = None if comma is None else round((comma - start) * RATE)
        yield Spoken(resampled[round(start * RATE) : round(end * RATE)].astype(np.float32), text, pause)
