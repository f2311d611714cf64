"""Translation of GGUF's rotary scaling to Hugging Face's `rope_scaling`."""

import math
from typing import Any

import numpy as np

from ...checks import shown
from .config_fields import is_positive

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings of all Llama 3.x models, and llama.cpp's defaults where config.json has none."""

YARN = {
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
SILENT = ("finetuned",)  # a remark that changes no number


def rope_scaling(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """Translate the keys below `<architecture>.rope.scaling.`; return None where nothing is scaled.

    Raises:
        ValueError: for a type or a key that isn't known.
    """
    known = {key: value for key, value in metadata.items() if key not in SILENT}
    kind = known.pop("type", "linear" if "factor" in known else "none")
    if kind in ("linear", "yarn") and not is_positive(known.get("factor")):
        raise ValueError(f"rotary scaling {kind!r} has factor {shown(known.get('factor'))}, expected a number above 0")
    if kind == "none":
        return None
    if kind == "linear" and known.keys() <= {"factor", "original_context_length"}:
        return {"rope_type": "linear", "factor": float(known["factor"])}
    if kind == "yarn" and known.keys() <= {"factor", *YARN}:
        factor = float(known.pop("factor"))
        return {"rope_type": "yarn", "factor": factor, **{YARN[key]: value for key, value in known.items()}}
    raise ValueError(
        f"rotary scaling {shown(kind)} with {', '.join(sorted(known)) or 'no settings'} isn't known; known are "
        f"linear (factor) and yarn (factor, {', '.join(YARN)})"
    )


def scaling_of_factors(factors: np.ndarray, theta: float) -> dict[str, Any] | None:
    """Find the Llama 3 scaling that made `rope_freqs.weight` `[H/2]`, which divides the rotary frequencies.

    GGUF stores the factors and drops the settings. Only the largest factor varies between Llama 3.x models.

    Raises:
        ValueError: for factors that these settings don't reproduce.
    """
    if np.array_equal(factors, np.ones_like(factors)):
        return None
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
    if not np.allclose(_llama3_factors(len(factors), theta, scaling), factors, rtol=1e-5, atol=0):
        raise ValueError(
            "rope_freqs.weight holds frequency factors that aren't those of Llama 3's scaling with "
            f"{LLAMA3}: Hugging Face's config can't express them. Load the model's safetensors."
        )
    return scaling


def _llama3_factors(count: int, theta: float, scaling: dict[str, Any]) -> np.ndarray:
    """Compute frequency factors as llama.cpp's converter does, after transformers' `_compute_llama3_parameters`."""
    wavelength = 2 * math.pi * theta ** (np.arange(count) / count)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)
