"""Pictures of shapes and their captions, for heads that encode one attribute.

Dimension key: `C` captions, `T` positions of texts, `S` positions of images (CLS and patches).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...models.inputs.batch import Batch
from ...programs import compiled
from .configs import clip
from .task import Sample, require

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "count": ("one", "two", "three"),
    "colour": ("red", "green", "blue", "yellow"),
    "shape": ("square", "plus", "cross", "ring"),
    "position": ("upper-left", "upper-right", "lower-left", "lower-right"),
}
"""Attributes and their words, in the order of captions."""

_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], np.float32)
_GLYPHS = np.array(
    [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
        [[1, 1, 1], [1, 0, 1], [1, 1, 1]],
    ],
    np.float32,
)
_CELL, _SIDE = 4, 16
BOS, EOS = 0, 1


@checked()
@dataclass(frozen=True)
class Captions:
    """Images of 16×16 pixels in three colours, and `[BOS, count, colour, shape, position, EOS]`, all combinations.

    One quarter of the image holds one to three shapes of one kind and colour, each in its own grid cell, shifted by up
    to a pixel. The model must match texts with images, the i-th with the i-th. Heads of the image tower are expected
    that write one attribute and whose best description by texts is of that attribute (TextSpan, Gandelsman et al.
    2024). No caption occurs twice in a sample, so all is determined and the optimum is 0; a sample has at most 192.

    Marks: for texts `[B,T]` "count", "colour", "shape" and "position", the position of each word; for images `[B,S]`
    "object", the patches (4×4 pixels, the grid cells) with a shape.

    The control shuffles the texts: the optimum for B examples is ln B.

    Attributes:
        examples: B, the sample size for which `anchors` and the control's optimum are stated.
        matched: whether texts belong to their images.
    """

    examples: int = 64
    matched: bool = True
    kind = "contrastive"
    length = 2 + len(ATTRIBUTES)

    def __post_init__(self):
        require(1 <= self.examples <= len(_combinations()), f"from 1 to {len(_combinations())} examples", self.examples)

    @property
    def name(self) -> str:
        return "captions" if self.matched else "captions-control"

    @property
    def words(self) -> tuple[str, ...]:
        """The word of each id."""
        return ("[bos]", "[eos]", *(word for words in ATTRIBUTES.values() for word in words))

    @property
    def vocabulary(self) -> int:
        return len(self.words)

    @property
    def optimum(self) -> float:
        return 0.0 if self.matched else math.log(self.examples)

    @property
    def anchors(self) -> Mapping[str, float]:
        """Loss "uniform" over a sample's texts, ln B: retrieval by chance is right in 1 of B."""
        return {"uniform": math.log(self.examples)}

    @checked()
    def sample(self, key: Array, examples: int) -> Sample:
        """Draw pairs; the key decides them, under `jit` and `vmap` too.

        Raises:
            ValueError: for no pair, or more pairs than captions.
        """
        captions = len(_combinations())
        require(1 <= examples <= captions, f"from 1 to {captions} examples, for no caption comes twice", examples)
        return _sample(self, key, examples)

    def control(self) -> "Captions":
        """Return the control: shuffled texts."""
        return replace(self, matched=False)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a model with two towers of two layers."""
        return clip(self.vocabulary, self.length, EOS, _SIDE, _CELL, changes)


def _combinations() -> np.ndarray:
    """Return every combination of attributes as indices of their words, `[C,4]`."""
    return np.array(list(product(*(range(len(words)) for words in ATTRIBUTES.values()))), np.int32)


@partial(compiled, static_argnums=(0, 2))
def _sample(task: Captions, key: Array, examples: int) -> Sample:
    choice_key, text_key, image_key = jax.random.split(key, 3)
    chosen_B4 = jax.random.permutation(choice_key, jnp.asarray(_combinations()))[:examples]
    pixels, objects_BS = jax.vmap(_picture)(jax.random.split(image_key, examples), chosen_B4)
    captions_B4 = chosen_B4 if task.matched else jax.random.permutation(text_key, chosen_B4)
    firsts = 2 + np.cumsum([0, *(len(words) for words in ATTRIBUTES.values())])[:-1]
    ends = [jnp.full((examples, 1), end) for end in (BOS, EOS)]
    tokens_BT = jnp.concatenate([ends[0], jnp.asarray(firsts, jnp.int32)[None, :] + captions_B4, ends[1]], axis=1)
    positions = np.arange(task.length)
    marks = {name: jnp.asarray(np.tile(positions == at, (examples, 1))) for at, name in enumerate(ATTRIBUTES, start=1)}
    return Sample(Batch(tokens_BT, pixels=pixels, marks={**marks, "object": objects_BS}), None, None)


def _picture(key: Array, chosen: Array) -> tuple[Array, Array]:
    """Draw the image `[16,16,3]` of one combination, and mark the patches that hold shapes, `[S]`."""
    count, colour, shape, position = chosen
    cell_key, shift_key = jax.random.split(key)
    # `count` is an index: 0 means one shape, so `<=` fills one grid cell more.
    filled_4 = jax.random.permutation(cell_key, 4) <= count
    down_4, right_4 = jax.random.randint(shift_key, (2, 4), 0, 2)
    glyph = jnp.pad(jnp.asarray(_GLYPHS)[shape], ((0, 1), (0, 1)))
    shifted_4 = jax.vmap(lambda down, right: jnp.roll(glyph, (down, right), (0, 1)))(down_4, right_4)
    cells = jnp.where(filled_4[:, None, None], shifted_4, 0.0).reshape(2, 2, _CELL, _CELL)
    quarter = cells.transpose(0, 2, 1, 3).reshape(2 * _CELL, 2 * _CELL)
    corner = 2 * _CELL * (position // 2), 2 * _CELL * (position % 2)
    image = jax.lax.dynamic_update_slice(jnp.zeros((_SIDE, _SIDE)), quarter, corner)
    patches = image.reshape(_SIDE // _CELL, _CELL, _SIDE // _CELL, _CELL).any(axis=(1, 3)).reshape(-1)
    return image[:, :, None] * jnp.asarray(_COLOURS)[colour][None, None, :], jnp.pad(patches, (1, 0))
