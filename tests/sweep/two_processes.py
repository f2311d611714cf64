"""One of two processes with two devices each: `python -m tests.sweep.two_processes PORT NUMBER DIRECTORY`."""

import sys
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

import jaxheads as jh
from jaxheads.models.sharding import fetch, shard

from ..models.networks import assert_same, batch_of, random_model


def check() -> None:
    """Every process asks the same, and gets all of what one device gives."""
    by_process = np.array(jax.devices()).reshape(2, 2)
    assert [device.process_index for device in by_process[:, 0]] == [0, 1]
    assert len(jax.local_devices()) == 2
    model, batch = random_model("llama"), batch_of((6, 4, 5))

    expected = jh.ablate(model, batch, jh.loss())
    table = jh.ablate(model, batch, jh.loss(), devices=Mesh(by_process, ("data", "questions")))
    assert_same(table.per_example, expected.per_example)

    across = Mesh(by_process.T, ("questions", "model"))  # each process has one half of the weights
    split = shard(model, across)
    assert not split.network.embed.embedding[...].is_fully_addressable
    expected = jh.ablate(model, batch, jh.loss(), "zero")
    table = jh.ablate(split, batch, jh.loss(), "zero", devices=across)
    assert_same(table.per_example, expected.per_example)
    expected = jh.ablate(model, batch, jh.loss(), "mean")
    for _ in range(2):  # the second time from the parts that the first process wrote
        table = jh.ablate(split, batch, jh.loss(), "mean", devices=across, resume=sys.argv[3])
        assert_same(table.per_example, expected.per_example)
    other, both = batch_of((6, 4, 5), seed=1), Mesh(by_process, ("data", "questions"))
    pair = model, batch, other, jh.loss()
    assert_same(
        jh.importance(split, batch, jh.loss(), devices=across).per_example,
        jh.importance(model, batch, jh.loss()).per_example,
    )
    for asked in (jh.attribute, partial(jh.attribute, method="atp*", site="q"), jh.paths):
        expected = asked(*pair)
        for _ in range(2):
            assert_same(asked(*pair, devices=both, resume=sys.argv[3]).per_example, expected.per_example)
    run, whole = jh.run(split, batch, "z"), jh.run(model, batch, "z")
    assert_same((fetch(run.output), fetch(run.seen["z"])), (whole.output, whole.seen["z"]))


if __name__ == "__main__":
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    check()
