"""Learnt sinks: a head's softmax with one more score is that with one more key, whose value is 0 and not read.

So every measure that takes the sink as one more key is compared with itself on such patterns, and all questions are
asked of GPT-OSS.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.patterns import METRICS, VARIANTS, Example, Metric, examples_of
from jaxheads.measure.patterns.value_norms import pattern_read, value_norms
from jaxheads.measure.relevance import rolled_out, with_residual
from jaxheads.measure.similarity.comparisons import COMPARISONS
from jaxheads.models.attention.attend import attend
from jaxheads.sweep.gradients.qk_fix import key_effects
from jaxheads.train.llc import head_only
from jaxheads.train.prune import merge_kv_heads, remove_heads

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small
from ..sweep.naive import effects as naive_effects
from ..sweep.naive import logit_difference

T, N, K, H = 6, 4, 2, 3
SINKS = jnp.asarray([0.3, -2.0, 1.5, 0.0])


def inputs() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, T, heads, H)), jnp.float32) for heads in (N, K, K))
    mask = jnp.asarray(np.tri(T, dtype=bool)[None] & (np.arange(T) < np.array([[T], [4]]))[:, None])
    return q, k, v, mask


def with_one_more_key() -> tuple[jax.Array, jax.Array]:
    """z and the pattern, where the sink is a key: its score is a bias, its key and its value are 0."""
    q, k, v, mask = inputs()
    k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (k, v))
    bias = jnp.zeros((1, N, 1, T + 1)).at[:, :, 0, T].set(SINKS)
    z, seen = attend(q, k, v, jnp.pad(mask, ((0, 0), (0, 0), (0, 1)), constant_values=True), scale=0.7, bias=bias)
    return z, seen["pattern"]


def test_a_sink_is_one_more_key_without_a_value():
    z, seen = attend(*inputs(), scale=0.7, sinks=SINKS)
    expected_z, expected = with_one_more_key()
    assert_close(seen["pattern"], expected[..., :-1])
    assert_close(z, expected_z)
    assert float(seen["pattern"].sum(axis=-1).max()) < 1


def test_edits_of_scores_and_masks_leave_the_sink():
    def hide(site: str, value: jax.Array) -> jax.Array:
        return jnp.full_like(value, jnp.finfo(value.dtype).min) if site == "scores" else value

    z, seen = attend(*inputs(), scale=0.7, sinks=SINKS, edit=hide)
    assert float(jnp.abs(seen["pattern"]).max()) == 0
    assert float(jnp.abs(z).max()) == 0
    q, k, v, mask = inputs()
    _, unseen = attend(q, k, v, mask & False, scale=0.7, sinks=SINKS)
    assert float(jnp.abs(unseen["pattern"]).max()) == 0
    gradient = jax.grad(lambda q: attend(q, k, v, mask, scale=0.7, sinks=SINKS)[0].sum())(q)
    assert np.isfinite(np.asarray(gradient)).all()


def rows(seed: int = 0) -> np.ndarray:
    """One pattern with the sink as its last key, rows that sum to 1."""
    seen = np.pad(np.tri(T), ((0, 0), (0, 1)), constant_values=1)
    drawn = np.random.default_rng(seed).exponential(size=(T, T + 1)) ** 2 * seen
    return (drawn / drawn.sum(axis=1, keepdims=True)).astype(np.float32)


def scored(metric: Metric, pattern: np.ndarray, *, sink: bool, keys: int = T) -> float:
    keyed = None if keys == T else jnp.ones(keys, bool)
    example = Example(jnp.arange(T), jnp.ones(T, bool), keyed, sink=jnp.asarray(True) if sink else None)
    return float(metric(jnp.asarray(pattern), example)[0])


def test_entropy_takes_the_sink_as_one_more_key():
    whole = rows()
    assert scored(METRICS["entropy"], whole[:, :-1], sink=True) == pytest.approx(
        scored(METRICS["entropy"], whole, sink=False, keys=T + 1), abs=1e-6
    )
    resting = np.zeros((T, T), np.float32)
    assert scored(METRICS["entropy"], resting, sink=True) == 0
    even = np.full((T, T), 1 / (T + 1), np.float32)
    assert scored(METRICS["entropy"], even, sink=True) == pytest.approx(np.log(T + 1), abs=1e-6)


def test_attention_to_the_sink_is_what_rows_lack():
    whole = rows()
    assert scored(VARIANTS["learnt_sink"], whole[:, :-1], sink=True) == pytest.approx(whole[:, -1].mean(), abs=1e-6)
    assert scored(VARIANTS["learnt_sink"], whole[:, :-1], sink=False) == 0


@pytest.mark.parametrize("name", ["distance", "positional_share", "pattern_class"])
def test_what_is_a_share_of_keys_does_not_see_an_equal_sink(name: str):
    """Half of every row goes to the sink."""
    metric = (METRICS | VARIANTS)[name]
    plain = rows()[:, :-1]
    plain = plain / plain.sum(axis=1, keepdims=True)

    def values(pattern: np.ndarray, *, sink: bool) -> np.ndarray:
        example = Example(jnp.arange(T), jnp.ones(T, bool), sink=jnp.asarray(True) if sink else None)
        return np.asarray(metric(jnp.asarray(pattern), example)[0])

    assert_close(values(plain / 2, sink=True), values(plain, sink=False))


@pytest.mark.parametrize("kind", ["js", "js_sum"])
def test_divergences_take_the_sink_as_one_more_key(kind: str):
    whole = jnp.asarray(np.stack([rows(seed) for seed in range(4)]).reshape(2, 2, T, T + 1))
    compare, real = COMPARISONS[kind].function, jnp.ones(T, bool)
    found = compare({"pattern": whole[..., :-1], "to_sink": whole[..., -1]}, real, real, 2)
    if kind == "js":
        assert_close(found, compare({"pattern": whole}, real, jnp.ones(T + 1, bool), 2), 1e-6)
    plain = compare({"pattern": whole[..., :-1]}, real, real, 2)
    assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 1e-3
    assert np.asarray(found).diagonal() == pytest.approx(0, abs=1e-6)


def test_norms_keep_the_sums_of_rows():
    pattern = jnp.asarray(rows()[None, None, :, :-1])
    norms = value_norms(jnp.ones((1, T, 1, H)), jnp.eye(H)[None])
    assert_close(pattern_read("norms", pattern, norms, sinks=True), pattern)
    assert_close(pattern_read("norms", pattern, norms).sum(axis=-1), np.ones((1, 1, T)))


def test_rollout_keeps_its_sum_and_what_rests_at_the_sink_stays():
    attention = jnp.asarray(np.stack([rows(0)[:, :-1], np.zeros((T, T), np.float32)]))
    assert_close(with_residual(attention)[1], np.eye(T))
    assert_close(rolled_out(attention, jnp.eye(T)[-1]).sum(), 1.0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_patterns_made_anew_for_one_key_know_the_sink(scale: float):
    rng = np.random.default_rng(0)
    slope, scores, patched = (scale * rng.normal(size=(1, 2, N, T, T)).astype(np.float32) for _ in range(3))
    sinks = np.asarray(SINKS)[None, None, :, None, None]

    def softmax(scores: np.ndarray) -> np.ndarray:
        powers = np.exp(scores.astype(np.float64))
        return powers / (powers.sum(axis=-1, keepdims=True) + np.exp(sinks))

    slow = np.zeros((1, 2, N, T))
    for key in range(T):
        one = np.where(np.arange(T) == key, patched, scores)
        slow[..., key] = ((softmax(one) - softmax(scores)) * slope).sum(axis=(-1, -2))
    assert_close(key_effects(*map(jnp.asarray, (slope, scores, patched)), SINKS[None]), slow)


def gpt_oss() -> tuple[jh.Model, jh.Batch]:
    both = small("gpt_oss")
    return both.ours, SPECS["gpt_oss"].batch(both.theirs, "left")


def test_measures_of_a_model_with_sinks():
    model, batch = gpt_oss()
    stack = model.stack()
    assert stack.sinks is not None
    sink = examples_of(stack, batch).sink
    assert sink is not None
    assert bool(sink.all())
    pattern = np.asarray(jh.run(model, batch, ["pattern"]).seen["pattern"], np.float64)
    names = ["entropy", "learnt_sink", "confidence"]
    table = jh.measure(model, batch, names)
    assert table.per_example is not None
    mask = np.asarray(batch.mask)
    rest = 1 - pattern.sum(axis=-1)
    entropy = -(pattern * np.log(np.maximum(pattern, 1e-300))).sum(axis=-1) - rest * np.log(rest)
    for number, values in enumerate((entropy, rest, pattern.max(axis=-1))):
        expected = [[values[:, e][:, :, mask[e]].mean(axis=-1)] for e in range(len(batch))]
        assert_close(table.per_example[number], np.concatenate(expected))
    assert float(np.ptp(table.per_example[1])) > 0.05
    assert jh.compare_heads(model, batch, by="js").values.shape == (8, 8)


def test_knocked_out_edges_go_to_the_sink_too():
    """The only key of the first position: without a sink there would be nothing left to look at."""
    model, batch = gpt_oss()
    first = np.asarray(batch.mask).argmax(axis=1)
    objective = jh.logit_difference(1, 2)
    table = jh.knock_out(model, batch, objective, queries=first, keys=first, by=("layer",))
    assert table.per_example is not None
    before = jh.run(model, batch).output
    edge = np.zeros((1, len(batch), 1, batch.tokens.shape[1], batch.tokens.shape[1]), np.float32)
    for example, column in enumerate(first):
        edge[0, example, 0, column, column] = 1
    lowest = jnp.full((1, 1, 1, 1, 1), jnp.finfo(jnp.float32).min)
    rows_B = model.network.readout_positions(batch)
    for layer in range(2):
        edit = jh.SiteEdit(jnp.array([layer]), jnp.asarray(edge), lowest, "scores", "decoder")
        after = jh.run(model, batch, edits=edit).output
        change = [out[jnp.arange(len(batch)), rows_B] for out in (after, before)]
        judged = [np.asarray(out[:, 1] - out[:, 2], np.float64) for out in change]
        assert_close(table.per_example[:, layer], judged[0] - judged[1])


def test_sweeps_and_relevance_of_a_model_with_sinks():
    model, batch = gpt_oss()
    question = logit_difference(np.ones(3, int), np.full(3, 2), np.asarray(model.network.readout_positions(batch)))
    table = jh.ablate(model, batch, question.objective, "zero")
    zeros = np.zeros((2, 1, 1, N, 8), np.float32)
    assert_close(table.per_example, naive_effects(model, batch, question.judge, [zeros]))
    for method in ("rollout", "flow", "chefer", "attnlrp"):
        tokens = jh.relevance(
            model, batch, None if method in ("rollout", "flow") else question.objective, method
        ).tokens
        assert np.isfinite(tokens[np.asarray(batch.mask)]).all()
        if method == "rollout":
            assert_close(np.nansum(tokens, axis=1), np.ones(len(batch)))


def test_heads_take_their_sinks_along():
    model, batch = gpt_oss()
    gates = np.ones((2, N))
    gates[0, :2] = gates[1, 2:] = 0
    smaller = remove_heads(model, gates)
    sinks = smaller.stack().sinks
    assert sinks is not None
    assert sinks.shape == (2, 2)
    assert_close(jh.run(smaller, batch).output, jh.run(model, batch, edits=jh.gate(model, gates)).output)
    merged = merge_kv_heads(model, [[0, 0], [0, 0]])
    assert_close(merged.stack().sinks, model.stack().sinks)
    marked = head_only(model.network, 1, 2)
    assert float(marked.decoder.blocks.attention.sinks[...].sum()) == 1
