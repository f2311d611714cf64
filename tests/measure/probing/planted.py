"""Models whose heads hold planted values of each word, and a tokenizer of whole words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import Sentence, Sentences


def tokenizer(count: int, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the words w0, w1, …, whose ids are their numbers."""
    vocabulary = {f"w{number}": number for number in range(count)}
    vocabulary |= {token: count + number for number, token in enumerate(("<unk>", "<pad>", *special.values()))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", **special)


def model(values_WNF: np.ndarray, *, length: int = 8, causal: bool = True, look_at: float = 10.0) -> jh.Model:
    """A model each of whose heads looks at its own token and holds the values planted for its word.

    With `look_at` 0 heads look at all tokens alike.
    """
    W, N, F = values_WNF.shape
    width = N * F + length
    embed = np.zeros((W + 2, width), np.float32)
    embed[:W, : N * F] = values_WNF.reshape(W, -1)
    positions = np.eye(length, width, N * F, dtype=np.float32)
    size = max(F, length)
    look = np.zeros((N, width, size), np.float32)
    look[:, N * F :, :length] = look_at * np.eye(length)
    value = np.zeros((N, width, size), np.float32)
    for head in range(N):
        value[head, head * F : (head + 1) * F, :F] = np.eye(F)
    write = np.zeros((N, size, width), np.float32)
    layer = {"W_Q": look, "W_K": look, "W_V": value, "W_O": write}
    made: Any = jh.by_hand(embed, [layer], embed, positions=positions, causal=causal)
    return jh.Model(made.network, tokenizer(W), name="planted")


def sentences(words_EW: np.ndarray, labels: Sequence[str] | None = None, **more: Any) -> Sentences:
    """Sentences of the words with these numbers; `labels` has the label "class" of each word."""
    return Sentences(
        tuple(
            Sentence(
                tuple(f"w{word}" for word in row),
                labels={"class": tuple([None if labels is None else labels[int(word)] for word in row])},
                document=f"{number}",
                **more,
            )
            for number, row in enumerate(words_EW)
        )
    )
