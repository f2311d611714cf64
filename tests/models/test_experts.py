"""Mixtures of experts: routing by hand, both ways to store experts, and what works on the network's parts."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxheads as jh
from jaxheads.measure.relevance.rules import ATTNLRP, CPLRP, with_rules
from jaxheads.models.experts import RoutedMLP
from jaxheads.models.families import FAMILIES
from jaxheads.models.layers import GatedMLP

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small, their_run
from .test_saving import assert_same_bits

FAMILIES_WITH_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")


def routed_mlp(experts: int = 5, chosen: int = 2, **more: object) -> RoutedMLP:
    mlp = RoutedMLP(6, lambda rngs: GatedMLP(6, 4, "silu", rngs=rngs), experts, chosen, rngs=nnx.Rngs(0), **more)  # type: ignore[arg-type]
    leaves, structure = jax.tree.flatten(mlp)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.standard_normal(one.shape), one.dtype) for one in leaves])


def by_hand(mlp: RoutedMLP, x_D: np.ndarray) -> np.ndarray:
    """One token: its experts, one after the other."""
    scores = x_D @ np.asarray(mlp.router.kernel[...], np.float64)
    probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    which = np.argsort(-probabilities)[: mlp.chosen]
    weights = probabilities[which] / (probabilities[which].sum() if mlp.renormalise else 1)
    total = np.zeros_like(x_D)
    for expert, weight in zip(which, weights, strict=True):
        gate, up, down = (
            np.asarray(one.kernel[expert], np.float64) for one in (mlp.experts.gate, mlp.experts.up, mlp.experts.down)
        )
        inner = x_D @ gate
        total += weight * ((inner / (1 + np.exp(-inner)) * (x_D @ up)) @ down)
    return total


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_each_token_gets_its_own_experts(chosen: int, renormalise: bool):
    mlp = routed_mlp(chosen=chosen, renormalise=renormalise)
    x_BTD = np.random.default_rng(1).standard_normal((2, 7, 6)).astype(np.float32)
    expected = np.apply_along_axis(partial(by_hand, mlp), -1, x_BTD.astype(np.float64))
    for run in (mlp, jax.jit(mlp), jax.vmap(mlp), jax.jit(jax.vmap(jax.vmap(mlp)))):
        assert_close(run(jnp.asarray(x_BTD)), expected)


def test_an_expert_that_overflows_is_felt_by_its_own_tokens_alone():
    mlp = routed_mlp(chosen=1)
    x_BTD = jnp.asarray(np.random.default_rng(1).standard_normal((1, 40, 6)), jnp.float32)
    expert_T = np.asarray(mlp.weights(x_BTD)[0]).argmax(axis=-1)
    assert len(set(expert_T)) > 1
    for matrix in (mlp.experts.gate, mlp.experts.up):
        matrix.kernel = nnx.Param(matrix.kernel[...].at[expert_T[0]].multiply(1e20))
    broken_T = np.logical_not(np.isfinite(np.asarray(mlp(x_BTD)[0])).all(axis=-1))
    np.testing.assert_array_equal(broken_T, expert_T == expert_T[0])
    gradient = jax.grad(lambda x: jnp.where(jnp.asarray(broken_T)[None, :, None], 0, mlp(x)).sum())(x_BTD)
    assert np.isfinite(np.asarray(gradient)[:, ~broken_T]).all()


def test_more_experts_of_a_token_than_there_are():
    with pytest.raises(ValueError, match="can't be sent to 6 experts of 5"):
        routed_mlp(chosen=6)
    config = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 5, "vocab_size": 9, "hidden_size": 8}
    with pytest.raises(ValueError, match="num_experts_per_tok must be at most the number of experts, 4, got 5"):
        jh.init({**config, "num_attention_heads": 4, "num_hidden_layers": 1})


@pytest.mark.parametrize("family", FAMILIES_WITH_EXPERTS)
def test_experts_one_by_one_and_joined_are_the_same_model(family: str, tmp_path: Path):
    both = small(family)
    both.theirs.save_pretrained(tmp_path / "joined", save_original_format=False)
    jh.to_hf(both.ours, tmp_path / "single")
    names = {place: set(load_file(tmp_path / place / "model.safetensors")) for place in ("joined", "single")}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in names["joined"])
    assert not names["joined"] & {name for name in names["single"] if ".experts." in name}
    assert_same_bits(jh.load(tmp_path / "joined"), both.ours)


def test_a_half_joined_checkpoint_is_refused(tmp_path: Path):
    both = small("mixtral")
    both.theirs.save_pretrained(tmp_path, save_original_format=False)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": np.ones((40, 24), np.float32)}
    save_file({**tensors, **extra}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not known: model\.layers\.0\.block_sparse_moe\.experts\.0\.w1"):
        jh.load(tmp_path)


@pytest.mark.parametrize("joined", [False, True])
def test_a_file_without_its_head_is_the_bare_model(joined: bool, tmp_path: Path):
    both = small("mixtral")
    both.theirs.save_pretrained(tmp_path, save_original_format=not joined)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if name != "lm_head.weight"}, tmp_path / "model.safetensors"
    )
    with pytest.warns(UserWarning, match="loaded as MixtralModel"):
        assert jh.load(tmp_path).network.unembedding is None
    assert jh.load(jh.to_hf(both.ours, tmp_path / "whole"), head="none").network.unembedding is None


@pytest.mark.parametrize("family", FAMILIES_WITH_EXPERTS)
@pytest.mark.parametrize("rules", [ATTNLRP, CPLRP])
def test_rules_of_relevance_change_no_value_and_reach_the_experts(family: str, rules: jh.Rules):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    ruled = with_rules(model.network, rules)
    mlp = ruled.decoder.blocks.mlp
    assert mlp.weigh is not model.network.decoder.blocks.mlp.weigh
    assert mlp.experts.act is not model.network.decoder.blocks.mlp.experts.act
    plain, other = (jh.run(jh.Model(network), batch).output for network in (model.network, ruled))
    assert_close(other, plain)


def test_relevance_of_a_mixture_is_kept_where_its_weights_are_constant():
    """Homogeneous of degree 1 under CP-LRP: with linear activations, an expert's relevance is that of its output."""
    mlp = routed_mlp()
    ruled = with_rules(mlp, CPLRP)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 9, 6)), jnp.float32)
    y, pull_back = jax.vjp(ruled, x)
    assert_close((x * pull_back(jnp.ones_like(y))[0]).sum(), y.sum())
    y, pull_back = jax.vjp(with_rules(mlp, ATTNLRP), x)
    assert float(jnp.abs((x * pull_back(jnp.ones_like(y))[0]).sum() - y.sum())) > 1e-3  # halves go to the router


@pytest.mark.parametrize("family", FAMILIES_WITH_EXPERTS)
def test_each_experts_hidden_units_are_split_over_a_mesh(family: str):
    table = jh.placement(jh.shard(small(family).ours, jax.make_mesh((1,), ("model",))))
    spec = table["spec"].to_dict()
    assert spec["decoder.blocks.mlp.experts.gate.kernel"] == (None, None, None, "model")
    assert spec["decoder.blocks.mlp.experts.down.kernel"] == (None, None, "model", None)


HUB = {
    "mixtral": (
        {
            "architectures": ["MixtralForCausalLM"],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "output_router_logits": False,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
            "vocab_size": 32000,
        },
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 14336, "norm_topk_prob": True},
    ),
    "qwen2_moe": (
        {
            "architectures": ["Qwen2MoeForCausalLM"],
            "decoder_sparse_step": 1,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "max_window_layers": 21,
            "moe_intermediate_size": 1408,
            "norm_topk_prob": False,
            "num_attention_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "num_hidden_layers": 24,
            "num_key_value_heads": 16,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": 5632,
            "sliding_window": 32768,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"qkv_bias": True, "sliding_window": None, "dense_layers": (), "shared_expert_intermediate_size": 5632},
    ),
    "qwen3_moe": (
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": False,
            "decoder_sparse_step": 2,
            "head_dim": 128,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "max_window_layers": 48,
            "mlp_only_layers": [1],
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"num_experts": 128, "dense_layers": (0, 1, 2), "shared_expert_intermediate_size": None, "head_dim": 128},
    ),
}
"""What the hub's configs say, and what is read from them."""


@pytest.mark.parametrize("family", HUB)
def test_configs_of_the_hub_are_read(family: str):
    stated, read = HUB[family]
    config = FAMILIES[family].config_type.from_hf({"model_type": family, **json.loads(json.dumps(stated))})
    assert {name: getattr(config, name) for name in read} == read


def test_transformers_reads_dense_layers_from_what_was_written(tmp_path: Path):
    spec = SPECS["qwen2_moe"]
    theirs = spec.build(num_hidden_layers=3, mlp_only_layers=[1])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = jh.load(tmp_path / "theirs")
    again = type(theirs).from_pretrained(jh.to_hf(ours, tmp_path / "ours"), attn_implementation="eager").eval()
    batch = spec.batch(theirs)
    assert_close(their_run(again, batch, 0)["output"], their_run(theirs, batch, 0)["output"])
