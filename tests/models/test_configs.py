"""Configs: what is read from them, and what is refused."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxheads.models.families import FAMILIES
from jaxheads.models.families.gemma3 import Gemma3Config
from jaxheads.models.families.gemma3_text import Gemma3TextConfig
from jaxheads.models.families.llama import LlamaConfig
from jaxheads.models.families.phi3 import Phi3Config
from jaxheads.models.families.qwen2 import Qwen2Config
from jaxheads.models.layers import activation
from jaxheads.models.load import build as build_model
from jaxheads.models.loading.checkpoint import Checkpoint, Tensor

from .huggingface import SMALL, assert_close, build
from .specs import SPECS

REFUSED = [
    ("llama", {"sliding_window": 4}, "not understood: sliding_window"),
    ("llama", {"qk_norm": True, "logit_scale": 2.0}, "not understood: logit_scale, qk_norm"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "rope type 'dynamic' is not covered",
    ),
    (
        "llama",
        {"rope_scaling": {"type": "longrope"}, "rope_parameters": None},
        "rope type 'longrope' is not covered",
    ),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, r"'linear' lacks \['factor'\]"),
    ("llama", {"rope_parameters": {"rope_type": "default", "factor": 2.0}}, r"does not take \['factor'\]"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp=2; supported is 1 only"),
    (
        "llama",
        {"architectures": ["LlamaForMultipleChoice"]},
        "LlamaForMultipleChoice is not covered",
    ),
    ("llama", {"num_key_value_heads": 3}, "multiple of key/value heads"),
    ("llama", {"head_dim": 5}, "even number of dimensions, got 5"),
    ("llama", {"hidden_act": "gelu_10"}, "activation 'gelu_10' is not known; known are gelu"),
    ("llama", {"hidden_size": None}, "lacks hidden_size"),
    ("gpt_neox", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not covered"),
    ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.125}}, "even number of dimensions, got 1"),
    ("gpt_neox", {"is_decoder": True}, "is_decoder=True; supported is False only"),
    ("gpt_neox", {"architectures": ["GPTNeoXForMultipleChoice"]}, "GPTNeoXForMultipleChoice is not covered"),
    ("gpt_neo", {"attention_layers": ["global"]}, "attention_layers must be 2 times 'global' or 'local'"),
    ("gpt_neo", {"attention_layers": ["local", "global"]}, "attention_types and attention_layers differ"),
    ("gpt_neo", {"attention_types": [[["global", "sparse"], 1]]}, "attention_types must be like"),
    ("gpt_neo", {"attention_types": [["global", "local"]]}, "attention_types must be like"),
    ("gpt_neo", {"architectures": ["GPTNeoForMultipleChoice"]}, "GPTNeoForMultipleChoice is not covered"),
    ("gptj", {"rotary_dim": 10}, "rotary_dim of gptj lies in 1..8, the head's size; got 10"),
    ("gptj", {"rotary_dim": None}, "lacks rotary_dim"),
    ("gptj", {"rotary": False}, "rotary=False; supported is True only"),
    ("gptj", {"architectures": ["GPTJForMultipleChoice"]}, "GPTJForMultipleChoice is not covered"),
    ("olmo", {"qk_norm": True}, "not understood: qk_norm"),
    ("olmo", {"clip_qkv": -1.0}, "clip_qkv must be a finite number above 0"),
    ("olmo2", {"clip_qkv": 8.0}, "not understood: clip_qkv"),
    ("olmo2", {"architectures": ["Olmo2ForMultipleChoice"]}, "Olmo2ForMultipleChoice is not covered"),
    ("phi", {"rope_parameters": {"partial_rotary_factor": 0.125}}, "even number of dimensions, got 1"),
    ("phi", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor must be a number above 0"),
    ("phi", {"layer_norm_eps": None}, "lacks layer_norm_eps"),
    ("phi3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope type 'linear' is not covered"),
    ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0]}}, "short_factor .* must be 3 numbers above 0"),
    ("phi3", {"rope_scaling": {"type": "su", "beta": 1.0}}, r"'longrope' does not take \['beta'\]"),
    ("phi3", {"lm_head_bias": True}, "lm_head_bias=True; supported is False only"),
    ("stablelm", {"head_dim": 8}, "not understood: head_dim"),
    ("stablelm", {"rope_parameters": {"rope_type": "default", "beta": 2}}, r"does not take \['beta'\]"),
    ("falcon", {"parallel_attn": False}, "new_decoder_architecture has parallel layers"),
    (
        "falcon",
        {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
        "num_ln_in_parallel_attn=2 belongs to falcons of the new_decoder_architecture",
    ),
    (
        "falcon",
        {"new_decoder_architecture": False, "multi_query": False},
        "without multi_query has as many num_kv_heads as heads, 4; got 2",
    ),
    ("falcon", {"architectures": ["FalconForMultipleChoice"]}, "FalconForMultipleChoice is not covered"),
    ("olmo3", {"rope_parameters": {"rope_type": "default"}}, r"of olmo3 are given for .*; got \['rope_type'\]"),
    ("olmo3", {"sliding_window": None}, "layers of 'sliding_attention' but no sliding_window for them"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must be 0 or 1 for each of 2 layers"),
    ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers must be 0 or 1 for each of 2 layers"),
    ("codegen", {"n_head": 2}, "stored in 4 blocks: n_head must be a multiple, got 2"),
    ("codegen", {"architectures": ["GPTJForCausalLM"]}, "GPTJForCausalLM is not covered; of codegen: CodeGenForCausal"),
    ("cohere", {"logit_scale": None}, "lacks logit_scale"),
    ("granite", {"residual_multiplier": 0}, "residual_multiplier must be a finite number above 0"),
    ("gpt_bigcode", {"add_cross_attention": True}, "add_cross_attention=True; supported is False only"),
    ("starcoder2", {"norm_type": "rms_norm"}, "norm_type='rms_norm'; supported is 'layer_norm' only"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln=True; supported is False only"),
    ("mpt", {"attn_config": {"alibi": False}}, "alibi=False; supported is True only"),
    ("mpt", {"attn_config": {"clip_qkv": "6"}}, "clip_qkv must be a finite number above 0"),
    ("mpt", {"norm_type": "rmsnorm"}, "norm_type='rmsnorm'; supported is 'low_precision_layernorm' only"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine=False; supported is True only"),
    ("opt", {"scale_embeddings": True}, "scale_embeddings=True; supported is False only"),
    ("opt", {"ffn_dim": None}, "lacks ffn_dim"),
    ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact=True; supported is False only"),
    ("bloom", {"n_inner": 64}, "n_inner=64; supported is 96 only"),
    ("bloom", {"n_head": None}, "lacks n_head"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel is not covered"),
    ("gpt2", {"activation_function": "mish"}, "activation 'mish' is not known"),
    ("gpt2", {"attention_window": 3}, "not understood: attention_window"),
    ("bert", {"is_decoder": True}, "is_decoder=True; supported is False only"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("bert", {"architectures": ["BertLMHeadModel"]}, "BertLMHeadModel is not covered"),
    ("vit", {"patch_size": [4, 2]}, r"patches must be square, of .*, got patch_size=\[4, 2\]"),
    ("vit", {"image_size": [8, 12, 3]}, "image_size must be one whole number or a height and a width"),
    ("vit", {"num_labels": 0, "id2label": {}}, "a classifier needs at least one class"),
    ("vit", {"architectures": ["ViTForMaskedImageModeling"]}, "ViTForMaskedImageModeling is not covered"),
    ("vit", {"use_swiglu_ffn": True}, "not understood: use_swiglu_ffn"),
    ("deit", {"intermediate_size": None}, "lacks intermediate_size"),
    ("deit", {"architectures": ["ViTModel"]}, "ViTModel is not covered; of deit: DeiTModel"),
    ("dinov2", {"image_size": [20, 24]}, r"positions of dinov2 lie on a square; got image_size=\[20, 24\]"),
    ("dinov2", {"num_register_tokens": 4}, "not understood: num_register_tokens"),
    ("dinov2", {"architectures": ["Dinov2Backbone"]}, "Dinov2Backbone is not covered; of dinov2: Dinov2Model"),
    ("dinov2_with_registers", {"hidden_act": "mish"}, "activation 'mish' is not known"),
    ("dinov2_with_registers", {"intermediate_size": 40}, "not understood: intermediate_size"),
    ("bert", {"model_type": "bret"}, "family 'bret'; known are albert, .*did you mean 'bert'"),
    ("mistral", {"sliding_window": 0}, "sliding_window must be a whole number of at least 1, or null, got 0"),
    ("mistral", {"attention_bias": True}, "not understood: attention_bias"),
    ("qwen2", {"use_mrope": True}, "use_mrope=True; supported is False only"),
    ("qwen2", {"layer_types": ["full_attention"]}, "must be 2 times 'full_attention' or 'sliding_attention'"),
    ("qwen2", {"use_sliding_window": False}, "layers of 'sliding_attention' but no sliding_window for them"),
    ("qwen3", {"layer_types": ["chunked_attention"] * 2}, r"got \['chunked_attention', 'chunked_attention'\]"),
    ("qwen3", {"mlp_bias": True}, "not understood: mlp_bias"),
    ("qwen3", {"architectures": ["Qwen3ForMultipleChoice"]}, "Qwen3ForMultipleChoice is not covered"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True; supported is False"),
    ("gemma", {"sliding_window": 5}, "not understood: sliding_window"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True; supported is False"),
    ("gemma2", {"sliding_window": None}, "layers of 'sliding_attention' but no sliding_window for them"),
    ("gemma2", {"mlp_bias": True}, "not understood: mlp_bias"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True; supported is False"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0; supported is None"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, r"given for .*; got \['rope_type'\]"),
    ("clip", {"architectures": ["CLIPForImageClassification"]}, "CLIPForImageClassification is not covered"),
    ("clip", {"text_config": {"qk_norm": True}}, "the clip_text_model config has .* not understood: qk_norm"),
    ("clip", {"vision_config": {"image_size": [8, 12]}}, r"images of CLIP are square; got image_size=\[8, 12\]"),
    ("clip_text_model", {"eos_token_id": [2, 3]}, r"read at one end token; got eos_token_id=\[2, 3\]"),
    ("clip_text_model", {"num_attention_heads": 5}, "must be a multiple of num_attention_heads, got 24 and 5"),
    ("clip_vision_model", {"qkv_bias": True}, "not understood: qkv_bias"),
]


def config_of(family: str) -> dict[str, Any]:
    if family == "attention_only":  # transformers has none
        sizes = {"vocab_size": 37, "d_model": 24, "n_layers": 2, "n_heads": 3, "max_position_embeddings": 64}
        return {"model_type": family, **sizes, "positions": "rotary", "norm": "rms_norm", "norm_eps": 1e-5}
    spec = None if family in SMALL else SPECS[family.replace("-", "_")]
    architecture = SMALL[family] if spec is None else spec.architectures[0]
    config = (build(architecture) if spec is None else spec.build()).config.to_dict()
    return {**config, "architectures": [architecture], "model_type": family}


@pytest.mark.parametrize(("family", "fields", "message"), REFUSED)
def test_what_is_not_understood_is_refused(family: str, fields: dict[str, Any], message: str):
    weights = {"w": Tensor((2**40,), "float32", lambda: np.zeros(()))}  # enough for every size
    checkpoint = Checkpoint({**config_of(family), **fields}, weights, lambda: (None, ""), "a model", lambda: "")
    with pytest.raises(ValueError, match=message):
        build_model(checkpoint)


@pytest.mark.parametrize("family", SMALL)
def test_every_config_that_transformers_writes_is_understood(family: str):
    config = FAMILIES[family].config_type.from_hf(config_of(family))
    assert config.vocab_size == 37
    assert config.max_position_embeddings == 64


@pytest.mark.parametrize(
    "stated",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    ],
)
def test_rotary_positions_are_read_in_every_spelling(stated: dict[str, Any]):
    config = {name: value for name, value in config_of("llama").items() if name != "rope_parameters"}
    rotary = LlamaConfig.from_hf({**config, **stated}).rotary
    assert (rotary.base, rotary.kind, rotary.parameters) == (500.0, "linear", (("factor", 2.0),))


GEMMA3 = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "head_dim": 256,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "num_hidden_layers": 13,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 20000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 2000000,
    "sliding_window": 512,
    "vocab_size": 262144,
}
"""As transformers 4 wrote it."""


@pytest.mark.parametrize(("more", "every"), [({}, 6), ({"sliding_window_pattern": 4}, 4)])
def test_an_old_gemma_3_has_its_layer_types_and_two_rotary_bases(more: dict[str, Any], every: int):
    config = Gemma3TextConfig.from_hf({**GEMMA3, **more})
    full = [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert full == list(range(every - 1, 13, every))
    assert (config.rotary.base, config.rotary.kind, config.rotary.parameters) == (2e6, "linear", (("factor", 8.0),))
    assert (config.local_rotary.base, config.local_rotary.kind) == (2e4, "default")
    assert config.tie_word_embeddings


def test_a_gemma_that_sees_images_leaves_out_what_is_usual():
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    given = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    config = Gemma3Config.from_hf({**given, "vision_config": {}, "image_token_index": 262144})
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 256)
    assert (config.vocab_size, config.hidden_size, config.head) == (262208, 2560, "lm")


def test_longrope_is_that_of_texts_no_longer_than_the_first_training_s():
    """As Phi-3-mini-128k-instruct has it: longer texts would rotate by other frequencies at all positions."""
    rope = {"type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
    sizes = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    given = {**config_of("phi3"), **sizes, "rope_scaling": rope, "rope_theta": 10000.0, "rope_parameters": None}
    config = Phi3Config.from_hf(given)
    assert config.max_position_embeddings == 4096
    assert config.rotary.amplitude() == pytest.approx(1.1902380714238083)
    assert Phi3Config.from_hf({**given, "rope_scaling": None}).max_position_embeddings == 131072


def test_the_last_layers_of_qwen_have_windows_where_windows_are_used():
    given = {**config_of("qwen2"), "num_hidden_layers": 5, "layer_types": None, "max_window_layers": 3}
    kinds = Qwen2Config.from_hf(given).layer_types
    assert kinds == ("full_attention",) * 3 + ("sliding_attention",) * 2
    assert set(Qwen2Config.from_hf({**given, "use_sliding_window": False}).layer_types) == {"full_attention"}


def test_gelu_is_exact_and_gelu_new_the_approximation():
    x = jnp.linspace(-3, 3, 7, dtype=jnp.float32)
    tensor = torch.tensor(np.asarray(x))
    assert_close(activation("gelu")(x), torch.nn.functional.gelu(tensor), 1e-6)
    assert_close(activation("gelu_new")(x), torch.nn.functional.gelu(tensor, approximate="tanh"), 1e-6)
    assert np.abs(activation("gelu")(x) - activation("gelu_new")(x)).max() > 1e-4
