"""What is not recomputed, not read and not compiled twice."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxheads as jh
from jaxheads.execution.batching import Chunks, equal_chunks
from jaxheads.models.inputs.axes import TOKENS
from jaxheads.objectives import Reads
from jaxheads.sweep.cached_run import start_column
from jaxheads.sweep.exact.engine import EditedCopies, Site, UneditedRun, edited, run_unedited
from jaxheads.sweep.exact.plan import first_columns
from jaxheads.sweep.exact.replacement import HeadValues

from ..models.huggingface import VOCABULARY, assert_close, random_batch, small_model
from . import naive

BATCH = random_batch((5, 4, 3), "left")
OBJECTIVE = jh.logit_difference([3, 4, 5], [7, 8, 9])


def clean_of(model: jh.Model, batch: jh.Batch, objective: Any = OBJECTIVE) -> tuple[Reads, UneditedRun]:
    reads = objective.reads(model, batch)
    site = Site(model.stack().name, "z")
    return reads, run_unedited(model.network, batch, reads, site=site, value=objective.value)


def replaced(model: jh.Model, batch: jh.Batch, reads: Reads, clean: UneditedRun, layer: int) -> np.ndarray:
    """The objective `[N,B]` with each head of a layer replaced by something random, but always the same."""
    stack = model.stack()
    shape = (stack.layers, 1, stack.heads, stack.head_size)
    values = HeadValues(jax.random.normal(jax.random.key(0), shape), jnp.zeros(batch.tokens.shape, int))
    heads = np.zeros((stack.heads, stack.layers, stack.heads), bool)
    heads[:, layer] = np.eye(stack.heads, dtype=bool)
    copies = EditedCopies(jnp.asarray(heads), jnp.full(stack.heads, -1))
    site = Site(stack.name, "z")
    return np.asarray(
        edited(model.network, batch, reads, clean, values, copies, layer, site=site, value=OBJECTIVE.value)
    )


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

    def poison(cache_LBT: jax.Array | None) -> jax.Array:
        assert cache_LBT is not None
        return cache_LBT.at[1, *np.nonzero(unread)].set(jnp.nan)

    resid_pre = {name: poison(cache) for name, cache in clean.resid_pre.items()}
    poisoned = replace(clean, resid_pre=resid_pre, z=poison(clean.z))
    found = replaced(model, BATCH, reads, poisoned, 1)
    np.testing.assert_array_equal(found, replaced(model, BATCH, reads, clean, 1))


def test_one_compilation_serves_every_layer_head_and_piece(monkeypatch: pytest.MonkeyPatch):
    batch = random_batch((7, 6, 5))  # a shape that nothing else here has
    monkeypatch.setattr("jaxheads.sweep.exact.work.choose_chunks", lambda *_, **__: Chunks(2, 3))
    engine: tuple[Any, ...] = (edited, run_unedited)
    before = [part.cache_size() for part in engine]
    jh.ablate(small_model("gpt2"), batch, jh.logit_difference(3, 7), "zero")
    assert [part.cache_size() for part in engine] == [count + 1 for count in before]


@pytest.mark.parametrize("chunks", [Chunks(2, 3), Chunks(1, 2)], ids=str)
@pytest.mark.parametrize("method", ["mean", "resample"])
def test_pieces_change_nothing(method: str, chunks: Chunks, monkeypatch: pytest.MonkeyPatch):
    model, batch, reference = small_model("llama"), random_batch((5, 4, 3)), random_batch((5, 5, 5), seed=3)
    arguments: dict[str, Any] = {"method": method, "reference": reference, "donors": 2}
    whole = jh.ablate(model, batch, jh.loss(), **arguments)
    monkeypatch.setattr("jaxheads.sweep.exact.work.choose_chunks", lambda *_, **__: chunks)
    assert_close(jh.ablate(model, batch, jh.loss(), **arguments).per_example, whole.per_example)


def test_the_smallest_memory_still_does():
    model, batch = small_model("llama"), random_batch((5, 4, 3))
    whole = jh.ablate(model, batch, jh.loss())
    assert_close(jh.ablate(model, batch, jh.loss(), memory=1).per_example, whole.per_example)


@pytest.mark.parametrize("memory", [1, 1 << 16, 1 << 20, 1 << 30])
@pytest.mark.parametrize("objective", [jh.loss(), jh.logit_difference(3, 7)], ids=lambda each: each.name)
def test_pieces_fit_the_memory_they_are_given(memory: int, objective: Any):
    model, batch = small_model("llama"), random_batch((9,) * 40)
    plan = jh.plan(jh.ablate, model, batch, objective, "zero", memory=memory)
    stack, chunks = model.stack(), plan.chunks
    assert 1 <= chunks.examples <= 40
    assert 1 <= chunks.copies <= stack.heads
    copies = chunks.examples * chunks.copies
    floats = 9 * copies * (4 * 24 + 3 * 40) + chunks.examples * stack.layers * 9 * (24 + 4 * 6)
    assert copies == 1 or 4 * floats <= memory
    assert copies > 1 or memory < 1 << 20


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    examples=st.integers(1, 50),
    copies=st.integers(1, 9),
    data=st.integers(1, 4),
    questions=st.integers(1, 4),
    memory=st.integers(1, 1 << 22),
)
def test_chunks_fit_and_can_be_split_over_devices(examples: int, copies: int, data: int, questions: int, memory: int):
    chunks = Chunks.fitting(
        examples,
        copies,
        tokens=9,
        example_bytes=5_000,
        copy_bytes=7_000,
        memory=memory,
        multiples=(data, questions),
    )
    assert chunks.examples % data == chunks.copies % questions == 0
    for pieces, multiple, count in (
        (list(chunks.example_chunks(examples)), data, examples),
        (list(chunks.copy_chunks(copies)), questions, copies),
    ):
        assert all(len(piece) % multiple == 0 for piece in pieces)
        assert np.unique(np.concatenate(pieces)).tolist() == list(range(count))
    assert chunks.fewer(chunks.copies) % questions == 0
    each, together = chunks.examples // data, chunks.copies // questions
    assert each * together == 1 or each * (5_000 + together * 7_000) <= memory
    assert (each, together) > (1, 1) or examples <= data or memory < 2 * 12_000


@pytest.mark.parametrize(("size", "count"), [(1, 1), (3, 7), (4, 4), (5, 3)])
def test_pieces_cover_all_and_have_one_length(size: int, count: int):
    for pieces in (list(equal_chunks(count, size)), list(Chunks(size, size).copy_chunks(count))):
        assert len({len(piece) for piece in pieces}) == 1
        assert max(map(len, pieces)) <= size
        assert np.unique(np.concatenate(pieces)).tolist() == list(range(count))


def out_of_memory(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that has room for so many copies of examples at once; the sizes that it was asked for."""
    asked: list[int] = []

    def limited(*arguments: Any, **named: Any) -> Any:
        batch, cells = arguments[1], arguments[5]
        asked.append(len(batch) * len(cells.position))
        if asked[-1] > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating bytes")
        return edited(*arguments, **named)

    monkeypatch.setattr("jaxheads.sweep.exact.work.edited", limited)
    return asked


@pytest.mark.parametrize("most", [1, 2, 5])
def test_where_memory_runs_out_pieces_are_halved(most: int, monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("gpt2"), random_batch((5, 4, 3))
    whole = jh.ablate(model, batch, jh.loss(), "zero")
    asked = out_of_memory(most, monkeypatch)
    assert_close(jh.ablate(model, batch, jh.loss(), "zero").per_example, whole.per_example)
    assert max(asked) > most
    assert asked[-1] <= most


def test_a_device_too_small_for_anything_says_so(monkeypatch: pytest.MonkeyPatch):
    out_of_memory(0, monkeypatch)
    with pytest.raises(MemoryError, match="the work on one example"):
        jh.ablate(small_model("gpt2"), random_batch((5, 4)), jh.loss(), "zero")


def test_other_errors_of_the_device_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: it burns")

    monkeypatch.setattr("jaxheads.sweep.exact.work.edited", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="it burns"):
        jh.ablate(small_model("gpt2"), random_batch((5, 4)), jh.loss(), "zero")


def test_a_plan_says_what_a_sweep_costs():
    """The small Llama: 2 layers, width 24, 4 heads of 6 (2 key/value heads), MLP 40, 37 tokens; 3 examples.

    Their 5 tokens are padded to T = 16.
    """
    model, T = small_model("llama"), 16
    plan: Any = jh.plan(jh.ablate, model, BATCH, OBJECTIVE, "zero")
    queries, keys_values, attention, output, mlp = 2 * 24 * 24, 2 * 24 * 24, 4 * 24 * T, 2 * 24 * 24, 6 * 24 * 40
    layer, logits = queries + keys_values + attention + output + mlp, 2 * 24 * 37
    write, two = output + mlp, 2 * 24 * 2
    first = T * write + T * keys_values + (layer - keys_values) + two  # layer 0: later keys, one row of the last layer
    last = write + two
    assert plan.cost().flops == 3 * (T * 2 * layer + two + 4 * (first + last))
    assert plan.cost().whole == 3 * T * (2 * layer + logits) * 9
    assert jh.plan(jh.ablate, model, BATCH, OBJECTIVE).cost().flops == plan.cost().flops + 3 * (T * 2 * layer + two)
    assert plan.cost().bytes > plan.placement.bytes
    assert plan.cost().seconds(1e9) == plan.cost().flops / 1e9
    assert jh.plan(jh.ablate, model, BATCH, OBJECTIVE, "zero", sets={"a": [(0, 1), (1, 2)]}).cost().flops > 0


def test_planning_runs_nothing(monkeypatch: pytest.MonkeyPatch):
    def no(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was run")

    for name in ("work.edited", "work.run_unedited", "replacement._sum_z", "replacement._run_z", "patch.run_other"):
        monkeypatch.setattr(f"jaxheads.sweep.exact.{name}", no)
    model = small_model("gpt2")
    batch = random_batch((5, 5, 5))
    for method in ("zero", "mean", "resample"):
        jh.plan(jh.ablate, model, batch, jh.loss(), method)
    jh.plan(jh.patch, model, batch, random_batch((5, 5, 5), seed=1), jh.loss())
    for question in (jh.measure, jh.interactions, jh.circuit):
        with pytest.raises(TypeError, match=f"{question.__name__} has no plan"):
            jh.plan(question, model, batch)  # type: ignore[arg-type]  # refused by its type, too


def test_first_columns_are_the_earliest_of_any_example():
    batch = random_batch((8, 3), "left")
    np.testing.assert_array_equal(first_columns(TOKENS.of(batch), True), start_column(np.arange(8), 8))
    alone = batch.take([1])
    np.testing.assert_array_equal(first_columns(TOKENS.of(alone), True)[:3], [4, 4, 4])
    assert not first_columns(TOKENS.of(batch), False).any()
    assert len(set(start_column(np.arange(1000), 1000).tolist())) <= 4


def test_chunks_of_examples_have_few_sizes():
    given: dict[str, Any] = {"tokens": 1, "copy_bytes": 1, "memory": 1 << 20}
    sizes = {count: Chunks.fitting(count, **given).examples for count in range(1, 1000)}
    assert all(count <= size <= max(8, 1.25 * count) for count, size in sizes.items())
    assert len(set(sizes.values())) == 8 + 4 * 7
    assert {Chunks.fitting(count, **{**given, "memory": 13}).examples for count in range(9, 14)} == {10, 12, 13}
