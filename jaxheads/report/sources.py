"""Inputs of the atlas for a stack of any model: prose and random tokens, images, or recordings."""

import os
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.speech import RATE, two_cities
from ..models.inputs.batch import Batch
from ..models.inputs.encoding import unknown_share
from ..models.model import Model
from ..models.stack import Stack
from .inputs import Repeats, prose, repeats, with_targets

LEAST = 8
"""Least number of examples: selecting heads on one half and confirming on the other takes 8."""

LONGEST = 24
"""Longest random segment that is said twice, in tokens."""

CHUNK = 16
"""Images or recordings of a batch."""


@dataclass(frozen=True)
class Inputs:
    """What the heads of a stack are measured on.

    Attributes:
        description: in words, for the page.
        source: the file or folder, by its name, or what comes with the package.
        batches: natural inputs.
        repeats: random tokens said twice, where the stack's positions are tokens.
        left_out: what is not measured, or measured in vain, with reasons.
    """

    description: str
    source: str
    batches: list[Batch]
    repeats: Repeats | None = None
    left_out: tuple[str, ...] = ()


def inputs_of(
    model: Model,
    stack: Stack,
    *,
    text: str | os.PathLike | None,
    images: str | os.PathLike | None,
    audio: str | os.PathLike | None,
    measured: int,
    seed: int,
) -> Inputs:
    """Return the inputs that fit a stack of a model: of all that the model reads, what this stack runs on.

    Raises:
        ValueError: for inputs that the stack does not read, or too few of them.
        FileNotFoundError: for a missing file or folder.
    """
    everything = {stream.queries.kind for stream in model.network.streams}
    readers = {"frames": ("audio", audio), "patches": ("images", images), "tokens": ("text", text)}
    for kind, (name, path) in readers.items():
        if path is not None and kind not in everything:
            raise ValueError(f"{name}: {model.name} reads {' and '.join(sorted(everything))}, got {path}")
    kinds = {stack.queries.kind} if model.network.apart else everything
    kind = next(kind for kind in readers if kind in kinds)
    if kind == "frames":
        return _recordings(model, stack, audio)
    if kind == "patches":
        return _pictures(model, images, measured, seed)
    return _texts(model, stack, text, measured, seed, targets="targets" in kinds)


def _texts(
    model: Model, stack: Stack, text: str | os.PathLike | None, measured: int, seed: int, *, targets: bool
) -> Inputs:
    if model.tokenizer is None:
        raise ValueError(f"an atlas needs a tokenizer to read prose; {model.name} has none ({model.no_tokenizer})")
    batches, left_out = prose(model, text), ()
    unknown = np.mean([unknown_share(model.tokenizer, batch) for batch in batches])
    if unknown > 0.5:
        reason = f"{unknown:.0%} of its tokens are unknown to {model.name}, so scores on it say little; give --text"
        left_out = (f"the prose: {reason} with what the model was trained on",)
    repeated = None if stack.is_cross else repeats(model, examples=measured, longest=LONGEST, seed=seed)
    if targets:
        batches = [with_targets(model, batch) for batch in batches]
        if repeated is not None:
            nulls = tuple(with_targets(model, null) for null in repeated.nulls)
            repeated = Repeats(with_targets(model, repeated.batch), nulls)
    if repeated is not None:
        try:
            model.check(repeated.batch)
        except ValueError as reason:  # CLIP reads a text at its end token
            repeated, left_out = None, (*left_out, f"random tokens said twice: {reason}")
    source = "the package's prose" if text is None else Path(text).name
    words = f"{sum(map(len, batches))} windows of prose ({source})"
    words += ", each also the decoder's input," if targets else ""
    words += "" if repeated is None else f" and {measured}\nsequences of random tokens said twice"
    return Inputs(words, source, batches, repeated, left_out)


def _pictures(model: Model, folder: str | os.PathLike | None, measured: int, seed: int) -> Inputs:
    pictures = list(photograph_crops(measured, seed) if folder is None else read_images(Path(folder)))
    if len(pictures) < LEAST:
        raise ValueError(f"images: expected at least {LEAST}, got {len(pictures)} in {folder}")
    source = "one photograph, matplotlib's sample of Grace Hopper" if folder is None else Path(folder).name
    words = f"{len(pictures)} {'crops of' if folder is None else 'images of'} {source}"
    batches = [model.encode(images=pictures[at : at + CHUNK]) for at in range(0, len(pictures), CHUNK)]
    return Inputs(words, source, batches)


def photograph_crops(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield random square crops, 8-bit `[side,side,3]`, of the photograph that comes with matplotlib."""
    import matplotlib.cbook
    from PIL import Image

    rng = np.random.default_rng(seed)
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        photograph = np.asarray(file.convert("RGB"))
    for _ in range(count):
        side = int(rng.integers(128, min(photograph.shape[:2]) + 1))
        top, left = (int(rng.integers(0, whole - side + 1)) for whole in photograph.shape[:2])
        yield photograph[top : top + side, left : left + side]


def read_images(folder: Path) -> Iterator[Any]:
    """Yield the images of a folder that Pillow reads, in the order of their names.

    Raises:
        FileNotFoundError: for a folder that is not there.
    """
    from PIL import Image

    Image.init()
    for path in _files(folder, tuple(Image.EXTENSION)):
        with Image.open(path) as file:
            yield file.convert("RGB")


def _recordings(model: Model, stack: Stack, folder: str | os.PathLike | None) -> Inputs:
    """Return recordings; the decoder's input is what is said in each."""
    if folder is None:
        spoken = [(sentence.samples, sentence.text) for sentence in two_cities()]
        source = "one reading of A Tale of Two Cities"
    else:
        spoken, source = list(read_recordings(Path(folder))), Path(folder).name
    if len(spoken) < LEAST:
        raise ValueError(f"audio: expected at least {LEAST} recordings, got {len(spoken)} in {folder}")
    samples, texts = [recording for recording, _ in spoken], [words for _, words in spoken]
    reads_targets = any(axis.kind == "targets" for axis in (stack.queries, stack.keys))
    if reads_targets and not all(texts):
        raise ValueError(
            f"audio: the {stack.name} of {model.name} reads what is said: expected NAME.txt beside each NAME.wav"
        )
    targets = texts if model.tokenizer is not None and all(texts) else None
    if targets is None and reads_targets:
        reason = f"{model.name} has none ({model.no_tokenizer})"
        raise ValueError(f"an atlas of the {stack.name} needs a tokenizer for what is said; {reason}")
    chunks = [slice(at, at + CHUNK) for at in range(0, len(spoken), CHUNK)]
    batches = [model.encode(samples[own], targets=None if targets is None else targets[own]) for own in chunks]
    return Inputs(f"{len(spoken)} recordings ({source})", source, batches)


def read_recordings(folder: Path) -> Iterator[tuple[np.ndarray, str]]:
    """Yield samples from -1 to 1 of each NAME.wav in a folder (16 bits, mono, 16 kHz), and the text of NAME.txt.

    Raises:
        FileNotFoundError: for a folder that is not there.
        ValueError: for a recording of another form.
    """
    for path in _files(folder, (".wav",)):
        with wave.open(str(path)) as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            if form != (1, 2, RATE):
                raise ValueError(
                    f"{path}: expected one channel of 16 bits at {RATE} a second, got {form[0]} of {8 * form[1]} bits "
                    f"at {form[2]}: convert it, as by `ffmpeg -i {path.name} -ac 1 -ar {RATE} …`"
                )
            samples = np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / 32768
        said = path.with_suffix(".txt")
        yield samples, said.read_text(encoding="utf-8").strip() if said.exists() else ""


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.expanduser().is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of files that end in {', '.join(sorted(endings)[:6])}")
    return sorted(path for path in folder.expanduser().iterdir() if path.suffix.lower() in endings)
