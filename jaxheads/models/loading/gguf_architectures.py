"""Tables that translate each GGUF architecture's metadata and tensor names to Hugging Face's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Translation of a GGUF architecture. Keys lack the prefix "<architecture>."; `{n}` in a name is the layer.

    Attributes:
        metadata: from a key to the config field it fills.
        constants: config fields that no key fills.
        tensors: from a tensor's name to Hugging Face's, both without ".weight" and ".bias".
        layer_tensors: as `tensors`, for those of layers.
        biases: from a config field to the tensor of layer 0 whose presence makes it true.
        rotated: from a tensor whose rows llama.cpp's converter reordered to the config field with its number of heads.
        absent: from a key to the config fields that follow where a file lacks it.
        shifted: tensors to which the converter added 1.
        wide: the number of layers of the release whose queries are scaled by the width per head, not by the head
            dimension; llama.cpp also recognises it by that number.
        interleaved: fused tensors, which the converter reordered from (query, key, value) head by head to all queries,
            all keys, all values.
        epsilon: the config's field of the norms' epsilon.
        grouped: whether the family's config has key/value heads and a head dimension; in others, `rope.dimension_count`
            gives the share of a head that rotates.
    """

    metadata: Mapping[str, str]
    constants: Mapping[str, Any]
    tensors: Mapping[str, str]
    layer_tensors: Mapping[str, str]
    biases: Mapping[str, str] = field(default_factory=dict)
    rotated: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shifted: frozenset[str] = frozenset()
    wide: int | None = None
    interleaved: frozenset[str] = frozenset()
    epsilon: str = "rms_norm_eps"
    grouped: bool = True


def _constants(model_type: str, architecture: str, **more: Any) -> Mapping[str, Any]:
    return MappingProxyType({"model_type": model_type, "architectures": [architecture], **more})


LLAMA = Architecture(
    metadata=MappingProxyType(
        {
            "block_count": "num_hidden_layers",
            "embedding_length": "hidden_size",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_key_value_heads",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps",
            "attention.key_length": "head_dim",
            "context_length": "max_position_embeddings",
            "rope.freq_base": "rope_theta",
            "vocab_size": "vocab_size",
        }
    ),
    constants=_constants("llama", "LlamaForCausalLM", hidden_act="silu"),
    tensors=MappingProxyType({"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}),
    layer_tensors=MappingProxyType(
        {
            "blk.{n}.attn_norm": "model.layers.{n}.input_layernorm",
            "blk.{n}.attn_q": "model.layers.{n}.self_attn.q_proj",
            "blk.{n}.attn_k": "model.layers.{n}.self_attn.k_proj",
            "blk.{n}.attn_v": "model.layers.{n}.self_attn.v_proj",
            "blk.{n}.attn_output": "model.layers.{n}.self_attn.o_proj",
            "blk.{n}.ffn_norm": "model.layers.{n}.post_attention_layernorm",
            "blk.{n}.ffn_gate": "model.layers.{n}.mlp.gate_proj",
            "blk.{n}.ffn_up": "model.layers.{n}.mlp.up_proj",
            "blk.{n}.ffn_down": "model.layers.{n}.mlp.down_proj",
        }
    ),
    biases=MappingProxyType({"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}),
    rotated=MappingProxyType({"blk.{n}.attn_q": "num_attention_heads", "blk.{n}.attn_k": "num_key_value_heads"}),
)

QWEN2 = Architecture(
    metadata=LLAMA.metadata,
    constants=_constants("qwen2", "Qwen2ForCausalLM", hidden_act="silu"),
    tensors=LLAMA.tensors,
    layer_tensors=LLAMA.layer_tensors,
)

_HEAD_NORMS = {
    "blk.{n}.attn_q_norm": "model.layers.{n}.self_attn.q_norm",
    "blk.{n}.attn_k_norm": "model.layers.{n}.self_attn.k_norm",
}

QWEN3 = Architecture(
    metadata=LLAMA.metadata,
    constants=_constants("qwen3", "Qwen3ForCausalLM", hidden_act="silu"),
    tensors=LLAMA.tensors,
    layer_tensors=MappingProxyType({**LLAMA.layer_tensors, **_HEAD_NORMS}),
    biases=MappingProxyType({"attention_bias": "blk.0.attn_q.bias"}),
)

_SANDWICH_NORMS = {
    "blk.{n}.post_attention_norm": "model.layers.{n}.post_attention_layernorm",
    "blk.{n}.ffn_norm": "model.layers.{n}.pre_feedforward_layernorm",
    "blk.{n}.post_ffw_norm": "model.layers.{n}.post_feedforward_layernorm",
}
_SHIFTED = frozenset(("output_norm", "blk.{n}.attn_norm", *_SANDWICH_NORMS))

GEMMA2 = Architecture(
    metadata=MappingProxyType(
        {
            **LLAMA.metadata,
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        }
    ),
    constants=_constants("gemma2", "Gemma2ForCausalLM", hidden_activation="gelu_pytorch_tanh"),
    tensors=LLAMA.tensors,
    layer_tensors=MappingProxyType({**LLAMA.layer_tensors, **_SANDWICH_NORMS}),
    shifted=_SHIFTED,
    wide=46,
)

GEMMA3 = Architecture(
    metadata=MappingProxyType(
        {
            **LLAMA.metadata,
            "attention.sliding_window": "sliding_window",
            "attention.sliding_window_pattern": "sliding_window_pattern",
            "final_logit_softcapping": "final_logit_softcapping",
            "rope.freq_base_swa": "rope_local_base_freq",
        }
    ),
    constants=_constants("gemma3_text", "Gemma3ForCausalLM", hidden_activation="gelu_pytorch_tanh"),
    tensors=LLAMA.tensors,
    layer_tensors=MappingProxyType({**LLAMA.layer_tensors, **_SANDWICH_NORMS, **_HEAD_NORMS}),
    absent=MappingProxyType({"attention.sliding_window": {"sliding_window_pattern": 1}}),
    shifted=_SHIFTED | set(_HEAD_NORMS),
    wide=62,
)

GPT_NEOX = Architecture(
    metadata=MappingProxyType(
        {
            "block_count": "num_hidden_layers",
            "embedding_length": "hidden_size",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "context_length": "max_position_embeddings",
            "rope.freq_base": "rope_theta",
            "use_parallel_residual": "use_parallel_residual",
            "vocab_size": "vocab_size",
        }
    ),
    constants=_constants("gpt_neox", "GPTNeoXForCausalLM", hidden_act="gelu"),
    tensors=MappingProxyType(
        {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"}
    ),
    layer_tensors=MappingProxyType(
        {
            "blk.{n}.attn_norm": "gpt_neox.layers.{n}.input_layernorm",
            "blk.{n}.attn_qkv": "gpt_neox.layers.{n}.attention.query_key_value",
            "blk.{n}.attn_output": "gpt_neox.layers.{n}.attention.dense",
            "blk.{n}.ffn_norm": "gpt_neox.layers.{n}.post_attention_layernorm",
            "blk.{n}.ffn_up": "gpt_neox.layers.{n}.mlp.dense_h_to_4h",
            "blk.{n}.ffn_down": "gpt_neox.layers.{n}.mlp.dense_4h_to_h",
        }
    ),
    biases=MappingProxyType({"attention_bias": "blk.0.attn_qkv.bias"}),
    interleaved=frozenset(("blk.{n}.attn_qkv",)),
    epsilon="layer_norm_eps",
    grouped=False,
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gemma2": GEMMA2, "gemma3": GEMMA3, "gptneox": GPT_NEOX}
)
