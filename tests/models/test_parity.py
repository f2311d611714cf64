"""The same numbers as `transformers` gives, for every option a family's config has."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import jaxheads as jh

from .huggingface import Pair, alone, assert_close, pair, random_batch, their_run, without_heads


class Case(NamedTuple):
    """An architecture and what its config says beyond the usual sizes."""

    name: str
    architecture: str
    config: dict[str, Any]


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_IN_FULL = {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}
BIASES = {"attention_bias": True, "mlp_bias": True}

CASES = [
    Case("llama", "LlamaForCausalLM", {"rms_norm_eps": 1e-5}),
    Case("llama-multi-query-tied", "LlamaForCausalLM", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Case("llama-all-kv-heads-gelu", "LlamaForCausalLM", {"num_key_value_heads": 4, "hidden_act": "gelu"}),
    Case("llama-head-dim", "LlamaForCausalLM", {"head_dim": 10, "hidden_act": "relu"}),
    Case(
        "llama-biases",
        "LlamaForCausalLM",
        {**BIASES, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    Case(
        "llama-linear",
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
    ),
    Case("llama-llama3", "LlamaForCausalLM", {"rope_parameters": LLAMA3, "head_dim": 16}),
    Case("llama-yarn", "LlamaForCausalLM", {"rope_parameters": YARN, "head_dim": 16}),
    Case("llama-yarn-in-full", "LlamaForCausalLM", {"rope_parameters": YARN_IN_FULL, "head_dim": 16}),
    Case("llama-bare", "LlamaModel", {"mlp_bias": True, "num_hidden_layers": 3}),
    Case("gpt2", "GPT2LMHeadModel", {}),
    Case("gpt2-untied-gelu", "GPT2LMHeadModel", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    Case("gpt2-inner-relu", "GPT2LMHeadModel", {"n_inner": 20, "activation_function": "relu"}),
    Case("gpt2-unscaled", "GPT2LMHeadModel", {"scale_attn_weights": False, "reorder_and_upcast_attn": True}),
    Case("gpt2-bare", "GPT2Model", {"n_layer": 3, "activation_function": "quick_gelu"}),
    Case("bert-bare", "BertModel", {}),
    Case("bert-mlm", "BertForMaskedLM", {"layer_norm_eps": 1e-12}),
    Case(
        "bert-mlm-untied-gelu-new",
        "BertForMaskedLM",
        {"tie_word_embeddings": False, "hidden_act": "gelu_new"},
    ),
    Case("bert-pretraining", "BertForPreTraining", {"hidden_act": "relu", "type_vocab_size": 3}),
]
LENGTHS = (7, 4, 1)
HEADS = [(1, 2), (0, 3)]
sides = pytest.mark.parametrize("side", ["right", "left"])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def both(request: pytest.FixtureRequest) -> Pair:
    case: Case = request.param
    return pair(case.architecture, **case.config)


def a_batch(both: Pair, side: str) -> jh.Batch:
    return random_batch(LENGTHS, side, types=getattr(both.ours.config, "type_vocab_size", 1))


def edited(model: jh.Model, batch: jh.Batch, amount: float) -> jh.Run:
    """One compilation for the run as it is (amount 0) and without HEADS (amount 1)."""
    sites = ("pattern", "resid_pre", "resid_post")
    return jh.run(model, batch, sites, edits=jh.zero_heads(model, HEADS, amount=amount))


@sides
def test_output_streams_and_patterns_are_those_of_transformers(both: Pair, side: str):
    batch = a_batch(both, side)
    ours, theirs, real = edited(both.ours, batch, 0), their_run(both.theirs, batch), np.asarray(batch.mask)
    assert_close(ours.output[real], theirs["output"][real])
    for layer in range(both.ours.stack().layers):
        for site, rows in (("resid_pre", lambda x: x[real]), ("pattern", lambda p: p.swapaxes(1, 2)[real])):
            assert_close(rows(ours.seen[site][layer]), rows(theirs[site][layer]))


@sides
def test_zeroing_heads_is_cutting_them_from_the_projection_of_transformers(both: Pair, side: str):
    batch = a_batch(both, side)
    real = np.asarray(batch.mask)
    theirs = their_run(without_heads(both.theirs, HEADS), batch)
    assert_close(edited(both.ours, batch, 1).output[real], theirs["output"][real])
    assert np.abs(theirs["output"] - their_run(both.theirs, batch)["output"])[real].max() > 0.01


@sides
def test_pooled_output_is_that_of_transformers_without_padding(both: Pair, side: str):
    network, batch = both.ours.network, a_batch(both, side)
    if not hasattr(network, "pooled"):
        return
    stream = edited(both.ours, batch, 0).seen["resid_post"][-1]
    if network.pooler is None:
        with pytest.raises(ValueError, match="no pooler"):
            network.pooled(stream, batch)
        return
    theirs = [their_run(both.theirs.base_model, alone(batch, b))["pooled"][0] for b in range(len(batch))]
    assert_close(network.pooled(stream, batch), np.stack(theirs))
