"""The greedy search: equal to deciding on one part at a time with whole forward passes, whatever is run together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxheads.sweep.circuits import search
from jaxheads.sweep.circuits.circuit import circuit
from jaxheads.sweep.circuits.evaluate import CircuitEvaluator
from jaxheads.sweep.circuits.graph import Graph
from jaxheads.sweep.circuits.keep_edges import keep_edges
from jaxheads.sweep.circuits.search import search_circuits

from ..kept import assert_equal_parts, files
from ..models.huggingface import assert_close, small_model
from . import naive
from .test_circuit import CLEAN, CORRUPT, EVERY, LIVE, QUESTION, of, only_live_heads, slowly

LIMITS = (-1e9, 0.01, 0.2, 0.7, 1e9)


def searched(**ways: Any) -> search.FoundCircuits:
    asked = {"thresholds": LIMITS, "parts": "heads", "reference": CORRUPT, **ways}
    return search_circuits(small_model("llama"), CLEAN, QUESTION.objective, **asked)


@pytest.mark.parametrize(
    "ways", [{}, {"better": "lower"}, {"absolute": True, "backwards": False}], ids=["higher", "lower", "absolute"]
)
def test_heads_one_at_a_time(ways: dict[str, Any]):
    model = small_model("llama")
    instead, found = naive.all_z(model, CORRUPT), searched(**ways)
    order = sorted(EVERY, key=lambda head: (-head[0], -head[1] if ways.get("backwards", True) else head[1]))
    for row, threshold in enumerate(LIMITS):
        kept = list(EVERY)
        current = slowly(model, kept, instead).mean()
        for head in order:
            after = slowly(model, [one for one in kept if one != head], instead).mean()
            loss = after - current if ways.get("better") == "lower" else current - after
            if (abs(loss) if ways.get("absolute") else loss) < threshold:
                kept.remove(head)
                current = after
        np.testing.assert_array_equal(np.argwhere(found.kept[row]).reshape(-1, 2), np.array(kept).reshape(-1, 2))
        assert_close(found.table.grid("circuit")[row], current)
    assert list(found.table.frame["size"])[::4] == [8, 0]
    np.testing.assert_array_equal(found.table.frame["threshold"], LIMITS)


def test_edges_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    model = small_model("llama")
    graph = Graph.of(model.stack())
    found = searched(parts="edges")
    assert found.kept.shape == (5, *graph.exists.shape)
    assert list(found.kept.sum(axis=(1, 2)))[::4] == [82, 0]

    def mean(kept: np.ndarray) -> float:
        return float(keep_edges(model, CLEAN, CORRUPT, QUESTION.objective, kept[None])[0].mean())

    kept = graph.exists.copy()
    current = mean(kept)
    for u, v in sorted(np.argwhere(graph.exists), key=lambda edge: (-edge[1], -edge[0])):
        kept[u, v] = False
        after = mean(kept)
        if current - after < LIMITS[2]:
            current = after
        else:
            kept[u, v] = True
    np.testing.assert_array_equal(found.kept[2], kept)
    assert 0 < kept.sum() < 82
    again = circuit(model, CLEAN, QUESTION.objective, found.kept[2], "patching", reference=CORRUPT)
    assert_close(of(found.table, "faithfulness")[:, 2], of(again.faithfulness, "faithfulness")[:, 0], 1e-4)
    assert_close(of(found.table, "unfaithfulness")[:, 2], of(again.faithfulness, "unfaithfulness")[:, 0], 1e-4)
    monkeypatch.setattr(search, "MOST_AHEAD", 1)  # nothing tried ahead
    np.testing.assert_array_equal(searched(parts="edges").kept, found.kept)


def test_only_what_matters_is_found():
    heads = search_circuits(only_live_heads(), CLEAN, QUESTION.objective, [1e-4], "heads", "zero", absolute=True)
    np.testing.assert_array_equal(np.argwhere(heads.kept[0]), LIVE)
    assert_close(heads.table.grid("faithfulness"), [1])


def test_no_one_hears_what_only_dead_heads_read():
    """All edges into a head go with the last that leaves it, and are never run."""
    model, asked = only_live_heads(), []
    graph = Graph.of(model.stack())
    evaluator_values = CircuitEvaluator.values

    def count(self: CircuitEvaluator, kept_GP: np.ndarray, *rest: Any) -> np.ndarray:
        asked.append(len(kept_GP))
        return evaluator_values(self, kept_GP, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CircuitEvaluator, "values", count)
        found = search_circuits(model, CLEAN, QUESTION.objective, [1e-4], "edges", "zero", absolute=True)
    dead = [f"{layer}.{head}" for layer, head in EVERY if (layer, head) not in LIVE]
    names = [(graph.senders[u], graph.receivers[v]) for u, v in np.argwhere(found.kept[0])]
    assert names
    assert not [edge for edge in names for node in edge if node.split()[-1] in dead and not node.startswith("mlp")]
    into_dead = sum(receiver[0] in "qkv" and receiver.split()[1] in dead for _, receiver in edges(graph))
    assert sum(asked) < graph.exists.sum() - into_dead + 60


def edges(graph: Graph) -> list[tuple[str, str]]:
    return [(graph.senders[u], graph.receivers[v]) for u, v in np.argwhere(graph.exists)]


@pytest.mark.usefixtures("each_part_a_file")
def test_a_search_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, run, runs = searched(resume=tmp_path / "whole"), CircuitEvaluator._run, []

    def stop(self: CircuitEvaluator, kept_GP: np.ndarray, size: int) -> np.ndarray:
        if len(runs) == 3:
            raise KeyboardInterrupt
        runs.append(len(kept_GP))
        return run(self, kept_GP, size)

    with monkeypatch.context() as patched:
        patched.setattr(CircuitEvaluator, "_run", stop)
        with pytest.raises(KeyboardInterrupt):
            searched(resume=tmp_path / "stopped")
    assert len(files(tmp_path / "stopped")) == 3
    resumed = searched(resume=tmp_path / "stopped")
    assert resumed.table.frame.equals(whole.table.frame)
    assert_equal_parts(tmp_path / "whole", tmp_path / "stopped", "values")


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ({"thresholds": ()}, "at least one finite number, got"),
        ({"thresholds": (0.1, np.inf)}, r"thresholds\[1\] must be a finite number, got inf"),
        ({"better": "best"}, "better must be one of higher, lower; got 'best'"),
        ({"parts": "neurons"}, "parts must be one of heads, edges; got 'neurons'"),
        ({"reference": None}, "give its inputs as reference="),
    ],
)
def test_wrong_questions_are_refused(ways: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        searched(**ways)
