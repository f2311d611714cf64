"""Examples that are kept for some head: those of its largest scores, and a random sample of all.

What is kept depends on what examples hold, not on their order: equal scores go by a hash of the content, and so does
the random sample. Examples of equal content count once.

Dimension key: B examples of a chunk, M heads of a stack (all layers), C examples kept of each head.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.inputs.batch import Batch
from ...programs import to_device

SCORE_STEPS = 10_000
"""Scores are ranked by whole numbers of these steps from 0 to 1: rounding of floats must not decide."""

POOL = 6
"""Size of the random sample, in multiples of the examples that buckets show."""

Fields = Mapping[str, np.ndarray]
"""The inputs of one example, by field of its batch."""


@dataclass(frozen=True, eq=False)
class Kept:
    """One example that is kept.

    Attributes:
        number: its index in the stream.
        fields: what the model reads of it.
        pairs: of each head the largest weight, and the positions of its query and key, `[M,3]`.
    """

    number: int
    fields: Fields
    pairs: np.ndarray


@dataclass(eq=False)
class KeptExamples:
    """Examples that are kept of a stream so far.

    Attributes:
        heads: M.
        top: examples of each head with the largest scores.
        buckets, each: equally frequent ranges of scores, and random examples of each.
        seed: of the random sample.
        histogram: number of examples by score, `[M,SCORE_STEPS + 1]`, so that the buckets' ends are exact.
        kept: the examples by the hash of their content.
        best, best_keys: of each head the steps and hashes of its top examples, `[M,C]`, the best first; -1 for none.
        pool: hashes of the random sample.
    """

    heads: int
    top: int
    buckets: int
    each: int
    seed: int
    kept: dict[int, Kept] = field(default_factory=dict)
    pool: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.histogram = np.zeros((self.heads, SCORE_STEPS + 1), np.int64)
        self.best = np.full((self.heads, self.top), -1)
        self.best_keys = np.zeros((self.heads, self.top), np.uint64)

    def add(self, numbers: NDArray[np.int64], fields: Sequence[Fields], pairs_BM3: np.ndarray) -> None:
        """Add a chunk: indices of its examples, what the model reads of each, and their heads' largest weights."""
        steps_MB = score_steps(pairs_BM3[..., 0]).T
        np.add.at(self.histogram, (np.arange(self.heads)[:, None], steps_MB), steps_MB >= 0)
        keys = [content_key(own, self.seed) for own in fields]
        new = [b for b, key in enumerate(keys) if key not in self.kept and key not in keys[:b]]
        if not new:
            return
        new_keys = np.array([keys[b] for b in new], np.uint64)
        steps = np.concatenate([self.best, steps_MB[:, new]], axis=1)
        all_keys = np.concatenate([self.best_keys, np.broadcast_to(new_keys, (self.heads, len(new)))], axis=1)
        order = np.lexsort((all_keys, -steps), axis=1)[:, : self.top]
        self.best, self.best_keys = (np.take_along_axis(own, order, axis=1) for own in (steps, all_keys))
        size = POOL * self.buckets * self.each
        self.pool = sorted({*self.pool, *map(int, new_keys)})[:size]
        staying = {*map(int, np.unique(self.best_keys[self.best >= 0])), *self.pool}
        more = {keys[b]: Kept(int(numbers[b]), fields[b], pairs_BM3[b]) for b in new if keys[b] in staying}
        self.kept = {key: own for key, own in (self.kept | more).items() if key in staying}

    def chosen(self) -> list[list[tuple[str, int]]]:
        """Return of each head the kind and hash of its samples: "top", then "bucket 0" of the least scores, and on.

        A bucket has a share of 1 / `buckets` of all examples, by the middle rank of their scores.
        """
        scored_M = self.histogram.sum(axis=1, keepdims=True)
        middle = self.histogram.cumsum(axis=1) - self.histogram / 2
        bucket = np.minimum(self.buckets * middle / np.maximum(scored_M, 1), self.buckets - 1).astype(int)
        steps_PM = score_steps(np.array([self.kept[key].pairs[:, 0] for key in self.pool]).reshape(-1, self.heads))
        answer = []
        for m in range(self.heads):
            own = [
                ("top", int(key))
                for key, step in zip(self.best_keys[m], self.best[m], strict=True)
                if step >= 0 and int(key) in self.kept
            ]
            members = [bucket[m, step] if step >= 0 else -1 for step in steps_PM[:, m]]
            for number in range(self.buckets):
                of_bucket = [key for key, b in zip(self.pool, members, strict=True) if b == number]
                own += [(f"bucket {number}", key) for key in of_bucket[: self.each]]
            answer.append(own)
        return answer


def score_steps(scores: np.ndarray) -> NDArray[np.int64]:
    """Return scores as whole numbers of steps; -1 where no pair of positions counts, so that the score is 0."""
    steps = np.rint(np.clip(scores, 0, 1) * SCORE_STEPS).astype(np.int64)
    return np.where(scores > 0, steps, -1)


def content_key(fields: Fields, seed: int) -> int:
    """Return a hash of what the model reads of an example, 64 bits, whatever its padding."""
    digest = hashlib.sha256(f"{seed}".encode())
    for name, array in sorted(_trimmed(fields).items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest()[:8], "little")


def example_fields(batch: Batch, examples: np.ndarray, *, trim: bool) -> list[Fields]:
    """Return what the model reads of each of these examples; without its padding if `trim`."""
    arrays = {
        key.name: np.asarray(value)
        for key, value in batch.model_inputs.tree_flatten_with_keys()[0]
        if value is not None
    }
    own: list[Fields] = [{name: array[b] for name, array in arrays.items()} for b in examples]
    return [_trimmed(fields) for fields in own] if trim else own


def _trimmed(fields: Fields) -> Fields:
    """Return the fields at real positions alone."""
    real = {"mask": ("tokens", "token_types", "mask"), "target_mask": ("targets", "target_mask")}
    mask_of = {name: mask for mask, names in real.items() for name in names if mask in fields}
    return {name: array[fields[mask_of[name]]] if name in mask_of else array for name, array in fields.items()}


def joined(fields: Sequence[Fields], sizes: Mapping[str, int]) -> Batch:
    """Return a batch of examples, each padded on the right to the sizes of its sequences ("tokens", "targets")."""

    def padded(name: str, array: np.ndarray) -> np.ndarray:
        size = sizes.get("targets" if name.startswith("target") else "tokens")
        sequence = name in ("tokens", "token_types", "mask", "targets", "target_mask")
        return np.pad(array, (0, size - len(array))) if sequence and size is not None else array

    arrays: dict[str, Any] = {
        name: to_device(np.stack([padded(name, own[name]) for own in fields])) for name in fields[0]
    }
    return Batch(**arrays)
