"""A rehearsal compiles the very programs that a question runs, of models without weights, and runs none."""

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.sweep.exact import engine

from .good_values import CONFIG, batch, model

OBJECTIVE = jh.logit_difference(right=1, wrong=2)
QUESTIONS = {
    "ablate": (jh.ablate, (OBJECTIVE,), {"method": "zero"}),
    "knock_out": (jh.knock_out, (OBJECTIVE,), {"queries": [3], "keys": [1]}),
    "measure": (jh.measure, (), {}),
    "relevance": (jh.relevance, (OBJECTIVE,), {}),
}


@pytest.fixture(scope="module")
def shapes() -> jh.Model:
    return jh.init(CONFIG, shapes_only=True)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_model_without_weights_is_rehearsed(shapes: jh.Model, name: str):
    question, arguments, options = QUESTIONS[name]
    rehearsed = jh.rehearse(question, shapes, batch(), *arguments, on=jax.devices(), **options)
    assert rehearsed
    assert all(program.executable.memory_analysis().argument_size_in_bytes > 0 for program in rehearsed)


def test_the_programs_are_those_that_run(shapes: jh.Model):
    arguments = (batch(), OBJECTIVE)
    rehearsed = jh.rehearse(jh.ablate, shapes, *arguments, on=jax.devices(), method="zero")
    before = engine.edited.cache_size(), engine.run_unedited.cache_size()
    table = jh.ablate(model(), *arguments, method="zero")
    after = engine.edited.cache_size(), engine.run_unedited.cache_size()
    names = [program.name for program in rehearsed]
    assert (names.count("edited"), names.count("run_unedited")) == tuple(np.subtract(after, before))
    assert np.abs(table.frame["effect"]).max() > 0
    [edited] = [program for program in rehearsed if program.name == "edited"]
    assert edited.calls == model().stack().layers


def test_nothing_runs_and_nothing_is_kept(shapes: jh.Model):
    before = len(programs._PROGRAMS.kept)
    jh.rehearse(jh.ablate, shapes, batch(), OBJECTIVE, on=jax.devices(), method="zero")
    assert len(programs._PROGRAMS.kept) == before
    assert programs.REHEARSAL.get() is None


def test_plans_need_no_weights(shapes: jh.Model):
    plans = [jh.plan(jh.ablate, asked, batch(), OBJECTIVE, method="zero").cost() for asked in (shapes, model())]
    assert plans[0] == plans[1]


def test_a_mesh_stands_for_the_devices_that_are_compiled_for(shapes: jh.Model):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("questions",))
    rehearsed = jh.rehearse(jh.ablate, shapes, batch(), OBJECTIVE, on=jax.devices(), method="zero", devices=mesh)
    leaves = jax.tree.leaves(rehearsed[-1].arguments)
    assert {leaf.sharding.mesh for leaf in leaves if hasattr(leaf, "sharding")} == {mesh}


def test_no_device_is_refused(shapes: jh.Model):
    with pytest.raises(ValueError, match="at least one device to compile for, got none"):
        jh.rehearse(jh.ablate, shapes, batch(), OBJECTIVE, on=[])


def test_running_a_model_without_weights_is_refused(shapes: jh.Model):
    with pytest.raises(ValueError, match="expected parameters with values, got shapes alone"):
        jh.ablate(shapes, batch(), OBJECTIVE, method="zero")
