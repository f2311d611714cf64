"""Prompts of examples: what they hold, and what shuffled labels leave as it was."""

import re

import pytest

import jaxheads as jh

PAIRS = [(f"in{number}", f"out{number}") for number in range(12)]


def read(prompt: str) -> list[tuple[str, str]]:
    return re.findall(r"Q: (\S+)\nA: ?(\S*)", prompt)


def test_prompts_hold_examples_and_a_query():
    prompts = jh.data.few_shot(PAIRS, prompts=12, shots=4, seed=3)
    assert sorted(prompts.queries.tolist()) == list(range(12))
    for clean, bare, answer, query in zip(prompts.clean, prompts.bare, prompts.answers, prompts.queries, strict=True):
        *examples, asked = read(clean)
        assert len(examples) == 4
        assert set(examples) < set(PAIRS) - {PAIRS[query]}
        assert asked == (f"in{query}", "")
        assert bare == f"Q: in{query}\nA:"
        assert clean.endswith("\n\n" + bare)
        assert answer == f" out{query}"


def test_shuffled_labels_are_those_of_other_examples():
    prompts = jh.data.few_shot(PAIRS, prompts=30, shots=5)
    for clean, shuffled in zip(prompts.clean, prompts.shuffled, strict=True):
        right, wrong = dict(read(clean)), dict(read(shuffled))
        assert right.keys() == wrong.keys()
        assert sorted(right.values()) == sorted(wrong.values())
        assert not set(right.items()) & set(wrong.items()) - {(list(right)[-1], "")}


def test_a_seed_decides_the_prompts():
    first, again, other = (jh.data.few_shot(PAIRS, prompts=5, shots=3, seed=seed) for seed in (1, 1, 2))
    assert first.clean == again.clean
    assert first.clean != other.clean


def test_what_makes_no_prompt_is_refused():
    with pytest.raises(ValueError, match="needs 13 pairs, got 12"):
        jh.data.few_shot(PAIRS, prompts=1, shots=12)
    with pytest.raises(ValueError, match=r"pairs\[1\] must be two texts"):
        jh.data.few_shot([("a", "b"), ("c", "")], prompts=1, shots=1)
