"""Attributions of scores add up to them, loadings to direct effects, and contrasts have known ranks."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.query_key import covariance
from jaxheads.measure.query_key.covariance import ContrastCovariance, _captured
from jaxheads.measure.query_key.covariance import _pairs as covariance_pairs

from ..models.huggingface import assert_close, random_batch, small_model
from ..models.specs import SPECS
from ..models.specs.spec import small

OBJECTIVE = jh.logit_difference(1, 2)
KINDS = ["gpt2", "llama", "gemma2", "gemma3_text", "olmo2", "albert", "deberta", "modernbert", "gpt_neox", "bloom"]
KINDS += ["stablelm", "bart", "t5", "vit", "gpt_oss"]
"""Families that have every kind of block, norm, position and shared weight."""


def asked(family: str) -> tuple[jh.Model, jh.Batch]:
    both = small(family)
    return both.ours, SPECS[family].batch(both.theirs)


@pytest.mark.parametrize("family", KINDS)
def test_pairs_of_writers_add_up_to_the_score(family: str):
    model, batch = asked(family)
    for stack in model.network.stacks:
        query = np.asarray(stack.queries.of(batch).lengths) - 1
        key = np.zeros_like(query) if stack.is_cross else np.maximum(query - 1, 0)
        found = jh.qk_attribution(model, batch, stack.layers - 1, 1, query, key, stack=stack.name)
        assert_close(found.values.sum(axis=(1, 2)), found.product)
        if stack.blocks.attention.cap is None:
            assert_close(found.product + found.position, found.score)
        run = jh.run(model, batch, f"{stack.name}.scores").seen[f"{stack.name}.scores"]
        column = np.asarray(stack.queries.of(batch).last)
        first = np.asarray(stack.keys.of(batch).mask).argmax(axis=1)
        assert_close(found.score, np.asarray(run)[-1, np.arange(len(query)), 1, column, first + key])
        assert list(found.queries["part"])[:: len(found.queries) - 1] == ["embedding", "reading"]
        assert (found.queries["layer"] < stack.layers).all()
        if family in ("llama", "gemma2", "gemma3_text", "olmo2"):
            # Without biases the embedding, heads and MLPs are all.
            biases = found.queries["part"].isin(["bias", "reading"]).to_numpy()
            assert np.abs(found.values[:, biases]).max() < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_one_writer_by_hand(family: str):
    """The first layer's head 0 in the query, the embedding in the key, of layer 1: by NumPy."""
    model, batch = asked(family)
    batch = batch.take([0])
    found = jh.qk_attribution(model, batch, 1, 2, 3, 1)
    run = jh.run(model, batch, ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out"))
    seen = {name: np.asarray(array, np.float64)[:, 0] for name, array in run.seen.items()}
    blocks: Any = model.stack().blocks
    weights = model.stack().weights
    W_O, W_Q, W_K = (np.asarray(x, np.float64) for x in (weights.W_O[0, 0], weights.W_Q[1, 2], weights.W_K[1, 2]))

    def frozen(norm: Any, layer: int, x: np.ndarray, whole: np.ndarray) -> np.ndarray:
        x, whole = x - x.mean(), whole - whole.mean()
        return x / np.sqrt(whole.var() + norm.epsilon) * np.asarray(norm.scale[...], np.float64)[layer]

    head, embedding = seen["z"][0, 3, 0] @ W_O, seen["resid_pre"][0, 1]
    if family == "gpt2":
        head, embedding = (
            frozen(blocks.attention_norm, 1, x, seen["resid_pre"][1, place]) for x, place in ((head, 3), (embedding, 1))
        )
    else:
        ends = (head, 3), (embedding, 1)
        head, embedding = (
            frozen(
                blocks.mlp_norm,
                0,
                frozen(blocks.attention_norm, 0, x, seen["resid_pre"][0, place] + seen["attn_out"][0, place]),
                seen["resid_mid"][0, place] + seen["mlp_out"][0, place],
            )
            for x, place in ends
        )
    expected = (head @ W_Q) @ (embedding @ W_K) * W_Q.shape[1] ** -0.5
    row = found.queries.query("part == 'head' and head == 0").index[0]
    assert found.values[0, row, 0] == pytest.approx(expected, abs=1e-6)
    top = found.top(3)
    assert abs(top["score"].iloc[0]) == pytest.approx(np.abs(found.values).max())
    assert_close(found.by("key")["score"].sum(), found.product[0])


def test_left_padding_and_little_memory_change_no_attribution():
    model = small_model("llama")
    right, left = random_batch((6, 5)), random_batch((6, 5), "left")
    left = jh.Batch(np.stack([right.tokens[0], np.roll(right.tokens[1], 1)]), left.mask)
    expected = jh.qk_attribution(model, right, 1, 3, [5, 4], [2, 0])
    assert_close(jh.qk_attribution(model, left, 1, 3, [5, 4], [2, 0], memory=1).values, expected.values)


def test_what_can_not_be_attributed_is_refused():
    model, batch = small_model("llama"), random_batch((6, 3))
    with pytest.raises(ValueError, match=r"positions of example 1 are 0\.\.2, got 4"):
        jh.qk_attribution(model, batch, 1, 0, 4, 0)
    with pytest.raises(ValueError, match="sees no later position"):
        jh.qk_attribution(model, batch, 1, 0, 0, 2)
    with pytest.raises(ValueError, match=r"layers are 0\.\.1"):
        jh.qk_attribution(model, batch, 2, 0, 2, 0)
    mistral, long = asked("mistral")
    window = int(np.asarray(mistral.stack().blocks.attention.window).max())
    length = int(np.asarray(long.lengths)[0])
    assert window < length
    with pytest.raises(ValueError, match="does not see the key"):
        jh.qk_attribution(mistral, long.take([0]), 1, 0, length - 1, 0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_loadings_add_up_to_the_direct_effect_of_their_position(family: str):
    model, batch = asked(family)
    table = jh.head_loadings(model, batch, OBJECTIVE, 0)
    effects = jh.direct_effects(model, batch, OBJECTIVE, by=("layer", "head", "position"))
    assert table.per_example is not None
    assert effects.per_example is not None
    assert_close(table.per_example.sum(axis=0), effects.per_example[..., 0])
    parts = dict(
        zip(("embedding", "heads", "mlps", "biases"), np.abs(table.per_example).max(axis=(1, 2, 3)), strict=True)
    )
    assert min(parts["embedding"], parts["heads"], parts["mlps"]) > 1e-3
    if family != "gpt2":
        assert parts["biases"] < 1e-5  # there are none: the writers are all
    assert np.abs(table.per_example[1:3, :, 0]).max() < 1e-6  # before the first layer only the embedding has written
    one = jh.head_loadings(model, batch, OBJECTIVE, 0, parts="mlps", memory=1)
    assert_close(one.values, table.values[2])


def test_loadings_of_what_does_not_add_up_are_refused():
    model, batch = small_model("gpt2"), random_batch((4, 4))
    with pytest.raises(ValueError, match="not linear in logits"):
        jh.head_loadings(model, batch, jh.loss(), 0)
    with pytest.raises(ValueError, match="each once"):
        jh.head_loadings(model, batch, OBJECTIVE, 0, parts=["mlps", "mlps"])
    bart, pair = asked("bart")
    with pytest.raises(ValueError, match="post-norm"):
        jh.head_loadings(bart, pair, OBJECTIVE, 0, stack="decoder")


def matching(batch: jh.Batch) -> jh.Batch:
    tokens = np.asarray(batch.tokens) % 3
    return batch.marked({"same": tokens[:, :, None] == tokens[:, None]})


def test_contrasts_by_hand():
    model, batch = small_model("llama"), matching(random_batch((7, 6, 5, 7), "left"))
    found = jh.contrast_covariance(model, batch, "same")
    seen = jh.run(model, batch, ("q", "k")).seen
    q, k = (np.asarray(seen[name], np.float64) for name in ("q", "k"))
    k = np.repeat(k, q.shape[3] // k.shape[3], axis=3)
    mask, same = np.asarray(batch.mask), np.asarray((batch.marks or {})["same"])
    sums, counts, gaps = np.zeros((2, *q.shape[::2][:1], q.shape[3], q.shape[4], q.shape[4])), [0, 0], []
    for b in range(4):
        own, own_counts = np.zeros_like(sums), [0, 0]
        for t, s in np.ndindex(same.shape[1:]):
            if mask[b, t] and mask[b, s] and s <= t and (same[b, t, s] or s != t):
                kind = int(not same[b, t, s])
                own[kind] += np.einsum("lnh,lni->lnhi", q[:, b, t], k[:, b, s])
                own_counts[kind] += 1
        sums, counts = sums + own, np.add(counts, own_counts)
        scores = [np.trace(own[kind], axis1=2, axis2=3) / own_counts[kind] for kind in (0, 1)]
        gaps.append((scores[0] - scores[1]) * q.shape[4] ** -0.5)
    assert_close(found.covariance, sums[0] / counts[0] - sums[1] / counts[1])
    assert_close(found.table.values, np.mean(gaps, axis=0))
    assert_close(found.gap, np.trace(found.covariance, axis1=2, axis2=3) * q.shape[4] ** -0.5)
    stream = jh.contrast_covariance(model, [batch.take([0, 1]), batch.take([2, 3])], "same", memory=1)
    assert_close(stream.covariance, found.covariance)
    assert_close(stream.captured, found.captured)
    # Labels stand for documents, whatever their numbers are.
    clustered = jh.contrast_covariance(model, batch.clustered([2, 8, 4, 6]), "same")
    assert_close(clustered.captured, found.captured)


def test_pairs_are_made_for_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("llama"), matching(random_batch((5,) * 8))
    sizes: list[int] = []

    def pairs(stack: Any, own: jh.Batch, *marks: str) -> np.ndarray:
        sizes.append(len(own))
        return covariance_pairs(stack, own, *marks)

    monkeypatch.setattr(covariance, "_pairs", pairs)
    jh.contrast_covariance(model, batch, "same", memory=1)
    assert set(sizes) == {1}
    wrong = batch.marked({"same": -np.asarray((batch.marks or {})["same"], float)})
    with pytest.raises(ValueError, match="weights of 0 or more"):
        jh.contrast_covariance(model, wrong, "same")


def test_a_one_hot_variable_has_one_direction_less_than_values():
    """Queries and keys that hold one of r values: ΔC = (I − J / r) / (r − 1), whose rank is r − 1."""
    r, H = 3, 5
    match, mismatch = np.zeros((2, H, H))
    match[:r, :r] = np.eye(r) / r
    mismatch[:r, :r] = (1 - np.eye(r)) / (r * (r - 1))
    contrast = (match - mismatch)[None, None]
    captured = _captured(contrast, contrast)
    found = ContrastCovariance(None, contrast, captured, np.trace(contrast, axis1=2, axis2=3))  # type: ignore[arg-type]
    assert_close(found.values[0, 0], [1 / (r - 1)] * (r - 1) + [0] * (H - r + 1))
    assert found.rank().tolist() == [[r - 1]]
    assert_close(captured[0, 0], [0.5, 1, 1, 1, 1])  # the gap is 1: half of it along each of the two directions
    assert found.subspace(0, 0, 2).queries.shape == (H, 2)


def test_what_can_not_be_contrasted_is_refused():
    model, batch = small_model("llama"), matching(random_batch((5, 5, 5, 5)))
    with pytest.raises(ValueError, match="no mark 'other'"):
        jh.contrast_covariance(model, batch, "other")
    with pytest.raises(ValueError, match="in both halves"):
        jh.contrast_covariance(model, batch.take([0]), "same")
    with pytest.raises(ValueError, match="at least one example"):
        jh.contrast_covariance(model, [], "same")
