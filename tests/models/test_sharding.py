"""Weights split over a mesh: rules in this process, eight devices in another."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxheads.models.families import FAMILIES
from jaxheads.models.load import build
from jaxheads.models.loading.sources import open_checkpoint
from jaxheads.models.loading.weights import fill
from jaxheads.models.sharding import Arrangement, placement, shard

from .huggingface import SMALL, small_model
from .networks import random_model, saved

MESH = jax.make_mesh((1,), ("model",))


def test_on_eight_devices():
    file = Path(__file__).with_name("eight_devices.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # the latter: compiles faster
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, cwd=file.parents[2], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("family", SMALL)
def test_the_default_rules_know_every_parameter(family: str):
    table = placement(shard(small_model(family), MESH))
    assert len(table) == len(jax.tree.leaves(small_model(family).network))
    split = {name for name, spec in table["spec"].items() if "model" in spec}
    parts = ("W_Q", "W_K", "W_V", "W_O", "up.kernel", "down.kernel", "gate.kernel", "embed.embedding", "head.bias")
    assert {name for name in table.index if name.endswith(parts)} <= split


def test_the_default_rules_know_what_only_some_checkpoints_have():
    table = placement(shard(random_model("bert", architectures=["BertModel"]), MESH))
    assert table["spec"].to_dict()["pooler.kernel"] == ()
    biased = random_model("llama", attention_bias=True, mlp_bias=True)
    assert len(placement(shard(biased, MESH))) == len(jax.tree.leaves(biased.network))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axis": "tensor"}, "over the axis 'tensor'; the mesh has model"),
        ({"rules": [(r"decoder\.W_Q", P())]}, r"match no parameter's whole name; the parameters are decoder\.blocks"),
        ({"rules": [(r".*\.W_Q", P(None, "heads"))]}, "splits over 'heads'; the mesh has the axes model"),
        ({"rules": [(r".*\.W_Q", P(None, None, None, "model"))]}, r"W_Q has the axes \(32, 8, 4\) \(in one layer\)"),
    ],
)
def test_rules_that_fit_nothing_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        shard(random_model("llama"), MESH, **arguments)


def test_a_parameter_without_a_rule_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no rule says how to split router\.kernel, encoder\.blocks\.gate\.scale;"):
        Arrangement.of(MESH)({"router.kernel": (4, 4), "final_norm.scale": (4,), "encoder.blocks.gate.scale": (2, 4)})
    saved(tmp_path, "llama")
    opened = open_checkpoint(tmp_path)
    unread = {name: replace(tensor, read=None) for name, tensor in opened.tensors.items()}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="match no parameter's whole name"):
        build(replace(opened, tensors=unread), mesh=MESH, rules=[("nothing", P())])


def test_the_host_holds_no_more_than_a_parameter_while_loading(tmp_path: Path):
    config = {"hidden_size": 64, "intermediate_size": 1024, "num_hidden_layers": 8}
    model = saved(tmp_path, "llama", **config)
    sizes: dict[Any, int] = placement(model)["bytes"].to_dict()
    checkpoint, family = open_checkpoint(tmp_path), FAMILIES["llama"]
    sent: dict[str, np.ndarray] = {}

    def far_away(name: str, value: np.ndarray) -> jax.Array:
        sent[name] = value[..., :1].copy()
        return jnp.zeros(())

    def filled() -> None:
        build = lambda: family(model.config, rngs=nnx.Rngs(0))  # noqa: E731
        fill(build, family.table(model.config), checkpoint, arrange=lambda shapes: far_away)

    filled()  # what is imported and cached at the first time does not count
    tracemalloc.start()
    try:
        filled()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent.keys() == sizes.keys()
    assert peak < 2 * max(sizes.values()) < 0.7 * sum(sizes.values())
