"""Encoder–decoders: their batches, and the loss by hand."""

from typing import Any

import numpy as np

import jaxheads as jh

from ..models.specs import SPECS
from ..models.specs.spec import small


def a_batch(family: str, seed: int = 0) -> jh.Batch:
    spec = SPECS[family]
    return spec.batch(small(family).theirs, seed=seed)


def judge(model: jh.Model, batch: jh.Batch, edits: Any = ()) -> np.ndarray:
    """The loss of each example, by hand."""
    logits = np.asarray(jh.run(model, batch, edits=edits).output, np.float64)
    highest = logits.max(axis=-1, keepdims=True)
    log_p = logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))
    targets, mask = np.asarray(batch.targets), np.asarray(batch.target_mask)
    nats = -np.take_along_axis(log_p[:, :-1], targets[:, 1:, None], axis=2)[..., 0]
    counted = mask[:, 1:] & mask[:, :-1]
    return (nats * counted).sum(axis=1) / counted.sum(axis=1)
