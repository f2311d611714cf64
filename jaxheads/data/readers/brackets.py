"""Trees in brackets, as the Penn Treebank has them: words, tags, phrases."""

import os
import re
from dataclasses import dataclass, field

from ...arguments import checked
from ...models.inputs.sentences import Sentence, Sentences
from .lines import TextFile, read_lines

_PIECE = re.compile(r"[()]|[^\s()]+")

WRITTEN = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LCB-": "{",
    "-RCB-": "}",
    "-LSB-": "[",
    "-RSB-": "]",
    "``": '"',
    "''": '"',
}
"""What words of the Penn Treebank stand for."""


@dataclass
class _Node:
    """A node of a tree.

    Attributes:
        label: its label, "" of the outermost pair of brackets.
        line: where it begins.
        children: nodes, or the word of a tag.
    """

    label: str
    line: int
    children: "list[_Node]" = field(default_factory=list)
    word: str | None = None


@checked()
def brackets(path: str | os.PathLike, *, functions: bool = False) -> Sentences:
    """Read trees in brackets: words, tags ("xpos") and the smallest phrase of each word ("phrase").

    Empty elements (-NONE-) are no words. -LRB- and its like are read as the characters that they stand for.

    Args:
        functions: keep the functions of phrases ("NP-SBJ"); without them, "NP".

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: with file and line, for brackets that do not match, text outside of them, or a node without words.
    """
    file = read_lines(path)
    trees = [_sentence(tree, functions, file) for tree in _parsed(file)]
    kept = tuple(one for one in trees if one is not None)
    if not kept:
        raise ValueError(f"{file.name}: expected trees in brackets, got none with a word")
    return Sentences(kept, {file.name: file.sha256})


def _parsed(file: TextFile) -> list[_Node]:
    trees: list[_Node] = []
    opened: list[_Node] = []
    after_opening = False
    for line in file.lines:
        for piece in _PIECE.findall(line.text):
            if piece == "(":
                node = _Node("", line.number)
                (opened[-1].children if opened else trees).append(node)
                opened.append(node)
            elif not opened:
                raise ValueError(f"{file.at(line.number)}: expected a bracket that opens a tree, got {piece!r}")
            elif piece == ")":
                node = opened.pop()
                if not node.children and node.word is None:
                    raise ValueError(f"{file.at(line.number)}: the node {node.label or '()'} has no word")
            elif after_opening:
                opened[-1].label = piece
            elif opened[-1].word is None and not opened[-1].children:
                opened[-1].word = piece
            else:
                raise ValueError(f"{file.at(line.number)}: {piece!r} follows other words of {opened[-1].label}")
            after_opening = piece == "("
    if opened:
        raise ValueError(f"{file.at(opened[0].line)}: the tree that begins here does not end")
    return trees


def _sentence(tree: _Node, functions: bool, file: TextFile) -> Sentence | None:
    words: list[str] = []
    tags: list[str] = []
    phrases: list[str | None] = []

    def walk(node: _Node, phrase: str | None) -> None:
        if node.word is not None:
            if node.label != "-NONE-":
                words.append(WRITTEN.get(node.word, node.word))
                tags.append(node.label)
                phrases.append(phrase)
            return
        # "-LRB-" is a label that begins with the mark of functions.
        own = node.label if functions else re.split(r"(?<=\w)[-=|]", node.label)[0]
        for child in node.children:
            walk(child, own or phrase)

    walk(tree, None)
    if not words:
        return None
    labels = {"xpos": tuple(tags), "phrase": tuple(phrases)}
    return Sentence(tuple(words), labels=labels, source=file.at(tree.line))
