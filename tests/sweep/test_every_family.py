"""The same sweeps, unchanged, on every stack of every family: equal to whole forward passes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.sites import ATTENTION_SITES

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

RIGHT, WRONG = 1, 2
OBJECTIVE = jh.logit_difference(RIGHT, WRONG)
WITHOUT_LOGITS = ("clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model")
"""Towers by themselves have nothing to be objective_values by; as halves of a classifier they are `clip`'s."""

ELSEWHERE = ("llama", "gpt2", "bert", "t5", "bart", "vit", "deit", "dinov2_with_registers")
"""More is asked of them in this folder's other files."""

SAME = frozenset(
    "marian mt5 camembert xlm_roberta deberta gemma gemma3 dinov2 llava llava_next codegen mpt olmo3 phi phi3 smollm3 "
    "stablelm starcoder2 mixtral qwen3_moe".split()
)
"""Their networks are built of another's classes, in an arrangement of blocks, positions and norms that another has."""

families = pytest.mark.parametrize(
    "family", [name for name in SPECS if name not in {*WITHOUT_LOGITS, *ELSEWHERE, *SAME}]
)


def asked(family: str, stack: str) -> tuple[jh.Model, jh.Batch, jh.Batch]:
    """A model with logits, and two batches of which the second may be patched into the first."""
    both, spec = small(family), SPECS[family]
    model, batch, other = both.ours, spec.batch(both.theirs), spec.batch(both.theirs, seed=1)
    if family not in ("clip", "siglip"):
        return model, batch, other
    texts, images = ([jh.Batch(one.tokens, one.mask), jh.Batch(pixels=one.pixels)] for one in (batch, other))
    half = 0 if stack == "text" else 1
    return jh.zero_shot(model, (images if half else texts)[1 - half]), texts[half], images[half]


def judge(model: jh.Model, output: jax.Array, batch: jh.Batch) -> jax.Array:
    """OBJECTIVE, from the whole output."""
    if output.ndim == 3:
        output = output[jnp.arange(len(batch)), model.network.readout_positions(batch)]
    return output[:, RIGHT] - output[:, WRONG]


def objective_values(model: jh.Model, batch: jh.Batch, *edits: jh.SiteEdit) -> np.ndarray:
    return np.asarray(judge(model, jh.run(model, batch, edits=edits).output, batch), np.float64)


def effects(model: jh.Model, batch: jh.Batch, stack: str, site: str, values: Any) -> np.ndarray:
    """Of putting `values` (of the site, layers first) in place of each layer's and, where there are any, head's:
    `[E,L]` or `[E,L,N]`, a whole run each."""
    part, before = model.stack(stack), objective_values(model, batch)
    heads = part.heads if site in ATTENTION_SITES else 1
    found = np.empty((len(batch), part.layers, heads))
    for layer, head in np.ndindex(part.layers, heads):
        weight = (np.arange(heads) == head).astype(np.float32)
        weight = weight[None, None, None, :, None] if site in ATTENTION_SITES else weight[None, None, None]
        edit = jh.SiteEdit(jnp.array([layer]), jnp.asarray(weight), values[layer][None], site, stack)
        found[:, layer, head] = objective_values(model, batch, edit) - before
    return found if site in ATTENTION_SITES else found[..., 0]


@families
def test_ablation_and_importance(family: str):
    for stack in small(family).ours.stacks:
        check_ablation_and_importance(*asked(family, stack)[:2], stack)


def check_ablation_and_importance(model: jh.Model, batch: jh.Batch, stack: str) -> None:
    part = model.stack(stack)
    z = jh.run(model, batch, [f"{stack}.z"]).seen[f"{stack}.z"]
    expected = effects(model, batch, stack, "z", jnp.zeros_like(z))
    assert_close(jh.ablate(model, batch, OBJECTIVE, "zero", stack=stack).per_example, expected)
    assert np.abs(expected).max() > 1e-3

    def gated(gates_LN: jax.Array) -> jax.Array:
        return judge(model, jh.run(model, batch, edits=jh.gate(model, gates_LN, stack=stack)).output, batch)

    slopes_BLN = jax.jacrev(gated)(jnp.ones((part.layers, part.heads)))
    assert_close(jh.importance(model, batch, OBJECTIVE, stack=stack).per_example, np.abs(slopes_BLN))


@families
@pytest.mark.parametrize("site", ["z", "resid_pre"])
def test_patching(family: str, site: str):
    for stack in small(family).ours.stacks:
        check_patching(*asked(family, stack), stack, site)


def check_patching(model: jh.Model, corrupt: jh.Batch, clean: jh.Batch, stack: str, site: str) -> None:
    values = jh.run(model, clean, [f"{stack}.{site}"]).seen[f"{stack}.{site}"]
    by = ("layer", "head") if site in ATTENTION_SITES else ("layer",)
    table = jh.patch(model, clean, corrupt, OBJECTIVE, site, by, stack=stack)
    expected = effects(model, corrupt, stack, site, values)
    assert table.per_example is not None
    assert_close(table.per_example[table.metrics.index("effect")], expected)
    assert np.abs(expected).max() > 1e-3


@families
def test_measures(family: str):
    """Any stack's entropy and confidence are those of its captured pattern, over its own queries."""
    for stack in small(family).ours.stacks:
        check_measures(*asked(family, stack)[:2], stack)


def check_measures(model: jh.Model, batch: jh.Batch, stack: str) -> None:
    pattern = np.asarray(jh.run(model, batch, [f"{stack}.pattern"]).seen[f"{stack}.pattern"], np.float64)
    table = jh.measure(model, batch, ("entropy", "confidence"), stack=stack)
    assert (table.stack, table.examples) == (stack, len(batch))
    real = np.asarray(model.stack(stack).queries.of(batch).mask)
    # What goes to a learnt sink counts as one more key.
    rest = 1 - pattern.sum(axis=-1, keepdims=True) if model.stack(stack).sinks is not None else pattern[..., :0]
    whole = np.concatenate([pattern, rest], axis=-1)
    entropy = -(whole * np.log(np.where(whole > 0, whole, 1))).sum(axis=-1)
    for found, each in zip(np.asarray(table.per_example), (entropy, pattern.max(axis=-1)), strict=True):
        expected = np.stack([each[:, b][:, :, real[b]].mean(axis=-1) for b in range(len(batch))])
        assert_close(found, expected)
