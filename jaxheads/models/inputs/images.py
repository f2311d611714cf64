"""Conversion of images to pixels, resized, cropped, rescaled and normalised by a checkpoint's settings.

The settings are its `preprocessor_config.json`. The work is done by the image processors of `transformers` that use
Pillow, which resamples 8 bits per channel, as when the models were trained. They need no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from jax import Array

from ...checks import shown
from ..loading.config_fields import is_number, is_positive, is_whole
from ..loading.transformers_import import import_transformers

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

Picture = Union["Image", np.ndarray, Array]
"""One image, Pillow's or an array (height, width, channels) of 8-bit integers or of floats from 0 to 1."""

_LONGEST = 32_768
"""Longest side of an image, in pixels."""

_SHORT = {"shortest_edge": 224}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "do_center_crop": False},
    "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "CLIP": {"size": _SHORT, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Siglip": {"size": 224, "resample": 3, "do_center_crop": False},
    "Bit": {"size": _SHORT, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
"""Defaults of fields that the file may leave out, by the processor's kind."""

_READ = {
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize"),
    *("image_mean", "image_std"),
}
_IGNORED = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "data_format"),
    *("do_convert_rgb", "default_to_square"),
}
"""Fields that only name things, or that ask for what is done here in any case."""


def image_processor(settings: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the image processor of `transformers` that a preprocessor_config.json describes, the one that uses Pillow.

    Raises:
        ValueError: for a processor of another kind, or a field that is not understood, of another kind, or missing.
    """
    named = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    kind = named.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")
    kind = kind.removesuffix("FeatureExtractor")
    if named and kind not in _DEFAULTS:
        raise ValueError(f"image processor {named} is not covered; covered are those of {', '.join(_DEFAULTS)}")
    stated = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(name for name in set(stated) - _READ - _IGNORED if stated[name] is not False)
    if unknown:
        raise ValueError(f"preprocessor_config.json has fields that are not understood: {', '.join(unknown)}")
    flags = [name for name, value in stated.items() if name.startswith("do_") and not isinstance(value, bool)]
    if flags:
        raise ValueError(f"preprocessor_config.json must say true or false to {', '.join(flags)}")
    fields = {**_DEFAULTS.get(kind, {}), "do_rescale": True, "rescale_factor": 1 / 255, **stated}
    _check(fields, settings.get("default_to_square", kind not in ("CLIP", "Bit")))
    import_transformers()
    import transformers

    processor = getattr(transformers, f"{kind or 'ViT'}ImageProcessorPil")
    return processor(**{name: value for name, value in fields.items() if name in _READ | {"default_to_square"}})


def _check(fields: Mapping[str, Any], square: bool) -> None:
    """Raise ValueError for a field that a step reads and that is of another kind, or missing."""
    if fields.get("do_resize", True):
        _size(fields, "size", square)
    _resample(fields.get("resample", 2))
    if fields.get("do_center_crop"):
        _crop(fields)
    if fields["do_rescale"]:
        _factor(fields["rescale_factor"])
    if fields.get("do_normalize", True):
        _channels(fields, "image_mean", is_number)
        _channels(fields, "image_std", is_positive)


def are_images(inputs: Any) -> bool:
    """Return whether the inputs are an image or several, not texts."""
    if isinstance(inputs, list | tuple):
        return bool(inputs) and are_images(inputs[0])
    if inputs is None or isinstance(inputs, str):
        return False
    from PIL.Image import Image

    return isinstance(inputs, Image | Array) or (isinstance(inputs, np.ndarray) and inputs.dtype.kind in "uif")


def image_pixels(images: Picture | Sequence[Picture], settings: Mapping[str, Any]) -> np.ndarray:
    """Return the pixels of images, float32 `[B,height,width,3]`.

    Args:
        images: one image, or several in a list (or an array with a first axis of images).
        settings: the contents of a preprocessor_config.json.

    Raises:
        ValueError: for settings that are not understood, no image, an array that is no image, or images that end up
            with different sizes.
    """
    processor = image_processor(settings)
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    examples: Any = images if several else [images]
    if not len(examples):
        raise ValueError("images: expected at least one, got none")
    pixels = [np.moveaxis(processor(_rgb(image), return_tensors="np")["pixel_values"][0], 0, -1) for image in examples]
    if len(shapes := {array.shape for array in pixels}) > 1:
        raise ValueError(
            f"images of one batch must have one size, and this model's settings cut them to none; got "
            f"{', '.join(f'{height} × {width}' for height, width, _ in sorted(shapes))}. Encode them one by one"
        )
    return np.stack(pixels).astype(np.float32)


def _rgb(image: Any) -> "Image":
    """Return a Pillow image in red, green and blue."""
    from PIL.Image import Image, fromarray

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


def _size(fields: Mapping[str, Any], name: str, square: bool) -> tuple[int, int] | int:
    """Return a field's height and width, or the length of the shorter side, from any of its spellings."""
    stated = fields.get(name)
    sides = stated.values() if isinstance(stated, Mapping) else stated if isinstance(stated, list | tuple) else [stated]
    if not all(side is None or is_whole(side, 1, _LONGEST) for side in sides):
        raise ValueError(f"{name} of preprocessor_config.json must be of 1..{_LONGEST:,} pixels; got {shown(stated)}")
    if isinstance(stated, int):
        return (stated, stated) if square else stated
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return stated[0], stated[1]
    lengths = {key: value for key, value in stated.items() if value} if isinstance(stated, Mapping) else {}
    if set(lengths) == {"height", "width"}:
        return lengths["height"], lengths["width"]
    if set(lengths) == {"shortest_edge"}:
        return lengths["shortest_edge"]
    raise ValueError(
        f"{name} of preprocessor_config.json must be a whole number, a height and a width, or a shortest_edge; "
        f"got {shown(stated)}"
    )


def _crop(fields: Mapping[str, Any]) -> tuple[int, int]:
    size = _size(fields, "crop_size", square=True)
    if isinstance(size, int):
        raise ValueError(f"crop_size of preprocessor_config.json must be a height and a width; got {size} for one side")
    return size


def _channels(fields: Mapping[str, Any], name: str, fits: Callable[[Any], bool]) -> tuple[float, ...]:
    stated = fields.get(name)
    values: tuple[Any, ...] = tuple(stated) if isinstance(stated, list | tuple) else (stated,) * 3
    if len(values) != 3 or not all(map(fits, values)):
        above = " above 0" if fits is is_positive else ""
        raise ValueError(f"{name} of preprocessor_config.json must be one number{above} or three; got {shown(stated)}")
    return tuple(map(float, values))


def _factor(value: Any) -> float:
    if not is_positive(value):
        raise ValueError(f"rescale_factor of preprocessor_config.json must be a number above 0; got {shown(value)}")
    return float(value)


def _resample(value: Any) -> "Resampling":
    from PIL.Image import Resampling

    if not is_whole(value) or value not in list(Resampling):
        known = ", ".join(str(int(kind)) for kind in Resampling)
        raise ValueError(f"resample of preprocessor_config.json must be one of {known}; got {shown(value)}")
    return Resampling(value)
