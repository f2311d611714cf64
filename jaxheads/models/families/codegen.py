"""CodeGen (Nijkamp et al. 2022): GPT-J with joined projections, in the order in which it was trained on four TPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from ..loading.head_order import in_pairs
from ..loading.weights import Arrays, Rule, Table, dense, heads_out, norm, same
from .bases.class_heads import ClassNames
from .bases.decoder import unused_head
from .gptj import GPTJ, GPTJConfig

_BLOCKS = 4
"""Blocks of heads in the joined projection, each with its queries, values and keys in this order."""


@dataclass(frozen=True)
class CodeGenConfig(GPTJConfig):
    """The fields of a Hugging Face `CodeGenConfig` that affect the computation; `head` is "lm" or "none"."""

    model_type: ClassVar[str] = "codegen"
    stem: ClassVar[str] = "CodeGen"
    class_heads: ClassVar[Mapping[str, ClassNames]] = {}

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "CodeGenConfig":
        """Read the contents of a config.json.

        Raises:
            ValueError: as for GPT-J, and for a number of heads that is no multiple of 4.
        """
        read = super().from_hf(config)
        assert isinstance(read, cls)
        if read.n_head % _BLOCKS:
            raise ValueError(
                f"the heads of codegen are stored in {_BLOCKS} blocks: n_head must be a multiple, got {read.n_head}"
            )
        return read


class CodeGen(GPTJ):
    """A decoder whose heads and MLP run in parallel after a shared norm; its unembedding has a bias."""

    config_type: ClassVar[Any] = CodeGenConfig

    @staticmethod
    def table(config: CodeGenConfig) -> Table:
        """Return the table of a CodeGen checkpoint's tensors."""
        here, at = "decoder.blocks", "transformer.h.{layer}"
        paths = [f"{here}.attention.W_{letter}" for letter in "QKV"]
        rules: list[Rule] = [
            same("transformer.wte.weight", "embed.embedding"),
            *norm("transformer.ln_f", "final_norm"),
            *norm(f"{at}.ln_1", f"{here}.attention_norm"),
            in_pairs(_in_blocks(f"{at}.attn.qkv_proj.weight", *paths), config.rotary_dim, paths[:2]),
            heads_out(f"{at}.attn.out_proj.weight", f"{here}.attention.W_O"),
            *dense(f"{at}.mlp.fc_in", f"{here}.mlp.up"),
            *dense(f"{at}.mlp.fc_out", f"{here}.mlp.down"),
        ]
        if config.head == "lm":
            rules.append(same("lm_head.bias", "logits_bias"))
            if not config.tie_word_embeddings:
                rules.append(same("lm_head.weight", "unembed.embedding"))
        mask = {r"transformer\.h\.\d+\.attn\.(causal_mask|bias|masked_bias)": "the causal mask, not a weight"}
        rename = ((r"^(wte|ln_f|h)\.", r"transformer.\1."),)
        copies = {"lm_head.weight": "transformer.wte.weight"}
        return Table(tuple(rules), mask | unused_head(config.head), rename, copies)


def _in_blocks(name: str, queries: str, keys: str, values: str) -> Rule:
    """Map queries, keys and values joined in blocks of heads, stored `[3*N*H, D]`, used `[D,N,H]` each."""

    def read(tensor: Any, shapes: tuple[tuple[int, ...], ...]) -> Arrays:
        by_block = tensor.T.reshape(tensor.shape[1], _BLOCKS, 3, -1)
        q, v, k = (by_block[:, :, number].reshape(shapes[0]) for number in range(3))
        return q, k, v

    def write(q: Any, k: Any, v: Any) -> Any:
        stack = np.stack if isinstance(q, np.ndarray) else jnp.stack
        by_block = stack([value.reshape(len(value), _BLOCKS, -1) for value in (q, v, k)], axis=2)
        return by_block.reshape(len(q), -1).T

    return Rule(name, (queries, keys, values), read, write)
