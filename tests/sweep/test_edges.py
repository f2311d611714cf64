"""Edges: the forward pass with edges changed equals one written out node by node; what scores and circuits obey."""

from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from scipy import stats

import jaxheads as jh
from jaxheads.execution.batching import Chunks
from jaxheads.execution.resources import Resources
from jaxheads.sweep.circuits.attribution import edge_attribution, patch_edges
from jaxheads.sweep.circuits.edges import edge_gradients, patch_each_edge, run_circuits
from jaxheads.sweep.circuits.graph import Graph
from jaxheads.sweep.circuits.keep_edges import keep_edges
from jaxheads.sweep.circuits.work import edge_chunks

from ..models.huggingface import TOLERANCE, VOCABULARY, alone, assert_close, random_batch
from ..models.specs.spec import small
from . import naive
from .edges_by_hand import Slow, small_model

LENGTHS = (5, 4, 3)
CLEAN, CORRUPT = random_batch(LENGTHS), random_batch(LENGTHS, seed=1)
QUESTION = naive.logit_difference(np.array([3, 4, 5]), np.array([7, 8, 9]), np.array(LENGTHS) - 1)
QUESTIONS = {
    "llama": QUESTION,
    "gpt2": naive.loss(),
    "gpt_neox": QUESTION,
    "attention_only": QUESTION,
    "gemma2": QUESTION,
}
"""One a family: few things compile."""
FAMILIES = tuple(QUESTIONS)


def graph_of(model: jh.Model) -> Graph:
    return Graph.of(model.stack())


def names_of(graph: Graph) -> list[tuple[str, str]]:
    """Every edge by name, in the order of `exists`."""
    return [(graph.senders[u], graph.receivers[v]) for u, v in np.argwhere(graph.exists)]


def said_in(model: jh.Model, batch: jh.Batch) -> dict[str, np.ndarray]:
    return Slow(model, batch, {}).run()[1]


def instead(model: jh.Model, corrupt: jh.Batch, ablation: str) -> dict[str, np.ndarray]:
    said = said_in(model, corrupt)
    if ablation == "patching":
        return said
    if ablation == "zero":
        return {name: np.zeros(1) for name in said}
    # The clean batch has the same lengths: its positions take the corrupt batch's means.
    apart = "first position apart"
    return {name: naive.grouped_means(x[None], corrupt, corrupt, apart, own=False)[0] for name, x in said.items()}


def all_edges(graph: Graph) -> np.ndarray:
    return np.ones((1, *graph.exists.shape), bool)


def objective_values(
    model: jh.Model, batch: jh.Batch, question: naive.Question = QUESTION, of: jh.Batch = CLEAN
) -> np.ndarray:
    """The objective of the run of one batch, read as that of another is."""
    return question.judge(np.asarray(jh.run(model, batch).output, np.float64), of)


def of_edges(table: jh.HeadTable, graph: Graph, column: str = "effect") -> np.ndarray:
    """A column's examples, edges only, `[E,C]`."""
    assert table.per_example is not None
    return np.asarray(table.per_example[table.metrics.index(column)][:, graph.exists], np.float64)


def test_gpt2_small_has_32491_edges():
    graph = Graph(layers=12, heads=12, kv_heads=12)
    assert graph.exists.shape == (len(graph.senders), len(graph.receivers)) == (157, 445)
    assert graph.exists.sum() == 32_491


def test_who_hears_whom():
    graph = Graph(layers=2, heads=2, kv_heads=1)
    assert graph.senders == ("embed", "head 0.0", "head 0.1", "mlp 0", "head 1.0", "head 1.1", "mlp 1")
    assert graph.receivers[:6] == ("q 0.0", "q 0.1", "k 0.0", "v 0.0", "mlp 0", "q 1.0")
    heard = {
        receiver: [graph.senders[u] for u in np.flatnonzero(graph.exists[:, v])]
        for v, receiver in enumerate(graph.receivers)
    }
    assert heard["q 0.1"] == heard["v 0.0"] == ["embed"]
    assert heard["mlp 0"] == ["embed", "head 0.0", "head 0.1"]
    assert heard["k 1.0"] == ["embed", "head 0.0", "head 0.1", "mlp 0"]
    assert heard["mlp 1"] == list(graph.senders[:-1])
    assert heard["logits"] == list(graph.senders)
    beside, none = (Graph(layers=2, heads=2, kv_heads=1, mlp_reads=reads) for reads in ("beside", "none"))
    of_mlp = beside.exists[:, beside.receivers.index("mlp 1")]
    assert [beside.senders[u] for u in np.flatnonzero(of_mlp)] == ["embed", "head 0.0", "head 0.1", "mlp 0"]
    assert none.senders == ("embed", "head 0.0", "head 0.1", "head 1.0", "head 1.1")
    assert none.receivers == ("q 0.0", "q 0.1", "k 0.0", "v 0.0", "q 1.0", "q 1.1", "k 1.0", "v 1.0", "logits")


@pytest.mark.parametrize(("family", "question"), QUESTIONS.items(), ids=FAMILIES)
def test_all_edges_are_the_clean_run_and_none_the_corrupt(family: str, question: naive.Question):
    model = small_model(family)
    every = all_edges(graph_of(model))
    found = keep_edges(model, CLEAN, CORRUPT, question.objective, np.concatenate([every, ~every]))
    assert_close(
        found, np.stack([objective_values(model, CLEAN, question), objective_values(model, CORRUPT, question)])
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ablation", ["patching", "zero", "mean"])
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 99), share=st.floats(0.1, 0.9), side=st.sampled_from(["right", "left"]))
def test_circuits_equal_a_run_node_by_node(family: str, ablation: Any, seed: int, share: float, side: str):
    model = small_model(family)
    graph, (clean, corrupt) = graph_of(model), (random_batch(LENGTHS, side, seed=seed + more) for more in (0, 100))
    kept = np.random.default_rng(seed).random((2, *graph.exists.shape)) < share
    last = naive.logit_difference(np.array([3, 4, 5]), np.array([7, 8, 9]), np.asarray(clean.last))
    question = last if family == "llama" else QUESTIONS[family]
    found = keep_edges(model, clean, corrupt, question.objective, kept, ablation=ablation)
    other = instead(model, corrupt, ablation)
    for circuit, values in zip(kept, found, strict=True):
        keeps = dict(zip(names_of(graph), circuit[graph.exists], strict=True))
        cut = {edge: 1.0 for edge, keep in keeps.items() if not keep}
        assert_close(values, question.judge(Slow(model, clean, cut, other=other).run()[0], clean))


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_a_head_that_reads_its_own_stream_norms_its_own_queries(family: str):
    model = small_model(family)
    graph = graph_of(model)
    kept = np.random.default_rng(0).random((2, *graph.exists.shape)) < 0.5
    found, other = keep_edges(model, CLEAN, CORRUPT, QUESTION.objective, kept), said_in(model, CORRUPT)
    for circuit, values in zip(kept, found, strict=True):
        keeps = zip(names_of(graph), circuit[graph.exists], strict=True)
        cut = {edge: 1.0 for edge, keep in keeps if not keep}
        assert_close(values, QUESTION.judge(Slow(model, CLEAN, cut, other=other).run()[0], CLEAN))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("family", "question"), QUESTIONS.items(), ids=FAMILIES)
def test_patching_an_edge_is_keeping_all_others(family: str, question: naive.Question, direction: Any):
    model = small_model(family)
    graph = graph_of(model)
    edited, other = (CORRUPT, CLEAN) if direction == "denoising" else (CLEAN, CORRUPT)
    edges = np.argwhere(graph.exists)
    kept = np.repeat(all_edges(graph), len(edges) + len(edges) % 2, axis=0)
    kept[np.arange(len(edges)), edges[:, 0], edges[:, 1]] = False
    table = patch_edges(model, CLEAN, CORRUPT, question.objective, direction=direction)
    unedited = objective_values(model, edited, question, edited)
    in_twos = [keep_edges(model, edited, other, question.objective, two) for two in np.split(kept, len(kept) // 2)]
    after = np.concatenate(in_twos)[: len(edges)].T  # a size that other tests have compiled
    assert_close(of_edges(table, graph), after - unedited[:, None])
    assert table.provenance["unedited"] == pytest.approx(unedited.mean(), abs=TOLERANCE)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("family", "question"), QUESTIONS.items(), ids=FAMILIES)
def test_scores_are_derivatives(family: str, question: naive.Question, direction: Any):
    model = small_model(family)
    graph = graph_of(model)
    edited, other = (CORRUPT, CLEAN) if direction == "denoising" else (CLEAN, CORRUPT)
    scores = of_edges(edge_attribution(model, CLEAN, CORRUPT, question.objective, direction=direction), graph)
    own, there = said_in(model, edited), said_in(model, other)
    change, step = {name: there[name] - own[name] for name in own}, 1e-5
    names = names_of(graph)
    for place in np.random.default_rng(0).choice(len(names), 16, replace=False):
        ends = [
            question.judge(Slow(model, edited, {names[place]: weight}, change=change).run()[0], edited)
            for weight in (step, -step)
        ]
        assert_close(scores[:, place], (ends[0] - ends[1]) / (2 * step))


def test_the_three_rules():
    """Left and right sums differ by the two ends' gradients alone, one of them is its end's for a single step, and all
    tend to the integral; what leaves the embedding along it adds up to the whole change of the objective."""
    model = small_model("llama")
    graph, steps = graph_of(model), 32

    def scores(**ways: Any) -> np.ndarray:
        return of_edges(edge_attribution(model, CLEAN, CORRUPT, QUESTION.objective, **ways), graph)

    at_corrupt, at_clean = scores(), -scores(direction="noising")
    assert_close(scores(method="eap-ig", rule="left", steps=1), at_corrupt)
    assert_close(scores(method="eap-ig", rule="right", steps=1), at_clean)
    left, right, middle = (scores(method="eap-ig", rule=rule, steps=steps) for rule in ("left", "right", "midpoint"))
    assert_close(steps * (right - left), at_clean - at_corrupt, steps * TOLERANCE)
    assert_close(-scores(method="eap-ig", rule="left", steps=steps, direction="noising"), left)
    assert_close(scores(method="eap-ig", rule="left", steps=2 * steps), (left + middle) / 2)
    whole, from_embedding = (
        objective_values(model, CLEAN) - objective_values(model, CORRUPT),
        np.nonzero(graph.exists)[0] == 0,
    )
    finer = scores(method="eap-ig", rule="midpoint", steps=2 * steps)
    errors = [abs(sums[:, from_embedding].sum(axis=1) - whole).max() for sums in (left, right, middle, finer)]
    assert errors[2] < 0.1 * min(errors[:2])
    assert errors[3] < 0.3 * errors[2] + TOLERANCE


def test_where_the_objective_is_linear_scores_are_exact():
    """What the logits hear enters a logit difference through the final norm: here one that divides by a constant."""
    model = naive.changed(small_model("gpt2"), lambda path, w: w * 1e3 if path == "final_norm.scale" else w)
    model.network.final_norm.epsilon = 1e6
    graph = graph_of(model)
    scores = of_edges(edge_attribution(model, CLEAN, CORRUPT, QUESTION.objective), graph)
    own, there = said_in(model, CORRUPT), said_in(model, CLEAN)
    change, unedited = {name: there[name] - own[name] for name in own}, objective_values(model, CORRUPT)
    for place, edge in enumerate(names_of(graph)):
        if edge[1] == "logits":
            patched = QUESTION.judge(Slow(model, CORRUPT, {edge: 1.0}, change=change).run()[0], CORRUPT)
            assert_close(scores[:, place], patched - unedited)


def test_a_table_of_edges():
    model = small_model("llama")
    graph = graph_of(model)
    table = edge_attribution(
        model, CLEAN, CORRUPT, QUESTION.objective, method="eap-ig", rule="midpoint", steps=3, exact=True, level=0.9
    )
    assert table.frame.index.names == ["stack", "sender", "receiver"]
    assert table.metrics == ("effect", "exact", "normalised")
    assert table.shape == graph.exists.shape
    for column in (*table.metrics, "effect_low", "exact_high"):
        np.testing.assert_array_equal(np.isnan(table.grid(column)), ~graph.exists)
    row = table.frame.loc[("decoder", 3, 8)]
    assert (row["sender_node"], row["receiver_node"]) == ("head 0.2", "mlp 0")
    total = (objective_values(model, CLEAN) - objective_values(model, CORRUPT)).mean()
    effect = table.grid("effect")
    assert_close(effect[graph.exists], of_edges(table, graph).mean(axis=0))
    assert_close(table.grid("normalised")[graph.exists], effect[graph.exists] / total)
    said = table.provenance
    assert (said["method"], said["rule"], said["steps"], said["direction"]) == ("eap-ig", "midpoint", 3, "denoising")
    assert (said["edges"], said["examples"], said["level"], said["not_finite"]) == (82, 3, 0.9, [])
    assert said["unedited"] == pytest.approx(objective_values(model, CORRUPT).mean(), abs=TOLERANCE)
    both = effect[graph.exists], table.grid("exact")[graph.exists]
    assert said["spearman"] == pytest.approx(np.asarray(stats.spearmanr(*both))[0])
    alone_ = patch_edges(model, CLEAN, CORRUPT, QUESTION.objective)
    assert alone_.metrics == ("effect", "normalised")
    assert_close(of_edges(alone_, graph), of_edges(table, graph, "exact"))
    plain = edge_attribution(model, CLEAN, CORRUPT, QUESTION.objective, direction="noising").provenance
    assert plain["direction"] == "noising"
    assert not {"rule", "steps", "spearman"} & set(plain)


def test_examples_and_padding_do_not_matter():
    """An example alone, without its padding, gives what it gives in a padded batch."""
    model = small_model("gpt2")
    graph, objective = graph_of(model), jh.loss()
    clean, corrupt = (random_batch(LENGTHS, "left", seed=seed) for seed in (0, 1))
    kept = np.random.default_rng(0).random((2, *graph.exists.shape)) < 0.5

    def asked(one: jh.Batch, other: jh.Batch) -> list[np.ndarray]:
        table = edge_attribution(model, one, other, objective, method="eap-ig", steps=2)
        return [of_edges(table, graph)[-1], keep_edges(model, one, other, objective, kept)[:, -1]]

    for padded, bare in zip(asked(clean, corrupt), asked(alone(clean, 2), alone(corrupt, 2)), strict=True):
        assert_close(padded, bare)


def test_chunks_change_nothing_and_share_what_is_compiled(monkeypatch: pytest.MonkeyPatch):
    model = small_model("llama")
    graph, objective = graph_of(model), QUESTION.objective
    kept = np.random.default_rng(0).random((2, *graph.exists.shape)) < 0.5
    compiled: list[Any] = [patch_each_edge, edge_gradients, run_circuits]

    def asked() -> list[np.ndarray]:
        table = edge_attribution(model, CLEAN, CORRUPT, objective, exact=True)
        circuits = keep_edges(model, CLEAN, CORRUPT, objective, kept)
        means = keep_edges(model, CLEAN, CORRUPT, objective, kept, ablation="mean", per_position=False)
        return [of_edges(table, graph), of_edges(table, graph, "exact"), circuits, means]

    whole, before = asked(), [part.cache_size() for part in compiled]
    monkeypatch.setattr(Chunks, "fitting", lambda *_, **__: Chunks(2, 1))
    for chunks, at_once in zip(asked(), whole, strict=True):
        assert_close(chunks, at_once)
    # All layers and chunks share one; but there are three kinds of receivers, and what other edges carry is one for all
    # examples or one for each.
    assert [part.cache_size() - old for part, old in zip(compiled, before, strict=True)] == [3, 1, 2]


@pytest.mark.parametrize("memory", [1, 1 << 18, 1 << 22, 1 << 30])
def test_chunks_fit_the_memory_they_are_given(memory: int):
    batch = random_batch((9,) * 40)
    sizes = {"copies": 500, "copy_streams": 100, "example_streams": 50}
    chunks = edge_chunks(small_model("llama").stack(), batch, Resources(memory), **sizes)
    assert 1 <= chunks.examples <= 40
    assert 1 <= chunks.copies <= 500
    together = chunks.examples * chunks.copies
    assert together == 1 or 4 * 9 * 24 * (100 * together + 50 * chunks.examples) <= memory
    assert together > 1 or memory < 1 << 20


def test_what_a_run_without_a_difference_gives():
    """The same run twice: no edge matters, and there is nothing that effects could be a share of."""
    table = edge_attribution(small_model("llama"), CLEAN, CLEAN, QUESTION.objective, exact=True)
    exists = graph_of(small_model("llama")).exists
    np.testing.assert_array_equal(table.grid("effect")[exists], 0)
    np.testing.assert_allclose(table.grid("exact")[exists], 0, atol=TOLERANCE)
    assert np.isnan(table.grid("normalised")).all()


def test_what_is_not_finite_is_named_and_left_out():
    def explode(path: str, weight: Any) -> Any:
        return weight.at[36].set(np.nan) if path.startswith("embed.") else weight

    tokens = np.array(CLEAN.tokens) % 30
    tokens[1, 2] = 36
    model = naive.changed(small_model("llama"), explode)
    graph, corrupt = graph_of(model), jh.Batch(np.array(CORRUPT.tokens) % 30, CORRUPT.mask)
    table = edge_attribution(model, jh.Batch(tokens, CLEAN.mask), corrupt, QUESTION.objective)
    lost = table.provenance["not_finite"]
    assert len(lost) == table.provenance["not_finite_count"] == graph.exists.sum()
    assert lost[0] == {"column": "effect", "example": 1, "sender": 0, "receiver": 0}
    found = of_edges(table, graph)
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(found[1]).all()
    assert np.isfinite(table.grid("effect")[graph.exists]).all()


ALL = all_edges(Graph(2, 4, 2))
SHORT = random_batch((5, 4, 4))


@pytest.mark.parametrize(
    ("question", "arguments", "message"),
    [
        (edge_attribution, {"method": "atp"}, "method must be one of eap, eap-ig; got 'atp'"),
        (edge_attribution, {"rule": "upper"}, "rule must be one of left, right, midpoint; got 'upper'"),
        (edge_attribution, {"steps": 0}, "steps must be at least 1, got 0"),
        (edge_attribution, {"direction": "both"}, "direction must be one of denoising, noising; got 'both'"),
        (edge_attribution, {"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        (edge_attribution, {"corrupt": SHORT}, "the same shape and the same padding"),
        (patch_edges, {"level": 1.5}, "level: expected a number between 0 and 1, got 1.5"),
        (patch_edges, {"corrupt": random_batch((6, 4, 3))}, "the same shape and the same padding"),
        (patch_edges, {"objective": jh.logit_difference(3, VOCABULARY)}, r"token ids in 0\.\.36"),
        (keep_edges, {"kept": ALL, "ablation": "resample"}, "ablation must be one of patching, zero, mean"),
        (keep_edges, {"kept": ALL, "corrupt": None}, "'patching' takes .* from a corrupt batch; got none"),
        (keep_edges, {"kept": ALL, "corrupt": None, "ablation": "mean"}, "'mean' takes .* got none"),
        (keep_edges, {"kept": ALL, "corrupt": SHORT}, "the same shape and the same padding"),
        (keep_edges, {"kept": ALL[0]}, r"kept must be bool .* \(11, 19\); got bool \(11, 19\)"),
        (keep_edges, {"kept": ALL[:0]}, r"at least one circuit .* got bool \(0, 11, 19\)"),
        (keep_edges, {"kept": ALL.astype(int)}, r"got int64 \(1, 11, 19\)"),
    ],
)
def test_wrong_questions_are_refused(question: Any, arguments: dict[str, Any], message: str):
    asked = {"clean": CLEAN, "corrupt": CORRUPT, "objective": QUESTION.objective, **arguments}
    with pytest.raises(ValueError, match=message):
        question(small_model("llama"), **asked)


def test_where_memory_runs_out_circuits_are_run_on_fewer_examples(monkeypatch: pytest.MonkeyPatch):
    model, sizes = small_model("llama"), list[int]()
    asked = (model, CLEAN, CORRUPT, QUESTION.objective, all_edges(graph_of(model)))
    whole = keep_edges(*asked)

    def limited(network: Any, batch: jh.Batch, *rest: Any, **named: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating bytes")
        return run_circuits(network, batch, *rest, **named)

    monkeypatch.setattr("jaxheads.sweep.circuits.kept_runs.run_circuits", limited)
    assert_close(keep_edges(*asked), whole)
    assert sizes[0] == 3
    assert set(sizes[1:]) <= {1, 2}


@pytest.mark.parametrize("question", [edge_attribution, patch_edges])
def test_a_stream_that_is_no_sum_has_no_edges(question: Any):
    with pytest.raises(ValueError, match="a PostNormBlock of the encoder is none"):
        question(small_model("bert"), CLEAN, CORRUPT, QUESTION.objective)


def test_models_of_several_streams_are_refused():
    with pytest.raises(ValueError, match=r"compares the ends of several.* jh\.zero_shot"):
        patch_edges(small("clip").ours, CLEAN, CORRUPT, QUESTION.objective, stack="text")
