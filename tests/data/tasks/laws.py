"""What the tests of tasks have in common: samples as NumPy, and losses of predictors written by hand."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxheads.data.tasks import Task


class Host(NamedTuple):
    """A sample, on the host; `batch` as its fields by name."""

    batch: dict[str, Any]
    marks: dict[str, np.ndarray]
    targets: Any
    weights: Any


def drawn(task: Task, examples: int = 64, seed: int = 0) -> Host:
    """So many examples, from samples of one size: compiling takes longer than all else."""
    size = size_of(task)
    keys = jax.random.split(jax.random.key(seed), -(-examples // size))
    samples = [task.sample(key, size) for key in keys]
    sample = jax.tree.map(lambda *parts: np.concatenate(parts)[:examples], *samples)
    batch = {name: value for name, value in vars(sample.batch).items() if name != "marks"}
    return Host(batch, sample.batch.marks or {}, sample.targets, sample.weights)


def size_of(task: Task) -> int:
    """There are 192 captions."""
    return 192 if task.kind == "contrastive" else 512


def loss(probabilities: np.ndarray, sample: Host) -> float:
    """Mean over what is scored of −ln p[target]; probabilities `[…,V]` for each target."""
    chosen = np.take_along_axis(probabilities, sample.targets[..., None], axis=-1)[..., 0]
    scored = sample.weights > 0
    return float((sample.weights[scored] * -np.log(chosen[scored])).sum() / sample.weights.sum())


def constant_loss(sample: Host) -> float:
    """Of the best predictor that says the same everywhere: it has even seen the answers."""
    shares = np.bincount(sample.targets.ravel(), sample.weights.ravel())
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def right(sample: Host, predict: Any) -> None:
    """That `predict(example, position)` gives the target wherever one is scored."""
    for example, position in zip(*np.nonzero(sample.weights), strict=True):
        assert predict(example, position) == sample.targets[example, position], (example, position)
