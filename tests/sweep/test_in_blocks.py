"""Questions over long inputs, whose attention runs in blocks of query rows, have the answers of whole attention."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.models.inputs import query_rows

from ..models.huggingface import assert_close, random_batch, small_model

BASE, OTHER = random_batch((7, 5, 6)), random_batch((7, 5, 6), seed=1)
OBJECTIVE = jh.logit_difference(3, 7)


def last_to_first(model: jh.Model) -> jh.HeadTable:
    return jh.knock_out(model, BASE, OBJECTIVE, queries=np.asarray(BASE.last), keys=np.zeros(3, int))


QUESTIONS: dict[str, Callable[[jh.Model], Any]] = {
    "patch pattern": lambda model: jh.patch(model, BASE, OTHER, OBJECTIVE, site="pattern"),
    "patch scores": lambda model: jh.patch(model, BASE, OTHER, OBJECTIVE, site="scores", by=("layer", "position")),
    "patch k": lambda model: jh.patch(model, BASE, OTHER, OBJECTIVE, site="k"),
    "knock out": last_to_first,
    "ablate": lambda model: jh.ablate(model, BASE, OBJECTIVE, "zero", by=("layer", "head", "position")),
    "attribute": lambda model: jh.attribute(model, BASE, OTHER, OBJECTIVE, method="atp+qk", site="q"),
    "paths": lambda model: jh.all_paths(model, BASE, OTHER, OBJECTIVE),
    "importance": lambda model: jh.importance(model, BASE, OBJECTIVE),
    "measure": lambda model: jh.measure(model, BASE),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_in_blocks_are_those_of_whole_attention(monkeypatch: pytest.MonkeyPatch, name: str):
    model = small_model("llama")
    whole = QUESTIONS[name](model)
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())
    blocks = QUESTIONS[name](model)
    assert programs._PROGRAMS.kept
    assert_close(np.nan_to_num(blocks.values), np.nan_to_num(whole.values))
