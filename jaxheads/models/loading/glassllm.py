"""Files of the package glassllm (npz) as a Llama checkpoint.

The package's model is a Llama in all but layout: RMSNorm, grouped-query attention, SwiGLU, tied embeddings,
no biases. Its matrices are stored [in, out], and it rotates adjacent pairs (2i, 2i + 1) of a head; Hugging Face
rotates (i, i + H/2). The rows of q and k are reordered for that, which leaves scores unchanged.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .config_fields import check_fields
from .containers import file_size, listed, reading
from .hf_directory import read_json
from .rotary import halves_from_pairs
from .transformers_import import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_len": "max_position_embeddings",
    "rope_base": "rope_theta",
    "eps": "rms_norm_eps",
    "init_std": "initializer_range",
}
LAYER = {
    "norm1.gamma": "input_layernorm.weight",
    "attn.W_Q": "self_attn.q_proj.weight",
    "attn.W_K": "self_attn.k_proj.weight",
    "attn.W_V": "self_attn.v_proj.weight",
    "attn.W_O": "self_attn.o_proj.weight",
    "norm2.gamma": "post_attention_layernorm.weight",
    "ffn.W1": "mlp.gate_proj.weight",
    "ffn.W3": "mlp.up_proj.weight",
    "ffn.W2": "mlp.down_proj.weight",
}
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
EXPANDED = 64
"""How many times a file's bytes its arrays may have: weights hardly shrink when they are compressed."""

SPACE = "▁"


def glassllm_checkpoint(weights: Path, tokenizer: Path, *, name: str) -> Checkpoint:
    """Open a language of glassllm 0.1.0.

    Raises:
        ValueError: for a file that this version did not write.
    """
    size = file_size(weights)
    with reading(weights, "a file of glassllm"):
        with zipfile.ZipFile(weights) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > EXPANDED * size:
            raise ValueError(f"{size:,} bytes claim to hold {held:,}")
        with open(weights, "rb") as file, np.load(file, allow_pickle=False) as data:
            settings = json.loads(str(data["__config__"]))
            arrays = {key: data[key] for key in data.files if key != "__config__"}
        if not isinstance(settings, dict) or settings.keys() != CONFIG.keys():
            raise ValueError(f"its settings are {shown(settings)}, expected {sorted(CONFIG)}")
        config = _config(settings, arrays)
        check_fields(config)
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
        tensors = _tensors(settings, arrays)
    return Checkpoint(
        config=config,
        tensors=tensors,
        read_tokenizer=lambda: (_tokenizer(tokenizer, settings["max_len"]), ""),
        name=name,
        identity=partial(files_identity, [weights]),
    )


def _config(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{CONFIG[key]: value for key, value in settings.items()},
        "intermediate_size": arrays["blocks.0.ffn.W1"].shape[-1],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **{f"{token.strip('<>')}_token_id": index for index, token in enumerate(SPECIALS) if token != "<unk>"},
    }


def _tensors(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Rename and convert the tensors; raise ValueError for other tensors than glassllm's."""
    if len(arrays) != 2 + len(LAYER) * settings["n_layers"]:
        raise ValueError(f"it has {len(arrays)} tensors, which {settings['n_layers']} layers don't make")
    names = {"E": "model.embed_tokens.weight", "norm_f.gamma": "model.norm.weight"}
    for layer in range(settings["n_layers"]):
        names |= {f"blocks.{layer}.{key}": f"model.layers.{layer}.{hf}" for key, hf in LAYER.items()}
    if names.keys() != arrays.keys():
        different = sorted(names.keys() ^ arrays.keys())
        raise ValueError(f"it lacks tensors of glassllm, or has others: {listed(different)}")
    heads = {"W_Q": settings["n_heads"], "W_K": settings["n_kv_heads"]}

    def converted(key: str) -> np.ndarray:
        values = arrays[key].T if key.rpartition(".")[2].startswith("W") else arrays[key]
        rotated = heads.get(key.rpartition(".")[2])
        return np.ascontiguousarray(halves_from_pairs(values, rotated) if rotated else values)

    return {hf: _tensor(partial(converted, key), arrays[key], key) for key, hf in names.items()}


def _tensor(read: Callable[[], np.ndarray], stored: np.ndarray, key: str) -> Tensor:
    transposed = key.rpartition(".")[2].startswith("W")
    return Tensor(stored.shape[::-1] if transposed else stored.shape, str(stored.dtype), read)


def _tokenizer(path: Path, max_length: int) -> PreTrainedTokenizerBase:
    """Build a character BPE over the words of NFC text; the text "<bos>" is five characters, not a token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    import_transformers()
    from transformers import PreTrainedTokenizerFast

    content = read_json(path)
    with reading(path, "a tokenizer of glassllm"):
        merges = [(left, right) for left, right in content["merges"]]
        tokens = [*SPECIALS, *content["alphabet"], *(left + right for left, right in merges)]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", SPACE)])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(rf"\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    pad, unk, bos, eos = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
