"""Pictures of several panels."""

from typing import TYPE_CHECKING, Any

from ..arguments import at_least, checked

if TYPE_CHECKING:
    from .picture import Panel, Picture


@checked(count=at_least(1), rows=at_least(1))
def panels(count: int, size: tuple[float, float], rows: int = 1, **options: Any) -> "tuple[Picture, list[Panel]]":
    """Return a picture and its panels, row after row.

    Args:
        count: number of panels, a multiple of the rows.
        size: width and height in inches.
        options: of matplotlib's `Figure.subplots`.

    Raises:
        ValueError: for a count that is no multiple of the rows.
    """
    from .picture import Panel, Picture

    if count % rows:
        raise ValueError(f"count: expected a multiple of {rows} rows, got {count}")
    picture = Picture(figsize=size)
    options = {**options, "subplot_kw": {"axes_class": Panel, **options.get("subplot_kw", {})}}
    return picture, list(picture.subplots(rows, count // rows, squeeze=False, **options).flat)


def panel(size: tuple[float, float]) -> "Panel":
    """Return the only panel of a new picture, whose size is in inches."""
    return panels(1, size)[1][0]
