"""Relevance and direct effects on eight devices. `test_per_example` runs this file in a process that has them."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.sharding import shard

from ..models.networks import assert_same, batch_of, random_model

# five examples on eight devices: the chunk is filled up
BATCH = batch_of((6, 4, 5, 6, 3))
OBJECTIVE = jh.logit_difference(3, 7)


def table(answer: jh.HeadTable) -> dict[str, np.ndarray]:
    assert answer.per_example is not None
    return {"examples": np.nan_to_num(answer.per_example), "values": np.nan_to_num(answer.values)}


def inputs_and_heads(answer: jh.Relevance) -> dict[str, np.ndarray]:
    assert answer.heads is not None
    return {"tokens": np.nan_to_num(answer.tokens), **table(answer.heads)}


def tokens(answer: jh.Relevance) -> dict[str, np.ndarray]:
    return {"tokens": np.nan_to_num(answer.tokens)}


ASKED: dict[str, Any] = {
    "attnlrp": lambda model, **on: inputs_and_heads(jh.relevance(model, BATCH, OBJECTIVE, "attnlrp", **on)),
    "chefer-lrp": lambda model, **on: inputs_and_heads(jh.relevance(model, BATCH, OBJECTIVE, "chefer-lrp", **on)),
    "flow": lambda model, **on: tokens(jh.relevance(model, BATCH, OBJECTIVE, "flow", **on)),
    "integrated-gradients": lambda model, **on: inputs_and_heads(
        jh.relevance(model, BATCH, OBJECTIVE, "integrated-gradients", baseline=2, steps=2, **on)
    ),
    "direct_effects": lambda model, **on: table(
        jh.direct_effects(model, BATCH, OBJECTIVE, by=("layer", "head", "position"), **on)
    ),
    "logit_lens": lambda model, **on: table(jh.logit_lens(model, BATCH, **on)),
    "logit_copying": lambda model, **on: table(jh.logit_copying(model, BATCH, **on)),
    "name_copying": lambda model, **on: table(jh.name_copying(model, BATCH, np.asarray(BATCH.tokens)[:2, 1], **on)),
}


@pytest.mark.parametrize("asked", ASKED)
def test_eight_devices_give_the_numbers_of_one(asked: str):
    axes = {"data": 8} if asked != "attnlrp" else {"data": 2, "questions": 2, "model": 2}
    model, mesh = random_model("llama"), jax.make_mesh(tuple(axes.values()), tuple(axes))
    expected = ASKED[asked](model)
    # Without the axis "model" the weights rest in shares on all devices, and each layer's are gathered.
    answer = ASKED[asked](shard(model, mesh), devices=mesh)
    assert max(np.abs(array).max() for array in expected.values()) > 0.01
    for name, array in expected.items():
        assert_same(answer[name], array)
