"""Views of a run's patterns on what it read: tokens, patches over the image, frames over the spectrogram.

Dimension key: L layers, B examples, N heads, T query positions, S key positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import one_of
from ..view import Backdrop, Tokens, View, attention
from .inputs.axes import Axis
from .predictions import texts_of

Head = tuple[int, int]

SECONDS = 0.01
"""Length of a frame of a log-mel spectrogram."""


def run_view(
    run: Any,
    source: Any,
    stack: str | None,
    example: int,
    heads: Sequence[Head] | None,
    notes: Mapping[Head, str] | None,
    chosen: Head | None,
) -> View:
    """Show one example's patterns; raises ValueError for a run that holds none, or an example that is not there."""
    if stack is not None and source.axes:
        one_of("stack", stack, source.axes)
    site = _site(run, stack)
    patterns_LBNTS = run.seen[site]
    count = patterns_LBNTS.shape[1]
    if example >= count:
        raise ValueError(f"example: the run has {count} examples, so one of 0..{count - 1}; got {example}")
    patterns_LNTS = np.asarray(patterns_LBNTS[:, example], np.float32)
    name = site.rpartition(".")[0] or next(iter(source.axes), "")
    axes = source.axes.get(name)
    if axes is None:
        raise ValueError("view: a run that was loaded has no texts: give its patterns to jh.view.attention")
    (queries, kept_T), (keys, kept_S) = (_side(source, axis, example) for axis in axes)
    shown = {} if axes[0] == axes[1] else {"keys": keys}
    return attention(
        patterns_LNTS[:, :, kept_T][..., kept_S],
        queries,
        **shown,
        heads=heads,
        notes=notes,
        chosen=chosen,
        stack=name if len(source.axes) > 1 else "",
        title=f"Attention of {source.name}",
    )


def _site(run: Any, stack: str | None) -> str:
    known = [name for name in run.seen if name.rpartition(".")[2] == "pattern"]
    wanted = known if stack is None else [name for name in known if name in ("pattern", f"{stack}.pattern")]
    if len(wanted) != 1:
        raise ValueError(
            f"stack: expected a run with the patterns of one stack, got {', '.join(known) or 'none'}"
            f"{'' if stack is None else f' for {stack!r}'}: jh.run(model, batch, capture='pattern')"
        )
    return wanted[0]


def _side(source: Any, axis: Axis, example: int) -> tuple[Tokens, np.ndarray]:
    """Return the tokens of one side, without padding, and which positions they are."""
    batch, positions = source.batch, axis.of(source.batch)
    kept = np.flatnonzero(np.asarray(positions.mask)[example])
    if axis.kind == "patches":
        rows, columns = axis.grid(batch)
        names = [f"row {row} column {column}" for row in range(rows) for column in range(columns)]
        image = np.asarray(batch.pixels)[example]
        backdrop = Backdrop(image, (rows, columns), len(axis.specials), "the image that the model reads")
        return Tokens([*axis.specials, *names], backdrop=backdrop), kept
    if axis.kind == "frames":
        # Low tones are at the bottom, as in any spectrogram.
        image = np.asarray(batch.features)[example][::-1]
        names = [f"{place * axis.size * SECONDS:.2f} s" for place in range(len(kept))]
        return Tokens(names, backdrop=Backdrop(image, (1, len(kept)), 0, "the spectrogram that the model reads")), kept
    assert positions.ids is not None
    if source.tokenizer is None:
        texts = [str(token) for token in np.asarray(positions.ids)[example][kept]]
    else:
        texts = [texts_of(source.tokenizer, positions)[example][place] for place in kept]
    read = axis.kind == "tokens"
    words = None if batch.words is None or not read else np.asarray(batch.words)[example][kept].tolist()
    return Tokens(texts, words, _parts(batch, example, kept) if read else None), kept


def _parts(batch: Any, example: int, kept: np.ndarray) -> list[str] | None:
    """Return the name of the text, or of the sentence of a pair, that each token is in; None where there is one."""
    for field, name in ((batch.segments, "text"), (batch.token_types, "sentence")):
        numbers = None if field is None else np.asarray(field)[example][kept]
        if numbers is not None and len(set(numbers.tolist())) > 1:
            order = {number: place for place, number in enumerate(dict.fromkeys(numbers.tolist()), 1)}
            return [f"{name} {order[number]}" for number in numbers.tolist()]
    return None
