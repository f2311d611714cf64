"""Samples of every head: equal to whole patterns by hand, whatever order, padding, blocks and chunks the stream has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.sampling import samples as samples_module
from jaxheads.measure.sampling.counted import counted_positions, offset_edges, offset_labels
from jaxheads.measure.sampling.kept import KeptExamples
from jaxheads.measure.sampling.token_means import TokenMeans
from jaxheads.programs import _Programs

from ..models.huggingface import assert_close, random_batch, small_model
from ..models.specs import SPECS
from ..models.specs.spec import small

LENGTHS = (9, 7, 8, 2, 9, 5, 6, 9, 4, 8, 1, 9)
FEW: dict[str, Any] = {"top": 3, "buckets": 2, "each": 2, "per_row": 3}


def by_hand(model: jh.Model, batch: jh.Batch) -> dict[str, Any]:
    """All that is asked, from whole patterns, one example after the other."""
    stack, run = model.stack(), jh.run(model, batch, ("pattern", "z"))
    pattern, z, mask = (np.asarray(x, np.float64) for x in (run.seen["pattern"], run.seen["z"], batch.mask))
    L, B, N = pattern.shape[:3]
    offsets, weights = np.zeros((L, N, len(offset_labels())), int), np.zeros((L, N, 20), int)
    outputs, scores = [[[] for _ in range(N)] for _ in range(L)], np.zeros((B, L, N))
    collected = np.zeros((L, N, model.config.vocab_size))
    for b in range(B):
        real = np.flatnonzero(mask[b])
        ids = np.asarray(batch.tokens)[b, real]
        for layer, head in np.ndindex(L, N):
            own = pattern[layer, b, head][np.ix_(real, real)]
            outputs[layer][head] += list(z[layer, b, real[1:], head])
            if len(real) > 1:
                scores[b, layer, head] = own[1:, 1:].max()
            for query in range(1, len(real)):
                key = int(own[query].argmax())
                bin_ = offset_labels().index(str(key - query)) if key else -1
                offsets[layer, head, bin_] += 1
                weights[layer, head, min(19, int(own[query, key] * 20))] += 1
                for other in range(1, len(real)):
                    collected[layer, head, ids[other]] += own[query, other] * (other != query)
    assert stack.heads == N
    return {
        "pattern": pattern,
        "offsets": offsets,
        "weights": weights,
        "scores": scores,
        "collected": collected,
        "mean": np.array([[np.mean(of, axis=0) for of in row] for row in outputs]),
        "covariance": np.array([[np.cov(np.array(of).T, bias=True) for of in row] for row in outputs]),
    }


@pytest.mark.parametrize(("family", "side"), [("llama", "right"), ("llama", "left"), ("bert", "left")])
def test_samples_are_those_of_whole_patterns(family: str, side: str):
    model, batch = small_model(family), random_batch(LENGTHS, side)
    expected, found = by_hand(model, batch), jh.samples(model, batch, **FEW)
    np.testing.assert_array_equal(found.offsets, expected["offsets"])
    np.testing.assert_array_equal(found.weights, expected["weights"])
    assert found.queries == sum(LENGTHS) - len(LENGTHS)
    assert_close(found.z_mean, expected["mean"])
    assert_close(found.z_covariance, expected["covariance"])
    assert found.attended is not None
    sums = expected["collected"][..., found.attended.ids] / found.attended.n
    np.testing.assert_allclose(found.attended.values, sums, atol=1e-4)
    for (layer, head), samples in found.samples.items():
        best = [own for own in samples if own.kind == "top"]
        scores_B = expected["scores"][:, layer, head]
        assert_close([own.score for own in best], np.sort(scores_B)[::-1][:3])
        for own in best:
            real = np.asarray(batch.mask)[own.example]
            pattern = expected["pattern"][layer, own.example, head][real][:, real]
            assert pattern[own.query, own.key] == pytest.approx(own.score, abs=1e-6)
            assert own.queries is not None
            assert own.queries.tolist() == np.asarray(batch.tokens)[own.example, real].tolist()
            assert_close(own.top_weights[:, : len(pattern)], -np.sort(-pattern, axis=1)[:, :3])
            kept = own.pattern()
            assert_close(kept[kept > 0], pattern[kept > 0])


def content(found: jh.Samples) -> Any:
    """The samples of every head by what they hold."""
    return {
        head: [(own.kind, np.asarray(own.queries).tolist(), own.query, own.key) for own in samples]
        for head, samples in found.samples.items()
    }


def assert_alike(found: jh.Samples, expected: jh.Samples) -> None:
    assert content(found) == content(expected)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert found.attended is not None
    assert expected.attended is not None
    np.testing.assert_allclose(found.attended.values, expected.attended.values, atol=1e-4)
    assert_close(found.z_covariance, expected.z_covariance)


def test_neither_order_nor_padding_nor_chunks_change_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("llama"), random_batch(LENGTHS)
    expected = jh.samples(model, batch, **FEW)
    order = np.random.default_rng(0).permutation(len(LENGTHS))
    stream = [batch.take(order[:5]), batch.take(order[5:])]
    assert_alike(jh.samples(model, stream, **FEW), expected)
    assert_alike(jh.samples(model, batch, memory=1, resume=tmp_path, **FEW), expected)
    monkeypatch.setattr(samples_module, "_summaries", None)
    assert_alike(jh.samples(model, batch, memory=1, resume=tmp_path, **FEW), expected)


def test_blocks_of_rows_give_the_same_samples(monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("llama"), random_batch(LENGTHS, "left")
    expected = jh.samples(model, batch, **FEW)
    monkeypatch.setattr("jaxheads.models.inputs.query_rows.BLOCK_BYTES", 4 * 12 * 4 * 9 * 2)
    monkeypatch.setattr("jaxheads.programs._PROGRAMS", _Programs())
    assert_alike(jh.samples(model, batch, **FEW), expected)


@pytest.mark.parametrize(
    ("family", "stack", "kinds"),
    [("bart", "cross", (True, True)), ("vit", None, (False, False)), ("whisper", "cross", (False, True))],
)
def test_every_kind_of_positions(family: str, stack: str | None, kinds: tuple[bool, bool]):
    pair = small(family)
    found = jh.samples(pair.ours, SPECS[family].batch(pair.theirs), stack=stack, **FEW)
    assert (found.attended is not None, found.attending is not None) == kinds
    assert len(found.frame)
    is_cross = pair.ours.stack(stack).is_cross
    assert found.offsets.sum() == (0 if is_cross else found.queries * len(found.samples))
    assert found.weights.sum() == found.queries * len(found.samples)
    for own in found.of(0, 0):
        assert own.is_self is not is_cross
        assert own.top_keys.max() < own.shape[1]
        if own.key_count <= own.top_keys.shape[1]:
            assert_close(own.pattern().sum(axis=1), np.ones(own.shape[0]))
    if family == "whisper":  # more frames than tokens: a pattern has a column for each
        assert all(own.key_count == pair.ours.config.max_source_positions > own.shape[0] for own in found.of(0, 0))
        assert len(found.view(0, 0, 0).payload["keys"]) == found.of(0, 0)[0].key_count
    if not all(kinds):
        with pytest.raises(ValueError, match="no tokens on this side"):
            found.tokens(0, 0, "attended")


def test_special_tokens_do_not_count():
    model, batch = small_model("llama"), random_batch((6, 6))
    special = int(np.asarray(batch.tokens)[0, 3])
    queries, keys = counted_positions(model.stack(), batch, [special])
    assert not queries[0, 3]
    assert not keys[:, 0].any()
    found = jh.samples(model, batch, avoid=[special], **FEW)
    assert found.queries == queries.sum()
    assert found.attended is not None
    assert special not in found.attended.ids


def test_a_stratified_sample_is_of_equally_frequent_scores():
    rng, kept = np.random.default_rng(0), KeptExamples(1, 2, 4, 3, seed=0)
    scores = rng.random(400) ** 3
    for start in range(0, 400, 10):
        numbers = np.arange(start, start + 10)
        pairs = np.stack([scores[numbers], *np.zeros((2, 10))], axis=-1)[:, None]
        kept.add(numbers, [{"tokens": np.array([n])} for n in numbers], pairs)
    ends = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
    [own] = kept.chosen()
    assert [kind for kind, _ in own] == ["top"] * 2 + [f"bucket {n}" for n in range(4) for _ in range(3)]
    assert sorted(scores)[-2:] == sorted(kept.kept[key].pairs[0, 0] for kind, key in own if kind == "top")
    for kind, key in own[2:]:
        low, high = ends[int(kind[-1]) :][:2]
        assert low - 1e-3 <= kept.kept[key].pairs[0, 0] <= high + 1e-3
    assert len(kept.kept) <= 2 + 6 * 4 * 3


def test_equal_examples_are_shown_once():
    model, batch = small_model("llama"), random_batch((5, 6, 4))
    twice = jh.samples(model, [batch, batch], **FEW)
    assert content(twice) == content(jh.samples(model, batch, **FEW))
    assert twice.examples == 6


def test_offsets_and_means_in_closed_form():
    labels, edges = offset_labels(), offset_edges()
    bins = np.searchsorted(edges, [0, -1, 16, 17, 32, 33, -17, -100_000, 100_000], side="right")
    assert [labels[b] for b in bins[:3]] == ["0", "-1", "16"]
    assert [labels[b] for b in bins[3:7]] == ["17..32", "17..32", "33..64", "-32..-17"]
    assert (bins[7], bins[8]) == (0, len(labels) - 2)
    means = TokenMeans(2, 0.5)
    means.add(np.array([7, 3, 7]), np.array([[1.0, 2, 3], [0, 0, 4]]))
    means.add(np.array([9]), np.array([[2.0], [2.0]]))
    assert means.ids.tolist() == [3, 7, 9]
    assert means.means.tolist() == [[1, 1, 1], [0, 1, 1]]


def test_bins_of_offsets_are_all_offsets_once():
    labels, edges = offset_labels(), offset_edges()
    assert (np.diff(edges) > 0).all()
    assert len(labels) == len(set(labels)) == len(edges) + 2
    assert {"-32..-17", "-16", "0", "16", "17..32", "..-4097", "4097.."} <= set(labels)
    assert labels[np.searchsorted(edges, -17, side="right")] == "-32..-17"


def test_what_can_not_be_sampled_is_refused():
    model, batch = small_model("llama"), random_batch((5, 6))
    with pytest.raises(ValueError, match="at least one example"):
        jh.samples(model, [])
    with pytest.raises(ValueError, match="top"):
        jh.samples(model, batch, top=0)
    with pytest.raises(ValueError, match=r"layers are 0\.\.1"):
        jh.samples(model, batch, **FEW).of(5, 0)


@pytest.mark.parametrize(("family", "stack"), [("llama", None), ("bart", "cross"), ("vit", None)])
def test_samples_are_seen_and_kept_on_disk(family: str, stack: str | None, tmp_path: Path):
    pair = small(family)
    found = jh.samples(pair.ours, SPECS[family].batch(pair.theirs), stack=stack, **FEW)
    again = jh.Samples.load(found.save(tmp_path / "samples.npz"))
    assert again.frame.equals(found.frame)
    assert again.provenance == found.provenance
    np.testing.assert_array_equal(again.z_covariance, found.z_covariance)
    for own, other in zip(found.of(0, 0), again.of(0, 0), strict=True):
        np.testing.assert_array_equal(own.pattern(), other.pattern())
        assert own.is_self == other.is_self == (stack is None)
    shown = again.view(0, 0, 1).payload
    assert shown["kind"] == "attention"
    assert len(shown["keys"]) == again.of(0, 0)[1].shape[1]
    if family == "vit":
        with pytest.raises(ValueError, match="no samples of texts"):
            found.view(0, 0)
        return
    rows = again.view(0, 0).payload["rows"]
    assert len(rows) == len(found.of(0, 0))
    own = found.of(0, 0)[0]
    if own.query != own.key:
        assert own.strongest()[own.key] >= own.score - 1e-6
    whole = (tmp_path / "samples.npz").read_bytes()
    for damaged in (b"no samples", whole[:500], bytes(b ^ (i > 400 and i % 97 == 0) for i, b in enumerate(whole))):
        (tmp_path / "samples.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="no whole samples"):
            jh.Samples.load(tmp_path / "samples.npz")
