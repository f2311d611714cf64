"""Configs of small models, in Hugging Face's form, as defaults for the tasks; any field can be changed."""

from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]


def attention_only(vocabulary: int, length: int, changes: Changes, **defaults: Any) -> dict[str, Any]:
    """Return an attention-only decoder: two layers of four heads, rotary positions, pre-norms and a final norm."""
    return {
        "model_type": "attention_only",
        "vocab_size": vocabulary,
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": length,
        "positions": "rotary",
        "norm": "layer_norm",
        **defaults,
        **changes,
    }


def gpt2(vocabulary: int, length: int, changes: Changes, **defaults: Any) -> dict[str, Any]:
    """Return a decoder of three layers of four heads."""
    return {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": length,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        **defaults,
        **changes,
    }


def bert(vocabulary: int, length: int, changes: Changes, **defaults: Any) -> dict[str, Any]:
    """Return a masked language model of three layers of four heads."""
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "type_vocab_size": 1,
        **defaults,
        **changes,
    }


def bart(vocabulary: int, length: int, changes: Changes, **defaults: Any) -> dict[str, Any]:
    """Return an encoder–decoder with two layers of four heads on each side."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 256))
    }
    return {
        "model_type": "bart",
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "d_model": 64,
        **sides,
        **defaults,
        **changes,
    }


def vit(size: int, patch: int, classes: int, changes: Changes, **defaults: Any) -> dict[str, Any]:
    """Return a classifier of grey images with two layers of four heads."""
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": size,
        "patch_size": patch,
        "num_channels": 1,
        "num_labels": classes,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        **defaults,
        **changes,
    }


def clip(vocabulary: int, length: int, end: int, size: int, patch: int, changes: Changes) -> dict[str, Any]:
    """Return two towers of two layers of four heads; a change replaces a whole tower, as `text_config={…}`."""
    tower = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 32,
    }
    return {
        "model_type": "clip",
        "projection_dim": 32,
        "text_config": {**tower, "vocab_size": vocabulary, "max_position_embeddings": length, "eos_token_id": end},
        "vision_config": {**tower, "image_size": size, "patch_size": patch},
        **changes,
    }
