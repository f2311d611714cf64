"""The arithmetic of products of float32, which accelerators round unless they are told otherwise.

By default a TPU multiplies float32 with factors rounded to bfloat16, and some GPUs with TF32. An effect is a small
difference between two runs, of which that leaves one or two digits. So jaxheads itself asks for full precision.

The command line reads the names of arithmetics here, so JAX is imported by the functions that use it.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

Arithmetic = Literal["full", "differences", "fine differences", "fast", "emulated bfloat16", "emulated tf32"]
"""What products of float32 are computed with; see `products`."""

_ASKED: ContextVar[Arithmetic | None] = ContextVar("arithmetic", default=None)

_PRECISION = {"fast": "default"}
"""JAX's precision of each arithmetic that is not of the highest."""

DIFFERENCE_TERMS = {"differences": 1, "fine differences": 2}
"""Numbers of bfloat16 that a factor of a difference is the sum of, by the name of the arithmetic."""

EMULATED_BITS = {"emulated bfloat16": 7, "emulated tf32": 10}
"""Bits of the mantissa that factors are rounded to, by the name of the arithmetic."""


@contextmanager
def products(arithmetic: Arithmetic | None = None) -> Iterator[None]:
    """Trace and run what is in this block with an arithmetic.

    Args:
        arithmetic: "full" multiplies float32 as float32; "differences" does so for the unedited run, and multiplies
            what edits change as differences from it, with bfloat16 factors; "fast" is JAX's default on the platform,
            bfloat16 factors on a TPU. Left out, that of the block around this one or, outside of all, "full" unless
            the user has set `jax_default_matmul_precision`. "fine differences" have two numbers of bfloat16 a factor.
            "emulated bfloat16" and "emulated tf32" round all factors on a platform that would not.
    """
    import jax

    arithmetic = arithmetic or _ASKED.get() or (None if _set_by_user() else "full")
    token = _ASKED.set(arithmetic)
    try:
        with jax.default_matmul_precision(precision_used()):
            yield
    finally:
        _ASKED.reset(token)


def available(arithmetic: Arithmetic | None, platform: str, *, copies: bool = True) -> Arithmetic | None:
    """Return the arithmetic that a question is computed with.

    Differences are full where the question runs no edited copies, and on a CPU that does not multiply bfloat16 itself,
    where they would be slower; a warning says so, once.

    Args:
        platform: that programs are made for.
        copies: whether the question runs edited copies.
    """
    if arithmetic not in DIFFERENCE_TERMS:
        return arithmetic
    if not copies:
        return "full"
    if platform == "cpu" and not _multiplies_bfloat16():
        _warn_of_slow_bfloat16(arithmetic)
        return "full"
    return arithmetic


@functools.cache
def _warn_of_slow_bfloat16(arithmetic: str) -> None:
    warnings.warn(
        f"arithmetic={arithmetic!r} is computed as 'full': this CPU has no instructions that "
        "multiply bfloat16 (AMX or AVX512-BF16), without which differences are slower than float32",
        stacklevel=3,
    )


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for products of bfloat16, as Linux lists them."""
    try:
        listed = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line.split() for line in listed.splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags


def arithmetic_used() -> str:
    """Return the arithmetic of this block; where the user has set JAX's precision, that precision."""
    return _ASKED.get() or _set_by_user() or "full"


def precision_used() -> str:
    """Return the precision that products of float32 ask for here, in JAX's words."""
    arithmetic = _ASKED.get()
    return _PRECISION.get(arithmetic, "highest") if arithmetic else _set_by_user() or "highest"


def _set_by_user() -> str | None:
    import jax

    config: Any = jax.config  # its attributes are dynamic: a type checker can't see them
    return config.jax_default_matmul_precision
