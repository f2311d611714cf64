"""Rotary positions that differ from layer to layer: by the layer's type, or in some layers only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...positions import Rotary
from .gated_decoder import FULL, SLIDING, rotary_of
from .reading import inner_config


def rotaries_by_type(
    config: Mapping[str, Any], dimensions: int, context: int, bases: tuple[float, float]
) -> tuple[Rotary, Rotary]:
    """Return the rotary embeddings of layers without a window and of layers with a window.

    They come from `rope_parameters` by layer type or, in transformers 4, from `rope_scaling`, which is that of layers
    without a window.

    Args:
        dimensions, context: see `rotary_of`.
        bases: the wavelength bases of both, unless `rope_parameters` states them.

    Raises:
        ValueError: for another layer type, or a rope type that is not covered.
    """
    by_type = inner_config(config, "rope_parameters")
    if unknown := set(by_type) - {FULL, SLIDING}:
        family = config.get("model_type")
        raise ValueError(f"rope_parameters of {family} are given for {FULL!r} and {SLIDING!r}; got {sorted(unknown)}")
    full = {**inner_config(by_type, FULL), **inner_config(config, "rope_scaling")}
    whole, windowed = (
        rotary_of({"rope_parameters": parameters, "rope_theta": base}, dimensions, context)
        for parameters, base in zip((full, inner_config(by_type, SLIDING)), bases, strict=True)
    )
    return whole, windowed


def rotary_settings(rotaries: Sequence[Rotary | None], dimensions: int) -> dict[str, np.ndarray]:
    """Return a stack's settings with the frequencies `[L,F]` and the amplitude `[L]` of each layer's rotary positions.

    A layer without rotary positions (None) has frequencies 0: its queries and keys stay as they are.
    """
    none = np.zeros(dimensions // 2, np.float32)
    frequencies = [none if rotary is None else rotary.frequencies() for rotary in rotaries]
    amplitudes = np.array([1.0 if rotary is None else rotary.amplitude() for rotary in rotaries], np.float32)
    return {"frequencies": np.stack(frequencies), "amplitude": amplitudes}
