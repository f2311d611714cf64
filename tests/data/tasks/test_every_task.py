"""What holds for every task and its control."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxheads.data.tasks import TASKS, Task
from jaxheads.models.load import family_of
from jaxheads.models.network import forward

from .laws import constant_loss, drawn, size_of

KINDS = {"decoder", "encoder", "encoder-decoder", "classifier", "contrastive"}

CONTROLS = {type(task): task.control() for task in TASKS.values()}
"""One of each kind of task; those of the others are tested with them."""

each = pytest.mark.parametrize("task", [*TASKS.values(), *CONTROLS.values()], ids=lambda task: task.name)


def same(one, other) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", TASKS)
def test_the_key_decides_and_transformations_change_nothing(name: str):
    task = TASKS[name]
    keys = jax.random.split(jax.random.key(1), 2)
    first, again, second = (task.sample(key, size_of(task)) for key in (keys[0], keys[0], keys[1]))
    assert same(first, again)
    assert not same(first, second)
    many = jax.jit(jax.vmap(lambda key: task.sample(key, size_of(task))))(keys)
    assert same(jax.tree.map(lambda leaf: leaf[0], many), first)
    assert same(jax.tree.map(lambda leaf: leaf[1], many), second)


@each
def test_samples_are_what_the_task_says(task: Task):
    examples = size_of(task)
    sample = task.sample(jax.random.key(2), examples)
    batch = sample.batch
    assert task.kind in KINDS
    assert (batch.tokens is None) == (task.vocabulary == 0)
    for ids, mask in ((batch.tokens, batch.mask), (batch.targets, batch.target_mask)):
        if ids is not None and mask is not None:
            assert ids.shape == mask.shape == (examples, task.length)
            assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
            assert np.asarray(mask).any(axis=1).all()
            assert 0 <= ids.min() <= ids.max() < task.vocabulary
    if batch.pixels is not None:
        assert batch.pixels.dtype == np.float32
        assert np.isfinite(batch.pixels).all()
        assert np.abs(batch.pixels).max() <= 1
    for mark in (batch.marks or {}).values():
        assert mark.dtype in (np.bool_, np.float32)
        assert mark.shape[0] == examples
        assert mark.ndim in (2, 3)
    # Nothing that is checked of a batch of arrays is wrong with one that was made under jit.
    assert len(type(batch)(**vars(batch))) == examples


@each
def test_what_is_scored_is_real_and_no_constant_reaches_the_optimum(task: Task):
    if task.kind == "contrastive":
        sample = task.sample(jax.random.key(0), size_of(task))
        assert sample.targets is None
        assert sample.weights is None
        return
    examples = size_of(task)
    sample = drawn(task, examples)
    shape = (examples,) if task.kind == "classifier" else (examples, task.length)
    assert sample.targets.shape == sample.weights.shape == shape
    assert (sample.targets.dtype, sample.weights.dtype) == (np.int32, np.float32)
    assert (sample.weights >= 0).all()
    assert (sample.weights.reshape(examples, -1).sum(axis=1) > 0).all()
    if task.kind != "classifier":
        mask = sample.batch["target_mask" if task.kind == "encoder-decoder" else "mask"]
        assert not sample.weights[~mask].any()
    assert 0 <= task.optimum < np.inf
    if not task.name.endswith("-control"):
        assert constant_loss(sample) > task.optimum + 0.05


@pytest.mark.parametrize("name", TASKS)
def test_a_small_model_fits(name: str):
    task = TASKS[name]
    assert task.model_config() == task.control().model_config()
    config = task.model_config()
    family = family_of(config, name)
    read = family.config_type.from_hf(config)
    sample = task.sample(jax.random.key(0), size_of(task))
    network = nnx.eval_shape(lambda: family(read, rngs=nnx.Rngs(0)))

    def output(network, batch):
        return network.output(forward(network, batch)[0], batch)

    out = jax.eval_shape(output, network, sample.batch)
    if task.kind == "contrastive":
        assert out.shape == (size_of(task), size_of(task))
        return
    assert sample.targets is not None
    assert out.shape[:-1] == sample.targets.shape
    assert out.shape[-1] > int(sample.targets.max())
    assert (task.vocabulary or out.shape[-1]) == out.shape[-1]


@each
def test_losses_are_in_order(task: Task):
    assert all(np.isfinite(anchor) for anchor in task.anchors.values())
    assert max(task.anchors.values()) >= task.optimum - 1e-9
    assert task.control().name == task.name.removesuffix("-control") + "-control"
