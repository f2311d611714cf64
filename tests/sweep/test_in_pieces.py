"""What gradients, paths and edges share: streams, stopping and going on, and less memory than was thought."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from jaxheads.execution import batching
from jaxheads.sweep.circuits import work as edge_pieces
from jaxheads.sweep.gradients import estimators, importance
from jaxheads.sweep.path_patching import paths
from jaxheads.sweep.path_patching import work as path_work

from ..kept import files
from ..models.huggingface import assert_close, random_batch, small_model

LENGTHS = (6, 5, 4, 6)
CLEAN, CORRUPT = random_batch(LENGTHS), random_batch(LENGTHS, seed=1)
OBJECTIVE = jh.logit_difference(3, 7)

Ask = Callable[..., jh.HeadTable]


def on_one(question: Any, **named: Any) -> Ask:
    return lambda model, pairs, **more: question(
        model, pairs[0] if isinstance(pairs, tuple) else (clean for clean, _ in pairs), OBJECTIVE, **named, **more
    )


def on_pairs(question: Any, **named: Any) -> Ask:
    return lambda model, pairs, **more: question(
        model, *(pairs if isinstance(pairs, tuple) else (iter(pairs), None)), OBJECTIVE, **named, **more
    )


QUESTIONS: dict[str, tuple[Ask, Any, str]] = {
    "importance": (on_one(jh.importance), importance, "weight_gradient"),
    "atp": (on_pairs(jh.attribute, method="atp", by=("layer", "position")), estimators, "weight_gradient"),
    "atp*": (on_pairs(jh.attribute, method="atp*", site="q"), estimators, "weight_gradient"),
    "eap": (on_pairs(jh.attribute, method="eap"), edge_pieces, "edge_gradients"),
    "edges": (on_pairs(jh.patch_edges), edge_pieces, "patch_each_edge"),
    "paths": (on_pairs(jh.paths, receivers=[("q", 1, 2)]), paths, "send_to_receivers"),
    "all_paths": (on_pairs(jh.all_paths, kind="v"), path_work, "send_to_each_head"),
}
"""How each is asked of a pair or of a stream of pairs, and a function that its work goes through."""


def examples_of(table: jh.HeadTable) -> np.ndarray:
    assert table.per_example is not None
    return np.nan_to_num(table.per_example)


questions = pytest.mark.parametrize("name", QUESTIONS)


@questions
def test_a_stream_says_what_one_batch_does(name: str):
    """With examples of every batch in the right place: their mean, intervals and each by itself."""
    ask, model = QUESTIONS[name][0], small_model("llama")
    whole = ask(model, (CLEAN, CORRUPT))
    cut = [(CLEAN.take(some), CORRUPT.take(some)) for some in ([0], [1, 2, 3])]
    if name == "atp":  # positions are those of the longest example: the same in every batch
        cut = [(CLEAN.take(some), CORRUPT.take(some)) for some in ([0, 1], [2, 3])]
    stream = ask(model, cut)
    assert stream.provenance["examples"] == whole.provenance["examples"] == 4
    assert_close(examples_of(stream), examples_of(whole))
    low = f"{whole.metrics[0]}_low"
    assert_close(stream.frame[low].fillna(0), whole.frame[low].fillna(0))
    assert np.nanmax(np.abs(whole.values)) > 1e-2


@questions
def test_a_stopped_run_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ask, module, work = QUESTIONS[name]
    model, pairs = small_model("llama"), [(CLEAN.take([n, 0]), CORRUPT.take([n, 0])) for n in range(3)]
    whole, calls, real = ask(model, pairs), [], getattr(module, work)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(module, work, counted)
    ask(model, pairs[:2])
    of_two = len(calls)
    calls.clear()

    def stopped() -> Any:
        yield from pairs[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(model, stopped(), resume=tmp_path)
    assert len(calls) == of_two
    calls.clear()
    resumed = ask(model, pairs, resume=tmp_path)
    assert len(calls) == of_two // 2  # the third alone
    assert resumed.frame.equals(whole.frame)
    parts = files(tmp_path, "effects")
    assert {number for path in parts for number in pd.read_parquet(path)["example"]} == set(range(6))
    calls.clear()
    ask(model, [(clean, clean) for clean, _ in pairs], resume=tmp_path)  # another question takes none of its parts
    assert len(calls) == (0 if name == "importance" else 3 * of_two // 2)


@questions
def test_where_memory_runs_out_pieces_are_halved(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "CPU_TOKENS", 10**6)  # all examples run together
    ask, module, work = QUESTIONS[name]
    model, real = small_model("llama"), getattr(module, work)
    whole, sizes = ask(model, (CLEAN, CORRUPT)), list[int]()

    def limited(*arguments: Any, **named: Any) -> Any:
        first = arguments[0]
        sizes.append(len(first.batch if hasattr(first, "positions") else arguments[1]))
        if sizes[-1] > sizes[0] // 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating bytes")
        return real(*arguments, **named)

    monkeypatch.setattr(module, work, limited)
    assert_close(examples_of(ask(model, (CLEAN, CORRUPT))), examples_of(whole))
    assert sizes[0] > 1
    assert sizes[-1] == sizes[0] // 2


def test_a_wrong_question_costs_no_exact_sweep(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "jaxheads.sweep.gradients.attribute.patch", lambda *_, **__: pytest.fail("patched before it was checked")
    )
    with pytest.raises(ValueError, match="'atp\\+qk' mends estimates at q and k"):
        jh.attribute(small_model("llama"), CLEAN, CORRUPT, OBJECTIVE, "atp+qk", exact=True)


def test_a_stream_is_not_answered_exactly_and_has_no_other_batch():
    model, pairs = small_model("llama"), [(CLEAN, CORRUPT)]
    with pytest.raises(ValueError, match="exact effects are computed of one pair of batches, not of a stream"):
        jh.attribute(model, pairs, objective=OBJECTIVE, exact=True)
    with pytest.raises(ValueError, match="a stream gives pairs"):
        jh.paths(model, pairs, CORRUPT, OBJECTIVE)
    with pytest.raises(ValueError, match="an objective is needed"):
        jh.importance(model, [CLEAN])
    with pytest.raises(ValueError, match="at least one batch"):
        jh.attribute(model, [], objective=OBJECTIVE, method="eap")
    without_plan: Any
    for without_plan in (jh.importance, jh.attribute, jh.paths):
        with pytest.raises(TypeError, match=f"{without_plan.__name__} has no plan"):
            jh.plan(without_plan, model, CLEAN, CORRUPT, OBJECTIVE)
