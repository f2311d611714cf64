"""Training sets that end: a run's own, the same at every step; and data of one's own."""

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data.tasks import Agreement, Examples, FewExamples, Sample
from jaxheads.train import grid, scores, train


def sentences(sample: Sample) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.asarray(sample.batch.tokens).tolist()]


def test_every_step_draws_from_the_runs_own_examples():
    task = FewExamples(Agreement(), 6)
    whole, noisy = task.training_set(3)
    assert len(whole.batch) == 6
    assert not noisy.any()
    own = task.of_run(jax.random.key(3))
    drawn = {row for step in range(8) for row in sentences(own.sample(jax.random.key(step), 16))}
    assert drawn == set(sentences(whole))
    assert set(sentences(task.training_set(4)[0])) != drawn


def test_noise_is_the_controls_sentence_with_another_verb():
    right, none = FewExamples(Agreement(), 400).training_set(0)
    mixed, noisy = FewExamples(Agreement(), 400, noise=0.5).training_set(0)
    assert not none.any()
    assert 0.4 < noisy.mean() < 0.6
    where = np.asarray(right.weights) > 0
    wrong = np.asarray(right.targets)[where] != np.asarray(mixed.targets)[where]
    np.testing.assert_array_equal(np.asarray(right.weights), np.asarray(mixed.weights))
    assert not wrong[~noisy].any()
    assert 0.4 < wrong[noisy].mean() < 0.6  # a number drawn by chance is right in half of the cases


def test_a_model_learns_few_examples_by_heart():
    """Labels are noise alone: what falls on the training set falls on no fresh example."""
    task = FewExamples(Agreement(), 8, noise=1.0)
    trained = train(
        task.model_config(n_layer=1), task, 150, runs=grid([0, 1], rate=[1e-2]), batch=16, checkpoints=[150]
    )
    fresh = Agreement().control().sample(jax.random.key(9), 400)
    for seed in (0, 1):
        network = trained.model(seed).network
        assert float(scores(network, task.training_set(seed)[0])[0]) < 0.2
        assert float(scores(network, fresh)[0]) > 0.6
    other = float(scores(trained.model(0).network, task.training_set(1)[0])[0])
    assert other > 0.5  # the other run's set is not its own


def test_ones_own_examples_are_drawn_whole():
    sample = Agreement().sample(jax.random.key(0), 5)
    drawn = Examples(sample, name="mine").sample(jax.random.key(1), 40)
    rows, again = sentences(sample), sentences(drawn)
    assert set(again) == set(rows)
    for index, row in enumerate(again):
        own = rows.index(row)
        np.testing.assert_array_equal(np.asarray(drawn.targets)[index], np.asarray(sample.targets)[own])
        np.testing.assert_array_equal(np.asarray(drawn.weights)[index], np.asarray(sample.weights)[own])


def test_a_task_without_examples_of_its_own_is_refused():
    with pytest.raises(ValueError, match="must be an Independent"):
        FewExamples(Examples(Agreement().sample(jax.random.key(0), 2)), 4)  # type: ignore[arg-type]


def test_fine_tuning_starts_from_the_models_weights():
    task = Agreement()
    model = jh.init(task.model_config(n_layer=1), seed=5, name="before")
    trained = train(model, task, 3, runs=grid([0, 1], rate=[0.0, 1e-2]), batch=4, checkpoints=[0, 3])
    tokens = task.sample(jax.random.key(0), 3).batch
    before = np.asarray(jh.run(model, tokens).output)
    for run in range(4):
        np.testing.assert_array_equal(np.asarray(jh.run(trained.model(run, 0), tokens).output), before)
    after = [np.asarray(jh.run(trained.model(run), tokens).output) for run in range(4)]
    np.testing.assert_array_equal(after[0], before)  # a rate of 0
    assert np.abs(after[1] - before).max() > 1e-3
    assert np.abs(after[1] - after[3]).max() > 1e-4  # seeds differ in their data
    assert trained.model(1).name.startswith("before, agreement")
    with pytest.raises(ValueError, match="init_scale is of fresh weights"):
        train(model, task, 3, init_scale=2.0)


def test_fine_tuning_that_was_stopped_goes_on(tmp_path):
    task, model = Agreement(), jh.init(Agreement().model_config(n_layer=1), seed=5)
    options = {"runs": grid([0], rate=[1e-2]), "batch": 4}
    whole = train(model, task, 4, checkpoints=[4], **options)
    train(model, task, 2, checkpoints=[2], directory=tmp_path, **options)
    resumed = train(model, task, 4, checkpoints=[2, 4], directory=tmp_path, **options)
    for ours, theirs in zip(jax.tree.leaves(resumed.last), jax.tree.leaves(whole.last), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    other = jh.init(Agreement().model_config(n_layer=1), seed=6)
    with pytest.raises(ValueError, match="another training"):
        train(other, task, 4, checkpoints=[4], directory=tmp_path, **options)
