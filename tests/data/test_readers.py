"""Readers of labelled text: what they read, and what they refuse, by file and line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxheads import data
from jaxheads.data import Link

TREEBANK = """\
# newdoc id = weblog-one
# sent_id = 1
# text = Anna didn't see zum Haus (her).
1\tAnna\tAnna\tPROPN\tNNP\tNumber=Sing\t4\tnsubj\t_\tEntity=(1-person-1-coref)
2-3\tdidn't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdid\tdo\tAUX\tVBD\tTense=Past\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tsee\tsee\tVERB\tVB\t_\t0\troot\t_\t_
4.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
5-6\tzum\t_\t_\t_\t_\t_\t_\t_\t_
5\tzu\tzu\tADP\tIN\t_\t7\tcase\t_\t_
6\tdem\tder\tDET\tDT\t_\t7\tdet\t_\t_
7\tHaus\tHaus\tNOUN\tNN\tNumber=Sing\t4\tobl\t_\tEntity=(2-place-1-coref)
8\t(\t(\tPUNCT\t-LRB-\t_\t9\tpunct\t_\tSpaceAfter=No
9\ther\tshe\tPRON\tPRP\t_\t4\tobj\t_\tEntity=(1-person-1-ana)|SpaceAfter=No
10\t)\t)\tPUNCT\t-RRB-\t_\t9\tpunct\t_\tSpaceAfter=No
11\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_

# sent_id = 2
1\tThe\tthe\tDET\tDT\t_\t3\tdet\t_\tEntity=(2-place-3-coref
2\told\told\tADJ\tJJ\t_\t3\tamod\t_\t_
3\thouse\thouse\tNOUN\tNN\t_\t0\troot\t_\tEntity=2)

# newdoc id = email-two
1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
"""
HEADER = "# global.Entity = eid-etype-head-link\n"


def written(folder: Path, text: str, name: str = "file.conllu") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_treebank_has_words_tags_trees_documents_and_genres(tmp_path: Path):
    read = data.conllu(written(tmp_path, HEADER + TREEBANK))
    first, second, third = read
    assert first.words == ("Anna", "did", "n't", "see", "zum", "Haus", "(", "her", ")", ".")
    assert first.text == "Anna didn't see zum Haus (her)."
    assert first.heads == (3, 3, 3, -1, 5, 3, 7, 3, 7, 3)
    assert first.labels["upos"][4] == "ADP"
    assert first.labels["Number"] == ("Sing", None, None, None, None, "Sing", None, None, None, None)
    assert [one.document for one in read] == ["weblog-one", "weblog-one", "email-two"]
    assert [one.properties["genre"] for one in read] == ["weblog", "weblog", "email"]
    assert first.source == "file.conllu:5"
    assert third.links["deprel"] == (Link(0, -1, "root"),)
    assert len(read.files["file.conllu"]) == 64
    assert second.labels["entity"] == ("place", "place", "place")


def test_mentions_are_linked_to_all_earlier_ones_within_the_example(tmp_path: Path):
    path = written(tmp_path, HEADER + TREEBANK)
    first, second, third = data.conllu(path)
    assert first.links["coref"] == (Link(7, 0, "pronoun"),)
    assert "coref" not in second.links
    whole, last = data.conllu(path, unit="document")
    assert last.words == third.words
    assert whole.words == first.words + second.words
    # The head of "The old house" is "house", the third word of the second sentence.
    assert whole.links["coref"] == (Link(7, 0, "pronoun"), Link(12, 5, "nominal"))
    assert whole.heads == (*(first.heads or ()), 12, 12, -1)
    assert whole.text == first.text + " " + second.text
    assert [len(one.words) for one in data.conllu(path, unit=12)] == [10, 3, 1]
    assert [len(one.words) for one in data.conllu(path, unit=13)] == [13, 1]


WORD = "1\tGo\tgo\tVERB\tVB\t_\t{head}\troot\t_\t{misc}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "the file is empty"),
        ("1\tGo\n", r"file\.conllu:1: expected 10 fields between tabs, got 2"),
        (
            WORD.format(head=0, misc="_") + "3" + WORD.format(head=1, misc="_")[1:],
            r":1: .*numbered from 1, got \[1, 3\]",
        ),
        (WORD.format(head=7, misc="_"), r":1: the head 7 is no word"),
        (WORD.format(head=1, misc="_"), r":1: word 1 is its own ancestor"),
        (WORD.format(head="x", misc="_"), r":1: expected CoNLL-U"),
        ("\n\n" + WORD.format(head=0, misc="Entity=4)"), r":3: Entity=4\) ends a mention 4 that has not begun"),
        (WORD.format(head=0, misc="Entity=(4-person"), r":1: the mention 4 does not end in its sentence"),
    ],
)
def test_what_is_no_treebank_is_refused_by_file_and_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        data.conllu(written(tmp_path, text))


def test_bytes_that_are_not_utf8_are_named_by_their_line(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(ValueError, match="file:2: expected UTF-8, got byte 0xff"):
        data.iob(tmp_path / "file")


def test_a_missing_file_and_a_wrong_unit_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.conllu is not there"):
        data.conllu(tmp_path / "none.conllu")
    wrong: Any = "paragraph"
    with pytest.raises(ValueError, match="unit"):
        data.conllu(written(tmp_path, TREEBANK), unit=wrong)


IOB = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O

New NNP B-NP B-LOC
York NNP I-NP I-LOC
"""


def test_tags_in_columns_become_the_types_of_spans(tmp_path: Path):
    first, second = data.iob(written(tmp_path, IOB))
    assert first.words == ("EU", "rejects")
    assert first.labels == {"upos": ("NNP", "VBZ"), "chunk": ("NP", "VP"), "entity": ("ORG", None)}
    assert second.labels["entity"] == ("LOC", "LOC")
    assert [first.document, second.document] == ["file.conllu 1", "file.conllu 2"]


PENN = "( (S (NP-SBJ (DT The) (NN cat)) (VP (VBD sat) (NP (-NONE- *)) (-LRB- -LRB-)) (. .)) )\n(S (VP (VB Go)))"


def test_brackets_give_words_tags_and_phrases(tmp_path: Path):
    first, second = data.brackets(written(tmp_path, PENN))
    assert first.words == ("The", "cat", "sat", "(", ".")
    assert first.labels["xpos"] == ("DT", "NN", "VBD", "-LRB-", ".")
    assert first.labels["phrase"] == ("NP", "NP", "VP", "VP", "S")
    assert second.words == ("Go",)
    [kept, _] = data.brackets(written(tmp_path, PENN), functions=True)
    assert kept.labels["phrase"][0] == "NP-SBJ"


def test_minimal_pairs_know_the_words_that_differ(tmp_path: Path):
    lines = [
        '{"sentence_good": "The cat sits there.", "sentence_bad": "The cat sit there.", "UID": "one", "field": "f"}',
        '{"sentence_good": "Who left?", "sentence_bad": "Who has left?", "UID": "two"}',
    ]
    written(tmp_path, "\n".join(lines), "a.jsonl")
    read = data.pairs(tmp_path)
    assert [len(read), read.names("paradigm")] == [2, ("one", "two")]
    assert read.good[0].words == ("The", "cat", "sits", "there", ".")
    assert read.good[0].text == "The cat sits there."
    assert read.changed == [((2,), (2,)), ((), (1,))]
    assert [one.text for one in read.where("paradigm", "two").bad] == ["Who has left?"]
    with pytest.raises(ValueError, match="paradigm: expected one of one, two; got 'three'"):
        read.where("paradigm", "three")


FILM = '{"text": "a, fine film", "label": "pos", "story": 1}'
BAD = '{"text": ["bad"], "label": "neg", "story": 2}'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'text,label,story\n"a, fine\nfilm",pos,1\nbad,neg,2\n'),
        ("t.tsv", "text\tlabel\tstory\na, fine film\tpos\t1\nbad\tneg\t2\n"),
        (
            "t.jsonl",
            '{"text": "a, fine film", "label": "pos", "story": 1}\n{"text": ["bad"], "label": "neg", "story": 2}',
        ),
        (
            "t.json",
            '[{"text": "a, fine film", "label": "pos", "story": 1},{"text": "bad", "label": "neg", "story": 2}]',
        ),
    ],
)
def test_tables_of_every_kind_give_texts_labels_and_documents(tmp_path: Path, name: str, text: str):
    first, second = data.columns(written(tmp_path, text, name), document="story")
    assert first.words == ("a,", "fine", "film")
    assert second.words == ("bad",)
    assert [one.properties["label"] for one in (first, second)] == ["pos", "neg"]
    assert [first.document, second.document] == ["1", "2"]


REFUSED = {
    "a column too few": (data.iob, "t.txt", "a b c\n", "t.txt:1: expected 4 columns .*, got 3"),
    "an end without a beginning": (data.iob, "t.txt", "a X B-NP O\nb X E-VP O\n", "t.txt:2: chunk E-VP ends a span"),
    "a bracket too few": (data.brackets, "t.txt", "\n(S (NP (N a))", "t.txt:2: the tree that begins here does not end"),
    "text outside": (data.brackets, "t.txt", "(N a)\nb", "t.txt:2: expected a bracket that opens a tree, got 'b'"),
    "no word": (data.brackets, "t.txt", "(S ())", "t.txt:1: the node .* has no word"),
    "two words": (data.brackets, "t.txt", "(N a b)", "t.txt:1: 'b' follows other words of N"),
    "no pair": (data.pairs, "t.jsonl", '\n{"sentence_good": "a"}', "t.jsonl:2: expected an object with the texts"),
    "no JSON": (data.pairs, "t.jsonl", "{", "t.jsonl:1: expected a JSON object"),
    "equal ones": (data.pairs, "t.jsonl", '{"sentence_good": "a", "sentence_bad": "a"}', "both sentences .* are 'a'"),
    "a column that is not there": (
        data.columns,
        "t.csv",
        "text,lable\na,b\n",
        "t.csv:2: the column .*did you mean 'lable'",
    ),
    "a row too short": (data.columns, "t.csv", "text,label\na\n", "t.csv:2: expected 2 columns, got 1"),
    "no label": (data.columns, "t.csv", "text,label\na,\n", "t.csv:2: the column 'label' must hold a label"),
    "no text": (data.columns, "t.csv", "text,label\n,b\n", "t.csv:2: the column 'text' must hold a text"),
    "an open quote": (data.columns, "t.csv", 'text,label\n"a,b\n', "t.csv:.*expected rows of one table"),
    "another file": (data.columns, "t.xls", "a", r"\.csv, \.tsv, \.json, \.jsonl"),
    "no list": (data.columns, "t.json", "{}", "t.json: expected a list of objects"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_reader_does_not_understand_is_refused_by_file_and_line(tmp_path: Path, case: str):
    read, name, text, message = REFUSED[case]
    reader: Callable[[Path], object] = read
    with pytest.raises(ValueError, match=message):
        reader(written(tmp_path, text, name))
