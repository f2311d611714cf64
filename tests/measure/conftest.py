"""Small models with sharp attention, one of each family."""

from collections.abc import Callable
from dataclasses import replace

import jax
import pytest
from flax import nnx

from jaxheads.models.families.bert import Bert, BertConfig
from jaxheads.models.families.gpt2 import GPT2, GPT2Config
from jaxheads.models.families.llama import Llama, LlamaConfig
from jaxheads.models.model import Model
from jaxheads.models.positions import Rotary

VOCABULARY = 13


def gpt2(layers: int = 3, *, seed: int = 0, **changes) -> GPT2:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=8,
        n_layer=layers,
        n_head=2,
        n_inner=16,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        tie_word_embeddings=True,
        head="lm",
    )
    return GPT2(replace(config, **changes), rngs=nnx.Rngs(seed))


def llama(layers: int = 3) -> Llama:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rotary=Rotary(10000.0, 4),
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
        head="lm",
    )
    return Llama(config, rngs=nnx.Rngs(1))


def bert(layers: int = 3) -> Bert:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_act="gelu",
        max_position_embeddings=64,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        tie_word_embeddings=True,
        head="mlm",
        pooler=False,
    )
    return Bert(config, rngs=nnx.Rngs(2))


def sharp(network: nnx.Module) -> Model:
    """With weights so large that no two heads look alike."""

    def larger(path, weight):
        return weight * (40 if "W_" in jax.tree_util.keystr(path) else 1)

    return Model(jax.tree_util.tree_map_with_path(larger, network), name=type(network).__name__)


FAMILIES: dict[str, Callable] = {"gpt2": gpt2, "llama": llama, "bert": bert}


@pytest.fixture(scope="session", params=list(FAMILIES))
def model(request) -> Model:
    return sharp(FAMILIES[request.param]())


@pytest.fixture(scope="session")
def decoder() -> Model:
    return sharp(gpt2())


@pytest.fixture(scope="session")
def make_gpt2() -> Callable[..., GPT2]:
    return gpt2
