"""The answer of `jaxheads.samples`: samples of each head's patterns, and what it does on the whole stream."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ...arguments import at_least, checked
from ...checks import head_of
from ...models.inputs.answers import token_texts
from ...view import View, attention, tokens
from .head_sample import HeadSample, TokenScores
from .storage import load_samples, save_samples


class Components(NamedTuple):
    """Principal components of a head's output z.

    Attributes:
        variances: along each component, `[H]`, the largest first.
        directions: of unit length, one a row, `[H,H]`.
    """

    variances: NDArray[np.float64]
    directions: NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Behaviour of every head of a stack on a stream of examples.

    Attributes:
        stack: the stack's name.
        shape: layers and heads, (L, N).
        samples: by (layer, head) its samples: the best first, then those of each range of scores.
        examples: examples of the stream.
        queries: counted queries of the stream.
        offset_labels: names of the bins of `offsets`; the last is of keys that do not count.
        offsets: number of queries by the offset, key minus query, of the key that gets the query's largest weight,
            `[L,N,O]`; 0 in cross-attention. Of images it is their distance in patches.
        weights: number of queries by that weight, in equal bins from 0 to 1, `[L,N,W]`.
        attended: attention that a token's occurrence collects from all other counted queries; None where keys are no
            tokens.
        attending: attention that a token's occurrence gives to other counted keys; None where queries are no tokens.
        z_mean, z_covariance: of the heads' outputs at counted queries, `[L,N,H]` and `[L,N,H,H]`.
        provenance: plain JSON values.
        tokenizer: the model's, or None.
        vocabulary: of samples that were loaded the texts of their tokens, by id.
    """

    stack: str
    shape: tuple[int, int]
    samples: Mapping[tuple[int, int], tuple[HeadSample, ...]]
    examples: int
    queries: int
    offset_labels: tuple[str, ...]
    offsets: NDArray[np.int64]
    weights: NDArray[np.int64]
    attended: TokenScores | None
    attending: TokenScores | None
    z_mean: NDArray[np.float64]
    z_covariance: NDArray[np.float64]
    provenance: dict[str, Any]
    tokenizer: Any = None
    vocabulary: Mapping[int, str] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a sample: stack layer head kind example score query key, and the tokens' texts (or ids) there."""
        rows = [
            (self.stack, *head, own.kind, own.example, own.score, own.query, own.key, *self._ends(own))
            for head, samples in self.samples.items()
            for own in samples
        ]
        names = "stack layer head kind example score query key query_token key_token"
        return pd.DataFrame(rows, columns=names.split())

    @checked()
    def of(self, layer: int, head: int) -> tuple[HeadSample, ...]:
        """Return one head's samples; raises ValueError for a head that there is not."""
        self._check(layer, head)
        return self.samples[layer, head]

    @checked()
    def texts(self, layer: int, head: int) -> list[list[str]]:
        """Return the texts of the query tokens of each of a head's samples; nothing where queries are no tokens."""
        self._check(layer, head)
        return [[] if own.queries is None else self.words(own.queries) for own in self.samples[layer, head]]

    @checked()
    def words(self, ids: ArrayLike) -> list[str]:
        """Return the texts of token ids; without a tokenizer the ids as texts."""
        numbers = np.asarray(ids).reshape(-1)
        if self.tokenizer is not None:
            return [str(text) for text in token_texts(self.tokenizer, numbers)]
        return [self.vocabulary.get(int(token), str(token)) for token in numbers]

    @checked(count=at_least(1), least=at_least(1))
    def tokens(self, layer: int, head: int, side: str = "attended", *, count: int = 10, least: int = 2) -> pd.DataFrame:
        """Return the tokens that a head attends to most, or that attend most: columns `id text mean n`.

        Args:
            layer, head: the head.
            side: "attended" or "attending".
            count: how many tokens.
            least: occurrences that a token must have.

        Raises:
            ValueError: for a head that there is not, another side, or positions that are no tokens.
        """
        self._check(layer, head)
        if side not in ("attended", "attending"):
            raise ValueError(f"side must be 'attended' or 'attending', got {side!r}")
        scores = self.attended if side == "attended" else self.attending
        if scores is None:
            raise ValueError(f"the {self.stack} has no tokens on this side: its positions are patches or frames")
        values = np.where(scores.n >= least, scores.values[layer, head], -np.inf)
        order = np.argsort(-values, kind="stable")[:count]
        order = order[np.isfinite(values[order])]
        columns = {"id": scores.ids[order], "text": self.words(scores.ids[order])}
        return pd.DataFrame({**columns, "mean": values[order], "n": scores.n[order]})

    @checked()
    def components(self, layer: int, head: int) -> Components:
        """Return the principal components of a head's output z over counted queries."""
        self._check(layer, head)
        variances, directions = np.linalg.eigh(self.z_covariance[layer, head])
        return Components(np.maximum(variances[::-1], 0), directions[:, ::-1].T)

    @checked(sample=at_least(0))
    def view(self, layer: int, head: int, sample: int | None = None) -> View:
        """Show one head's samples: each text with the largest weight that its tokens get from another query.

        Args:
            layer, head: the head.
            sample: the number of one of the head's samples. Its pattern is then shown on its tokens, as far as it is
                kept: the largest weights of each query.

        Raises:
            ValueError: for a head or sample that there is not; without a number, where keys are no tokens.
        """
        self._check(layer, head)
        samples = self.samples[layer, head]
        title = f"{self.stack} layer {layer} head {head}: {len(samples)} samples of {self.examples} examples"
        if sample is not None:
            if sample >= len(samples):
                raise ValueError(f"sample: layer {layer} head {head} has {len(samples)}; got {sample}")
            return self._pattern_view((layer, head), samples[sample])
        if not samples or samples[0].keys is None:
            raise ValueError(f"layer {layer} head {head} has no samples of texts; give the number of a sample, if any")
        names, texts = [], []
        for own in samples:
            query, key = self._ends(own)
            names.append(f"{own.kind}, example {own.example}: {own.score:.2f} from {query!r} to {key!r}")
            texts.append(self.words([] if own.keys is None else own.keys))
        weights = [own.strongest() for own in samples]
        return tokens(texts, weights, names=names, label="largest weight", title=title)

    def _pattern_view(self, head: tuple[int, int], own: HeadSample) -> View:
        T, S = own.shape
        queries, keys = (
            [str(n) for n in range(count)] if ids is None else self.words(ids)
            for ids, count in ((own.queries, T), (own.keys, S))
        )
        title = f"{self.stack} layer {head[0]} head {head[1]}: {own.kind}, example {own.example}"
        return attention(
            np.clip(own.pattern(), 0, 1)[None],
            queries,
            keys=None if own.is_self else keys,
            heads=[head],
            stack=self.stack,
            title=title,
        )

    @checked()
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the samples to one `.npz` file, with the texts of their tokens, and return its path.

        Raises:
            OSError: for a path that can't be written.
        """
        return save_samples(path, self)

    @classmethod
    @checked()
    def load(cls, path: str | os.PathLike[str]) -> "Samples":
        """Read samples that `save` wrote.

        Raises:
            FileNotFoundError: for a missing file.
            ValueError: for another file, or one that is damaged.
        """
        return cls(**load_samples(path))

    def _check(self, layer: int, head: int) -> None:
        head_of(self.shape, layer, head)

    def _ends(self, own: HeadSample) -> tuple[str | None, str | None]:
        ends = (own.queries, own.query), (own.keys, own.key)
        query, key = (None if ids is None else self.words(ids[place : place + 1])[0] for ids, place in ends)
        return query, key

    def __repr__(self) -> str:
        about = f"{len(self.samples)} heads on {self.examples} examples ({self.stack})"
        return f"<Samples of {about}>\n{self.frame.head().to_string()}"
