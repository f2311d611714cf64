"""A small decoder with a word a token, and prose of its words."""

from dataclasses import replace

from flax import nnx

import jaxheads as jh
from jaxheads.data.prompts import NAMES, OBJECTS, PLACES
from jaxheads.models.families.gpt2 import GPT2, GPT2Config

from ..data.test_prompts import word_tokenizer

WORDS = [*NAMES.split(), *PLACES.split(), *OBJECTS.split()]
TEXT = "\n\n".join(" ".join(WORDS[at : at + 20 + at // 20]) for at in range(0, 180, 20))
"""Nine passages of 20 to 28 words."""


def small_decoder(seed: int = 0) -> jh.Model:
    """A GPT-2 of 2 layers of 2 heads with random weights."""
    tokenizer = word_tokenizer(WORDS)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_inner=16,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        tie_word_embeddings=True,
        head="lm",
    )
    return jh.Model(GPT2(config, rngs=nnx.Rngs(seed)), tokenizer, name="small")


def with_roles(table: jh.HeadTable, roles: dict[tuple[int, int], str]) -> jh.HeadTable:
    """The same atlas with other roles."""
    frame = table.frame.copy()
    for (layer, head), role in roles.items():
        frame.loc[(table.stack, layer, head), ["role", "roles"]] = role
    return replace(table, frame=frame)
