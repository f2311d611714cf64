"""Checks of single values that many functions share: each raises ValueError that names the argument.

What is traced has no value yet: of a tracer only shape and type are checked.
"""

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1
"""JAX without 64-bit integers keeps 32 bits of a seed: a larger one would silently be another."""


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless an argument is one of the known values; the message lists them, the nearest last."""
    known = tuple(known)
    # An array's == is no bool.
    if not isinstance(value, str | int | float | tuple | type(None)) or value not in known:
        raise ValueError(
            f"{name} must be one of {', '.join(map(str, known))}; got {shown(value)}{nearest(value, known)}"
        )


def nearest(value: object, known: Iterable[object]) -> str:
    """Return "; did you mean 'pattern'?" for a misspelt name, and nothing for what is like no known one."""
    names = [str(name) for name in known]
    if not isinstance(value, str):
        return ""
    lower = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(value.lower(), lower, n=1)
    return f"; did you mean {lower[near[0]]!r}?" if near and lower[near[0]] != value else ""


class Named(dict[str, T]):
    """A mapping from names whose error for an unknown one lists those that are known, the nearest last."""

    def __init__(self, what: str, entries: Mapping[str, T]):
        super().__init__(entries)
        self.what = what

    def __missing__(self, name: object) -> T:
        raise KeyError(f"{self.what}: {name!r} is not known; known are {', '.join(self)}{nearest(name, self)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Named, (self.what, dict(self))


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number within its range; fractions, booleans and texts raise ValueError."""
    span = _span("a whole number", least, most)
    if not is_whole(value):
        raise ValueError(f"{name} must be {span}, got {shown(value)}")
    if is_traced(value):
        return value
    number = operator.index(value)
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} must be {_span('', least, most).strip()}, got {number}")
    return number


def head_of(shape: tuple[int, int], layer: int, head: int) -> None:
    """Raise ValueError for a head that is not in a grid of this number of layers and heads."""
    L, N = shape
    if not (0 <= layer < L and 0 <= head < N):
        raise ValueError(f"layers are 0..{L - 1} and heads 0..{N - 1}; got ({layer}, {head})")


def seed(name: str, value: Any) -> int:
    """Return a seed: a whole number from 0 to 2³² − 1, so that no two seeds are one."""
    return whole(name, value, 0, LARGEST_SEED)


def check_level(level: float, name: str = "level") -> None:
    """Raise ValueError unless a confidence level is between 0 and 1; long computations call it before they start."""
    if not is_number(level) or not 0 < level < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {shown(level)}; 95 % is 0.95")


def floating(name: str, value: Any) -> Any:
    """Return a dtype that weights can have, of real floating point numbers that JAX computes in; raises for others."""
    known = ("float32", "bfloat16", "float16", *(["float64"] if jnp.zeros(0, float).dtype == "float64" else []))
    try:
        dtype = None if value is None else jnp.dtype(value).name
    except TypeError:
        dtype = None
    if dtype not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {shown(value)}{nearest(value, known)}")
    return jnp.dtype(dtype)


def finite(name: str, value: Any, least: float | None = None, most: float | None = None) -> float:
    """Return a finite number within its range, ends included; booleans and texts raise ValueError."""
    span = _span("a finite number", least, most)
    if not is_number(value):
        raise ValueError(f"{name} must be {span}, got {shown(value)}")
    if is_traced(value):
        return value
    number = float(value)
    low, high = -np.inf if least is None else least, np.inf if most is None else most
    if not (np.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} must be {span}, got {number:g}")
    return number


def all_finite(name: str, values: Any) -> None:
    """Raise ValueError for an array with NaN or infinite entries."""
    if not is_traced(values) and not np.isfinite(np.asarray(values, np.float32)).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


def whole_numbers(name: str, values: Any) -> np.ndarray:
    """Return an array of integers as it came, in its own type; floats, booleans, texts and ragged lists raise."""
    array = as_array(name, values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype} of shape {array.shape}")
    return array


def fitting_32_bits(name: str, numbers: np.ndarray) -> np.ndarray:
    """Return integers as int32; one that does not fit raises ValueError, where a cast would wrap it."""
    limits = np.iinfo(np.int32)
    if numbers.size and (numbers.min() < limits.min or numbers.max() > limits.max):
        wrong = numbers[(numbers < limits.min) | (numbers > limits.max)].reshape(-1)[0]
        raise ValueError(f"{name} must fit 32 bits, got {wrong}")
    return numbers.astype(np.int32)


def booleans(name: str, values: Any) -> np.ndarray:
    """Return an array of booleans, given as such or as 0 and 1.

    All else raises ValueError: the additive mask of 0 and −∞ would be taken upside down, and 0.5 or "no" as true.
    """
    array = as_array(name, values)
    if array.dtype.kind not in "buif" or not np.isin(array, (0, 1)).all():
        hint = "; an additive mask (0 and −∞) becomes one by mask == 0" if array.dtype.kind == "f" else ""
        raise ValueError(f"{name} must be booleans, or 0 and 1 (1 for what is real), got {_entries(array)}{hint}")
    return array.astype(bool)


def as_array(name: str, values: Any) -> np.ndarray:
    """Return values as an array; what has no rectangular shape or is no array raises ValueError."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:  # ragged lists
        raise ValueError(f"{name} must be an array, or lists of equal length; got {shown(values)} ({error})") from None
    if array.dtype.kind == "O":
        raise ValueError(f"{name} must be an array of numbers or labels, got {shown(values)}")
    return array


def is_traced(value: Any) -> bool:
    """Whether a value stands for one that JAX computes later, so that only shape and type are known."""
    return isinstance(value, Tracer)


def is_whole(value: Any) -> bool:
    """Whether a value is one integer: Python's, NumPy's, or an array without axes; booleans are none."""
    if isinstance(value, int | np.integer):
        return not isinstance(value, bool)
    return getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u")


def is_number(value: Any) -> bool:
    """Whether a value is one real number: Python's, NumPy's, or an array without axes; booleans are none."""
    if is_whole(value) or isinstance(value, float | np.floating):
        return True
    dtype = getattr(value, "dtype", None)
    return getattr(value, "shape", None) == () and (getattr(dtype, "kind", "") == "f" or str(dtype) == "bfloat16")


def shown(value: Any) -> str:
    """Return a short description of what came, for a message."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, np.generic):
        kind = "a column" if hasattr(value, "index") else "an array"
        return f"{kind} of {value.dtype} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic):
        text = _repr(value.item() if isinstance(value, np.generic) else value)
        return text if len(text) <= 60 else f"{text[:56]} …"
    if isinstance(value, list | tuple | Mapping | set | range):
        text = _repr(value) if len(value) <= 6 else ""
        return text if 0 < len(text) <= 60 else f"a {type(value).__name__} of {len(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    article = "an" if type(value).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(value).__name__}"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists within lists
        return f"a very large {type(value).__name__}"


def _entries(array: np.ndarray) -> str:
    if array.dtype.kind not in "buif":
        return shown(array)
    wrong = array[~np.isin(array, (0, 1))].reshape(-1)[:3]
    return f"{', '.join(f'{entry:g}' for entry in wrong)} in {shown(array)}"


def _span(words: str, least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return words
    if most is None:
        return f"{words} of at least {least:g}" if words else f"at least {least:g}"
    return f"{words} from {0 if least is None else least:g} to {most:.10g}"
