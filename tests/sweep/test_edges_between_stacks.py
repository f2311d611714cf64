"""Edges of encoder–decoders: of the decoder's stream, with its cross-attention's heads, and of the encoder's."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import assert_close
from ..models.specs.spec import small
from . import naive
from .edges_by_hand import Slow
from .seq2seq import a_batch

CLEAN, CORRUPT = a_batch("t5"), a_batch("t5", seed=1)
LAST = np.asarray(CLEAN.target_mask).sum(axis=1) - 1
OBJECTIVE = jh.logit_difference(5, 6)
stacks = pytest.mark.parametrize("stack", ["decoder", "encoder"])


def judge(logits_BTV: Any) -> np.ndarray:
    last_BV = np.asarray(logits_BTV, np.float64)[np.arange(len(LAST)), LAST]
    return last_BV[:, 5] - last_BV[:, 6]


def graph_of(stack: str) -> jh.Graph:
    model = small("t5").ours
    return jh.Graph.of(model.stack(stack), "logits" if stack == "decoder" else "memory")


def named(graph: jh.Graph, mask_UV: np.ndarray) -> list[tuple[str, str]]:
    return [(graph.senders[u], graph.receivers[v]) for u, v in np.argwhere(mask_UV)]


def test_who_hears_whom_in_a_decoder():
    graph = jh.Graph(layers=2, heads=2, kv_heads=2, cross_heads=1)
    assert graph.senders == (
        "embed",
        "head 0.0",
        "head 0.1",
        "cross.head 0.0",
        "mlp 0",
        "head 1.0",
        "head 1.1",
        "cross.head 1.0",
        "mlp 1",
    )
    assert graph.receivers[4:9] == ("v 0.0", "v 0.1", "cross.q 0.0", "mlp 0", "q 1.0")
    heard = named(graph, graph.exists)
    of = {receiver: [u for u, v in heard if v == receiver] for receiver in graph.receivers}
    assert of["cross.q 0.0"] == ["embed", "head 0.0", "head 0.1"]
    assert of["mlp 0"] == ["embed", "head 0.0", "head 0.1", "cross.head 0.0"]
    assert of["k 1.1"] == [*of["mlp 0"], "mlp 0"]
    assert of["logits"] == list(graph.senders)
    fed = dict(zip(graph.receivers, ([graph.senders[u] for u in feeds] for feeds in graph.fed()), strict=False))
    assert (fed["cross.q 1.0"], fed["mlp 1"], fed["v 1.1"]) == (["cross.head 1.0"], ["mlp 1"], ["head 1.1"])
    parts = [(kind, layer, graph.receivers[places]) for kind, layer, places in graph.parts()]
    assert parts[1:3] == [("cross", 0, ("cross.q 0.0",)), ("mlp", 0, ("mlp 0",))]
    assert parts[-1] == ("end", 2, ("logits",))


@stacks
@pytest.mark.parametrize("ablation", ["patching", "zero", "mean"])
def test_circuits_equal_a_run_node_by_node(stack: str, ablation: Any):
    model, graph = small("t5").ours, graph_of(stack)
    kept = np.random.default_rng(0).random((2, *graph.exists.shape)) < np.array([0.3, 0.8])[:, None, None]
    found = jh.keep_edges(model, CLEAN, CORRUPT, OBJECTIVE, kept, ablation=ablation, stack=stack)
    other = Slow(model, CORRUPT, {}, stack=stack).run()[1]
    if ablation != "patching":
        axis, layout = model.stack(stack).queries, "first position apart"
        ours, theirs = axis.of(CLEAN), axis.of(CORRUPT)
        means = {name: naive.grouped_means(x[None], ours, theirs, layout, False)[0] for name, x in other.items()}
        other = {name: np.zeros(1) for name in other} if ablation == "zero" else means
    for circuit, values in zip(kept, found, strict=True):
        cut = dict.fromkeys(named(graph, graph.exists & ~circuit), 1.0)
        assert_close(values, judge(Slow(model, CLEAN, cut, other=other, stack=stack).run()[0]))


@stacks
def test_patching_an_edge_is_keeping_all_others(stack: str):
    model, graph = small("t5").ours, graph_of(stack)
    table = jh.patch_edges(model, CLEAN, CORRUPT, OBJECTIVE, direction="noising", stack=stack)
    edges = np.argwhere(graph.exists)
    chosen = np.random.default_rng(0).choice(len(edges), 24, replace=False)
    kept = np.ones((len(chosen), *graph.exists.shape), bool)
    kept[np.arange(len(chosen)), *edges[chosen].T] = False
    after = jh.keep_edges(model, CLEAN, CORRUPT, OBJECTIVE, kept, stack=stack)
    unedited = judge(jh.run(model, CLEAN).output)
    assert table.per_example is not None
    effects = table.per_example[table.metrics.index("effect")][:, *edges[chosen].T]
    assert_close(effects, (after - unedited[:, None].T).T)
    assert np.abs(effects).max() > 1e-3
    assert np.isfinite(table.grid("effect")).sum() == graph.exists.sum()
    total = judge(jh.run(model, CORRUPT).output) - unedited
    shares = table.grid("normalised")[graph.exists] * total.mean()
    np.testing.assert_allclose(shares, table.grid("effect")[graph.exists], atol=1e-5)


@stacks
def test_scores_are_derivatives(stack: str):
    model, graph = small("t5").ours, graph_of(stack)
    table = jh.attribute(model, CLEAN, CORRUPT, OBJECTIVE, "eap", direction="noising", stack=stack)
    own, other = (Slow(model, batch, {}, stack=stack).run()[1] for batch in (CLEAN, CORRUPT))
    change, step, edges = {name: other[name] - own[name] for name in own}, 1e-5, np.argwhere(graph.exists)
    assert table.per_example is not None
    for u, v in edges[np.random.default_rng(1).choice(len(edges), 12, replace=False)]:
        edge = graph.senders[u], graph.receivers[v]
        ends = [
            judge(Slow(model, CLEAN, {edge: weight}, change=change, stack=stack).run()[0]) for weight in (step, -step)
        ]
        assert_close(table.per_example[table.metrics.index("effect")][:, u, v], (ends[0] - ends[1]) / (2 * step))


def test_a_circuit_of_a_decoder_is_searched_and_judged():
    model, graph = small("t5").ours, graph_of("decoder")
    ranking = jh.attribute(model, CLEAN, CORRUPT, OBJECTIVE, "eap", direction="noising", stack="decoder")
    curve: Any = jh.faithfulness_curve(
        model, CLEAN, OBJECTIVE, ranking, ablation="patching", reference=CORRUPT, stack="decoder"
    )
    assert int(curve.table.frame["size"].max()) == int(graph.exists.sum())
    assert curve.table.frame["faithfulness"].iloc[-1] == pytest.approx(1, abs=1e-4)


def test_cross_attention_has_no_stream_of_its_own():
    with pytest.raises(ValueError, match="the heads of the cross-attention write to another stack's stream"):
        jh.patch_edges(small("t5").ours, CLEAN, CORRUPT, OBJECTIVE, stack="cross")
    with pytest.raises(ValueError, match=r"an? \w+Block of the decoder is none"):
        jh.patch_edges(small("bart").ours, a_batch("bart"), a_batch("bart", seed=1), OBJECTIVE, stack="decoder")
