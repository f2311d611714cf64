"""Weights split over eight devices. `test_sharding` runs this file in a process that has them."""

import copy
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxheads as jh
from jaxheads.models import unembedding
from jaxheads.models.load import load
from jaxheads.models.model import _run
from jaxheads.models.sharding import placement, shard

from ..good_values import bart
from .networks import CONFIGS, assert_same, batch_of, random_model, saved

MESH = jax.make_mesh((8,), ("model",))
BATCH = batch_of((6, 4, 5, 6))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in CONFIGS},
    "grouped": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True}),
}
variants = pytest.mark.parametrize(("family", "config"), VARIANTS.values(), ids=list(VARIANTS))


def held(arrays: Iterable[jax.Array]) -> Counter:
    """Bytes on each device. (To look at shards would make arrays of them, which then are alive as well.)"""
    found: Counter = Counter()
    for array in arrays:
        part = int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize
        found.update(dict.fromkeys(array.sharding.device_set, part))
    return found


def bytes_of(model: jh.Model) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.network))


@variants
def test_a_split_model_gives_what_the_whole_one_gives(family: str, config: dict[str, Any]):
    whole = random_model(family, **config)
    split, name = shard(whole, MESH), whole.stack().name
    edits, sites = jh.zero_heads(whole, [(0, 3), (1, 2)]), ("pattern", "z", "mlp_out", "resid_post")
    compiled = _run.lower(split.network, BATCH, (edits,), tuple((site, name, site) for site in sites)).compile()
    assert_same(compiled(split.network, BATCH, (edits,)), jh.run(whole, BATCH, sites, edits))
    text = str(compiled.as_text())
    assert text.count(" all-reduce(") >= 2  # what heads and MLPs write is added up
    assert " all-gather(" not in text  # no device is sent another's weights


SHARED = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 8}
SHARED |= {"num_hidden_layers": 3, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "one block for all layers": {"model_type": "albert", "architectures": ["AlbertForMaskedLM"], "embedding_size": 16},
    "experts": {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_other_kinds_are_gathered(kind: str):
    whole = jh.init({**SHARED, **KINDS[kind]}, seed=1)
    split = shard(whole, jax.make_mesh((4, 2), ("data", "questions")))
    assert sum(placement(split)["bytes_per_device"]) < 0.2 * bytes_of(whole)
    assert_same(jh.run(split, BATCH, ("pattern", "z")), jh.run(whole, BATCH, ("pattern", "z")))


def test_both_stacks_of_a_stream_are_gathered():
    whole = bart()
    batch = jh.Batch(BATCH.tokens[:, :4], BATCH.mask[:, :4], targets=BATCH.tokens[:, 1:5])
    split = shard(whole, jax.make_mesh((8,), ("data",)))
    sites = ("cross.z", "decoder.z", "encoder.z")
    assert_same(jh.run(split, batch, sites), jh.run(whole, batch, sites))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_weights_in_shares_are_copied(copied: Any):
    whole = random_model("llama")
    model = copied(shard(whole, jax.make_mesh((8,), ("data",))))
    assert_same(jh.run(model, BATCH, "z"), jh.run(whole, BATCH, "z"))


def test_small_parameters_and_those_that_do_not_divide_rest_whole():
    model = random_model("gpt2", n_embd=64, n_head=4, n_inner=9)
    table = placement(shard(model, jax.make_mesh((2, 4), ("data", "questions"))))["spec"].to_dict()
    assert table["decoder.blocks.attention.W_Q"] == (None, ("data", "questions"), None, None)
    assert table["decoder.blocks.mlp.up.kernel"] == (None, ("data", "questions"), None)
    assert table["embed.embedding"] == (None, ("data", "questions"))  # 65 rows
    assert table["decoder.blocks.mlp.down.bias"] == (None, ("data", "questions"))
    assert table["decoder.blocks.mlp.up.bias"] == (None,)


def test_measures_and_ablations_are_the_same():
    whole = random_model("llama", num_key_value_heads=2)
    split = shard(whole, MESH)
    for ask in (lambda model: jh.measure(model, BATCH, "entropy"), lambda model: jh.ablate(model, BATCH, jh.loss())):
        assert_same(ask(split).per_example, ask(whole).per_example)


def test_log_probabilities_leave_the_vocabulary_where_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unembedding, "COLUMNS_AT_ONCE", 16)
    whole = random_model("llama")
    split = shard(whole, MESH)
    x_BTD, target_BT = jnp.sin(jnp.arange(4.0 * 6 * 32)).reshape(4, 6, 32), BATCH.tokens

    def log_probability(network: Any) -> jax.Array:
        return network.unembedding.log_probability(x_BTD, target_BT)

    compiled = jax.jit(log_probability).lower(split.network).compile()
    assert_same(compiled(split.network), log_probability(whole.network))
    assert " all-gather(" not in str(compiled.as_text())


def test_placement_says_where_every_parameter_is():
    split = shard(random_model("llama", num_key_value_heads=2), MESH)
    table = placement(split).to_dict("index")
    assert sum(row["bytes"] for row in table.values()) == bytes_of(split)
    assert {sum(row["bytes_per_device"] for row in table.values())} == set(
        held(jax.tree.leaves(split.network)).values()
    )
    parts = {name: row["bytes"] / row["bytes_per_device"] for name, row in table.items()}
    whole = {name for name, count in parts.items() if count == 1}
    assert whole == {
        *(f"decoder.blocks.{name}" for name in ("attention.W_K", "attention.W_V")),  # two heads for eight devices
        *("decoder.blocks.attention_norm.scale", "decoder.blocks.mlp_norm.scale", "final_norm.scale"),
    }
    assert {count for name, count in parts.items() if name not in whole} == {8}
    assert table["decoder.blocks.attention.W_O"]["spec"] == (None, "model", None, None)
    assert table["embed.embedding"]["shape"] == (64, 32)


def test_own_rules_come_first_and_meshes_may_have_more_axes():
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    whole = random_model("gpt2")
    rules = (
        (r".*\.W_Q", P()),
        (r".*\.up\.kernel", P(("data", "model"))),
        (r".*\.W_K", P(None, None, "model")),
        (r"embed\.embedding", P("model")),  # 65 rows: it does not divide, nor does the default
        (r"embed\.embedding", P(None, "data")),
    )
    split = shard(whole, mesh, rules)
    spec = placement(split)["spec"].to_dict()
    assert spec["decoder.blocks.attention.W_Q"] == (None,)
    assert spec["decoder.blocks.mlp.up.kernel"] == (None, ("data", "model"))
    assert spec["decoder.blocks.attention.W_K"] == (None, None, None, "model")
    assert spec["decoder.blocks.attention.W_V"] == (None, None, "model", None)
    assert spec["embed.embedding"] == (None, "data")
    assert_same(jh.run(split, BATCH, "z"), jh.run(whole, BATCH, "z"))
    again = shard(split, MESH)  # from one mesh to another
    assert placement(again)["spec"].to_dict()["decoder.blocks.attention.W_Q"] == (None, None, "model", None)
    assert_same(again.network, whole.network)


@pytest.mark.parametrize("mesh", [MESH, jax.make_mesh((4, 2), ("data", "questions"))], ids=["heads", "shares"])
def test_loading_puts_on_no_device_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mesh: Any):
    wide = {"hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 512}
    whole = saved(tmp_path, "llama", **wide)
    small = sum(leaf.nbytes for leaf in jax.tree.leaves(whole.network) if leaf.ndim <= 2 and leaf.size < 512)
    limit = bytes_of(whole) / 8 + small
    assert limit < 0.2 * bytes_of(whole)
    before, peak = jax.live_arrays(), Counter()  # kept: a new array must not get the address of one that is gone
    there = {id(array) for array in before}
    original = jax.make_array_from_callback

    def watched(shape: Any, sharding: Any, callback: Any) -> jax.Array:
        array = original(shape, sharding, callback)
        for device, count in held(a for a in jax.live_arrays() if id(a) not in there).items():
            peak[device] = max(peak[device], count)
        return array

    monkeypatch.setattr(jax, "make_array_from_callback", watched)
    split = load(tmp_path, mesh=mesh)
    assert len(peak) == 8
    assert max(peak.values()) <= limit
    shards = [shard.data for leaf in jax.tree.leaves(split.network) for shard in leaf.addressable_shards]
    assert held(shards) == peak
    assert_same(split.network, whole.network)
