"""Measures in two processes of two devices each: `test_execution` starts both.

python -m tests.measure.two_processes PORT NUMBER DIRECTORY
"""

import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxheads as jh
from jaxheads.models.sharding import shard

from ..models.networks import assert_same, batch_of, random_model
from .same_table import assert_same_table


def check() -> None:
    """Ask the same of both processes; each gets all that one device gives, the second time from the first's disk."""
    mesh = Mesh(np.array(jax.devices()).reshape(4), ("data",))
    assert len(jax.local_devices()) == 2
    model, batch = random_model("llama"), batch_of((8, 6, 7, 8, 5))
    expected, pairs = jh.measure(model, batch), jh.compare_heads(model, batch, "outputs")
    for _ in range(2):
        table = jh.measure(model, batch, devices=mesh, resume=sys.argv[3])
        assert_same_table(table, expected)
        split = jh.compare_heads(model, batch, "outputs", devices=mesh, resume=sys.argv[3])
        assert_same((split.values, split.high), (pairs.values, pairs.high))


def check_shares() -> None:
    """Each process reads every second example; the stream of one process ends before that of the other."""
    model, whole, own = random_model("llama"), batch_of((8, 6, 7, 8, 5)), slice(jax.process_index(), None, 2)
    tokens, mask = np.asarray(whole.tokens), np.asarray(whole.mask)
    stream = jh.data.array_batches(tokens[own], mask[own], examples=2, clusters=np.arange(5)[own] // 2)
    joint = list(jh.data.process_share(stream))
    assert [len(batch) for batch in joint] == [4, 1]
    np.testing.assert_array_equal(np.concatenate([batch.tokens for batch in joint]), tokens[[0, 2, 1, 3, 4]])
    np.testing.assert_array_equal(np.concatenate([batch.mask for batch in joint]), mask[[0, 2, 1, 3, 4]])
    assert np.concatenate([np.asarray(batch.cluster_labels) for batch in joint]).tolist() == [0, 2, 1, 3, 4]
    mesh = Mesh(np.array(jax.devices()).reshape(4), ("data",))
    assert_same(jh.measure(model, joint, devices=mesh).values, jh.measure(model, whole).values)
    # A stream of pairs, and a model that is gathered from both processes.
    other = np.roll(tokens, 1, axis=1)
    both = ((jh.Batch(tokens[own][[e]], mask[own][[e]]), jh.Batch(other[own][[e]], mask[own][[e]])) for e in range(2))
    pairs = list(jh.data.process_share(both))
    assert [(len(clean), len(corrupt)) for clean, corrupt in pairs] == [(2, 2), (2, 2)]
    np.testing.assert_array_equal(np.concatenate([corrupt.tokens for _, corrupt in pairs]), other[[0, 1, 2, 3]])
    objective, first = jh.logit_difference(3, 7), slice(0, 4)
    whole_pair = jh.Batch(tokens[first], mask[first]), jh.Batch(other[first], mask[first])
    expected = jh.patch(model, *whole_pair, objective)
    split = shard(model, mesh)
    assert not jax.tree.leaves(split.network)[0].is_fully_addressable
    table = jh.patch(split, pairs, None, objective, devices=mesh)
    assert_same(table.values, expected.values)
    with pytest.raises(ValueError, match="batches of one length"):
        list(jh.data.process_share([jh.Batch(tokens[:1, : 5 + jax.process_index()])]))


if __name__ == "__main__":
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    check()
    check_shares()
