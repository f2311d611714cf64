"""Examples of several sentences of one document."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

from ...models.inputs.sentences import Link, Sentence

Unit = Literal["sentence", "document"] | int
"""What is one example: a sentence, a document, or as many sentences as have no more than this number of words."""


class _Holds(Protocol):
    @property
    def sentence(self) -> Sentence: ...


Held = TypeVar("Held", bound=_Holds)


def check_unit(unit: Any) -> None:
    """Raise ValueError for a unit that there is not."""
    if unit not in ("sentence", "document") and (isinstance(unit, bool) or not isinstance(unit, int) or unit < 1):
        raise ValueError(f'unit must be "sentence", "document" or a number of words, got {unit!r}')


def passages_of(held: Sequence[Held], unit: Unit, join: Callable[[Sequence[Held]], Held]) -> Iterator[Held]:
    """Yield examples of one unit; a sentence that alone has more words than the unit is one by itself."""
    run: list[Held] = []
    for own in held:
        words = sum(len(one.sentence.words) for one in run) + len(own.sentence.words)
        document = own.sentence.document
        follows = bool(run) and document is not None and document == run[-1].sentence.document
        if run and (unit == "sentence" or not follows or (unit != "document" and words > unit)):
            yield join(run)
            run = []
        run.append(own)
    if run:
        yield join(run)


def joined(sentences: Sequence[Sentence]) -> Sentence:
    """Return one sentence of several of a document, one after the other; a space comes between them."""
    if len(sentences) == 1:
        return sentences[0]
    starts = [0]
    for one in sentences:
        starts.append(starts[-1] + len(one.words))
    spaces: list[bool] = []
    for one in sentences:
        spaces += [*(one.spaces or (True,) * len(one.words))[:-1], True]
    labels = {
        name: tuple(value for one in sentences for value in one.labels.get(name, (None,) * len(one.words)))
        for name in dict.fromkeys(name for one in sentences for name in one.labels)
    }
    links = {
        name: tuple(
            Link(link.dependent + start, link.head + start if link.head >= 0 else -1, link.label)
            for start, one in zip(starts, sentences, strict=False)
            for link in one.links.get(name, ())
        )
        for name in dict.fromkeys(name for one in sentences for name in one.links)
    }
    first = sentences[0]
    words = tuple(word for one in sentences for word in one.words)
    return Sentence(words, tuple(spaces), labels, links, first.properties, first.document, first.source)
