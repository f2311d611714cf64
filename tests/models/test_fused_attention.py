"""The kernel of TPUs computes what whole attention does, as far as its steps can be followed on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxheads.models.attention import fused as fused_attention
from jaxheads.models.attention.attend import attend
from jaxheads.models.attention.fused import can_fuse, fused
from jaxheads.models.attention.row_edits import RowEdit, at_sites, unchanged
from jaxheads.models.attention.scoring import Scoring
from jaxheads.models.inputs.attention_inputs import AttentionInputs
from jaxheads.models.inputs.batch import Positions

from .huggingface import assert_close

B, T, N, K, H = 2, 200, 4, 2, 16
MASK = np.ones((B, T), bool)
MASK[0, :7] = MASK[1, 150:] = False
INPUTS = AttentionInputs.within(Positions(jnp.asarray(MASK)), causal=True)


def scoring(inputs: AttentionInputs = INPUTS, **more: Any) -> Scoring:
    return Scoring(inputs.mask, 0.25, None, 5.0, None, unchanged)._replace(**more)


@pytest.mark.parametrize(("causal", "first"), [(True, 0), (True, 60), (False, 0)])
def test_the_kernel_is_whole_attention(monkeypatch: pytest.MonkeyPatch, causal: bool, first: int):
    # The last block is filled up with positions that are none.
    monkeypatch.setattr(fused_attention, "BLOCK", 128)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((B, T, heads, H), np.float32) for heads in (N, K, K))
    v[0, 100, 1, 3] = np.inf
    inputs = AttentionInputs.within(Positions(jnp.asarray(MASK)), causal=causal).after(first)
    q, k, v = jnp.asarray(q[:, first:]), jnp.asarray(k), jnp.asarray(v)
    ours = fused(q, k, v, scoring(inputs), interpret=True)
    whole = attend(q, k, v, inputs.mask, scale=0.25, cap=5.0)[0]
    ours, whole = (np.asarray(z)[MASK[:, first:]] for z in (ours, whole))
    broken = np.isnan(whole)
    assert broken.any()
    assert np.array_equal(np.isnan(ours), broken)
    assert_close(ours[~broken], whole[~broken])


def test_what_the_kernel_lacks_is_left_to_blocks():
    assert can_fuse(scoring())
    assert can_fuse(scoring(edit=at_sites(lambda _, value: value, ("q", "z"))))
    segments = jnp.zeros((B, T), int)
    packed = AttentionInputs.within(Positions(jnp.asarray(MASK), segments=segments), causal=True)
    rows = INPUTS.rows(jnp.zeros((B, 3), int))
    assert not can_fuse(scoring(packed))
    assert not can_fuse(scoring(rows))
    others: tuple[dict[str, Any], ...] = (
        {"mask": INPUTS.mask.within(INPUTS.queries, INPUTS.keys, 9)},
        {"bias": jnp.zeros((1, N, 1, T))},
        {"sinks": jnp.zeros(N)},
        {"scale": jnp.ones((1, N, 1, 1))},
        {"edit": RowEdit(lambda _, value, __: value, ("pattern",))},
        {"edit": lambda _, value: value},
    )
    for more in others:
        assert not can_fuse(scoring(**more)), more


def test_the_kernels_products_have_the_precision_that_is_set():
    q = jnp.zeros((1, 512, N, H))
    inputs = AttentionInputs.within(Positions(jnp.ones((1, 512), bool)), causal=True)
    with jax.default_matmul_precision("highest"):
        slope = jax.grad(lambda q: fused(q, q, q, scoring(inputs)).sum())
        program = str(jax.make_jaxpr(slope)(q))
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 2
