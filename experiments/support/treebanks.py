"""Options of experiments on a treebank, and its sentences."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from jaxheads.data import Sentence, Sentences, conllu

from .. import lab
from . import own_sentences


@dataclass(frozen=True)
class TreebankOptions(lab.Options):
    """Options.

    Attributes:
        treebank: a file in CoNLL-U.
        model: zoo name, hub id or directory.
        sentences: sentences at most, of all documents: the first ones of a random order.
        seed: of the sentences, the halves and all nulls.
    """

    treebank: Path | None = None
    model: str = "minilm-l6"
    sentences: int = 2001
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError without a treebank, unless the run is quick."""
        super().check()
        if self.treebank is None and not self.quick:
            raise ValueError("--treebank: expected a file in CoNLL-U (--quick runs without one)")

    def read(self, path: Path | None, keep: Callable[[Sentence], bool] = lambda _: True) -> Sentences:
        """Return the sentences of a file that are asked for, of those that are kept; without a file, our own.

        The package's own sentences, by templates, show that an experiment works, and nothing else.
        """
        every = (own_sentences.trees() if path is None else conllu(path)).where(keep)
        order = pd.Series(np.arange(len(every)))
        return every.take(sorted(order.sample(min(self.sentences, len(every)), random_state=self.seed).tolist()))
