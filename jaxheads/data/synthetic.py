"""Repeated random tokens: the text on which an induction head shows itself.

Dimension key: `B` examples, `T` positions. Everything here is NumPy on the host; no model is needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class RepeatedTokens:
    """Random segments, each said several times over: `[first?, segment, segment, …, padding]`.

    tokens: [B, T] int32, padded with zeros on the right.
    mask: [B, T] bool, True on real tokens, `first` among them.
    period: [B] int32, the segment's length. Wherever `second` is True the token at q also stood at q -
        period, so an induction head looks at q - period + 1 (one place *after* the earlier copy).
    second: [B, T] bool, True in every repeat after the first.
    allowed: [P] int32, the vocabulary the segments were drawn from.
    """

    tokens: np.ndarray
    mask: np.ndarray
    period: np.ndarray
    second: np.ndarray
    allowed: np.ndarray = field(repr=False)

    def shuffled(self, seed: int) -> "RepeatedTokens":
        """The null: the same positions can be scored, but the content no longer says where to look.

        Each repeat after the first becomes a fresh random segment; within an example no token occurs twice.
        Shapes, mask, period and `second` are unchanged. Raises ValueError when the vocabulary is too small.
        """
        rng = np.random.default_rng(seed)
        tokens = self.tokens.copy()
        for row, later, period in zip(tokens, self.second, self.period, strict=True):
            # The first segment ends where the repeats begin.
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
    """Draws `examples` random segments and says each `repeats` times (Olsson et al. 2022, random repeats).

    vocabulary: token ids run from 0 to vocabulary - 1.
    shortest, longest: the period of each example is uniform between them, ends included. A fixed period can
        be solved by position alone (attend to q - period + 1): what is found on one may be no induction head.
    length: T, the width of the arrays; by default that of the longest example possible, whatever was drawn.
    first: a token put before everything (a BOS); it never occurs in a segment, and `second` is False there.
    avoid: ids that no segment holds (special tokens, padding).
    The tokens of one segment are distinct, drawn without replacement.
    """
    lead = 0 if first is None else 1
    width = lead + repeats * longest if length is None else length
    _check_sizes(examples, shortest, longest, repeats, width, lead)
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


def _check_sizes(examples: int, shortest: int, longest: int, repeats: int, width: int, lead: int) -> None:
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
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
