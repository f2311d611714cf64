"""Checks of arguments that many functions share."""

from collections.abc import Iterable


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless an argument is one of the known values; the message lists them."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}; got {value!r}")
