"""Measures of long texts run block by block of query rows: the same numbers, in memory that grows with the length."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.measure.direct import lens, logit_copying
from jaxheads.measure.patterns import METRICS, VARIANTS, scoring
from jaxheads.measure.relevance import rollout
from jaxheads.measure.relevance.backward_pass import backward
from jaxheads.measure.relevance.rules import ATTNLRP
from jaxheads.models.inputs import query_rows

from ..models.huggingface import random_batch, small_model
from ..models.specs.spec import small

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 2048, "vocab_size": 13}
BATCH = random_batch((9, 7, 8), "left")
ALL, FEW = (*METRICS, *VARIANTS), ("entropy", "distance", "learnt_sink", "positional_share")


def block_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let attention run in blocks of this size, with no program of larger ones at hand."""
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", count)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())


def packed() -> jh.Batch:
    tokens = np.random.default_rng(0).integers(0, 13, (2, 10))
    return jh.Batch(tokens, segments=[[0] * 4 + [1] * 6, [5] * 2 + [2] * 3 + [9] * 5])


QUESTIONS: dict[str, Callable[[], Any]] = {
    "measure": lambda: jh.measure(small_model("llama"), BATCH, ALL).per_example,
    "both directions": lambda: jh.measure(small_model("bert"), BATCH, FEW).per_example,
    "norms": lambda: jh.measure(small_model("llama"), BATCH, FEW, of="norms").per_example,
    "learnt sinks": lambda: jh.measure(small("gpt_oss").ours, BATCH, FEW, of="norms").per_example,
    "packed texts": lambda: jh.measure(small_model("llama"), packed(), FEW).per_example,
    "a metric of the whole pattern": lambda: (
        jh.measure(
            small_model("llama"), BATCH, jh.Metric("own", lambda A, example: (A[-1, -1] + A[-2, 3], True))
        ).per_example
    ),
    "variability": lambda: jh.variability(small_model("llama"), BATCH, 4).per_example,
    "direct effects": lambda: (
        jh.direct_effects(
            small_model("gpt2"), BATCH, jh.logit_difference(1, 2), by=("layer", "head", "position")
        ).per_example
    ),
    "copying": lambda: jh.logit_copying(small_model("gpt2"), BATCH).per_example,
    "rollout": lambda: jh.relevance(small_model("llama"), BATCH, None, "rollout").tokens,
    "attnlrp": lambda: jh.relevance(small_model("llama"), BATCH, jh.logit(1), "attnlrp").tokens,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_blocks_of_rows_give_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch):
    whole = QUESTIONS[name]()
    block_bytes(monkeypatch, 4 * 4 * 3 * 9 * 2)  # two or so of nine rows, of four heads and three examples
    np.testing.assert_allclose(QUESTIONS[name](), whole, rtol=1e-5, atol=1e-5)


def temporary(program: Any, *arguments: Any, **options: Any) -> int:
    memory: Any = program.lower(*arguments, **options).compile().memory_analysis()
    return memory.temp_size_in_bytes


def long_batch(length: int) -> jh.Batch:
    return jh.Batch(np.arange(length)[None] % 13)


PROGRAMS: dict[str, Callable[[Any, jh.Batch], int]] = {
    "measure": lambda network, batch: temporary(
        scoring.program(), network, batch, batch, (), None, None, "decoder", tuple(METRICS.values()), "weights"
    ),
    "norms": lambda network, batch: temporary(
        scoring.program(), network, batch, batch, (), None, None, "decoder", (METRICS["entropy"],), "norms"
    ),
    "copying": lambda network, batch: temporary(logit_copying._raised, network, batch, stack="decoder"),
    "rollout": lambda network, batch: temporary(
        rollout.rollout_relevance, network, batch, np.zeros(batch.tokens.shape, np.float32), "decoder"
    ),
    "attnlrp": lambda network, batch: temporary(
        backward, network, batch, jh.loss().reads(jh.Model(network), batch), {}, value=jh.loss().value, rules=ATTNLRP
    ),
    "lens": lambda network, batch: temporary(
        lens._by_head, network, batch, jh.loss().reads(jh.Model(network), batch), stack="decoder"
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_grows_with_the_length_and_not_with_its_square(name: str, monkeypatch: pytest.MonkeyPatch):
    block_bytes(monkeypatch, 4 * 2 * 2048 * 4)
    network = jh.init(GPT2).network
    short, long = (PROGRAMS[name](network, long_batch(length)) for length in (512, 2048))
    assert long < 5 * short, (short, long)
