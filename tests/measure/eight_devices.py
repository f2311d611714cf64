"""Measures on eight devices. `test_execution` runs this file in a process that has them."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.models.inputs import query_rows
from jaxheads.models.sharding import shard

from ..models.networks import assert_same, batch_of, random_model
from .same_table import assert_same_table

BATCH = batch_of((8, 6, 7, 8, 5))


@pytest.mark.parametrize(
    ("family", "axes", "gather", "of"),
    [("gpt2", {"data": 8}, True, "weights"), ("llama", {"data": 2, "questions": 2, "model": 2}, False, "norms")],
)
def test_measures_on_eight_devices_are_those_of_one(family: str, axes: dict[str, int], gather: bool, of: Any):
    model, mesh = random_model(family), jax.make_mesh(tuple(axes.values()), tuple(axes))
    split = shard(model, mesh, gather=gather)
    edit = jh.mix(model, "z", np.zeros((5, 1, 1, 1)), layers=0, examples=[0, 3], batch=BATCH)
    ask = partial(jh.measure, batch=BATCH, of=of, edits=[edit, jh.zero_heads(model, [(0, 1)])])
    table, expected = ask(split, devices=mesh), ask(model)
    assert_same_table(table, expected)
    assert table.provenance["tokens_sha256"] == expected.provenance["tokens_sha256"]


LONG = batch_of((32, 20, 32))


@pytest.mark.parametrize("block_bytes", [100, 1 << 30], ids=["in blocks", "whole"])
@pytest.mark.parametrize("axes", [{"context": 8}, {"data": 2, "context": 4}])
def test_positions_spread_over_devices(monkeypatch: pytest.MonkeyPatch, axes: dict[str, int], block_bytes: int):
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())
    model, mesh = random_model("gpt2"), jax.make_mesh(tuple(axes.values()), tuple(axes))
    assert_same_table(jh.measure(model, LONG, devices=mesh), jh.measure(model, LONG))
    [program] = jh.rehearse(jh.measure, model, LONG, on=jax.devices(), devices=mesh)
    text = program.executable.as_text()
    # Each device has its own rows of the stream; keys and values alone are gathered in a layer.
    own_rows = 32 // axes["context"]
    examples = -(-3 // axes.get("data", 1))
    assert f"f32[{examples},{own_rows},32]" in text
    assert "all-gather" in text


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_measures_in_blocks_of_rows_on_eight_devices_are_those_of_one(family: str, monkeypatch: pytest.MonkeyPatch):
    model, mesh = random_model(family), jax.make_mesh((4, 2), ("data", "model"))
    expected = jh.measure(model, BATCH)
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 4 * 8 * 4 * 8 * 3)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())
    assert_same_table(jh.measure(shard(model, mesh), BATCH, devices=mesh), expected)


@pytest.mark.parametrize("by", ["js", "values", "cka"])
def test_comparisons_on_eight_devices_are_those_of_one(by: str):
    model, mesh = random_model("llama"), jax.make_mesh((4, 2), ("data", "model"))
    expected = jh.compare_heads(model, BATCH, by)
    pairs = jh.compare_heads(shard(model, mesh), BATCH, by, devices=mesh)
    assert_same((pairs.values, pairs.low), (expected.values, expected.low))


def test_variability_and_context_on_eight_devices_are_those_of_one():
    model, mesh = random_model("llama"), jax.make_mesh((8,), ("data",))
    expected, table = jh.variability(model, BATCH, 5), jh.variability(model, BATCH, 5, devices=mesh)
    assert_same(table.per_example, expected.per_example)
    alone, score = jh.icl_score(model, BATCH, 2, 5), jh.icl_score(model, BATCH, 2, 5, devices=mesh)
    assert_same(np.nan_to_num(score.losses), np.nan_to_num(alone.losses))


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "context": 4}])
def test_samples_on_eight_devices_are_those_of_one(axes: dict[str, int], monkeypatch: pytest.MonkeyPatch):
    model, mesh = random_model("llama"), jax.make_mesh(tuple(axes.values()), tuple(axes))
    ask = partial(jh.samples, model, LONG if "context" in axes else BATCH, top=3, buckets=2, each=2)
    expected = ask()
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 100)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())
    found = ask(devices=mesh)
    numbers = ["kind", "layer", "head", "example", "query", "key"]
    assert found.frame[numbers].equals(expected.frame[numbers])
    assert (found.offsets == expected.offsets).all()
    assert (found.weights == expected.weights).all()
    assert_same(found.z_covariance, expected.z_covariance)
    for one, other in zip(found.of(0, 0), expected.of(0, 0), strict=True):
        assert_same(one.top_weights, other.top_weights)
