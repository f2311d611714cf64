"""Base of image encoders: patches and special tokens in one bidirectional stack, and a classifier."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ....checks import shown
from ...inputs.attention_inputs import AttentionInputs
from ...inputs.axes import Axis
from ...inputs.batch import Batch
from ...layers import layer_norm
from ...loading.config_fields import is_whole
from ...loading.weights import Rule, norm, projections, same
from ...network import Network, RunStack
from ...norms import with_frozen_statistics
from ...patches import Patches, patch_kernel, without_first_axis
from ...stack import Stack
from ...unembedding import Unembedding
from .class_heads import ClassHead

_LONGEST = 32_768
"""Longest side of an image or a patch."""


class ImageEncoder(Network):
    """A bidirectional stack over CLS, other special tokens (if any) and patches, with a final norm.

    Its output is the normed stream or, with a classifier, logits `[B,classes]`.

    A family's `__init__` sets `config` (with `head`: "classes" or "none") and calls `_build`.
    """

    config: Any
    others: nnx.Param | None
    classifier: ClassHead | None

    def _build(self, make: Any, others: tuple[str, ...], positioned: int, rngs: nnx.Rngs) -> None:
        """Build all modules.

        Args:
            make: builds one block.
            others: names of the special tokens after CLS.
            positioned: number of the special tokens that have a learnt position, the first ones.
        """
        c, D = self.config, self.config.hidden_size
        rows, columns = grid_of(c.image_size, c.patch_size)

        def weight(count: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, D)))

        self.cls = weight(1)
        self.others = weight(len(others)) if others else None
        self.positions = weight(positioned + rows * columns)
        self.positioned = positioned
        self.patches = Patches(c.patch_size, c.num_channels, D, rngs=rngs)
        axis = Axis("patches", c.patch_size, ("CLS", *others))
        self.encoder = Stack("encoder", c.num_hidden_layers, make, causal=False, queries=axis, rngs=rngs)
        self.final_norm = layer_norm(D, c.layer_norm_eps, rngs)
        self.classifier = self._classifier(rngs)

    def _classifier(self, rngs: nnx.Rngs) -> ClassHead | None:
        c = self.config
        return ClassHead(c.num_labels, c.hidden_size, rngs=rngs) if c.head == "classes" else None

    @property
    def streams(self) -> tuple[Stack, ...]:
        return (self.encoder,)

    @property
    def unembedding(self) -> Unembedding | None:
        """The classifier; None for a bare encoder."""
        return None if self.classifier is None else self.classifier.unembedding

    @property
    def at_every_position(self) -> bool:
        return self.classifier is None

    def hidden(self, batch: Batch, run_stack: RunStack) -> Array:
        axis = self.encoder.queries
        rows, columns = axis.grid(batch)
        positions_PD = self.patch_positions(rows, columns)
        specials_SD = self.cls[...]
        if self.others is not None:
            specials_SD = jnp.concatenate([specials_SD, self.others[...]])
        specials_SD = specials_SD.at[: self.positioned].add(self.positions[: self.positioned])
        x_BPD = self.patches(batch.pixels) + positions_PD[None]  # type: ignore
        specials_BSD = jnp.broadcast_to(specials_SD, (len(x_BPD), *specials_SD.shape))
        x_BTD = jnp.concatenate([specials_BSD, x_BPD], axis=1)
        return run_stack(self.encoder, x_BTD, AttentionInputs.within(axis.of(batch), causal=False))

    def patch_positions(self, rows: int, columns: int) -> Array:
        """Return the learnt positions of a grid of patches, `[rows * columns, D]`."""
        del rows, columns
        return self.positions[self.positioned :]

    def features(self, x_BTD: Array) -> Array:
        """Return the normed stream."""
        return self.final_norm(x_BTD)

    def with_frozen_statistics(self, x: Array, whole: Array) -> Array:
        return with_frozen_statistics(self.final_norm, x, whole)

    def reads(self, positions: int) -> list[int]:
        """Return the positions, of a sequence of this length, that the classifier reads: CLS alone by default."""
        del positions
        return [0]

    def readout_positions(self, batch: Batch) -> Array:
        """Return the index `[B]` of the position that the classifier reads; `[B,R]` if it reads several."""
        B, T = self.encoder.queries.of(batch).shape
        rows_BR = jnp.broadcast_to(jnp.asarray(self.reads(T), jnp.int32), (B, len(self.reads(T))))
        return rows_BR[:, 0] if rows_BR.shape[1] == 1 else rows_BR

    def check(self, batch: Batch) -> None:
        check_image(batch, self.config.image_size, self.config.num_channels)


def check_image(batch: Batch, size: tuple[int, int], channels: int) -> None:
    """Raise ValueError for images of another size or number of channels."""
    assert batch.pixels is not None, "model.check has checked the batch's fields"
    if batch.pixels.shape[1:] != (*size, channels):
        raise ValueError(
            f"pixels must be [examples, {size[0]}, {size[1]}, {channels}], the size that positions were learnt at; "
            f"got {batch.pixels.shape}. Resize the images: model.encode does"
        )


def embedding_rules(prefix: str) -> list[Rule]:
    """Return the rules of CLS, positions, patches and the final norm."""
    at = f"{prefix}.embeddings"
    return [
        without_first_axis(f"{at}.cls_token", "cls"),
        without_first_axis(f"{at}.position_embeddings", "positions"),
        patch_kernel(f"{at}.patch_embeddings.projection.weight", "patches.kernel"),
        same(f"{at}.patch_embeddings.projection.bias", "patches.bias"),
        *norm(f"{prefix}.layernorm", "final_norm"),
    ]


def live_names(prefix: str, *, split_mlp: bool = False) -> tuple[tuple[str, str], ...]:
    """Return the patterns that bring the names of a model in memory (transformers 5) to those of its files.

    Args:
        split_mlp: whether the family's files have the MLP's matrices as "intermediate" and "output".
    """
    parts = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    renames = [(rf"\.attention\.{live}\.", f".attention.{filed}.") for live, filed in parts.items()]
    if split_mlp:
        renames += [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
    layers = (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2.")
    return (layers, *renames, (r"^(embeddings|encoder|layernorm|pooler)\.", rf"{prefix}.\1."))


def attention_rules(config: Any, at: str) -> list[Rule]:
    """Return the rules of a layer's projections, with or without biases of queries, keys and values."""
    here = "encoder.blocks.attention"
    names = {
        letter: f"{at}.attention.attention.{word}"
        for letter, word in zip("QKV", ("query", "key", "value"), strict=True)
    }
    rules = [*projections({**names, "O": f"{at}.attention.output.dense"}, here, bias=config.qkv_bias)]
    return rules if config.qkv_bias else [*rules, same(f"{at}.attention.output.dense.bias", f"{here}.b_O")]


def image_size_of(config: Mapping[str, Any], default: int) -> tuple[int, int]:
    """Read the height and width of the images that positions were learnt on.

    Raises:
        ValueError: unless `image_size` is one whole number, or two.
    """
    stated = config.get("image_size", default)
    sides = tuple(stated) if isinstance(stated, list | tuple) else (stated, stated)
    if len(sides) != 2 or not all(is_whole(side, 1, _LONGEST) for side in sides):
        raise ValueError(
            f"image_size must be one whole number or a height and a width, of 1..{_LONGEST:,}, got {shown(stated)}"
        )
    return sides


def patch_size_of(config: Mapping[str, Any], default: int) -> int:
    """Read the side of a patch.

    Raises:
        ValueError: for a patch that is not square.
    """
    stated = config.get("patch_size", default)
    sides: Any = stated if isinstance(stated, list | tuple) and stated else [stated]
    if not all(is_whole(side, 1, _LONGEST) and side == sides[0] for side in sides):
        raise ValueError(f"patches must be square, of a side of 1..{_LONGEST:,}, got patch_size={shown(stated)}")
    return sides[0]


def grid_of(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return how many rows and columns of whole patches an image has; raise ValueError for none."""
    if patch_size > min(image_size):
        raise ValueError(f"an image of image_size={list(image_size)} holds no patch of patch_size={patch_size}")
    return image_size[0] // patch_size, image_size[1] // patch_size
