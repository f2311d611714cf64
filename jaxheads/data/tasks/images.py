"""Images of 8×8 pixels: digits, a local texture, and two opposite corners, for local and global heads.

Dimension key: `P` pixels, `S` positions: CLS and the patches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import checked
from ...extras import extra
from .configs import vit
from .task import Drawn, Independent, Sample, require, together

SIDE = 8
DIGITS = 1797
"""Number of scikit-learn's digits, so that no option needs the images to be checked."""

PARTS = ("train", "test")


@dataclass(frozen=True)
class _Images(Independent):
    """Base of the three tasks: grey pixels from −1 to 1, classes, and a control with permuted pixels.

    The control applies one permutation to the pixels of every image. No information is lost, so the optimum stays; but
    related pixels are no longer neighbours, and heads have no reason to be local.

    Attributes:
        patch: the side of a patch, in pixels.
        shuffled: whether pixels are permuted.
        seed: of the permutation.
    """

    patch: int = 2
    shuffled: bool = False
    seed: int = 0
    kind = "classifier"
    vocabulary = 0
    classes: ClassVar[int] = 2
    title: ClassVar[str]

    def __post_init__(self):
        require(self.patch >= 1 and SIDE % self.patch == 0, "patches of 1, 2, 4 or 8 pixels", self.patch)

    @property
    def name(self) -> str:
        return self.title + ("-control" if self.shuffled else "")

    @property
    def length(self) -> int:
        """Number of patches, without CLS."""
        return (SIDE // self.patch) ** 2

    @property
    def optimum(self) -> float:
        return 0.0

    @property
    def anchors(self) -> Mapping[str, float]:
        """Loss "uniform" over the classes."""
        return {"uniform": math.log(self.classes)}

    @property
    def uniform_distance(self) -> float:
        """Mean attention distance of a uniform head without CLS, in pixels (Dosovitskiy et al. 2021).

        4.016 for patches of 2 pixels, 4.137 for patches of 1.
        """
        return float(self._distances().mean())

    @property
    def longest_distance(self) -> float:
        """Distance between the patches of opposite corners, in pixels: 8.49 for patches of 2, 9.90 for patches of 1."""
        return float(self._distances().max())

    def _distances(self) -> np.ndarray:
        grid = SIDE // self.patch
        at = np.stack(np.divmod(np.arange(grid**2), grid), axis=1) * self.patch
        return np.linalg.norm(at[:, None] - at[None, :], axis=-1)

    @property
    def moved(self) -> np.ndarray:
        """Number of the original pixel that each pixel of the image shows, `[P]`, row by row."""
        order = np.arange(SIDE**2)
        return np.random.default_rng(self.seed).permutation(order) if self.shuffled else order

    def patch_of(self, pixels: np.ndarray) -> np.ndarray:
        """Return the position of the patch that shows each original pixel; CLS is position 0."""
        rows, columns = np.divmod(np.argsort(self.moved)[pixels], SIDE)
        return 1 + rows // self.patch * (SIDE // self.patch) + columns // self.patch

    def placed(self, pixels_P: Array) -> Array:
        """Arrange pixels as an image `[8,8,1]`, permuted in the control."""
        return pixels_P[jnp.asarray(self.moved)].reshape(SIDE, SIDE, 1)

    def control(self) -> "_Images":
        """Return the control: permuted pixels."""
        return replace(self, shuffled=True)

    def model_config(self, **changes: Any) -> dict[str, Any]:
        """Return the config of a ViT of two layers."""
        return vit(SIDE, self.patch, self.classes, changes)


@checked()
@dataclass(frozen=True)
class Digits(_Images):
    """The 1,797 handwritten digits of scikit-learn, split into training and test images.

    Heads of the first layer are expected to differ in attention distance, from local to global. Equal images have equal
    labels, so the optimum is 0 for a model that may learn the images by heart; for held-out digits none is known.

    Attributes:
        share: the share of images for training; their number is rounded.
        part: "train" or "test", the images to draw from. `seed` decides the split as well.
    """

    share: float = 0.8
    part: str = "train"
    classes = 10
    title = "digits"

    def __post_init__(self):
        super().__post_init__()
        require(self.part in PARTS, f"part is one of {', '.join(PARTS)}", repr(self.part))
        require(0 < round(self.share * DIGITS) < DIGITS, "a share that leaves digits in either part", self.share)

    @property
    def anchors(self) -> Mapping[str, float]:
        """Losses of simpler predictors: "uniform" over the classes; "unigram", by their frequencies in this part."""
        shares = np.bincount(_part(self)[1], minlength=self.classes) / self.images
        return {"uniform": math.log(self.classes), "unigram": float(-(shares * np.log(shares)).sum())}

    @property
    def images(self) -> int:
        """Number of images in this part."""
        return len(_part(self)[1])

    def draw(self, key: Array) -> Drawn:
        """Draw one image of this part, with replacement."""
        return self._of(jax.random.randint(key, (), 0, self.images))

    def _of(self, index: Array) -> Drawn:
        pixels_NP, labels_N = _part(self)
        return Drawn({"pixels": self.placed(jnp.asarray(pixels_NP)[index])}, jnp.asarray(labels_N)[index], jnp.ones(()))

    def everything(self) -> Sample:
        """Return all images of this part, once each."""
        return jax.jit(lambda: together(jax.vmap(self._of)(jnp.arange(self.images))))()

    def held_out(self) -> "Digits":
        """Return the task on the test images."""
        return replace(self, part="test")


@checked()
@dataclass(frozen=True)
class Texture(_Images):
    """Dominoes of two equal pixels, black or white, all horizontal (class 0) or all vertical (class 1).

    The model must compare neighbours; heads of attention distance one pixel are expected. Single pixels and their mean
    carry no information. An image of 2×2 blocks fits both classes; one in 2^16 is such, so the optimum is 2^−16 ln 2.

    The mark "partner" `[B,S,S]` is True from each pixel to the other half of its domino; patches are single pixels.
    """

    patch: int = 1
    title = "texture"

    def __post_init__(self):
        require(self.patch == 1, "patches of 1 pixel, for a larger one holds whole dominoes", self.patch)

    @property
    def optimum(self) -> float:
        return 2.0**-16 * math.log(2)

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        class_key, pixel_key = jax.random.split(key)
        vertical = jax.random.bernoulli(class_key)
        half = _signs(pixel_key, (SIDE, SIDE // 2))
        horizontal = jnp.repeat(half, 2, axis=1)
        pixels_P = jnp.where(vertical, horizontal.T, horizontal).reshape(-1)
        # A pixel's number is 8 · row + column: flipping bit 0 steps to the next column, flipping bit 3 to the next row.
        at = np.arange(SIDE**2)
        partner_SS = jnp.where(vertical, self._pairs(at ^ SIDE), self._pairs(at ^ 1))
        inputs = {"pixels": self.placed(pixels_P), "marks": {"partner": partner_SS}}
        return Drawn(inputs, vertical.astype(jnp.int32), jnp.ones(()))

    def _pairs(self, other: np.ndarray) -> np.ndarray:
        pairs = np.zeros((1 + SIDE**2,) * 2, bool)
        pairs[self.patch_of(np.arange(SIDE**2)), self.patch_of(other)] = True
        return pairs


@checked()
@dataclass(frozen=True)
class Corners(_Images):
    """Random black and white pixels; the class is whether the first and the last pixel are equal.

    The model must compare two opposite corners. A head of the greatest attention distance is expected, from one corner
    to the other, or a head at CLS that attends to both. The answer is determined: the optimum is 0.

    Marks: "corner" `[B,S]`, the two patches; "opposite" `[B,S,S]`, from each to the other.
    """

    patch: int = 1
    title = "corners"

    def draw(self, key: Array) -> Drawn:
        """Draw one example."""
        pixels_P = _signs(key, (SIDE**2,))
        first, last = self.patch_of(np.array([0, SIDE**2 - 1]))
        corner_S, opposite_SS = np.zeros(1 + self.length, bool), np.zeros((1 + self.length,) * 2, bool)
        corner_S[[first, last]] = True
        opposite_SS[[first, last], [last, first]] = True
        marks = {"corner": jnp.asarray(corner_S), "opposite": jnp.asarray(opposite_SS)}
        equal = pixels_P[0] == pixels_P[-1]
        return Drawn({"pixels": self.placed(pixels_P), "marks": marks}, equal.astype(jnp.int32), jnp.ones(()))


def _signs(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.where(jax.random.bernoulli(key, shape=shape), 1.0, -1.0)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all pixels `[N,P]` and labels `[N]`."""
    pixels, labels = extra("sklearn.datasets", "the task of handwritten digits").load_digits(return_X_y=True)
    return np.asarray(pixels / 8 - 1, np.float32), np.asarray(labels, np.int32)


@cache
def _part(task: Digits) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _digits()
    order = np.random.default_rng(task.seed).permutation(len(labels))
    split = round(task.share * len(labels))
    index = order[:split] if task.part == "train" else order[split:]
    return pixels[index], labels[index]
