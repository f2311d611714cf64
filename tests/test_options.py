"""The options that all questions share: in every signature, in every `help()`, and nothing else let through."""

# pyright: reportUnnecessaryTypeIgnoreComment=error

import inspect
from typing import Any

import pytest

import jaxheads as jh
from jaxheads.execution.resources import OPTIONS, Resources

from .models.huggingface import random_batch, small_model

QUESTIONS: dict[str, Any] = {
    "ablate": jh.ablate,
    "patch": jh.patch,
    "knock_out": jh.knock_out,
    "share": jh.share,
    "function_vectors": jh.function_vectors,
    "attribute": jh.attribute,
    "importance": jh.importance,
    "paths": jh.paths,
    "all_paths": jh.all_paths,
    "patch_edges": jh.patch_edges,
    "measure": jh.measure,
    "compare_heads": jh.compare_heads,
    "relevance": jh.relevance,
    "direct_effects": jh.direct_effects,
    "logit_lens": jh.logit_lens,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_takes_and_explains_the_shared_options(name: str):
    parameters = inspect.signature(QUESTIONS[name]).parameters
    text = inspect.getdoc(QUESTIONS[name]) or ""
    for option, (_, default, meaning) in OPTIONS.items():
        assert parameters[option].default == default
        assert f"{option}: {meaning[:20]}" in text
    assert not [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_unknown_keyword_is_refused(name: str):
    with pytest.raises(TypeError, match="memry"):
        QUESTIONS[name](small_model("gpt2"), random_batch((4, 4)), jh.loss(), memry=3)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"level": 95}, "level"), ({"memory": 0}, "memory must be a positive number"), ({"devices": 8}, "Mesh")],
)
def test_options_are_checked(options: Any, error: str):
    with pytest.raises(ValueError, match=error):
        Resources.of(options)


def test_a_question_without_a_plan_is_refused_by_its_type_and_before_anything_runs():
    model, batch, objective = small_model("gpt2"), random_batch((4, 4)), jh.loss()
    with pytest.raises(TypeError, match="measure has no plan"):
        jh.plan(jh.measure, model, batch)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match="interactions has no plan"):
        jh.plan(jh.interactions, model, batch, objective, [(0, 1), (1, 1)])  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match="circuit has no plan"):
        jh.plan(jh.circuit, model, batch, objective, [(0, 1)])  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match="importance has no plan"):
        jh.plan(jh.importance, model, batch, objective)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert jh.plan(jh.ablate, model, batch, objective, "zero").cost().flops > 0
    with pytest.raises(TypeError, match="memry"):
        jh.plan(jh.ablate, model, batch, objective, memry=3)  # pyright: ignore[reportCallIssue]
