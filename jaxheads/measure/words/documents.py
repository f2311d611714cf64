"""Groups of sentences that depend on each other, and the two halves of them: one chooses, the other reports.

Dimension key: E sentences, G groups of documents.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...arguments import checked
from ...checks import one_of
from ...models.inputs.sentences import Sentences

GROUPS = 2048
"""Documents (or sentences) beyond this number share their sums with others, so that memory does not grow."""


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of sentences, as groups; a sentence without a document is a group by itself.

    Attributes:
        group_E: the group of each sentence.
        half_G: the half, 0 or 1, that each group belongs to.
    """

    group_E: np.ndarray
    half_G: np.ndarray

    @classmethod
    def of(cls, sentences: Sentences, seed: int) -> "Documents":
        """Return the groups of sentences, and halves drawn by the seed.

        Raises:
            ValueError: for fewer than 4 documents: a half needs 2 to have a spread.
        """
        names = [
            one.document if one.document is not None else f"sentence {number}" for number, one in enumerate(sentences)
        ]
        order = {name: number for number, name in enumerate(dict.fromkeys(names))}
        if len(order) < 4:
            raise ValueError(f"sentences of at least 4 documents are needed, two for each half; got {len(order)}")
        count = min(len(order), GROUPS)
        group_E = np.array([order[name] % count for name in names])
        # By their names: the halves of two questions about one corpus are the same.
        first = {group: name for name, group in reversed(list(order.items())) if group < count}
        keys = [zlib.crc32(f"{seed} {first[group]}".encode()) for group in range(count)]
        half_G = np.zeros(count, int)
        half_G[np.argsort(keys, kind="stable")[: count // 2]] = 1
        return cls(group_E, half_G)

    @property
    def half_E(self) -> np.ndarray:
        """The half of each sentence."""
        return self.half_G[self.group_E]


@checked()
def half_of(sentences: Sentences, half: Literal[0, 1], *, seed: int = 0) -> Sentences:
    """Return the sentences of one half of the documents: those that `relations(…, half=…)` and `parse` count.

    Raises:
        ValueError: for fewer than 4 documents, or another half.
    """
    one_of("half", half, (0, 1))
    return sentences.take(np.flatnonzero(Documents.of(sentences, seed).half_E == half).tolist())
