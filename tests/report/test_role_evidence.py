"""Evidence for the names of heads: planted heads earn them, and the inputs are what they say."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data.needles import needle_prompts
from jaxheads.data.prompts import NAMES, OBJECTS, PLACES
from jaxheads.data.successors import SERIES, successor_pairs
from jaxheads.report import role_evidence
from jaxheads.report.role_evidence import YIELDING, sentence_evidence, token_evidence

from ..data.test_prompts import word_tokenizer
from ..measure import planted

LITERAL = "Remember : has a at home . The thing that belongs to is the".split()
WORDS = [*LITERAL, *NAMES.split(), *PLACES.split(), *OBJECTS.split(), *" ".join(SERIES.values()).split()]


@pytest.fixture(scope="module")
def model() -> jh.Model:
    """A layer of three heads that look at all words alike: one copies, one suppresses, one raises the successor."""
    tokenizer = word_tokenizer(WORDS)
    eye, V = np.eye(len(tokenizer)), len(tokenizer)
    step = np.zeros((V, V))
    for pairs in successor_pairs(tokenizer).values():
        step[pairs[:, 0], pairs[:, 1]] = 1
    zero = np.zeros((3, V, V))
    layer = {"W_Q": zero, "W_K": zero, "W_V": np.stack([eye, eye, eye]), "W_O": np.stack([eye, -eye, step])}
    return replace(jh.by_hand(eye, [layer], eye), tokenizer=tokenizer)


def test_successors_are_pairs_of_their_series(model: jh.Model):
    series = successor_pairs(model.tokenizer)
    assert series.keys() == SERIES.keys()
    words = {name: [model.tokenizer.decode([token]) for token in pairs[0]] for name, pairs in series.items()}
    assert words["days"] == ["Monday", "Tuesday"]
    tokens = np.concatenate([np.unique(pairs) for pairs in series.values()])
    assert len(tokens) == len(set(tokens.tolist()))
    assert successor_pairs(word_tokenizer(["Monday", "Tuesday", "Wednesday"])) == {}


def test_needles_are_the_answers_in_their_facts(model: jh.Model):
    prompts = needle_prompts(model.tokenizer, examples=12, seed=0, bos=True, facts=4)
    for text, tokens, mask, needle, answer in zip(
        prompts.texts, prompts.tokens, prompts.mask, prompts.needle, prompts.answer, strict=True
    ):
        assert mask.all()
        owner, thing = re.fullmatch(r".*belongs to (\w+) is the (\w+)", text).groups()  # type: ignore[union-attr]
        assert f"{owner} has a {thing} at home" in text
        assert model.tokenizer.decode(tokens[needle]) == thing
        assert np.flatnonzero(answer).tolist() == [len(tokens) - 2]
        assert tokens[needle] == tokens[-1]
        assert text.count("has a") == 4
    with pytest.raises(ValueError, match="facts: expected at most"):
        needle_prompts(model.tokenizer, examples=1, seed=0, bos=True, facts=500)


def test_heads_that_copy_suppress_and_step_are_named_so(
    model: jh.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(role_evidence.inputs_module, "DRAWS", 2)
    ids = [token for token in range(len(model.tokenizer)) if token > 3][:40]
    found = token_evidence(model, [jh.Batch([ids])], examples=10)
    assert found.left_out == []
    scores = {entry.role: np.asarray(entry.scores)[:, 0] for entry in found.evidence}
    np.testing.assert_array_equal(scores["copy_suppression"].mean(axis=0)[:2], [0, 1])
    np.testing.assert_array_equal(scores["successor"].mean(axis=0), [0, 0, 1])
    prompts = jh.data.ioi_prompts(model.tokenizer, examples=10, seed=0, bos=True)
    np.testing.assert_allclose(scores["name_mover"][:, 0], 1 / (prompts.end + 1), rtol=1e-5)
    assert (scores["name_mover"][:, 1] == 0).all()
    assert (scores["retrieval"] == 0).all()  # attention is the same everywhere: the first word is the arg-max
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(WORDS[at : at + 30]) for at in range(0, 240, 30)))
    scores = jh.function_scores(model, text=text, examples=10)
    assert scores.metrics == ("retrieval", "name_mover", "copy_suppression", "successor")
    assert scores.grid("copy_suppression")[0, 1] == scores.grid("successor")[0, 2] == 1
    assert scores.grid("successor_null")[0, 0] < 0.5
    table = jh.name_heads(found.evidence, yielding=YIELDING)
    assert table.grid("role").tolist() == [["", "copy_suppression", "successor"]]
    assert table.grid("jobs").tolist() == [[0, 1, 1]]


def test_who_can_have_no_such_roles_is_told_why(model: jh.Model):
    bare = replace(model, tokenizer=word_tokenizer(["alone"]))
    found = token_evidence(bare, [jh.Batch([[4, 5]])], examples=4)
    assert found.evidence == []
    assert [reason.split(":")[0] for reason in found.left_out] == [
        "retrieval",
        "name_mover",
        "copy_suppression",
        "successor",
    ]


def test_a_planted_relation_is_named():
    given = planted.sentences(80, documents=20)
    labelled = [
        replace(one, labels={"entity": tuple("person" if word == "a" else None for word in one.words)}) for one in given
    ]
    found = sentence_evidence(planted.model(), jh.data.Sentences(tuple(labelled)), least=1)
    assert found.left_out == []
    table = jh.name_heads(found.evidence, mixed=0.5)
    heads, dependents, offset = (names.split(", ") for names in table.grid("roles")[0])
    # the head of three of seven words is "a", which is an entity
    assert {"obj_to_head", "amod_to_head", "entity"} <= set(heads)
    assert {"nsubj_to_dependent", "det_to_dependent"} <= set(dependents)
    assert "entity" not in dependents
    assert offset == [""]
    assert table.grid("role")[0].tolist() == ["mixed", "mixed", ""]
    assert sentence_evidence(planted.model(), given, least=1).left_out[0].startswith("entity: expected 8 sentences")
