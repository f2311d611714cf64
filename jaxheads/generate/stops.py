"""Ends of texts: tokens, and strings that appear in them.

Dimension key: B examples, T tokens written so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import is_whole, shown
from ..models.model import Model

Stop = int | str | Sequence[int | str] | None
"""Token ids and strings that end a text; None for the end tokens of the model's config."""


@dataclass(frozen=True)
class Stops:
    """Tokens and strings that end a text.

    Attributes:
        tokens: ids that end it, themselves part of it.
        strings: texts that end it, once its own text holds them.
        padding: the id in place of tokens after the end.
    """

    tokens: tuple[int, ...]
    strings: tuple[str, ...]
    padding: int
    tokenizer: Any = None

    @classmethod
    def of(cls, model: Model, stop: Stop) -> "Stops":
        """Return what a user asked for.

        Raises:
            ValueError: for an id outside the vocabulary, an empty string, or strings without a tokenizer.
        """
        ends = end_tokens(model)
        given = ends if stop is None else (stop,) if isinstance(stop, int | str) else tuple(stop)
        vocabulary = model.config.vocab_size
        tokens, strings = [own for own in given if is_whole(own)], [own for own in given if isinstance(own, str)]
        wrong = [own for own in given if not isinstance(own, str) and not (is_whole(own) and 0 <= own < vocabulary)]
        if wrong or "" in strings:
            raise ValueError(
                f"stop must be token ids in 0..{vocabulary - 1} or strings of at least one letter; got "
                f"{shown(wrong[0] if wrong else '')}"
            )
        if strings and model.tokenizer is None:
            raise ValueError(f"stop: {model.name} has no tokenizer ({model.no_tokenizer}); give token ids")
        stated: Any = _fields(model).get("pad_token_id")
        padding = stated if is_whole(stated) and 0 <= stated < vocabulary else (*ends, 0)[0]
        return cls(tuple(int(own) for own in tokens), tuple(strings), int(padding), model.tokenizer)

    @property
    def identity(self) -> tuple[tuple[int, ...], tuple[str, ...], int]:
        """All that a text depends on."""
        return self.tokens, self.strings, self.padding

    @property
    def any(self) -> bool:
        """Whether anything ends a text before its last step."""
        return bool(self.tokens or self.strings)

    def lengths(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each text up to its end, `[B]`; T where it has none."""
        B, T = tokens_BT.shape
        ends_BT = np.isin(tokens_BT, self.tokens)
        lengths_B = np.where(ends_BT.any(axis=1), ends_BT.argmax(axis=1) + 1, T)
        for example in range(B) if self.strings else ():
            lengths_B[example] = self._until_string(tokens_BT[example, : lengths_B[example]])
        return lengths_B

    def has_ended(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Whether each text has its end, bool `[B]`."""
        lengths_B, T = self.lengths(tokens_BT), tokens_BT.shape[1]
        whole_B = np.isin(tokens_BT[:, -1], self.tokens) | np.array([self._holds(row) for row in tokens_BT], bool)
        return (lengths_B < T) | whole_B

    def _until_string(self, tokens_T: np.ndarray) -> int:
        if not self._holds(tokens_T):
            return len(tokens_T)
        return next(count for count in range(1, len(tokens_T) + 1) if self._holds(tokens_T[:count]))

    def _holds(self, tokens_T: np.ndarray) -> bool:
        if not self.strings:
            return False
        text = self.tokenizer.decode(tokens_T.tolist())
        return any(string in text for string in self.strings)


def end_tokens(model: Model) -> tuple[int, ...]:
    """Return the end tokens of a model's config, one or several; () where it names none, and nothing ends a text.

    An id outside the vocabulary, which configs of tiny models have, is never written: it ends nothing.
    """
    stated = _fields(model).get("eos_token_id")
    entries: list[Any] = list(stated) if isinstance(stated, list | tuple) else [stated]
    return tuple(int(own) for own in entries if is_whole(own) and 0 <= own < model.config.vocab_size)


def _fields(model: Model) -> dict[str, Any]:
    """Return the fields of a model's config, those of its language model among them."""
    config = dict(model.hf_config or {})
    return {**dict(config.get("text_config") or {}), **{name: own for name, own in config.items() if own is not None}}
