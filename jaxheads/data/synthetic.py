"""Repeated random tokens: inputs on which induction heads can be recognised.

Dimension key: `B` examples, `T` positions, `P` allowed tokens. Everything is NumPy on the host; no model is needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ..arguments import at_least, checked


@dataclass(frozen=True, eq=False)
class RepeatedTokens:
    """Random segments, each repeated several times: `[first?, segment, segment, …, padding]`.

    Attributes:
        tokens: int32 `[B,T]`, padded with zeros on the right.
        mask: bool `[B,T]`, True on real tokens, `first` among them.
        period: int32 `[B]`, the segment's length. Wherever `second` is True the tokens at q and q - period are equal,
            so an induction head attends to q - period + 1, the position *after* the earlier copy.
        second: bool `[B,T]`, True in every repeat after the first.
        allowed: int32 `[P]`, the tokens that segments were drawn from.
    """

    tokens: np.ndarray
    mask: np.ndarray
    period: np.ndarray
    second: np.ndarray
    allowed: np.ndarray = field(repr=False)

    @checked()
    def shuffled(self, seed: int) -> "RepeatedTokens":
        """Return the null: each repeat after the first becomes a fresh random segment.

        Within an example no token occurs twice, so content no longer marks a key to attend to. Shapes, mask, period and
        `second` are unchanged, so the same positions can be scored.

        Raises:
            ValueError: for a vocabulary that is too small.
        """
        rng = np.random.default_rng(seed)
        tokens = self.tokens.copy()
        for row, later, period in zip(tokens, self.second, self.period, strict=True):
            # argmax finds the first repeat's start, which is the first segment's end.
            start = int(later.argmax())
            others = np.setdiff1d(self.allowed, row[start - period : start])
            count = int(later.sum())
            if len(others) < count:
                raise ValueError(
                    f"a null needs {count} tokens outside the first segment, {len(others)} are left: "
                    "use a larger vocabulary, shorter segments or fewer repeats"
                )
            row[later] = rng.choice(others, count, replace=False)
        return replace(self, tokens=tokens)


@checked(examples=at_least(1))
def repeated_tokens(
    vocabulary: int,
    *,
    examples: int,
    shortest: int,
    longest: int,
    repeats: int = 2,
    length: int | None = None,
    first: int | None = None,
    avoid: Iterable[int] = (),
    seed: int,
) -> RepeatedTokens:
    """Draw random segments and repeat each `repeats` times (Olsson et al. 2022, random repeats).

    The tokens of one segment are distinct, drawn without replacement.

    Args:
        vocabulary: token ids run from 0 to vocabulary - 1.
        shortest, longest: bounds of each example's period, which is uniform between them, both included. Attention to
            a constant offset solves a fixed period, so it is no evidence of an induction head.
        length: T, the width of the arrays; by default that of the longest example possible.
        first: a token before everything (a BOS); it never occurs in a segment, and `second` is False at it.
        avoid: ids that no segment holds (special tokens, padding): all but those of `ordinary_tokens`.

    Raises:
        ValueError: for sizes that do not fit, or ids outside the vocabulary.
    """
    lead = 0 if first is None else 1
    width = lead + repeats * longest if length is None else length
    _check_sizes(shortest, longest, repeats, width, lead)
    allowed = _allowed(vocabulary, first, avoid, longest)

    rng = np.random.default_rng(seed)
    period = rng.integers(shortest, longest, size=examples, endpoint=True, dtype=np.int32)
    tokens = np.zeros((examples, width), np.int32)
    for row, size in zip(tokens, period, strict=True):
        segment = rng.choice(allowed, size, replace=False)
        row[lead : lead + repeats * size] = np.tile(segment, repeats)
    if first is not None:
        tokens[:, 0] = first

    position = np.arange(width)[None]
    mask = position < lead + repeats * period[:, None]
    return RepeatedTokens(tokens, mask, period, mask & (position >= lead + period[:, None]), allowed)


def _check_sizes(shortest: int, longest: int, repeats: int, width: int, lead: int) -> None:
    if not 1 <= shortest <= longest:
        raise ValueError(f"segment lengths need 1 <= shortest <= longest, got {shortest} and {longest}")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 (a segment and its copy), got {repeats}")
    if width < lead + repeats * longest:
        raise ValueError(
            f"length {width} cannot hold {repeats} repeats of {longest} tokens"
            f"{' and the first token' if lead else ''}: at least {lead + repeats * longest} are needed"
        )


def _allowed(vocabulary: int, first: int | None, avoid: Iterable[int], longest: int) -> np.ndarray:
    excluded = sorted({*avoid, *(() if first is None else (first,))})
    outside = [token for token in excluded if not 0 <= token < vocabulary]
    if outside:
        raise ValueError(f"first and avoid must be token ids from 0 to {vocabulary - 1}, got {outside}")
    allowed = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), np.array(excluded, np.int32))
    if len(allowed) < longest:
        raise ValueError(
            f"a segment of {longest} distinct tokens cannot be drawn from {len(allowed)} "
            f"({vocabulary} in the vocabulary, {len(excluded)} excluded)"
        )
    return allowed
