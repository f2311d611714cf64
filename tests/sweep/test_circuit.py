"""Circuits: what is kept equals whole forward passes with the rest ablated; completeness and minimality by hand."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.sweep.circuits.circuit import Circuit, circuit
from jaxheads.sweep.circuits.evaluate import CHUNK_SIZES, _chunk_size
from jaxheads.sweep.circuits.graph import Graph
from jaxheads.sweep.circuits.keep_edges import keep_edges

from ..models.huggingface import assert_close, random_batch, small_model
from . import naive

LENGTHS = (5, 4, 3)
CLEAN, CORRUPT = random_batch(LENGTHS), random_batch(LENGTHS, seed=1)
REFERENCE = random_batch((5, 5, 4, 5), seed=2)
QUESTION = naive.logit_difference(np.array([3, 4, 5]), np.array([7, 8, 9]), np.array(LENGTHS) - 1)
EVERY = [(layer, head) for layer in range(2) for head in range(4)]
KEPT = [(0, 1), (0, 2), (1, 3)]
LIVE = [(0, 1), (1, 2)]


def slowly(model: jh.Model, kept: Iterable[tuple[int, int]], instead: np.ndarray) -> np.ndarray:
    """The objective `[E]` of a whole forward pass with `instead`, `[L,B|1,T|1,N,H]`, for all heads but these."""
    weight = np.ones((2, 1, 1, 4, 1), np.float32)
    for layer, head in kept:
        weight[layer, ..., head, :] = 0
    stack = model.stack().name
    edit = jh.SiteEdit(jnp.arange(2), jnp.asarray(weight), jnp.asarray(instead, jnp.float32), "z", stack)
    return QUESTION.judge(np.asarray(jh.run(model, CLEAN, edits=edit).output, np.float64), CLEAN)


@cache
def only_live_heads() -> jh.Model:
    """GPT-2 with two heads that write; nothing that the others do can matter."""
    dead = np.ones((2, 4, 1, 1), np.float32)
    dead[tuple(np.array(LIVE).T)] = 0
    return naive.changed(small_model("gpt2"), lambda path, w: w * (1 - dead) if path.endswith("attention.W_O") else w)


def of(table: jh.HeadTable, column: str) -> np.ndarray:
    """A column's examples, `[E, *grid]`."""
    assert table.per_example is not None
    return np.asarray(table.per_example[table.metrics.index(column)], np.float64)


@pytest.mark.parametrize(
    ("family", "ablation", "options"),
    [
        ("llama", "patching", {"reference": CORRUPT}),
        ("gpt2", "zero", {}),
        ("bert", "mean", {"reference": REFERENCE, "per_position": True}),
    ],
)
def test_faithfulness_equals_whole_forward_passes(family: str, ablation: str, options: dict[str, Any]):
    model = small_model(family)
    instead = {
        "patching": lambda: naive.all_z(model, CORRUPT),
        "zero": lambda: naive.zeros(model),
        "mean": lambda: naive.means(model, CLEAN, REFERENCE, layout="by position"),
    }[ablation]()
    found = circuit(model, CLEAN, QUESTION.objective, KEPT, ablation, **options)
    table = found.faithfulness
    slow = {
        name: slowly(model, kept, instead) for name, kept in {"circuit": KEPT, "model": EVERY, "ablated": []}.items()
    }
    for name, values_E in slow.items():
        assert_close(of(table, name)[:, 0], values_E)
    f = {name: values_E.mean() for name, values_E in slow.items()}
    assert table.metrics == ("faithfulness", "unfaithfulness", "circuit", "model", "ablated")
    assert_close(table.grid("faithfulness")[0], (f["circuit"] - f["ablated"]) / (f["model"] - f["ablated"]), 1e-4)
    assert_close(table.grid("unfaithfulness")[0], abs(f["model"] - f["circuit"]))
    assert_close(of(table, "unfaithfulness").mean(), abs(f["model"] - f["circuit"]))
    assert (
        table.grid("unfaithfulness_low")[0] <= table.grid("unfaithfulness")[0] <= table.grid("unfaithfulness_high")[0]
    )
    assert (table.frame["kept"].iloc[0], table.frame["size"].iloc[0]) == ("0.1 0.2 1.3", 3)
    said = table.provenance
    assert (said["parts"], said["ablation"], said["examples"], said["not_finite"]) == ("heads", ablation, 3, [])
    assert said["unedited"] == pytest.approx(f["model"], abs=1e-5)
    np.testing.assert_array_equal(np.argwhere(found.kept), KEPT)


@pytest.mark.parametrize("ablation", ["patching", "mean"])
def test_circuits_of_edges(ablation: Any):
    model = small_model("llama")
    graph = Graph.of(model.stack())
    names = [(graph.senders[u], graph.receivers[v]) for u, v in np.argwhere(graph.exists)]
    kept = np.random.default_rng(0).random(graph.exists.shape) < 0.7
    chosen = [name for name, keep in zip(names, kept[graph.exists], strict=True) if keep]
    found = circuit(model, CLEAN, QUESTION.objective, chosen, ablation, reference=CORRUPT)
    [slow_E] = keep_edges(model, CLEAN, CORRUPT, QUESTION.objective, kept[None], ablation=ablation)
    assert_close(of(found.faithfulness, "circuit")[:, 0], slow_E)
    assert_close(of(found.faithfulness, "model")[:, 0], slowly(model, EVERY, naive.zeros(model)))
    np.testing.assert_array_equal(found.kept, kept & graph.exists)
    same = circuit(model, CLEAN, QUESTION.objective, kept, ablation, reference=CORRUPT)
    np.testing.assert_array_equal(of(same.faithfulness, "circuit"), of(found.faithfulness, "circuit"))
    if ablation == "patching":  # nothing is left of the clean run
        ended = QUESTION.judge(np.asarray(jh.run(model, CORRUPT).output, np.float64), CLEAN)
        assert_close(of(found.faithfulness, "ablated")[:, 0], ended)


def test_the_ends():
    """Everything kept is the model itself, nothing kept is all ablated."""
    model, nothing = small_model("gpt2"), np.zeros((2, 4), bool)
    whole = circuit(model, CLEAN, QUESTION.objective, EVERY, "zero").faithfulness
    assert [whole.grid(name)[0] for name in ("faithfulness", "unfaithfulness")] == [1, 0]
    none = circuit(model, CLEAN, QUESTION.objective, nothing, "zero").faithfulness
    assert none.grid("faithfulness")[0] == 0
    assert_close(of(none, "circuit")[:, 0], slowly(model, [], naive.zeros(model)))


def test_a_model_of_which_only_some_heads_matter():
    model = only_live_heads()
    found = circuit(model, CLEAN, QUESTION.objective, {"live": LIVE, "dead": [(0, 3), (1, 0)]}, "zero")
    assert_close(found.faithfulness.grid("faithfulness"), [1])
    assert_close(found.faithfulness.grid("unfaithfulness"), [0])
    minimal = found.minimality().values
    np.testing.assert_allclose([minimal[0, 3], minimal[1, 0]], 0, atol=1e-6)
    assert min(minimal[head] for head in LIVE) > 1e-2
    np.testing.assert_allclose(found.completeness().grid("incompleteness"), 0, atol=1e-5)
    half = circuit(model, CLEAN, QUESTION.objective, [LIVE[0]], "zero")
    assert half.faithfulness.grid("unfaithfulness")[0] > 1e-2


def without(values: np.ndarray, kept: Iterable[Any], removed: Iterable[Any]) -> np.ndarray:
    """F(kept∖removed) of each example."""
    return slowly(small_model("gpt2"), set(kept) - set(removed), values)


@cache
def three_heads() -> Circuit:
    return circuit(small_model("gpt2"), CLEAN, QUESTION.objective, {"a": KEPT[:2], "b": KEPT[2:]}, "zero")


def test_completeness():
    zeros = naive.zeros(small_model("gpt2"))
    table = three_heads().completeness(random=4, greedy=2, samples=3, iterations=3)
    assert list(table.frame["name"]) == [
        "nothing",
        "a",
        "b",
        *(f"random {n}" for n in range(4)),
        "greedy 0",
        "greedy 1",
    ]
    sets = [[tuple(map(int, head.split("."))) for head in words.split()] for words in table.frame["removed"]]
    assert [sets[0], sets[1], sets[2]] == [[], KEPT[:2], KEPT[2:]]
    assert list(table.frame["size"]) == [len(heads) for heads in sets]
    for row, heads in enumerate(sets):
        circuit_E, model_E = (without(zeros, kept, heads) for kept in (KEPT, EVERY))
        assert_close(of(table, "circuit")[:, row], circuit_E)
        assert_close(of(table, "model")[:, row], model_E)
        assert_close(table.grid("incompleteness")[row], abs((circuit_E - model_E).mean()))
    chosen, best = [], score(zeros, [])
    while left := [head for head in KEPT if head not in chosen]:
        tried = {head: score(zeros, [*chosen, head]) for head in left}
        head = max(left, key=lambda head: tried[head])
        if tried[head] <= best:
            break
        chosen, best = [*chosen, head], tried[head]
    assert sets[-1] == sets[-2] == sorted(chosen)
    incomplete = dict(zip(table.frame["name"], table.grid("incompleteness"), strict=True))
    assert incomplete["greedy 0"] >= max(incomplete["nothing"], *(score(zeros, [head]) for head in KEPT)) - 1e-6


def score(zeros: np.ndarray, removed: Any) -> float:
    return abs((without(zeros, KEPT, removed) - without(zeros, EVERY, removed)).mean())


def test_what_is_drawn_depends_on_the_seed_alone():
    def names(**ways: Any) -> list[str]:
        return list(three_heads().completeness({}, **ways).frame["removed"])

    assert names(random=6, greedy=1, samples=1) == names(random=6, greedy=3, samples=1)[:8]
    assert names(random=6, greedy=0) != names(random=6, greedy=0, seed=1)


def test_minimality():
    zeros, table = naive.zeros(small_model("gpt2")), three_heads().minimality()
    rest = {KEPT[0]: [KEPT[1]], KEPT[1]: [KEPT[0]], KEPT[2]: []}
    for head, others in rest.items():
        changes = [missed(zeros, head, K) for K in ([], others)]
        assert_close(table.values[head], max(abs(change.mean()) for change in changes))
        told = [K for K in ([], others) if table.frame.loc[("decoder", *head), "removed"] == " ".join(map(dotted, K))]
        assert_close(table.values[head], abs(missed(zeros, head, told[0]).mean()))
    outside = [head for head in EVERY if head not in KEPT]
    assert np.isnan(table.values[tuple(np.array(outside).T)]).all()
    given = three_heads().minimality({KEPT[0]: [KEPT[2], KEPT[0]]})
    assert_close(given.values[KEPT[0]], abs(missed(zeros, KEPT[0], [KEPT[2]]).mean()))
    assert given.frame.loc[("decoder", 0, 1), "removed"] == "1.3"
    assert given.values[KEPT[2]] == table.values[KEPT[2]]


def missed(zeros: np.ndarray, head: Any, removed: Any) -> np.ndarray:
    return without(zeros, KEPT, [*removed, head]) - without(zeros, KEPT, removed)


def dotted(head: tuple[int, int]) -> str:
    return f"{head[0]}.{head[1]}"


def test_edges_are_needed_or_not():
    model, edges = (
        small_model("llama"),
        [("embed", "logits"), ("mlp 1", "logits"), ("embed", "mlp 1"), ("embed", "q 0.0")],
    )
    found = circuit(model, CLEAN, QUESTION.objective, edges, "patching", reference=CORRUPT)
    table = found.minimality()
    assert table.frame.index.names == ["stack", "sender", "receiver"]
    assert np.isfinite(table.values).sum() == 4
    graph = Graph.of(model.stack())
    names = {edge: (graph.senders.index(edge[0]), graph.receivers.index(edge[1])) for edge in edges}
    for edge, place in names.items():
        masks = np.array([[names[other] for other in edges if other != left] for left in (None, edge)], object)
        kept = np.zeros((2, *graph.exists.shape), bool)
        for one, places in zip(kept, masks, strict=True):
            one[tuple(np.array(places).T)] = True
        before, after = keep_edges(model, CLEAN, CORRUPT, QUESTION.objective, kept)
        assert_close(table.values[place], abs((after - before).mean()))
    assert table.values[names["embed", "q 0.0"]] < 1e-6  # nobody hears head 0.0


def test_circuits_are_run_in_chunks_of_few_sizes():
    for count in range(1, 300):
        sizes, left = [], count
        while left > 0:
            sizes.append(_chunk_size(left))
            left -= sizes[-1]
        assert set(sizes) <= set(CHUNK_SIZES)
        assert count <= sum(sizes) < 2 * count


def test_what_was_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def asked() -> list[jh.HeadTable]:
        found = circuit(small_model("gpt2"), CLEAN, QUESTION.objective, KEPT, "zero", resume=tmp_path)
        return [found.faithfulness, found.completeness(random=2, greedy=0), found.minimality()]

    first = asked()

    def refuse(*_: Any) -> Any:
        raise AssertionError("ran again")

    monkeypatch.setattr("jaxheads.sweep.circuits.kept_runs.run_question", refuse)
    for one, other in zip(first, asked(), strict=True):
        assert one.frame.equals(other.frame)
    with pytest.raises(AssertionError, match="ran again"):
        circuit(small_model("gpt2"), CORRUPT, QUESTION.objective, KEPT, "zero", resume=tmp_path)


def test_what_is_not_finite_is_named_and_left_out():
    def explode(path: str, weight: Any) -> Any:
        return weight.at[36].set(np.nan) if path.startswith("embed.") else weight

    tokens = np.array(CLEAN.tokens) % 30
    tokens[1, 0] = 36
    model = naive.changed(small_model("gpt2"), explode)
    found = circuit(model, jh.Batch(tokens, CLEAN.mask), QUESTION.objective, KEPT, "zero")
    lost = found.faithfulness.provenance["not_finite"]
    assert {(cell["example"], cell["set"]) for cell in lost} == {(1, 0)}
    assert np.isfinite(found.faithfulness.values).all()
    minimal = found.minimality()
    assert {"column": "minimality", "example": 1, "layer": 1, "head": 3} in minimal.provenance["not_finite"]
    assert np.isfinite(minimal.values).sum() == 3


EDGE = [("embed", "logits")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kept": [(0, 4)]}, r"kept: 'circuit' has heads that are not there"),
        ({"kept": []}, r"must be a list of at least one \(layer, head\) pair"),
        ({"kept": {}}, "at least one set of heads or edges, got none"),
        ({"kept": np.ones((3, 3), bool)}, r"as bool must cover the grid \(11, 27\), got \(3, 3\)"),
        ({"kept": [("embed", "q 9.0")]}, r"must be a list .* such as .*; got \['embed > q 9.0'\]"),
        ({"kept": [("mlp 1", "q 0.0")]}, r"got \['mlp 1 > q 0.0'\]"),
        ({"ablation": "median"}, "ablated by patching, zero, mean, resample; got 'median'"),
        (
            {"kept": EDGE, "ablation": "resample"},
            "edges that are not kept are ablated by patching, zero, mean; got 're",
        ),
        ({"ablation": "patching"}, "give its inputs as reference="),
        ({"ablation": "patching", "reference": REFERENCE}, "the same shape and the same padding"),
        ({"ablation": "patching", "reference": CORRUPT, "groups": [0, 1, 1]}, "each example's own counterpart"),
        ({"kept": EDGE, "per_position": True}, "the batch has 1 for position 4 of group 0"),
        ({"kept": EDGE, "ablation": "zero", "groups": [0, 1, 1]}, "groups are what means are taken over"),
        ({"kept": EDGE, "groups": [0, 1]}, r"groups must label each of 3 examples"),
        ({"level": 2}, "level: expected a number between 0 and 1, got 2"),
        ({"batch": [CLEAN]}, "batch must be a Batch, got a list"),
        ({"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        ({"groups": [0, 1]}, r"groups must label each of 3 examples"),
    ],
)
def test_wrong_questions_are_refused(arguments: dict[str, Any], message: str):
    asked = {"batch": CLEAN, "objective": QUESTION.objective, "kept": KEPT, **arguments}
    with pytest.raises(ValueError, match=message):
        circuit(small_model("gpt2"), **asked)


def test_sets_outside_the_circuit_are_refused():
    with pytest.raises(ValueError, match=r"sets: 'K' must be part of the circuit, but 1\.0 is not"):
        three_heads().completeness({"K": [(0, 1), (1, 0)]})
    with pytest.raises(ValueError, match=r"must be part of the circuit, but 1\.0 is not"):
        three_heads().minimality({(1, 0): [(0, 1)]})
    none = circuit(small_model("gpt2"), CLEAN, QUESTION.objective, np.zeros((2, 4), bool), "zero")
    with pytest.raises(ValueError, match="an empty circuit has no parts"):
        none.minimality()
    assert list(none.completeness(random=1).frame["size"]) == [0, 0, 0]


def test_bert_has_no_edges():
    with pytest.raises(ValueError, match="a PostNormBlock of the encoder is none"):
        circuit(small_model("bert"), CLEAN, QUESTION.objective, EDGE)
