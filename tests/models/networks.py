"""Random networks made without `transformers`, in sizes that eight devices can share."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.weights import export

VOCABULARY = 64
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "rms_norm_eps": 0.02,
        "max_position_embeddings": 64,
    },
    "gpt2": {
        "vocab_size": VOCABULARY + 1,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 8,
        "n_positions": 64,
        "layer_norm_epsilon": 0.02,
    },
    "bert": {
        "architectures": ["BertForMaskedLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "max_position_embeddings": 64,
        "layer_norm_eps": 0.02,
    },
}
"""What a config.json says; the vocabulary of the second divides by nothing that a mesh is made of."""


def random_model(family: str, **config: Any) -> jh.Model:
    """Of weights with a standard deviation of 0.2, norm scales around 1."""
    kind: Any = FAMILIES[family]
    read = kind.config_type.from_hf({"model_type": family, **CONFIGS[family], **config})
    graph, state, settings = nnx.split(kind(read, rngs=nnx.Rngs(0)), nnx.Param, ...)
    rng = np.random.default_rng(0)
    drawn = []
    for path, variable in nnx.to_flat_state(state):
        value = 0.2 * rng.standard_normal(variable.shape, np.float32) + (path[-1] == "scale")
        drawn.append((path, variable.replace(jnp.asarray(value))))
    return jh.Model(nnx.merge(graph, nnx.from_flat_state(drawn), settings))


def saved(directory: Path, family: str, **config: Any) -> jh.Model:
    """A random model, written as a Hugging Face directory too."""
    model = random_model(family, **config)
    (directory / "config.json").write_text(json.dumps({"model_type": family, **CONFIGS[family], **config}))
    save_file(export(model.network, FAMILIES[family].table(model.config)), directory / "model.safetensors")
    return model


def batch_of(lengths: tuple[int, ...], seed: int = 0) -> jh.Batch:
    """Random tokens, padded on the right."""
    B, T = len(lengths), max(lengths)
    mask = np.arange(T)[None] < np.array(lengths)[:, None]
    return jh.Batch(np.random.default_rng(seed).integers(0, VOCABULARY, (B, T)), mask)


def assert_same(ours: Any, theirs: Any) -> None:
    """Every array of two trees within 1e-5, relative to the largest value where that exceeds 1; none may hold NaN."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.isfinite(one).all()
        masked = other == np.finfo(other.dtype).min  # of scores; they would hide every difference
        assert (masked == (one == np.finfo(one.dtype).min)).all()
        one, other = one[~masked], other[~masked]
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1.0, float(np.abs(other).max())))
