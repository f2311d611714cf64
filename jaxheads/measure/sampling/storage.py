"""Samples on disk: one npz file of plain arrays, with the words of tokens and the provenance as JSON.

Dimension key: Q samples of all heads, X positions of all samples' examples, R rows of all samples, k weights of a row.
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_atomically
from .head_sample import HeadSample, TokenScores

_FORMAT = 1
_ARRAYS = ("offsets", "weights", "z_mean", "z_covariance")
_ABOUT = ("stack", "shape", "examples", "queries", "offset_labels", "provenance")


def save_samples(path: str | os.PathLike[str], samples: Any) -> Path:
    """Write samples to one file, and return its path; see `Samples.save`."""
    own = [(head, sample) for head, samples_of in samples.samples.items() for sample in samples_of]
    sides = {"attended": samples.attended, "attending": samples.attending}
    arrays: dict[str, Any] = {name: getattr(samples, name) for name in _ARRAYS}
    for side, scores in sides.items():
        if scores is not None:
            arrays |= {f"{side}_{name}": getattr(scores, name) for name in ("ids", "n", "values")}
    arrays["numbers"] = np.array([(*h, s.example, s.query, s.key) for h, s in own], np.int64).reshape(-1, 5)
    arrays["key_counts"] = np.array([(s.key_count, s.is_self) for _, s in own], np.int64).reshape(-1, 2)
    arrays["scores"] = np.array([s.score for _, s in own], np.float64)
    for side in ("queries", "keys"):
        ids = [getattr(sample, side) for _, sample in own]
        arrays[f"{side}_length"] = np.array([-1 if part is None else len(part) for part in ids])
        arrays[f"{side}_ids"] = np.concatenate([np.zeros(0, np.int64), *(part for part in ids if part is not None)])
    arrays["rows_length"] = np.array([len(sample.top_keys) for _, sample in own], np.int64)
    if own:
        arrays |= {name: np.concatenate([getattr(s, name) for _, s in own]) for name in ("top_keys", "top_weights")}
    about = {name: getattr(samples, name) for name in _ABOUT}
    about |= {"format": _FORMAT, "kinds": [sample.kind for _, sample in own], "words": _vocabulary(samples, arrays)}
    file = io.BytesIO()
    np.savez_compressed(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return write_atomically(path, file.getvalue())


def load_samples(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of samples that `save_samples` wrote; see `Samples.load`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there, or no file: give one that Samples.save wrote")
    try:
        # NumPy leaves a file that it can't read open.
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(arrays.pop("about").tobytes())
        if about["format"] != _FORMAT:
            raise KeyError("format")
        return _fields(about, arrays)
    except (KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(
            f"{path} holds no whole samples of this version of jaxheads: give a file that Samples.save wrote"
        ) from error


def _fields(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    L, N = about["shape"]
    of_head: dict[tuple[int, int], list[HeadSample]] = {head: [] for head in np.ndindex(L, N)}
    ends = np.cumsum(arrays["rows_length"])
    ids = {side: _apart(arrays[f"{side}_ids"], arrays[f"{side}_length"]) for side in ("queries", "keys")}
    for q, (layer, head, example, query, key) in enumerate(arrays["numbers"].tolist()):
        rows = slice(ends[q] - arrays["rows_length"][q], ends[q])
        of_head[layer, head].append(
            HeadSample(
                about["kinds"][q],
                example,
                float(arrays["scores"][q]),
                query,
                key,
                ids["queries"][q],
                ids["keys"][q],
                arrays["top_keys"][rows],
                arrays["top_weights"][rows],
                int(arrays["key_counts"][q, 0]),
                bool(arrays["key_counts"][q, 1]),
            )
        )
    sides = {
        side: TokenScores(*(arrays[f"{side}_{name}"] for name in ("ids", "n", "values")))
        for side in ("attended", "attending")
        if f"{side}_ids" in arrays
    }
    return {
        "stack": about["stack"],
        "shape": (L, N),
        "samples": {head: tuple(own) for head, own in of_head.items()},
        "examples": about["examples"],
        "queries": about["queries"],
        "offset_labels": tuple(about["offset_labels"]),
        "attended": sides.get("attended"),
        "attending": sides.get("attending"),
        "provenance": about["provenance"],
        "vocabulary": {int(token): text for token, text in about["words"].items()},
        **{name: arrays[name] for name in _ARRAYS},
    }


def _apart(ids_X: np.ndarray, lengths_Q: np.ndarray) -> list[np.ndarray | None]:
    """Return the ids of each sample; None where its length is -1."""
    ends = np.cumsum(np.maximum(lengths_Q, 0))
    return [None if n < 0 else ids_X[end - n : end] for end, n in zip(ends, lengths_Q, strict=True)]


def _vocabulary(samples: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return the texts of all tokens that occur, by id; nothing without a tokenizer."""
    if samples.tokenizer is None:
        return {str(token): text for token, text in samples.vocabulary.items()}
    names = ("queries_ids", "keys_ids", "attended_ids", "attending_ids")
    ids = np.unique(np.concatenate([arrays[name] for name in names if name in arrays]))
    return dict(zip(map(str, ids.tolist()), samples.words(ids), strict=True))
