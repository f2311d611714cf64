"""Gates in closed form (literature 12.1), heads that are really removed, orders of pruning, merged key/value heads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.train.gates import decided, drawn, full_probability, learn_gates, open_probability, settled
from jaxheads.train.loop import train
from jaxheads.train.objective import each, scores
from jaxheads.train.prune import head_importance, merge_kv_heads, pruning_curve, pruning_order, remove_heads
from jaxheads.train.runs import Runs, grid

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small
from .toy import CONFIG, Counting


def test_gates_in_closed_form():
    zero = jnp.zeros(())
    assert float(open_probability(zero)) == pytest.approx(0.68811, abs=1e-5)
    assert 1 - float(open_probability(zero)) == pytest.approx(0.31189, abs=1e-5)
    assert float(settled(zero)) == pytest.approx(0.5)
    many = np.asarray(drawn(jnp.zeros(200_000), jax.random.key(0)))
    assert many.mean() == pytest.approx(0.5, abs=0.003)
    assert (many == 0).mean() == pytest.approx(0.31189, abs=0.004)
    assert (many == 1).mean() == pytest.approx(float(full_probability(zero)), abs=0.004)
    assert decided(jnp.array([-3.0, 3.0])).tolist() == [0, 1]


@pytest.fixture(scope="module")
def trained() -> jh.Model:
    result = train(CONFIG, Counting(), 120, runs=grid([0], rate=[1e-2]), batch=16, init_scale=3.0, checkpoints=(120,))
    return result.model()


def test_a_higher_price_closes_more_gates(trained: jh.Model):
    gated = learn_gates(trained, Counting(), 150, strengths=(0.0, 0.05, 20.0), batch=16, gate_rate=0.1)
    alive = gated.alive()["decoder"]
    assert alive[0] == 4
    assert alive[0] >= alive[1] >= alive[2] == 0
    assert gated.losses[0] < gated.losses[2]
    sample = Counting().sample(jax.random.key(5), 16)
    network = gated.network(1)
    smaller = remove_heads(jh.Model(network), gated.gates(1)["decoder"], sample.batch) if alive[1] else None
    if smaller is not None:
        edits = (jh.gate(jh.Model(network), gated.gates(1)["decoder"]),)
        assert_close(scores(smaller.network, sample)[0], scores(network, sample, edits)[0])
    with pytest.raises(ValueError, match="penalties from 0 up"):
        learn_gates(trained, Counting(), 5, strengths=(-1.0,))


def test_gating_goes_on_where_it_was(trained: jh.Model, tmp_path: Path):
    options: dict[str, Any] = {"strengths": (0.05,), "batch": 4, "seed": 3}
    whole = learn_gates(trained, Counting(), 60, **options)
    learn_gates(trained, Counting(), 50, directory=tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["50"]
    resumed = learn_gates(trained, Counting(), 60, directory=tmp_path, **options)
    np.testing.assert_array_equal(resumed.log_a["decoder"], whole.log_a["decoder"])
    assert not np.array_equal(whole.log_a["decoder"], np.full_like(whole.log_a["decoder"], 2.0))
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    with pytest.raises(ValueError, match=r"holds another training \(seed differ\)"):
        learn_gates(trained, Counting(), 60, directory=tmp_path, **{**options, "seed": 4})
    with pytest.raises(ValueError, match="60 steps already, more than 50"):
        learn_gates(trained, Counting(), 50, directory=tmp_path, **options)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "vit", "bart", "gemma2", "olmo", "gpt_oss"])
def test_removed_heads_are_gates_that_are_closed(family: str):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    rng = np.random.default_rng(0)
    gates: dict[str, Any] = {}
    for name, stack in model.stacks.items():
        gates[name] = rng.choice([0.0, 0.5, 1.0], (stack.layers, stack.heads))
        group = stack.heads // stack.kv_heads
        for layer in range(stack.layers):  # a whole key/value head in each layer, not the same one
            first = layer % stack.kv_heads * group
            gates[name][layer, first : first + group] = 0
    smaller = remove_heads(model, gates)
    edits = [jh.gate(model, value, stack=name) for name, value in gates.items()]
    assert_close(jh.run(smaller, batch).output, jh.run(model, batch, edits=edits).output)
    for name, stack in model.stacks.items():
        assert smaller.stacks[name].heads < stack.heads
        assert model.stacks[name].heads == stack.heads  # the model itself is as it was
    assert sum(leaf.size for leaf in jax.tree.leaves(smaller.network)) < sum(
        leaf.size for leaf in jax.tree.leaves(model.network)
    )


def test_heads_with_biases_of_their_own_positions_stay():
    both = small("bloom")
    batch = SPECS["bloom"].batch(both.theirs)
    gates = np.ones((2, 6))
    gates[:, 0] = 0
    with pytest.raises(ValueError, match="one part for each head"):
        remove_heads(both.ours, gates, batch)
    with pytest.raises(ValueError, match=r"expected \[2, 6\], got \[2, 4\]"):
        remove_heads(both.ours, np.ones((2, 4)))


@pytest.mark.parametrize("family", ["olmo2", "stablelm"])
def test_heads_whose_queries_share_a_norm_stay(family: str):
    model = small(family).ours
    gates = np.ones((2, 4))
    gates[:, 0] = 0
    with pytest.raises(ValueError, match=r"norms the queries of all heads by one norm.*jh\.gate"):
        remove_heads(model, gates)
    with pytest.raises(ValueError, match="norms the keys of all heads by one norm"):
        merge_kv_heads(model, [[0, 0], [0, 0]])


def test_importance_is_the_slope_of_each_example():
    runs = Runs(CONFIG, Counting(), ({"seed": 0},), 4, init_scale=8.0)  # untrained: trained, there is no slope left
    model = runs.model(runs.start().parameters, 0)
    sample = Counting().sample(jax.random.key(5), 6)
    importance = np.asarray(head_importance(model.network, sample))

    def losses(gates_LN: jax.Array) -> jax.Array:
        loss_BT, _, weight_BT = each(model.network, sample, (jh.gate(model, gates_LN),))
        return (loss_BT * weight_BT).sum(axis=1) / weight_BT.sum(axis=1)

    slopes_BLN = jax.jacrev(losses)(jnp.ones((2, 2)))
    assert_close(importance, np.abs(slopes_BLN).mean(axis=0))
    assert importance.max() > 1e-2


def test_pruning_in_three_orders(trained: jh.Model):
    sample = Counting().sample(jax.random.key(5), 16)
    for method in ("importance", "ablation", "random"):
        order = pruning_order(trained.network, sample, method)
        assert sorted(order) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        curve: Any = pruning_curve(trained.network, sample, order)
        assert curve["loss"][0] == pytest.approx(float(scores(trained.network, sample)[0]), rel=1e-5)
        off = (jh.zero_heads(trained, order[:2]),)
        assert curve["loss"][2] == pytest.approx(float(scores(trained.network, sample, off)[0]), rel=1e-4)
    by_ablation = pruning_order(trained.network, sample, "ablation")
    first = (jh.zero_heads(trained, by_ablation[:1]),)
    last = (jh.zero_heads(trained, by_ablation[-1:]),)
    assert float(scores(trained.network, sample, first)[0]) <= float(scores(trained.network, sample, last)[0])
    with pytest.raises(ValueError, match="importance, ablation, random"):
        pruning_order(trained.network, sample, "size")


def test_merging_key_value_heads_that_are_alike_changes_nothing():
    model = small("llama").ours
    batch = jh.Batch(np.arange(14).reshape(2, 7) % 37)
    attention = model.network.stacks[0].blocks.attention
    weights = {name: getattr(attention, name)[...] for name in ("W_K", "W_V")}
    try:
        for name, value in weights.items():
            getattr(attention, name)[...] = jnp.repeat(value[:, :, :1], 2, axis=2)
        merged = merge_kv_heads(model, np.zeros((2, 2), int))
        assert merged.stack().kv_heads == 1
        assert_close(jh.run(merged, batch).output, jh.run(model, batch).output)
    finally:
        for name, value in weights.items():
            getattr(attention, name)[...] = value


def test_merged_groups_may_lie_apart():
    """Query heads follow their keys: heads 0 and 2, 1 and 3 are twins."""
    model = small("gpt2").ours
    batch = jh.Batch(np.arange(14).reshape(2, 7) % 37)
    attention = model.network.stacks[0].blocks.attention
    weights = {name: getattr(attention, name)[...] for name in ("W_K", "W_V", "b_K", "b_V")}
    try:
        for name, value in weights.items():
            axis = value.ndim - 2
            getattr(attention, name)[...] = jnp.take(value, jnp.array([0, 1, 0, 1]), axis=axis)
        merged = merge_kv_heads(model, [[0, 1, 0, 1]] * 2)
        assert merged.stack().kv_heads == 2
        assert_close(jh.run(merged, batch).output, jh.run(model, batch).output)
    finally:
        for name, value in weights.items():
            getattr(attention, name)[...] = value
    with pytest.raises(ValueError, match="must all have one size"):
        merge_kv_heads(model, [[0, 0, 0, 1]] * 2)
