"""The arithmetic of products of float32, which accelerators round unless they are told otherwise.

By default a TPU multiplies float32 with factors rounded to bfloat16, and some GPUs with TF32. An effect is a small
difference between two runs, of which that leaves one or two digits. So jaxheads itself asks for full precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import jax

Arithmetic = Literal["full", "differences", "fast"]
"""What products of float32 are computed with; see `products`."""

_ASKED: ContextVar[Arithmetic | None] = ContextVar("arithmetic", default=None)

_PRECISION = {"full": "highest", "differences": "float32", "fast": "default"}
"""JAX's precision of each arithmetic. JAX knows one precision as "highest" and as "float32", and traces anew where the
word differs: so a program of "differences" is never taken for one of "full"."""


@contextmanager
def products(arithmetic: Arithmetic | None = None) -> Iterator[None]:
    """Trace and run what is in this block with an arithmetic.

    Args:
        arithmetic: "full" multiplies float32 as float32; "differences" does so for the unedited run, and multiplies
            what edits change as differences from it, with bfloat16 factors; "fast" is JAX's default on the platform,
            bfloat16 factors on a TPU. Left out, that of the block around this one or, outside of all, "full" unless
            the user has set `jax_default_matmul_precision`.
    """
    arithmetic = arithmetic or _ASKED.get() or (None if _set_by_user() else "full")
    token = _ASKED.set(arithmetic)
    try:
        with jax.default_matmul_precision(_PRECISION[arithmetic] if arithmetic else _set_by_user()):
            yield
    finally:
        _ASKED.reset(token)


def arithmetic_used() -> str:
    """Return the arithmetic of this block; where the user has set JAX's precision, that precision."""
    return _ASKED.get() or _set_by_user() or "full"


def precision_used() -> str:
    """Return the precision that products of float32 ask for here, in JAX's words."""
    arithmetic = _ASKED.get()
    return _PRECISION[arithmetic] if arithmetic else _set_by_user() or _PRECISION["full"]


def _set_by_user() -> str | None:
    config: Any = jax.config  # its attributes are dynamic: a type checker can't see them
    return config.jax_default_matmul_precision
