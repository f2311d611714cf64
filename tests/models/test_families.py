"""Every family gives what `transformers` gives: outputs, patterns, streams, and an ablation in each stack.

Configs are drawn: hypothesis looks for one in which ours and theirs differ.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import jaxheads as jh

from .huggingface import Pair, assert_close
from .specs import SPECS
from .specs.spec import Spec, compare, pair, small, their_run, without

EXAMPLES = 4
"""Configs drawn for each family, beside the one of its sizes."""

families = pytest.mark.parametrize("name", SPECS)


def heads_of(model: jh.Model) -> dict[str, list[tuple[int, int]]]:
    """The heads that are removed: in each stack one in the first layer and one in the last."""
    return {
        name: [(0, stack.heads - 1), *([(stack.layers - 1, 0)] if stack.layers > 1 else [])]
        for name, stack in model.stacks.items()
    }


def check(spec: Spec, both: Pair, side: str) -> None:
    """One run as it is, and for each stack one without some heads; one compilation for all."""
    model, heads = both.ours, heads_of(both.ours)
    batch = spec.batch(both.theirs, side)
    sites = [f"{name}.{site}" for name, stack in model.stacks.items() for site in ("pattern", "resid_pre")]
    outputs, counts = spec.outputs(both.theirs), {name: stack.heads for name, stack in model.stacks.items()}
    clean = None
    for removed in (None, *heads):
        edits = [
            jh.zero_heads(model, some, stack=name, amount=jnp.float32(name == removed)) for name, some in heads.items()
        ]
        ours = jh.run(model, batch, sites, edits)
        for example in range(len(batch)):
            with without(outputs, {} if removed is None else {removed: heads[removed]}, counts):
                theirs = their_run(both.theirs, batch, example)
            compare(ours, theirs, model, batch, example)
        clean = ours.output if clean is None else clean
        assert removed is None or np.abs(np.asarray(ours.output) - np.asarray(clean)).max() > 1e-3


@families
@pytest.mark.parametrize("side", ["right", "left"])
def test_output_patterns_streams_and_ablations_are_those_of_transformers(name: str, side: str):
    check(SPECS[name], small(name), side)


@pytest.mark.parametrize(("name", "config"), [(name, one) for name, spec in SPECS.items() for one in spec.named])
def test_configs_that_no_draw_may_miss(name: str, config: str):
    check(SPECS[name], pair(SPECS[name], **SPECS[name].named[config]), "left")


@families
def test_whatever_its_config(name: str):
    spec = SPECS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
    )
    @given(spec.vary, st.sampled_from(["right", "left"]))
    def holds(config: dict[str, Any], side: str) -> None:
        config = dict(config)
        check(spec, pair(spec, config.pop("architecture", None), **config), side)

    holds()


@pytest.mark.parametrize("side", ["right", "left"])
def test_t5_at_all_lengths_to_64(side: str):
    """Its buckets grow with the distance, and are another function where the stack is causal."""
    lengths = tuple(range(1, 65))
    spec = replace(SPECS["t5"], lengths=(lengths, lengths[::-1]))
    check(spec, pair(spec, relative_attention_num_buckets=32, relative_attention_max_distance=40), side)


@families
def test_heads_are_what_their_weights_make_of_the_stream(name: str):
    """attn_out rebuilt from z and W_O, head by head; z from the pattern and v."""
    both = small(name)
    model, batch = both.ours, SPECS[name].batch(both.theirs)
    for stack_name, stack in model.stacks.items():
        sites = [f"{stack_name}.{site}" for site in ("pattern", "v", "z", "attn_out")]
        pattern, v, z, attn_out = (np.asarray(jh.run(model, batch, sites).seen[site]) for site in sites)
        weights, group = stack.weights, stack.heads // stack.kv_heads
        assert_close(np.einsum("lbnts,lbsnh->lbtnh", pattern, np.repeat(v, group, axis=3)), z)
        parts = np.einsum("lbtnh,lnhd->lnbtd", z, np.asarray(weights.W_O))
        whole = parts.sum(axis=1) + (0 if weights.b_O is None else np.asarray(weights.b_O)[:, None, None])
        if not hasattr(stack.blocks, "attention_out_norm"):  # there a norm comes between
            assert_close(whole, attn_out)
