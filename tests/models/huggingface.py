"""Small random models of `transformers`, saved as it saves them and loaded as a user loads them.

Weights are scaled up until a wrong epsilon or GELU shows far above TOLERANCE; biases and norm scales are
random too.
"""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging

import jaxheads as jh

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

TOLERANCE = 1e-5
"""Of every comparison; relative to the largest value where that exceeds 1. Never loosened."""

EPSILON = 0.02
"""Of the norms: large, so that any other would show."""

SIZES: dict[str, dict[str, Any]] = {
    "Llama": {
        "vocab_size": 37,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": EPSILON,
        "max_position_embeddings": 64,
    },
    "GPT2": {
        "vocab_size": 37,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "layer_norm_epsilon": EPSILON,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "Bert": {
        "vocab_size": 37,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "layer_norm_eps": EPSILON,
    },
}
VOCABULARY = 37
SMALL = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}
"""One architecture a family, for the laws."""


@dataclass(frozen=True)
class Pair:
    """The same weights in `transformers` and in jaxheads."""

    theirs: Any
    ours: jh.Model


def build(architecture: str, seed: int = 0, **config: Any) -> Any:
    """A random `transformers` model with eager attention; sizes as in SIZES unless told otherwise."""
    cls = getattr(transformers, architecture)
    family = next(name for name in SIZES if architecture.startswith(name))
    settings = cls.config_class(**{**SIZES[family], **config})
    model = cls._from_config(settings, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("bias"):
                value.copy_(0.3 * noise)
            elif value.ndim == 1:
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.2 * noise)
    return model


def loaded(model: Any, directory: Path | str, **arguments: Any) -> jh.Model:
    """The model saved into `directory` and loaded from there."""
    model.save_pretrained(directory)
    return jh.load(str(directory), **arguments)


def pair(architecture: str, **config: Any) -> Pair:
    """A random model, and the same loaded from its files."""
    theirs = build(architecture, **config)
    with tempfile.TemporaryDirectory() as directory:
        return Pair(theirs, loaded(theirs, directory))


@functools.cache
def small_model(family: str) -> jh.Model:
    """A family's model for the laws: 2 layers of 4 heads, 37 tokens (shared: nothing may change it)."""
    return pair(SMALL[family]).ours


def random_batch(lengths: tuple[int, ...], side: str = "right", *, types: int = 1, seed: int = 0) -> jh.Batch:
    """Random tokens (also where there is padding: it must not matter), real ones at the left or right end."""
    B, T = len(lengths), max(lengths)
    places, lengths_B1 = np.arange(T)[None], np.array(lengths)[:, None]
    mask = places < lengths_B1 if side == "right" else places >= T - lengths_B1
    rng = np.random.default_rng(seed)
    return jh.Batch(rng.integers(0, VOCABULARY, (B, T)), mask, rng.integers(0, types, (B, T)))


def alone(batch: jh.Batch, example: int) -> jh.Batch:
    """One example without its padding."""
    real = np.asarray(batch.mask[example])
    return jh.Batch(batch.tokens[example, real][None], None, batch.token_types[example, real][None])


def assert_close(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """Equal within `tolerance`, relative to the largest value where that exceeds 1; neither may hold NaN."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(np.abs(theirs).max())))
