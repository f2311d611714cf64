"""Li's disagreement: closed forms, the table's own, and what training by it does."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.train import disagreement, grid, li_penalty, train

from ..models.huggingface import assert_close, random_batch, small_model
from .toy import CONFIG, Counting

KINDS = ("values", "overlap", "outputs")
KINDS_OF = pytest.mark.parametrize("kind", KINDS)


def alike(model: jh.Model) -> jh.Model:
    """All heads of a layer the same."""
    network: Any = nnx.merge(*nnx.split(model.network))
    attention = network.stacks[0].blocks.attention
    for name, axis in (("W_Q", 2), ("W_K", 2), ("W_V", 2), ("b_Q", 1), ("b_K", 1), ("b_V", 1)):
        weight = getattr(attention, name)
        if weight is not None:
            first = jnp.take(weight[...], jnp.array([0]), axis=axis)
            setattr(attention, name, nnx.Param(jnp.broadcast_to(first, weight[...].shape)))
    return replace(model, network=network)


@KINDS_OF
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_is_that_of_the_table(family: str, kind: str):
    model, batch = small_model(family), random_batch((6, 6, 6))
    values = disagreement(model.network, batch, kind)
    assert_close(values, jh.compare_heads(model, batch, kind).disagreement())
    assert np.asarray(values).shape == (2,)


def test_heads_that_are_alike():
    model, batch = alike(small_model("gpt2")), random_batch((6, 4))
    for kind in ("values", "outputs"):
        assert_close(disagreement(model.network, batch, kind), [-1.0, -1.0])


def test_training_by_it_makes_heads_differ():
    """The same seeds with λ = 0 and 3; the loss that is recorded has no penalty in it, and λ = 0 changes nothing."""
    runs = grid(range(2), rate=[1e-2], disagreement=[0.0, 3.0])
    options: dict[str, Any] = {"batch": 8, "checkpoints": [40], "init_scale": 3.0}
    penalised = train(CONFIG, Counting(), 40, runs=runs, penalty=li_penalty("outputs"), **options)
    batch = Counting().sample(jax.random.key(9), 16).batch
    values = np.array([disagreement(penalised.model(run).network, batch).mean() for run in range(4)]).reshape(2, 2)
    assert (values[:, 1] > values[:, 0] + 0.02).all()
    plain = train(CONFIG, Counting(), 40, runs=grid(range(2), rate=[1e-2]), **options)
    penalised_loss = penalised.curve.set_index(["run", "step"])["loss"]
    plain_loss = plain.curve.set_index(["run", "step"])["loss"]
    assert_close(penalised_loss.loc[0].to_numpy(), plain_loss.loc[0].to_numpy())
    assert_close(penalised_loss.loc[1].to_numpy()[0], plain_loss.loc[0].to_numpy()[0])  # before the first step


def test_what_is_no_kind_and_no_price_is_refused():
    with pytest.raises(ValueError, match="kind must be one of values, overlap, outputs; got 'keys'"):
        li_penalty("keys")
    with pytest.raises(ValueError, match="kind must be one of"):
        disagreement(small_model("gpt2").network, random_batch((4,)), "keys")
    with pytest.raises(ValueError, match="needs the hyper-parameter disagreement"):
        train(CONFIG, Counting(), 1, batch=2, penalty=li_penalty())
