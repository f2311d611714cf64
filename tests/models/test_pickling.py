"""Models and what is made with them can be pickled and deep-copied, and give equal answers afterwards."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import jax
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.data import repeated_tokens

from .networks import CONFIGS, batch_of, random_model
from .specs import SPECS
from .specs.spec import small
from .test_special_tokens import bert_like

BATCH = batch_of((8, 8, 8))


def pickled(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


def of_cloud(x: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(x))


@pytest.mark.parametrize("family", SPECS)
def test_a_model_of_every_family_survives(family: str):
    both = small(family)
    copied = pickled(both.ours)
    assert copied.name == both.ours.name
    assert copied.identity() == both.ours.identity()
    assert copied.config == both.ours.config
    ours, theirs = (nnx.split(model.network)[1] for model in (copied, both.ours))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    # One compiled program serves both: their structures are equal.
    assert nnx.graphdef(copied.network) == nnx.graphdef(both.ours.network)


@pytest.fixture(scope="module")
def model() -> jh.Model:
    made = random_model("llama")
    return jh.Model(made.network, bert_like(), name="tiny", hf_config={"model_type": "llama", **CONFIGS["llama"]})


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy, of_cloud])
def test_a_copied_model_answers_as_the_model_does(model: jh.Model, copied: Callable[[Any], Any]):
    other = copied(model)
    assert other.encode("the cat").tokens.tolist() == model.encode("the cat").tokens.tolist()
    np.testing.assert_array_equal(jh.run(other, BATCH).output, jh.run(model, BATCH).output)
    nnx.update(other.network, jax.tree.map(np.zeros_like, nnx.state(other.network, nnx.Param)))
    assert np.abs(np.asarray(jh.run(model, BATCH).output)).max() > 0  # the copy's weights are its own


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_what_is_made_with_a_model_survives(model: jh.Model, copied: Callable[[Any], Any]):
    objective = jh.logit_difference(3, [4, 5, 6], positions=1)
    run = copied(jh.run(model, copied(BATCH), ("z", "pattern"), edits=copied(jh.zero_heads(model, [(0, 1)]))))
    expected = jh.run(model, BATCH, ("z", "pattern"), edits=jh.zero_heads(model, [(0, 1)]))
    for one, other in zip(jax.tree.leaves(run), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    table = jh.ablate(model, BATCH, objective, "zero")
    np.testing.assert_array_equal(copied(table).values, table.values)
    np.testing.assert_array_equal(jh.ablate(model, BATCH, copied(objective), "zero").values, table.values)
    for each in (jh.logit(1), jh.loss(), jh.probability_difference([1, 2], [1, -1])):
        assert copied(each).name == each.name
    for metric in jh.METRICS.values():
        assert copied(metric).name == metric.name
    patterns = jh.measure(model, BATCH, ("entropy",))
    assert copied(patterns).frame.equals(patterns.frame)
    for answer in (
        *(jh.circuit(model, BATCH, objective, [(0, 1)], method) for method in ("zero", "mean", "resample")),
        jh.composition(model),
        jh.qk_circuit(model),
        jh.relevance(model, BATCH, objective, "gradient"),
        jh.Graph.of(model.stack()),
        jh.fold_norms(model),
        jh.random_weights(model, 1),
        jh.token_class("noun"),
        repeated_tokens(20, examples=2, shortest=2, longest=3, seed=0),
    ):
        assert type(copied(answer)) is type(answer)


def _in_another_process(model: jh.Model, batch: jh.Batch) -> np.ndarray:
    return np.asarray(jh.run(model, batch).output)


def test_a_model_goes_to_a_spawned_process(model: jh.Model):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_in_another_process, (model, BATCH))
    np.testing.assert_allclose(there, jh.run(model, BATCH).output, rtol=0, atol=1e-5)
