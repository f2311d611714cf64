"""The machines that `experiments.accelerators` compiles for, and the models that it asks about."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """A kind of TPU, eight chips of it.

    Attributes:
        topology: JAX's name of the eight chips.
        clock: cycles a second.
        products: floating point operations of bfloat16 matrix products a cycle and chip, multiply and add as two.
        memory: bytes of memory of a chip.
    """

    topology: str
    clock: float
    products: float
    memory: float


# Clock × products is the published peak of a chip: 197, 459 and 918 TFLOP/s in bfloat16.
MACHINES: Mapping[str, Machine] = {
    "v5e-8": Machine("v5e:2x4", 1.5e9, 131_072, 16e9),
    "v5p-8": Machine("v5p:2x2x2", 1.75e9, 262_144, 95e9),
    "v6e-8": Machine("v6e:2x4", 1.75e9, 524_288, 32e9),
}

WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}
"""Environment in which libtpu compiles where there is no TPU; its programs can't be read back from a cache."""


def environment(devices: int = 8) -> dict[str, str]:
    """Return the environment of a process that compiles for a TPU, with as many devices of the CPU to stand for it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, **WITHOUT_A_TPU, "XLA_FLAGS": flags.strip()}


def _llama(layers: int, heads: int, kv_heads: int, width: int, hidden: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }


MODELS: Mapping[str, Mapping[str, Any]] = {
    "GPT-2 small": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
    },
    "SmolLM2 135M": _llama(30, 9, 3, 576, 1536, 49152),
    "Llama 1.1B": _llama(22, 32, 4, 2048, 5632, 32000),
    "Llama 8B": _llama(32, 32, 8, 4096, 14336, 128256),
    "Llama 70B": _llama(80, 64, 8, 8192, 28672, 128256),
}

TINY: Mapping[str, Any] = {**MODELS["GPT-2 small"], "vocab_size": 512, "n_embd": 128, "n_layer": 3, "n_head": 2}
"""The model of a quick run."""
