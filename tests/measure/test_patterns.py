"""Every metric against its closed form (literature 12.1), and the laws that all of them keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxheads.measure.patterns import METRICS, OFFSETS, VARIANTS, Example, Metric, evaluate, resolve

ALL = METRICS | VARIANTS


def uniform(n: int, *, causal: bool = False) -> np.ndarray:
    seen = np.tril(np.ones((n, n))) if causal else np.ones((n, n))
    return (seen / seen.sum(axis=1, keepdims=True)).astype(np.float32)


def shifted(n: int, offset: int) -> np.ndarray:
    """All attention at one offset; where there is no such key, at itself."""
    keys = np.arange(n) + offset
    keys = np.where((keys >= 0) & (keys < n), keys, np.arange(n))
    return np.eye(n, dtype=np.float32)[keys]


def score(name: str, pattern: np.ndarray, tokens=None, mask=None) -> float:
    n = len(pattern)
    example = Example(
        jnp.asarray(np.arange(n) if tokens is None else tokens, jnp.int32),
        jnp.asarray(np.ones(n, bool) if mask is None else mask),
    )
    value, counts = (np.asarray(part) for part in ALL[name](jnp.asarray(pattern), example))
    assert np.isfinite(value).all()
    if ALL[name].best_of:
        best = int(np.where(counts, value, -1).argmax())
        return float(best if name == "pattern_class" else value[best])
    assert counts or value == 0
    return float(value) if counts else np.nan


def repeats(period: int, times: int) -> np.ndarray:
    return np.concatenate([[99], np.tile(np.arange(period), times)])


KNOWN = {
    "uniform": ("entropy", uniform(8), None, np.log(8)),
    "causal uniform": ("entropy", uniform(8, causal=True), None, 1.3256),
    "one-hot": ("entropy", shifted(8, -1), None, 0.0),
    "one-hot smoothed": ("entropy_smoothed", shifted(128, 0), None, 0.001494),
    "confidence uniform": ("confidence", uniform(8), None, 1 / 8),
    "confidence one-hot": ("confidence", shifted(8, -1), None, 1.0),
    "confidence, the last token out": ("confidence_without_last", shifted(8, 7), None, 6 / 7),
    "distance causal uniform": ("distance", uniform(9, causal=True), None, 2.0),
    "distance shift": ("distance", shifted(8, -2), None, 2 * 6 / 8),
    "distance uniform, no first": ("distance_without_first", uniform(3), None, (1 + 2 + 0 + 1 + 1 + 0) / 6),
    "previous shift": ("previous_token", shifted(8, -1), None, 1.0),
    "previous causal uniform": ("previous_token", uniform(8, causal=True), None, 0.2454),
    "previous is not next": ("previous_token", shifted(8, 1), None, 0.0),
    "next shift": ("next_token", shifted(8, 1), None, 1.0),
    "next causal uniform": ("next_token", uniform(8, causal=True), None, 0.0),
    "self": ("self_token", shifted(8, 0), None, 1.0),
    "self uniform": ("self_token", uniform(8), None, 1 / 8),
    "sink causal uniform": ("first_token", uniform(64, causal=True), None, 0.0741),
    "sink": ("first_token", np.eye(8, dtype=np.float32)[np.zeros(8, int)], None, 1.0),
    "duplicate and self": (
        "duplicate_token",
        (0.5 * shifted(8, 0) + 0.5 * shifted(8, -4)).astype(np.float32),
        np.tile(np.arange(4), 2),
        0.5,
    ),
    "all earlier duplicates": ("duplicate_token", uniform(3), [5, 5, 5], (1 / 3 + 2 / 3) / 2),
    "induction uniform": ("induction", uniform(51, causal=True), repeats(25, 2), 0.0266),
    "induction perfect": ("induction", shifted(51, -24), repeats(25, 2), 1.0),
    "induction literal": ("induction_literal", shifted(51, -26), repeats(25, 2), 1.0),
    "induction is not literal": ("induction", shifted(51, -26), repeats(25, 2), 0.0),
    "successor is not the query": ("induction", uniform(3, causal=True), [5, 5, 5], 1 / 3),
    "positional shift": ("positional_share", shifted(9, -3), None, 1.0),
    "positional forward": ("positional_share", shifted(9, 2), None, 1.0),
}


@pytest.mark.parametrize("case", KNOWN)
def test_closed_forms(case: str):
    name, pattern, tokens, expected = KNOWN[case]
    assert score(name, pattern, tokens) == pytest.approx(expected, abs=6e-5 if expected else 1e-6)


def test_positional_share_tells_its_offset():
    for offset in (-3, 1):
        value, counts = METRICS["positional_share"](
            jnp.asarray(shifted(9, offset)), Example(jnp.arange(9), jnp.ones(9, bool))
        )
        assert OFFSETS[int(np.argmax(value))] == offset
        assert counts.all()


def test_offsets_beyond_a_short_example_do_not_count():
    _, counts = METRICS["positional_share"](jnp.eye(3), Example(jnp.arange(3), jnp.ones(3, bool)))
    assert [d for d, counted in zip(OFFSETS, counts, strict=True) if counted] == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("previous_token", 1),
        ("next_token", 1),
        ("duplicate_token", 5),
        ("induction", 5),
        ("induction_literal", 5),
        ("confidence_without_last", 1),
        ("distance_without_first", 1),
    ],
)
def test_where_no_query_counts_the_value_is_zero_and_says_so(name: str, length: int):
    assert np.isnan(score(name, uniform(length)))


def random_pattern(n: int, seed: int) -> np.ndarray:
    pattern = np.random.default_rng(seed).dirichlet(np.ones(n), size=n)
    return pattern.astype(np.float32)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("where", ["left", "right", "between"])
def test_padding_changes_nothing(name: str, where: str):
    """Whatever stands in padded rows, columns and tokens."""
    n, padded = 7, 11
    pattern, tokens = random_pattern(n, 0), np.array([3, 1, 3, 1, 2, 3, 1])
    places = {"left": np.arange(4, 11), "right": np.arange(7), "between": np.array([0, 2, 3, 6, 7, 9, 10])}[where]
    wide = np.full((padded, padded), 0.7, np.float32)
    wide[np.ix_(places, places)] = pattern
    more_tokens, mask = np.full(padded, 3), np.zeros(padded, bool)
    more_tokens[places], mask[places] = tokens, True
    assert score(name, wide, more_tokens, mask) == pytest.approx(score(name, pattern, tokens), rel=1e-5)


def test_permuting_heads_permutes_every_metric():
    pattern_BNTS = jnp.stack([jnp.stack([random_pattern(6, 3 * b + n) for n in range(3)]) for b in range(2)])
    tokens, mask = jnp.asarray([[1, 2, 1, 2, 1, 2]] * 2), jnp.ones((2, 6), bool)
    metrics, order = tuple(ALL.values()), np.array([2, 0, 1])
    plain = evaluate(metrics, pattern_BNTS, Example(tokens, mask))
    permuted = evaluate(metrics, pattern_BNTS[:, order], Example(tokens, mask))
    for name in ALL:
        np.testing.assert_array_equal(permuted[name][0], plain[name][0][:, order])
        assert plain[name][1].shape == plain[name][0].shape


@pytest.mark.parametrize("name", [name for name in ALL if not ALL[name].best_of])
def test_gradients_are_finite_also_at_zero_weights(name: str):
    example = Example(jnp.asarray([1, 2, 1, 2]), jnp.asarray([True, True, True, False]))
    gradient = jax.grad(lambda pattern: ALL[name](pattern, example)[0])(jnp.eye(4))
    assert np.isfinite(gradient).all()


def test_half_precision_is_measured_in_single():
    value, _ = METRICS["entropy"](jnp.full((8, 8), 1 / 8, jnp.bfloat16), Example(jnp.arange(8), jnp.ones(8, bool)))
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(np.log(8), rel=1e-6)


def test_equal_metrics_are_one():
    again = METRICS["entropy"].variant("entropy_smoothed", smoothing=1e-4)
    assert again == VARIANTS["entropy_smoothed"]
    assert hash(again) == hash(VARIANTS["entropy_smoothed"])


def test_metrics_by_name_and_by_value():
    own = Metric("mine", METRICS["entropy"].function)
    assert resolve(["induction", own]) == (METRICS["induction"], own)
    assert resolve("entropy_smoothed") == (VARIANTS["entropy_smoothed"],)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["previous"], "did you mean 'previous_token'"),
        (["entropy", "nonsense"], "known are entropy, confidence, distance"),
        ([], "at least one"),
        (["entropy", "induction", "entropy"], "entropy twice"),
    ],
)
def test_what_is_not_understood_is_refused(metrics, message: str):
    with pytest.raises(ValueError, match=message):
        resolve(metrics)
