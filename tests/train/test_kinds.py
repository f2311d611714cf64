"""Every kind of model trains in the one loop: one batch is soon known by heart."""

from dataclasses import dataclass
from typing import Any

import jax
import pytest
from jax import Array

from jaxheads.data.tasks import TASKS, Task
from jaxheads.train.loop import train
from jaxheads.train.runs import grid

KINDS: dict[str, dict[str, Any]] = {
    "agreement": {"n_layer": 1, "n_embd": 32},
    "agreement-masked": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64},
    "translation-copy": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
    "digits": {"num_hidden_layers": 1},
    "captions": {},
}


@dataclass(frozen=True)
class Always:
    """The same sample, whatever the key."""

    task: Task
    name: str = "one batch"

    def sample(self, key: Array, examples: int) -> Any:
        del key
        return self.task.sample(jax.random.key(0), examples)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains(name: str):
    task = TASKS[name]
    trained = train(
        task.model_config(**KINDS[name]),
        Always(task),
        25,
        runs=grid([0], rate=[1e-3 if name == "captions" else 5e-3]),
        batch=6,
        checkpoints=(25,),
    )
    loss = trained.curve["loss"].to_numpy()
    assert loss[-1] < 0.8 * loss[0], loss
