"""What is measured at every checkpoint is what `jaxheads.measure` says of that checkpoint's model; onsets by hand."""

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.patterns import resolve
from jaxheads.plots import evolution
from jaxheads.train.loop import train
from jaxheads.train.monitor import Watch, ablation_losses, head_scores, trace
from jaxheads.train.objective import scores
from jaxheads.train.onset import onset, order, phase_change
from jaxheads.train.runs import grid

from ..models.huggingface import assert_close
from .toy import CONFIG, Counting

METRICS = ("previous_token", "entropy", "positional_share")


@pytest.fixture(scope="module")
def trained():
    return train(CONFIG, Counting(), 8, runs=grid([0, 1], rate=[1e-2]), batch=4, checkpoints=(0, 2, 8), init_scale=4.0)


def test_a_trace_is_measuring_every_checkpoint_by_itself(trained):
    batch = Counting().sample(jax.random.key(9), 3).batch
    traced = trace(trained.runs, trained.steps, trained.trajectory, lambda n: head_scores(n, batch, resolve(METRICS)))
    assert traced.values["entropy"].shape == (3, 2, 2, 2)
    for c, step in enumerate(trained.steps):
        for run in range(2):
            table = jh.measure(trained.model(run, step), batch, METRICS)
            for name in METRICS:
                assert_close(traced.values[name][c, run], table.grid(name))
    assert traced.frame.loc[(8, 1, 0, 1), "entropy"] == traced.values["entropy"][2, 1, 0, 1]
    assert traced.best("entropy").shape == (3, 2)
    layer, head = traced.best_head("entropy")[1]
    assert traced.values["entropy"][-1, 1, layer, head] == traced.values["entropy"][-1, 1].max()


def test_ablations_over_training_are_whole_runs(trained):
    sample = Counting().sample(jax.random.key(9), 3)
    traced = trace(trained.runs, trained.steps, trained.trajectory, lambda n: {"loss": ablation_losses(n, sample)})
    model = trained.model(1, 8)
    before = float(scores(model.network, sample)[0])
    for layer, head in np.ndindex(2, 2):
        without = float(scores(model.network, sample, (jh.zero_heads(model, [(layer, head)]),))[0])
        assert traced.values["loss"][2, 1, layer, head] == pytest.approx(without - before, abs=1e-5)


def test_someone_elses_loop_is_watched(trained):
    batch = Counting().sample(jax.random.key(9), 3).batch
    stacked = Watch(trained.runs.network, batch, METRICS, stacked=True)
    single = Watch(trained.runs.network, batch, METRICS)
    with pytest.raises(ValueError, match="nothing was watched yet"):
        single.trace()
    for step, kept in zip(trained.steps, trained.kept, strict=True):
        largest = stacked(kept, step)
        single(jax.tree.map(lambda leaf: leaf[1], kept), step)
    assert set(largest) == set(METRICS)
    whole = trace(trained.runs, trained.steps, trained.trajectory, lambda n: head_scores(n, batch, resolve(METRICS)))
    for name in METRICS:
        assert_close(stacked.trace().values[name], whole.values[name])
        assert_close(single.trace().values[name][:, 0], whole.values[name][:, 1])


STEPS = np.array([0, 1, 3, 7, 15, 31, 63])


def test_an_onset_is_where_half_the_way_is_crossed_for_good():
    rises = np.array([0, 0, 0, 1, 1, 1, 1.0])
    flicker = np.array([0, 1, 0, 0, 0, 1, 1.0])
    flat = np.full(7, 0.3)
    onsets = onset(STEPS, np.stack([rises, flicker, flat], axis=1))
    assert onsets[0] == pytest.approx(np.expm1((np.log(4) + np.log(8)) / 2))
    assert onsets[1] == pytest.approx(np.expm1((np.log(16) + np.log(32)) / 2))  # the first peak does not last
    assert np.isnan(onsets[2])
    assert np.isnan(onset(STEPS, rises, least=2.0)).all()
    assert onset(STEPS, rises, share=0.01)[0] < onsets[0] < onset(STEPS, rises, share=0.99)[0]


def test_the_order_of_skills_over_runs():
    table = order({"previous": [1, 2, np.nan, 4], "induction": [2, 3, 1, 4], "never": [np.nan] * 4})
    assert table.loc["previous", "induction"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert table.loc["induction", "previous"] == pytest.approx(0.5 / 3)
    assert np.isnan(table.loc["previous", "never"])


def test_a_phase_change_is_the_steepest_fall():
    steps = np.unique(np.rint(np.expm1(np.linspace(0, np.log1p(4000), 60))).astype(int))
    log = np.log1p(steps)
    cliff = 4 - 3 / (1 + np.exp(-12 * (log - np.log1p(300))))
    even = 4 - 0.3 * log
    change = phase_change(steps, np.stack([cliff, even, -even], axis=1))
    assert change.step[0] == pytest.approx(300, rel=0.15)
    assert change.begins[0] > 200
    assert change.ends[0] < 450
    assert change.depth[0] > 0.8
    assert change.begins[1] < 5
    assert change.ends[1] > 1000
    assert np.isnan(change.step[2])


def test_what_is_no_curve_is_refused():
    with pytest.raises(ValueError, match=r"expected a curve \[checkpoints, runs\]"):
        onset(STEPS, np.zeros(3))
    with pytest.raises(ValueError, match="from 0 up and grow"):
        phase_change([3, 1], np.zeros(2))


def test_a_picture_has_a_panel_for_each_group():
    curves = {"loss": np.ones((7, 2)), "induction": np.ones((7, 2)), "previous": np.zeros((7, 2))}
    figure = evolution(
        STEPS,
        curves,
        lines={"loss": {"uniform": 2.0}},
        onsets={"induction": [3, np.nan]},
        together=[["loss"], ["induction", "previous"]],
    )
    assert len(figure.axes) == 2
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 7]
