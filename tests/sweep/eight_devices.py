"""Sweeps on eight devices. `test_devices` runs this file in a process that has them."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxheads as jh
from jaxheads.execution import placement
from jaxheads.execution.devices import Devices
from jaxheads.models.sharding import placement as placement_of
from jaxheads.models.sharding import shard
from jaxheads.sweep.exact import work as execute

from ..models.networks import CONFIGS, assert_same, batch_of, random_model

BATCH, OTHER = batch_of((6, 4, 5, 6, 3)), batch_of((6, 4, 5, 6, 3), seed=1)


def examples_of(table: jh.HeadTable) -> np.ndarray:
    assert table.per_example is not None
    return np.nan_to_num(table.per_example)


def mesh_of(**axes: int) -> Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes))


@pytest.mark.parametrize(
    ("family", "axes", "gather"),
    [
        ("gpt2", {"data": 8}, None),
        ("gpt2", {"data": 2, "questions": 2, "context": 2}, None),
        ("llama", {"data": 2, "questions": 2, "model": 2}, True),
    ],
)
def test_an_ablation_on_eight_devices_gives_what_it_gives_on_one(
    family: str, axes: dict[str, int], gather: bool | None
):
    model, mesh = random_model(family), mesh_of(**axes)
    expected = jh.ablate(model, BATCH, jh.loss())
    there = model if gather is None else shard(model, mesh, gather=gather)
    table = jh.ablate(there, BATCH, jh.loss(), devices=mesh)
    assert np.abs(expected.values).max() > 0.05
    assert_same((table.per_example, table.values), (expected.per_example, expected.values))
    assert table.provenance["unedited"] == pytest.approx(expected.provenance["unedited"], abs=1e-5)


ASKED = {
    "importance": lambda model, **on: jh.importance(model, BATCH, jh.loss(), **on),
    "atp*": lambda model, **on: jh.attribute(model, BATCH, OTHER, jh.loss(), "atp*", site="k", **on),
    "ig": lambda model, **on: jh.attribute(model, BATCH, OTHER, jh.loss(), "ig", site="resid_mid", by="layer", **on),
    "eap-ig": lambda model, **on: jh.attribute(model, BATCH, OTHER, jh.loss(), "eap-ig", exact=True, **on),
    "paths": lambda model, **on: jh.paths(model, BATCH, OTHER, jh.loss(), [("k", 1, 3), ("mlp", 1)], **on),
    "all_paths": lambda model, **on: jh.all_paths(model, BATCH, OTHER, jh.loss(), **on),
}


@pytest.mark.parametrize("asked", ASKED)
def test_gradients_paths_and_edges_on_eight_devices_give_what_they_give_on_one(asked: str):
    axes = {"data": 4, "questions": 2} if asked != "importance" else {"data": 2, "questions": 2, "model": 2}
    model, mesh = random_model("llama"), mesh_of(**axes)
    expected = ASKED[asked](model)
    # Without the axis "model" the weights rest in shares on all devices, and each layer's are gathered.
    table = ASKED[asked](shard(model, mesh), devices=mesh)
    assert np.nanmax(np.abs(expected.values)) > 0.01
    assert_same(examples_of(table), examples_of(expected))


def test_circuits_of_edges_on_eight_devices():
    model, mesh = random_model("llama"), mesh_of(data=4, questions=2)
    for ablation in ("patching", "mean"):
        options = {"ablation": ablation, "reference": OTHER}
        ask = partial(jh.circuit, model, BATCH, jh.loss(), [("embed", "logits"), ("head 0.1", "mlp 1")], **options)
        assert_same(ask(devices=mesh).faithfulness.per_example, ask().faithfulness.per_example)


def collectives(program: str) -> set[str]:
    """Kinds of messages between devices."""
    return set(
        re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", program)
    )


def watch_programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of the programs of edited copies, as they compile."""
    programs: list[str] = []
    original = execute.edited

    def watched(*arguments: Any, **static: Any) -> jax.Array:
        programs.append(str(original.lower(*arguments, **static).compile().as_text()))
        return original(*arguments, **static)

    monkeypatch.setattr(execute, "edited", watched)
    return programs


def test_examples_and_questions_need_no_word_between_devices(monkeypatch: pytest.MonkeyPatch):
    ask = partial(jh.ablate, random_model("bert"), BATCH, jh.logit_difference(3, 7))
    expected, programs = ask(), watch_programs(monkeypatch)
    assert_same(ask(devices=mesh_of(data=4, questions=2)).per_example, expected.per_example)
    assert "num_partitions=8" in programs[0]
    assert collectives(programs[0]) == set()


def test_a_model_too_large_for_a_device_rests_in_shares(monkeypatch: pytest.MonkeyPatch):
    model, mesh = random_model("llama"), mesh_of(data=4, questions=2)
    ask = partial(jh.ablate, model, BATCH, jh.logit_difference(3, 7))
    expected, programs = ask(), watch_programs(monkeypatch)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.network))
    options: Any = {"devices": mesh, "memory": 1 << 20}
    # all weights would just not fit beside the activations
    monkeypatch.setattr(placement, "device_bytes", lambda device: (weights + (1 << 20)) / 0.9 - 1)
    plan = jh.plan(jh.ablate, model, BATCH, jh.logit_difference(3, 7), **options)
    assert plan.placement.kind == "gathered"
    assert "kB are gathered when it runs" in str(plan)
    assert plan.cost().bytes < jh.plan(jh.ablate, model, BATCH, jh.logit_difference(3, 7)).cost().bytes
    assert_same(ask(**options).per_example, expected.per_example)
    # Weights are gathered; no product of a layer is added up over devices.
    assert collectives(programs[0]) == {"all-gather"}
    monkeypatch.setattr(placement, "device_bytes", lambda device: 2 * (weights + (1 << 20)))
    assert jh.plan(jh.ablate, model, BATCH, jh.loss(), **options).placement.kind == "whole"


def test_a_rehearsal_places_weights_as_the_devices_that_it_is_for_have_room(monkeypatch: pytest.MonkeyPatch):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **CONFIGS["llama"]}
    model, mesh = jh.init(config, shapes_only=True), mesh_of(data=8)
    asked: list[Any] = []
    monkeypatch.setattr(placement, "device_bytes", lambda device: asked.append(device) or 1)
    on = jax.devices()[::-1]
    programs = jh.rehearse(jh.ablate, model, BATCH, jh.logit_difference(3, 7), "zero", on=on, devices=mesh)
    assert set(asked) == {on[0]}
    for program in programs:
        assert collectives(program.executable.as_text()) == {"all-gather"}
        assert set(jax.tree.leaves(program.executable.input_shardings)[0].device_set) == set(on)


def test_heads_that_are_split_add_up_what_they_write(monkeypatch: pytest.MonkeyPatch):
    model, mesh = random_model("llama"), mesh_of(data=2, model=4)
    programs = watch_programs(monkeypatch)
    for gather, kind in ((False, "split"), (True, "split and gathered")):
        split = shard(model, mesh, gather=gather)
        plan = jh.plan(jh.ablate, split, BATCH, jh.loss(), devices=mesh)
        assert plan.placement.kind == kind
        assert plan.placement.resting == sum(placement_of(split)["bytes_per_device"])
        jh.ablate(split, BATCH, jh.loss(), devices=mesh)
        assert "all-reduce" in collectives(programs[-1])
    sizes = [sum(placement_of(shard(model, mesh, gather=gather))["bytes_per_device"]) for gather in (True, False)]
    assert sizes[0] < 0.6 * sizes[1]


def test_work_is_split_over_examples_and_questions():
    devices = Devices.of(mesh_of(questions=2, data=4))
    assert devices.multiples == (4, 2)
    x_BD, y_DB = devices.examples(jnp.arange(24.0).reshape(8, 3)), devices.examples(np.ones((3, 8)), axis=1)
    w_GD, one = devices.copies(np.arange(12.0).reshape(4, 3)), devices.everywhere(jnp.float32(2))
    assert [a.sharding.spec for a in (x_BD, y_DB, w_GD, one)] == [P("data"), P(None, "data"), P("questions"), P()]
    assert {shard.data.shape for shard in y_DB.addressable_shards} == {(3, 2)}
    found_GB = jax.jit(lambda x, w, one: one * jnp.einsum("bd,gd->gb", x, w))(x_BD, w_GD, one)
    assert found_GB.sharding.spec == P("questions", "data")
    expected = 2 * np.arange(12.0).reshape(4, 3) @ np.arange(24.0).reshape(8, 3).T
    np.testing.assert_array_equal(devices.fetch(found_GB), expected)
    with pytest.raises(ValueError, match="6 can't be split evenly over the mesh's 4 of 'data'"):
        devices.examples((jnp.ones(8), jnp.ones(6)))


def test_axes_that_a_mesh_lacks_split_nothing():
    devices = Devices.of(mesh_of(data=8))
    assert devices.multiples == (8, 1)
    assert devices.copies(jnp.ones((3, 2))).sharding.is_fully_replicated
    assert Devices.of(mesh_of(model=8)).multiples == (1, 1)


def test_a_network_stays_as_it_was_split():
    mesh = mesh_of(data=4, model=2)
    model, devices = random_model("bert"), Devices.of(mesh)
    split = shard(model, mesh)
    assert devices.network(split.network) is split.network
    spread = jax.tree.leaves(devices.network(model.network))
    assert all(leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8 for leaf in spread)
    with pytest.raises(ValueError, match=r"split over Mesh\(.*'model': 8.*the sweep over Mesh\(.*give both the same"):
        devices.network(shard(model, mesh_of(model=8)).network)
