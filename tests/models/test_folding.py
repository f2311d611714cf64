"""Folding norms changes weights and nothing else, in every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.layers import FixedLayerNorm
from jaxheads.models.norms import scale_and_bias, unit_stream, with_frozen_statistics

from .huggingface import assert_close, random_batch, small_model
from .specs import SPECS
from .specs.spec import small

POST_NORM = {"bert", "roberta", "camembert", "xlm_roberta", "distilbert", "albert", "mpnet", "bart", "marian"} | {
    "deberta",
    "deberta_v2",
    "electra",
}
OUTPUT_NORMS = {"olmo2", "olmo3"}
"""Families whose heads and MLPs read the stream as it is."""


@pytest.mark.parametrize("family", sorted(set(SPECS) - POST_NORM))
def test_the_output_and_the_patterns_stay(family: str):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    folded = jh.fold_norms(model)
    names = [f"{name}.pattern" for name in model.stacks]
    before, after = (jh.run(one, batch, names) for one in (model, folded))
    assert_close(after.output, before.output)
    for name in names:
        assert_close(after.seen[name], before.seen[name])
    for name, stack in folded.stacks.items():
        old = model.stack(name).blocks.input_norms()
        assert len(old) == len(stack.blocks.input_norms())
        assert (len(old) > 0) == (family not in OUTPUT_NORMS)
        for one, was in zip(stack.blocks.input_norms(), old, strict=True):
            scale, bias = scale_and_bias(one.norm)
            assert jnp.all(scale == 1)
            assert bias is None or jnp.all(bias == 0)
            has_scale = not isinstance(was.norm, FixedLayerNorm)
            assert (
                jnp.abs(scale_and_bias(was.norm)[0] - 1).max() > 0.1
            ) == has_scale  # the old model still has its norms


@pytest.mark.parametrize("family", sorted(POST_NORM))
def test_streams_that_are_normed_themselves_are_refused(family: str):
    with pytest.raises(ValueError, match="norms the stream itself"):
        jh.fold_norms(small(family).ours)


def test_layer_norm_leaves_no_mean_and_rms_norm_does():
    for family, expected in (("gpt2", True), ("llama", False)):
        weights = jh.fold_norms(small_model(family)).stack().weights
        for weight in (weights.W_Q, weights.W_K, weights.W_V):
            assert (float(jnp.abs(weight.mean(axis=2)).max()) < 1e-6) == expected


def test_folding_twice_is_folding_once():
    once = jh.fold_norms(small_model("gpt2"))
    twice = jh.fold_norms(once)
    for one, other in zip(jax.tree.leaves(once.network), jax.tree.leaves(twice.network), strict=True):
        assert_close(one, other)


def test_a_folded_model_can_not_be_written_as_what_it_was(tmp_path):
    with pytest.raises(ValueError, match="has no Hugging Face config"):
        jh.to_hf(jh.fold_norms(small_model("llama")), tmp_path / "out")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "modernbert", "gptj", "olmo"])
def test_held_norms_are_linear_and_give_the_whole(family: str):
    """What blocks and networks say of parts adds up to what they do."""
    model = small(family).ours
    network = model.network
    rng = np.random.default_rng(0)
    for stack in network.stacks:
        one, other = jnp.asarray(rng.standard_normal((2, 2, 3, stack.width), np.float32))
        for norm in stack.block(1).input_norms():
            whole = one + other
            bias = scale_and_bias(norm.norm)[1]
            added = with_frozen_statistics(norm.norm, one, whole) + with_frozen_statistics(norm.norm, other, whole)
            assert_close(added + (0 if bias is None else bias[None, None]), norm.norm(whole))


def test_a_unit_stream_is_normed_to_itself():
    for width in (1, 2, 7, 24):
        x = unit_stream(jnp.zeros((3, width)))
        if width > 1:
            assert_close(x.mean(axis=-1), np.zeros(3))
        assert_close(jnp.square(x).mean(axis=-1), np.ones(3))


def test_what_heads_read_and_the_head_reads_is_a_sum():
    for family in ("gpt2", "llama"):
        network = small_model(family).network
        batch = random_batch((4, 3))
        x = network.hidden(batch, lambda stack, x, context: stack.run(x, context)[0])
        parts = [0.3 * x, 0.7 * x[:, ::-1], x - 0.3 * x - 0.7 * x[:, ::-1]]
        constant = network.features(x) - network.with_frozen_statistics(x, x)
        assert_close(sum(network.with_frozen_statistics(part, x) for part in parts) + constant, network.features(x))
        assert float(jnp.abs(constant - constant[:1, :1]).max()) < 1e-5  # the norm's bias, whatever the stream
