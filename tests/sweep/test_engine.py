"""What is not recomputed, not read and not compiled twice."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.objectives import Reads
from jaxheads.sweep.engine import Bank, Clean, replace_each_head, run_clean
from jaxheads.sweep.plan import Chunks, choose_chunks

from ..models.huggingface import VOCABULARY, assert_close, random_batch, small_model
from . import naive

BATCH = random_batch((5, 4, 3), "left")
OBJECTIVE = jh.logit_difference([3, 4, 5], [7, 8, 9])


def clean_of(model: jh.Model, batch: jh.Batch, objective: Any = OBJECTIVE) -> tuple[Reads, Clean]:
    reads = objective.reads(model, batch)
    return reads, run_clean(model.network, batch, reads, stack=model.stack().name, value=objective.value)


def replaced(model: jh.Model, batch: jh.Batch, reads: Reads, clean: Clean, layer: int) -> np.ndarray:
    """The objective `[N,B]` with each head of a layer replaced by something random, but always the same."""
    stack = model.stack()
    shape = (stack.layers, 1, stack.heads, stack.head_size)
    bank = Bank(jax.random.normal(jax.random.key(0), shape), jnp.zeros(batch.tokens.shape, int))
    heads = jnp.arange(stack.heads)
    names = {"stack": stack.name, "value": OBJECTIVE.value}
    return np.asarray(replace_each_head(model.network, batch, reads, clean, bank, layer, heads, **names))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_layers_before_the_edit_and_its_own_attention_are_not_run(family: str, layer: int):
    model = small_model(family)
    reads, clean = clean_of(model, BATCH)
    looks = ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V")

    def poison(path: str, weight: Any) -> Any:
        if "blocks" not in path:
            return weight
        weight = weight.at[:layer].set(jnp.nan)
        return weight.at[layer].set(jnp.nan) if path.endswith(looks) else weight

    sound = replaced(model, BATCH, reads, clean, layer)
    poisoned = replaced(naive.changed(model, poison), BATCH, reads, clean, layer)
    np.testing.assert_array_equal(poisoned, sound)
    assert np.isfinite(sound).all()


def test_columns_that_are_not_read_are_not_computed():
    model = small_model("llama")
    reads, clean = clean_of(model, BATCH)
    unread = np.setdiff1d(np.arange(VOCABULARY), [3, 4, 5, 7, 8, 9])

    def poison(path: str, weight: Any) -> Any:
        return weight.at[unread].set(jnp.nan) if path.startswith("unembed.") else weight

    poisoned = replaced(naive.changed(model, poison), BATCH, reads, clean, 0)
    np.testing.assert_array_equal(poisoned, replaced(model, BATCH, reads, clean, 0))


def test_embeddings_are_not_looked_up_again():
    model = small_model("llama")
    reads, clean = clean_of(model, BATCH)

    def poison(path: str, weight: Any) -> Any:
        return weight.at[:].set(jnp.nan) if path.startswith("embed.") else weight

    poisoned = replaced(naive.changed(model, poison), BATCH, reads, clean, 1)
    np.testing.assert_array_equal(poisoned, replaced(model, BATCH, reads, clean, 1))


def test_rows_of_the_last_layer_that_are_not_read_are_not_computed():
    model = small_model("gpt2")
    reads, clean = clean_of(model, BATCH)
    unread = np.arange(5)[None] != np.asarray(reads.rows)

    def poison(cache_LBT: jax.Array) -> jax.Array:
        return cache_LBT.at[1, *np.nonzero(unread)].set(jnp.nan)

    poisoned = Clean(clean.value, poison(clean.resid_pre), poison(clean.z))
    found = replaced(model, BATCH, reads, poisoned, 1)
    np.testing.assert_array_equal(found, replaced(model, BATCH, reads, clean, 1))


def test_one_compilation_serves_every_layer_head_and_piece(monkeypatch: pytest.MonkeyPatch):
    batch = random_batch((7, 6, 5))  # a shape that nothing else here has
    monkeypatch.setattr("jaxheads.sweep.ablate.choose_chunks", lambda *_, **__: Chunks(2, 3))
    engine: tuple[Any, ...] = (replace_each_head, run_clean)
    before = [part._cache_size() for part in engine]
    jh.ablate(small_model("gpt2"), batch, jh.logit_difference(3, 7), "zero")
    assert [part._cache_size() for part in engine] == [count + 1 for count in before]


@pytest.mark.parametrize("chunks", [Chunks(2, 3), Chunks(1, 2)], ids=str)
@pytest.mark.parametrize("method", ["mean", "resample"])
def test_pieces_change_nothing(method: str, chunks: Chunks, monkeypatch: pytest.MonkeyPatch):
    model, batch, reference = small_model("llama"), random_batch((5, 4, 3)), random_batch((5, 5, 5), seed=3)
    arguments: dict[str, Any] = {"method": method, "reference": reference, "donors": 2}
    whole = jh.ablate(model, batch, jh.loss(), **arguments)
    monkeypatch.setattr("jaxheads.sweep.ablate.choose_chunks", lambda *_, **__: chunks)
    assert_close(jh.ablate(model, batch, jh.loss(), **arguments).per_example, whole.per_example)


def test_the_smallest_memory_still_does():
    model, batch = small_model("llama"), random_batch((5, 4, 3))
    whole = jh.ablate(model, batch, jh.loss())
    assert_close(jh.ablate(model, batch, jh.loss(), memory=1).per_example, whole.per_example)


@pytest.mark.parametrize("memory", [1, 1 << 16, 1 << 20, 1 << 30])
@pytest.mark.parametrize("objective", [jh.loss(), jh.logit_difference(3, 7)], ids=lambda each: each.name)
def test_pieces_fit_the_memory_they_are_given(memory: int, objective: Any):
    model = small_model("llama")
    batch = random_batch((9,) * 40)
    stack, reads = model.stack(), objective.reads(model, batch)
    chunks = choose_chunks(stack, batch, reads, vocabulary=VOCABULARY, memory=memory)
    assert 1 <= chunks.examples <= 40
    assert 1 <= chunks.heads <= stack.heads
    copies = chunks.examples * chunks.heads
    floats = 9 * copies * (4 * 24 + 3 * 40) + chunks.examples * stack.layers * 9 * (24 + 4 * 6)
    assert copies == 1 or 4 * floats <= memory
    assert copies > 1 or memory < 1 << 20


@pytest.mark.parametrize(("size", "count"), [(1, 1), (3, 7), (4, 4), (5, 3)])
def test_pieces_cover_all_and_have_one_length(size: int, count: int):
    pieces = list(Chunks(size, size).example_pieces(count))
    assert {len(piece) for piece in pieces} == {size}
    assert np.unique(np.concatenate(pieces)).tolist() == list(range(count))
    assert list(map(list, pieces)) == list(map(list, Chunks(size, size).head_pieces(count)))
