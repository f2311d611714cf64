"""What each GGUF architecture's metadata and tensors are called in Hugging Face's words: tables only."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One GGUF architecture. Keys of `metadata` lack the prefix "<architecture>."; `{n}` is the layer.

    `metadata` maps a key to the config field it fills; `constants` are config fields no key tells.
    `biases` maps a config field to the tensor of layer 0 whose presence makes it true. `rotated` maps
    tensors whose rows llama.cpp's converter reordered to the config field with their number of heads.
    """

    metadata: Mapping[str, str]
    constants: Mapping[str, Any]
    tensors: Mapping[str, str]
    layer_tensors: Mapping[str, str]
    biases: Mapping[str, str]
    rotated: Mapping[str, str]


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
    constants=MappingProxyType({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}),
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

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({"llama": LLAMA})
