"""Sentences with labels: words, what is known of each word, which words belong together, and where they come from.

Readers make them from files (`jaxheads.data.conllu` and others), `Model.encode` makes batches of them. All of this is
plain Python on the host, and knows no tokenizer and no model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, overload

from ...arguments import checked
from ...checks import one_of, shown


class Link(NamedTuple):
    """A relation from one word of a sentence to another: a dependent and its head, a mention and its antecedent.

    Attributes:
        dependent: index of the dependent (the later mention).
        head: index of its head (a word of its antecedent); -1 for the root of a tree, which has no head.
        label: the relation's name.
    """

    dependent: int
    head: int
    label: str


@dataclass(frozen=True, eq=False)
class Sentence:
    """Words that a model reads together, with what is known of them: a sentence, or several of one document.

    Attributes:
        words: the words, as they stand in the text.
        spaces: whether a space follows each word; a space follows every word when left out.
        labels: by name ("upos", "entity"), the label of each word; None for a word without one.
        links: by name ("deprel", "coref"), relations between words. A word may have several links of one name.
        properties: by name ("genre", "sentiment"), what is known of the whole.
        document: the text that it is from; examples of one document depend on each other.
        source: file and line, for messages.

    Raises:
        ValueError: for no word or an empty one, labels or spaces that are not one a word, or a link to a word that is
            not there.
    """

    words: tuple[str, ...]
    spaces: tuple[bool, ...] | None = None
    labels: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    links: Mapping[str, tuple[Link, ...]] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    document: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        where, count = f"{self.source}: " if self.source else "", len(self.words)
        if not self.words or not all(isinstance(word, str) and word.strip() for word in self.words):
            raise ValueError(f"{where}words must be strings that are not empty, at least one; got {shown(self.words)}")
        columns = {**self.labels, **({} if self.spaces is None else {"spaces": self.spaces})}
        for name, column in columns.items():
            if len(column) != count:
                raise ValueError(f"{where}{name} must be one for each of {count} words, got {len(column)}")
        for name, links in self.links.items():
            for link in links:
                if not (0 <= link.dependent < count and -1 <= link.head < count):
                    raise ValueError(f"{where}the {name} link {tuple(link)} is to a word that is not among {count}")

    @property
    def text(self) -> str:
        """The words with the spaces between them."""
        spaces = self.spaces or (True,) * len(self.words)
        return "".join(word + " " * space for word, space in zip(self.words, (*spaces[:-1], False), strict=True))

    @property
    def heads(self) -> tuple[int, ...] | None:
        """Index of each word's head in its tree, -1 for the root; None without a tree."""
        if "deprel" not in self.links:
            return None
        heads = {link.dependent: link.head for link in self.links["deprel"]}
        return tuple(heads.get(index, -1) for index in range(len(self.words)))


@dataclass(frozen=True, eq=False)
class Sentences(Sequence[Sentence]):
    """Sentences in their order, and the names of their labels, whose indices are the ids in a batch.

    Attributes:
        sentences: the sentences.
        files: by file's name, the sha256 of what was read; for provenance.
        known: the names of labels, where they are those of a larger collection that these were taken from.
    """

    sentences: tuple[Sentence, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, tuple[str, ...]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.sentences)

    @overload
    def __getitem__(self, index: int) -> Sentence: ...

    @overload
    def __getitem__(self, index: slice) -> "Sentences": ...

    def __getitem__(self, index: int | slice) -> "Sentence | Sentences":
        chosen = self.sentences[index]
        return chosen if isinstance(chosen, Sentence) else self._part(chosen)

    @cached_property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """By name of labels, links or properties, the labels that occur, in alphabetical order.

        Sentences that were taken from others have the names of all, so that a label's number is one number.

        Raises:
            ValueError: for a name that labels of words share with links or properties.
        """
        return label_names(self.sentences) if self.known is None else self.known

    @checked()
    def names(self, label: str) -> tuple[str, ...]:
        """Return the labels of this name; raises ValueError for one that there is not."""
        one_of("the name of labels", label, self.label_names)
        return self.label_names[label]

    @checked()
    def where(self, keep: Callable[[Sentence], bool]) -> "Sentences":
        """Return the sentences for which `keep` is true."""
        return self._part(tuple(filter(keep, self.sentences)))

    @checked()
    def take(self, indices: Sequence[int]) -> "Sentences":
        """Return the sentences with these indices, in their order."""
        return self._part(tuple(self.sentences[index] for index in indices))

    def _part(self, chosen: tuple[Sentence, ...]) -> "Sentences":
        return Sentences(chosen, self.files, self.label_names)


def label_names(sentences: Iterable[Sentence]) -> dict[str, tuple[str, ...]]:
    """Return by name the labels of words, links and properties that occur, each in alphabetical order.

    Raises:
        ValueError: for a name that labels of words share with links or properties.
    """
    found: dict[str, set[str | None]] = {}
    kinds: dict[str, str] = {}
    for one in sentences:
        entries = (
            *(("words", name, labels) for name, labels in one.labels.items()),
            *(("links", name, (link.label for link in links)) for name, links in one.links.items()),
            *(("properties", name, (value,)) for name, value in one.properties.items()),
        )
        for kind, name, values in entries:
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(f"{one.source}: {name!r} names both {kinds[name]} and {kind}: give one another name")
            found.setdefault(name, set()).update(values)
    return {name: tuple(sorted(value for value in values if value is not None)) for name, values in found.items()}
