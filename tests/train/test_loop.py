"""Many small models at once are what each is by itself; a training that was killed goes on as if it had not been."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.train.loop import train
from jaxheads.train.objective import scores
from jaxheads.train.runs import Runs, grid, log_spaced

from ..models.huggingface import assert_close
from .toy import CONFIG, Counting

ROOT = Path(__file__).parent.parent.parent


def leaves(tree: Any, run: int | None = None) -> list[np.ndarray]:
    return [np.asarray(leaf) if run is None else np.asarray(leaf)[run] for leaf in jax.tree.leaves(tree)]


def test_runs_together_are_runs_one_by_one():
    runs = grid([0, 1], rate=[1e-2, 3e-3])
    together = train(CONFIG, Counting(), 6, runs=runs, batch=4, checkpoints=(0, 6))
    assert [dict(run) for run in runs[:2]] == [{"seed": 0, "rate": 0.01}, {"seed": 0, "rate": 0.003}]
    for index, run in enumerate(runs):
        alone = train(CONFIG, Counting(), 6, runs=[run], batch=4, checkpoints=(0, 6))
        for ours, theirs in zip(leaves(together.last, index), leaves(alone.last, 0), strict=True):
            assert_close(ours, theirs)
        losses = together.curve.query("run == @index")["loss"].to_numpy()
        assert_close(losses, alone.curve["loss"].to_numpy())
    starts = leaves(together.kept[0])
    assert all((leaf[0] == leaf[1]).all() for leaf in starts)  # a seed is a start, whatever the rate
    assert any((leaf[0] != leaf[2]).any() for leaf in starts)


def test_a_step_is_what_it_is_by_hand():
    """Plain gradient descent on the loss written out."""
    import optax

    trained = train(
        CONFIG,
        Counting(),
        1,
        runs=[{"seed": 3, "rate": 0.5}],
        batch=4,
        checkpoints=(0, 1),
        optimizer=lambda hyper: optax.sgd(hyper["rate"]),  # type: ignore[arg-type]
    )
    model = trained.model(0, step=0)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 1), 0)
    sample = Counting().sample(key, 4)
    graph, parameters, rest = nnx.split(model.network, nnx.Param, ...)

    def loss(parameters: Any) -> jax.Array:
        logits = jh.run(jh.Model(nnx.merge(graph, parameters, rest)), sample.batch).output
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), sample.targets[..., None], axis=-1).mean()

    value, gradient = jax.value_and_grad(loss)(parameters)
    assert float(value) == pytest.approx(trained.curve["loss"][0], rel=1e-5)
    expected = jax.tree.map(lambda weight, slope: weight - 0.5 * slope, parameters, gradient)
    for ours, theirs in zip(leaves(trained.last, 0), leaves(expected), strict=True):
        assert_close(ours, theirs)


def test_every_step_sees_data_of_its_own():
    trained = train(CONFIG, Counting(), 3, runs=[{"seed": 3, "rate": 0.0}], batch=4, checkpoints=(0, 3), init_scale=5.0)
    network, key = trained.model(0).network, jax.random.fold_in(jax.random.key(3), 1)
    expected = [float(scores(network, Counting().sample(jax.random.fold_in(key, step), 4))[0]) for step in range(3)]
    assert_close(trained.curve["loss"].to_numpy(), expected)
    assert np.ptp(expected) > 1e-3


def test_it_learns():
    trained = train(CONFIG, Counting(), 150, runs=grid([0, 1], rate=[1e-2]), batch=16, init_scale=3.0)
    last = trained.curve.query("step == 149")
    assert last["loss"].to_numpy().max() < 0.1
    assert last["accuracy"].to_numpy().min() > 0.95
    assert trained.steps[0] == 0
    assert trained.steps[-1] == 150
    model = trained.model(1)
    assert int(jh.run(model, jh.Batch([[3, 4, 5]])).output[0, -1].argmax()) == 6
    assert "seed 1" in model.name


def run_apart(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True
    )


def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path):
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    done = run_apart("tests.train.killed", whole)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for step in ("3", "7"):
        assert run_apart("tests.train.killed", stopped, step).returncode == -9
    assert sorted(path.name for path in (tmp_path / "stopped" / "state").iterdir()) == ["7"]
    done = run_apart("tests.train.killed", stopped)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    with np.load(f"{whole}.npz") as ours, np.load(f"{stopped}.npz") as theirs:
        assert ours.files == theirs.files
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours.files)


def test_a_directory_of_another_training_is_refused(tmp_path: Path):
    train(CONFIG, Counting(), 2, batch=4, directory=tmp_path / "one")
    again = train(CONFIG, Counting(), 2, batch=4, directory=tmp_path / "one")  # all is there: nothing to do
    assert len(again.curve) == 2
    with pytest.raises(ValueError, match=r"holds another training \(batch differ\): choose another"):
        train(CONFIG, Counting(), 2, batch=8, directory=tmp_path / "one")


def test_a_loss_that_is_not_finite_names_its_run():
    with pytest.raises(FloatingPointError, match=r"the loss of run 1 .*'rate': 1e\+30.* is nan at step \d+: lower its"):
        train(CONFIG, Counting(), 4, runs=grid([0], rate=[1e-3, 1e30]), batch=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"runs": [{"rate": 1.0}]}, "seed among them"),
        ({"runs": [{"seed": 0}, {"seed": 1, "rate": 1.0}]}, "the same hyper-parameters"),
        ({"checkpoints": (0, 9)}, "expected steps from 0 to 2, got 0 to 9"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(options: dict[str, Any], message: str):
    given: dict[str, Any] = {"steps": 2, "batch": 4, **options}
    with pytest.raises(ValueError, match=message):
        train(CONFIG, Counting(), given.pop("steps"), **given)


def test_checkpoints_are_log_spaced():
    steps = np.array(log_spaced(10_000, 40))
    assert (steps[0], steps[-1]) == (0, 10_000)
    assert 30 < len(steps) <= 40
    ratios = np.diff(np.log1p(steps[len(steps) // 2 :]))
    assert ratios.max() / ratios.min() < 1.1


def test_runs_split_over_devices_are_those_of_one(tmp_path: Path):
    code = (
        "import jax, numpy as np, sys\n"
        "jax.config.update('jax_num_cpu_devices', 4)\n"
        "from jaxheads.train.loop import train\nfrom jaxheads.train.runs import grid\n"
        "from tests.train.toy import CONFIG, Counting\n"
        "mesh, both = jax.make_mesh((2,), ('runs',)), jax.make_mesh((2, 2), ('runs', 'data'))\n"
        "runs = grid(range(4), rate=[1e-2])\n"
        "of = [train(CONFIG, Counting(), 5, runs=runs, batch=4, devices=d) for d in (None, mesh, both)]\n"
        "for a, b, c in zip(*(jax.tree.leaves(one.last) for one in of)):\n"
        "    assert len(b.sharding.device_set) == 2, b.sharding\n"
        # Adam divides by a gradient's size: the rounding of a small one shows.
        "    np.testing.assert_allclose(a, b, atol=1e-5)\n"
        "    np.testing.assert_allclose(a, c, atol=1e-5)\n"
        "try:\n    train(CONFIG, Counting(), 5, runs=runs[:3], batch=4, devices=mesh)\n"
        "except ValueError as error:\n    assert 'divides 3 runs' in str(error)\n"
        "else:\n    raise AssertionError\n"
        "from jaxheads.train.loop import _OnMesh\n"
        "split = jax.jit(_OnMesh.of(both, 4, 6).examples)(np.ones((6, 3)))\n"
        "assert split.addressable_shards[0].data.shape == (3, 3), split.sharding\n"
        "try:\n    _OnMesh.of(both, 4, 5)\n"
        "except ValueError as error:\n    assert 'divides batches of 5' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_scores_weigh_and_edits_reach_the_loss():
    runs = Runs(CONFIG, Counting(), ({"seed": 0},), 4)
    network = runs.network(jax.tree.map(lambda leaf: leaf[0], runs.start().parameters))
    plain, heavy = Counting().sample(jax.random.key(0), 4), Counting(scale=3.0).sample(jax.random.key(0), 4)
    assert float(scores(network, plain)[0]) == pytest.approx(float(scores(network, heavy)[0]))  # a mean
    model = runs.model(runs.start().parameters, 0)
    edit = jh.zero_heads(model, [(0, 0)])
    assert float(scores(network, plain, (edit,))[0]) != float(scores(network, plain)[0])
