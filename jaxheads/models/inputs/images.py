"""From images to pixels as a checkpoint wants them: resized, cropped, rescaled, normalised, as its file says.

That is `preprocessor_config.json`, in the words of the image processors of `transformers`. Resampling is Pillow's, on 8
bits a channel, as it was when the models were trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array
from PIL.Image import Image, Resampling, fromarray

Picture = Image | np.ndarray | Array
"""One image: Pillow's, or an array (height, width, channels): 8-bit integers, or floats from 0 to 1."""

_SHORT = {"shortest_edge": 224}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "do_center_crop": False},
    "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "CLIP": {"size": _SHORT, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Bit": {"size": _SHORT, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
"""By the processor's kind, what its file may leave out."""

_READ = {
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize"),
    *("image_mean", "image_std"),
}
_IGNORED = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "data_format"),
    *("do_convert_rgb", "default_to_square"),
}
"""Names, and what is done here in any case."""


@dataclass(frozen=True)
class ImageSettings:
    """What is done to an image, in this order.

    Attributes:
        size: height and width to resize to, or one number: of the shorter side. None: it is not resized.
        resample: Pillow's filter.
        crop: height and width cut out of the middle (black where there is nothing); None: it is not cropped.
        factor: multiplies the pixels 0..255; None: nothing does.
        mean, std: subtracted, and divided by, channel by channel, or None.
    """

    size: tuple[int, int] | int | None
    resample: Resampling
    crop: tuple[int, int] | None
    factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def from_hf(cls, given: Mapping[str, Any]) -> "ImageSettings":
        """From the contents of a preprocessor_config.json.

        Raises:
            ValueError: for a processor of another kind, a field that is not understood, or one that is missing.
        """
        named = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
        kind = named.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")
        kind = kind.removesuffix("FeatureExtractor")
        if named and kind not in _DEFAULTS:
            raise ValueError(f"image processor {named} is not covered; covered are those of {', '.join(_DEFAULTS)}")
        stated = {name: value for name, value in given.items() if value is not None}
        unknown = sorted(name for name in set(stated) - _READ - _IGNORED if stated[name] is not False)
        if unknown:
            raise ValueError(f"preprocessor_config.json has fields that are not understood: {', '.join(unknown)}")
        found = {**_DEFAULTS.get(kind, {}), "do_rescale": True, "rescale_factor": 1 / 255, **stated}
        square = given.get("default_to_square", kind not in ("CLIP", "Bit"))
        normalised = found.get("do_normalize", True)
        return cls(
            _size(found, "size", square) if found.get("do_resize", True) else None,
            Resampling(found.get("resample", Resampling.BILINEAR)),
            _crop(found) if found.get("do_center_crop") else None,
            float(found["rescale_factor"]) if found["do_rescale"] else None,
            _channels(found, "image_mean") if normalised else None,
            _channels(found, "image_std") if normalised else None,
        )

    def pixels(self, image: Image) -> np.ndarray:
        """One image's pixels, float32 `[height,width,C]`."""
        if self.size is not None:
            width, height = image.size
            if isinstance(self.size, int):
                long = int(self.size * max(image.size) / min(image.size))
                height, width = (long, self.size) if width <= height else (self.size, long)
            else:
                height, width = self.size
            image = image.resize((width, height), self.resample)
        pixels = np.asarray(image)
        if self.crop is not None:
            pixels = _middle(_middle(pixels, 0, self.crop[0]), 1, self.crop[1])
        if self.factor is not None:
            pixels = pixels.astype(np.float64) * self.factor
        pixels = pixels.astype(np.float32)
        if self.mean is None or self.std is None:
            return pixels
        return (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def are_images(given: Any) -> bool:
    """Whether this is an image or several, and no text."""
    if isinstance(given, list | tuple):
        return bool(given) and are_images(given[0])
    return isinstance(given, Image | Array) or (isinstance(given, np.ndarray) and given.dtype.kind in "uif")


def image_pixels(images: Picture | Sequence[Picture], settings: Mapping[str, Any]) -> np.ndarray:
    """Pixels of images, float32 `[B,height,width,3]`.

    Args:
        images: one, or several in a list (or an array with a first axis of images).
        settings: the contents of a preprocessor_config.json.

    Raises:
        ValueError: for settings that are not understood, no image, an array that is none, or images that end up with
            different sizes.
    """
    read = ImageSettings.from_hf(settings)
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    many: Any = images if several else [images]
    if not len(many):
        raise ValueError("images: expected at least one, got none")
    found = [read.pixels(_picture(image)) for image in many]
    if len(shapes := {one.shape for one in found}) > 1:
        raise ValueError(
            f"images of one batch must have one size, and this model's settings cut them to none; got "
            f"{', '.join(f'{height} × {width}' for height, width, _ in sorted(shapes))}. Encode them one by one"
        )
    return np.stack(found)


def _picture(image: Any) -> Image:
    """As Pillow's, in red, green and blue."""
    if isinstance(image, Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)) or 0 in array.shape:
        raise ValueError(f"an image must be an array (height, width, 3), or one of grey; got shape {array.shape}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"an image of floats must lie from 0 to 1; got {array.min()} to {array.max()}")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image must be 8-bit integers (uint8), or floats from 0 to 1; got {array.dtype}")
    return fromarray(array).convert("RGB")


def _middle(pixels: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The middle of an axis, or the whole of it in the middle of zeros."""
    lacking = size - pixels.shape[axis]
    if lacking > 0:
        before = -(-lacking // 2)
        return np.pad(pixels, [(before, lacking - before) if one == axis else (0, 0) for one in range(pixels.ndim)])
    return np.take(pixels, np.arange(size) + -lacking // 2, axis=axis)


def _size(found: Mapping[str, Any], name: str, square: bool) -> tuple[int, int] | int:
    """Height and width, or the length of the shorter side, in whichever spelling."""
    stated = found.get(name)
    if isinstance(stated, int):
        return (stated, stated) if square else stated
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return stated[0], stated[1]
    given = {key: value for key, value in stated.items() if value} if isinstance(stated, Mapping) else {}
    if set(given) == {"height", "width"}:
        return given["height"], given["width"]
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"]
    raise ValueError(
        f"{name} of preprocessor_config.json must be a whole number, a height and a width, or a shortest_edge; "
        f"got {stated!r}"
    )


def _crop(found: Mapping[str, Any]) -> tuple[int, int]:
    size = _size(found, "crop_size", square=True)
    if isinstance(size, int):
        raise ValueError(f"crop_size of preprocessor_config.json must be a height and a width; got {size} for one side")
    return size


def _channels(found: Mapping[str, Any], name: str) -> tuple[float, ...]:
    stated = found.get(name)
    values = (float(stated),) * 3 if isinstance(stated, int | float) else tuple(stated or ())
    if len(values) != 3:
        raise ValueError(f"{name} of preprocessor_config.json must be one number or three; got {stated!r}")
    return values
