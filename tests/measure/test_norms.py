"""What attention carries in place of how much it looks: ‖α f(x)‖ (Kobayashi et al. 2020)."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

FAMILIES = ("llama", "bert", "bloom", "t5", "dinov2")
"""Grouped queries, biases, a scale on what heads write, cross-attention, LayerScale."""


def carried(model: jh.Model, batch: jh.Batch, stack: str) -> np.ndarray:
    """‖α f(x)‖ with f(x) = v W_O written out, `[L,B,N,T,S]`."""
    part = model.stack(stack)
    seen = jh.run(model, batch, [f"{stack}.pattern", f"{stack}.v"]).seen
    v = np.repeat(np.asarray(seen[f"{stack}.v"], np.float64), part.heads // part.kv_heads, axis=3)
    f_LBSND = np.einsum("lbsnh,lnhd->lbsnd", v, np.asarray(part.weights.W_O, np.float64))
    sizes = np.linalg.norm(f_LBSND, axis=-1).transpose(0, 1, 3, 2)
    return np.asarray(seen[f"{stack}.pattern"], np.float64) * sizes[:, :, :, None, :]


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_read_norms_as_they_read_weights(family: str):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    for stack, part in model.stacks.items():
        real = np.asarray(part.queries.of(batch).mask)
        raw_LBNTS = carried(model, batch, stack)
        shares_LBNTS = raw_LBNTS / raw_LBNTS.sum(axis=-1, keepdims=True)
        for of, expected in (("raw_norms", raw_LBNTS), ("norms", shares_LBNTS)):
            table = jh.measure(model, batch, "confidence", of=of, stack=stack)  # type: ignore[arg-type]
            by_hand = [expected.max(axis=-1)[:, b][:, :, real[b]].mean(axis=-1) for b in range(len(batch))]
            assert_close(table.per_example, np.stack(by_hand))
            assert table.provenance["of"] == of
        assert np.abs(shares_LBNTS - raw_LBNTS).max() > 0.01


def test_equal_norms_are_the_weights_and_nothing_carried_is_nothing():
    model = small("bert").ours
    batch = jh.Batch(np.arange(14).reshape(2, 7) % 37)
    attention = model.network.stacks[0].blocks.attention
    kept = {name: getattr(attention, name)[...] for name in ("W_V", "b_V")}
    metrics = ("entropy", "previous_token", "distance")
    try:
        attention.W_V[...] = jnp.zeros_like(kept["W_V"])  # every f(x) is b_V W_O
        same, plain = jh.measure(model, batch, metrics, of="norms"), jh.measure(model, batch, metrics)
        assert_close(same.values, plain.values)
        attention.b_V[...] = jnp.zeros_like(kept["b_V"])
        nothing = jh.measure(model, batch, ("previous_token", "entropy"), of="norms")
        assert (nothing.values == 0).all()
    finally:
        for name, value in kept.items():
            getattr(attention, name)[...] = value


def test_of_is_checked():
    with pytest.raises(ValueError, match="of must be one of weights, norms, raw_norms; got 'norm'"):
        jh.measure(small("bert").ours, jh.Batch([[1, 2]]), of="norm")  # type: ignore[arg-type]
