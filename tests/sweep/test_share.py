"""Sharing patterns between heads equals whole runs in which they are put in place."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small
from .test_every_family import OBJECTIVE, objective_values


@pytest.mark.parametrize(("family", "stack"), [("llama", "decoder"), ("bert", "encoder"), ("t5", "cross")])
def test_sharing_equals_whole_forward_passes(family: str, stack: str):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    part, name = model.stack(stack), f"{stack}.pattern"
    rng = np.random.default_rng(0)
    partners = np.stack([rng.integers(0, n, (part.layers, part.heads)) for n in (part.layers, part.heads)], axis=-1)
    partners[0, 0] = (0, 0)  # itself
    table = jh.share(model, batch, OBJECTIVE, partners, stack=stack)
    pattern, before = jh.run(model, batch, [name]).seen[name], objective_values(model, batch)
    expected = np.empty((len(batch), part.layers, part.heads))
    for layer, head in np.ndindex(part.layers, part.heads):
        other = partners[layer, head]
        weight = (np.arange(part.heads) == head).astype(np.float32)[None, None, :, None, None]
        source = pattern[other[0]][None, :, other[1]][:, :, None]
        edit = jh.SiteEdit(jnp.array([layer]), jnp.asarray(weight), source, "pattern", stack)
        expected[:, layer, head] = objective_values(model, batch, edit) - before
    assert_close(table.per_example, expected)
    assert np.abs(expected[:, 0, 0]).max() < 1e-6
    assert np.abs(expected).max() > 1e-3
    assert (table.grid("partner_head") == partners[..., 1]).all()


def test_identical_heads_share_for_nothing():
    """Two heads with the same queries and keys: the nearest of each is the other, and nothing changes."""
    model = small("gpt2").ours
    attention = model.network.stacks[0].blocks.attention
    kept = {name: getattr(attention, name)[...] for name in ("W_Q", "W_K", "b_Q", "b_K")}
    try:
        for name, value in kept.items():
            axis = value.ndim - 2
            twin = jnp.moveaxis(jnp.moveaxis(value, axis, 0).at[1].set(jnp.moveaxis(value, axis, 0)[0]), 0, axis)
            getattr(attention, name)[...] = twin
        batch = jh.Batch(np.random.default_rng(0).integers(0, 37, (3, 8)))
        pairs = jh.compare_heads(model, batch)
        assert pairs.nearest()[:, :2].tolist() == [[[0, 1], [0, 0]], [[1, 1], [1, 0]]]
        table = jh.share(model, batch, OBJECTIVE, pairs.nearest())
        assert np.abs(table.values[:, :2]).max() < 1e-5
        assert np.abs(table.values[:, 2:]).max() > 1e-3
    finally:
        for name, value in kept.items():
            getattr(attention, name)[...] = value


def test_partners_are_checked():
    model, batch = small("gpt2").ours, jh.Batch([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"expected whole numbers .* \[2, 4, 2\]; got int64 of shape \[4, 2\]"):
        jh.share(model, batch, OBJECTIVE, np.zeros((4, 2), int))
    with pytest.raises(ValueError, match=r"no head 0\.4 in 2 layers of 4 heads"):
        jh.share(model, batch, OBJECTIVE, np.full((2, 4, 2), [0, 4]))
