"""Small values of every kind, for the good calls of `tests/good_calls.py`; each is made once, when it is needed."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import jax
import numpy as np

import jaxheads as jh
from jaxheads.data import tasks

from . import language
from .measure import planted
from .measure.probing import planted as whole_words

CONFIG = {"model_type": "gpt2", "vocab_size": 37, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
E, T = 4, 6
Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


def made_once(make: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Return `make` with its values kept: arrays, even where a test asks for them first while it traces."""

    def made(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        with jax.ensure_compile_time_eval():
            return make(*args, **kwargs)

    return cast(Callable[Arguments, Value], functools.cache(functools.wraps(make)(made)))


@made_once
def model() -> jh.Model:
    return jh.init(CONFIG)


@made_once
def word_model() -> jh.Model:
    """A model with a tokenizer of whole words, w0, w1, …"""
    return jh.Model(model().network, whole_words.tokenizer(35), name="words")


@made_once
def labelled_sentences() -> jh.data.Sentences:
    return whole_words.sentences(np.arange(32).reshape(8, 4), "ab" * 16)


@made_once
def sided_sentences() -> jh.data.Sentences:
    rows = [
        whole_words.sentences(np.array([[n, n + 1]]), properties={"side": ("good", "bad")[n % 2]}) for n in range(24)
    ]
    return jh.data.Sentences(tuple(jh.data.Sentence(own[0].words, properties=own[0].properties) for own in rows))


@made_once
def steering() -> jh.Steering:
    return jh.steer_heads(word_model(), sided_sentences(), "side", "good", jh.logit_difference(1, 2), count=1)


@made_once
def bart() -> jh.Model:
    return jh.init(tasks.Translation(shortest=2, longest=3).model_config(d_model=8))


@made_once
def clip() -> jh.Model:
    return jh.init(tasks.Captions().model_config())


@made_once
def batch() -> jh.Batch:
    rng = np.random.default_rng(0)
    marks = {"noun": rng.random((E, T)) < 0.5}
    return jh.Batch(rng.integers(0, 37, (E, T)), words=np.tile(np.arange(T), (E, 1)), marks=marks)


@made_once
def other() -> jh.Batch:
    return jh.Batch(np.random.default_rng(1).integers(0, 37, (E, T)))


@made_once
def table(name: str = "effect", metric: str = "score") -> jh.HeadTable:
    values = np.random.default_rng(0).random((8, 2, 2))
    interval = jh.statistics.mean_interval(values)
    column = jh.tables.Column(*interval, per_example=values)
    return jh.HeadTable.from_columns(name, "decoder", {metric: column}, squeeze=True)


@made_once
def task() -> tasks.Induction:
    return tasks.Induction(tokens=8, shortest=2, longest=3, length=8)


@made_once
def sample() -> tasks.Sample:
    return task().sample(jax.random.key(0), 2)


def small_network() -> Any:
    return jh.init(task().model_config(d_model=8, n_heads=2)).network


@made_once
def sampled() -> jh.Samples:
    return jh.samples(model(), batch())


@made_once
def attributed() -> jh.QKAttribution:
    return jh.qk_attribution(model(), batch(), 1, 0, 3, 1)


@made_once
def contrasted() -> jh.ContrastCovariance:
    return jh.contrast_covariance(model(), batch(), "noun")


@made_once
def circuit() -> jh.circuits.Circuit:
    return jh.circuit(model(), batch(), jh.loss(), [(0, 0)], "zero")


@made_once
def training() -> jh.train.Trained:
    return jh.train.train(task().model_config(d_model=8, n_heads=2), task(), 2, batch=2)


@made_once
def repeated() -> jh.data.RepeatedTokens:
    return jh.data.repeated_tokens(37, examples=2, shortest=2, longest=3, seed=0)


class Words:
    """A tokenizer of single characters."""

    bos_token_id = 0

    def encode(self, text: str, **options: Any) -> list[int]:
        return [1 + ord(letter) % 30 for letter in text]

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text)}


def edges() -> np.ndarray:
    return jh.Graph.of(model().stack()).exists[None]


def scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((8, 2, 2))


def grouped() -> jh.statistics.GroupedRows:
    rows = jh.statistics.GroupedRows()
    rows.add(np.arange(8.0))
    return rows


def moments() -> jh.statistics.Moments:
    rows = jh.statistics.Moments()
    rows.add(np.arange(8.0))
    return rows


@made_once
def planted_model() -> jh.Model:
    return planted.model()


@made_once
def sentences() -> jh.data.Sentences:
    return planted.sentences()


@made_once
def reader() -> jh.Model:
    return language.model("gpt2")


@made_once
def read_sentences() -> jh.data.Sentences:
    return language.drawn(60, longest=9)


def word_numbers(given: jh.data.Sentences | None = None) -> list[np.ndarray]:
    """Drawn numbers, one for each word of each sentence."""
    rng = np.random.default_rng(0)
    return [rng.random(len(one.words)) for one in given or sentences()]


@functools.cache
def written(name: str, text: str) -> Path:
    """Return the path of a file with this text, in a folder of its own."""
    path = Path(tempfile.mkdtemp()) / name
    path.write_text(text, encoding="utf-8")
    return path


@made_once
def pairs_read() -> jh.data.MinimalPairs:
    return jh.data.pairs(written("t.jsonl", '{"sentence_good": "a", "sentence_bad": "b", "UID": "c"}'))
