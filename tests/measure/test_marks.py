"""Metrics of what is known of tokens, the detector of TransformerLens, the kinds of maps: known answers."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.patterns import CLASSES, VARIANTS, Example, Metric, resolve

from ..models.huggingface import assert_close
from .test_patterns import random_pattern, repeats, shifted, uniform


def score(metric: Metric | str, pattern: np.ndarray, tokens=None, mask=None, **marks) -> float:
    n = len(pattern)
    example = Example(
        jnp.asarray(np.arange(n) if tokens is None else tokens, jnp.int32),
        jnp.asarray(np.ones(n, bool) if mask is None else mask),
        marks={name: jnp.asarray(mark) for name, mark in marks.items()},
    )
    [known] = resolve(metric)
    value, counts = known(jnp.asarray(pattern, jnp.float32), example)
    return float(value) if counts else np.nan


FIRST_TWO = np.arange(8) < 2


def test_attention_to_a_class_of_tokens():
    assert score(jh.token_class("sep"), uniform(8), sep=FIRST_TWO) == pytest.approx(2 / 8)
    assert score(jh.token_class("sep"), shifted(8, -1), sep=FIRST_TWO) == pytest.approx(3 / 8)  # 0, 1 and 2 look there
    within = jh.token_class("sep", queries="sep")
    assert score(within, shifted(8, -1), sep=FIRST_TWO) == pytest.approx(1)  # Clark's own denominator: 2
    assert within.name == "token_class_sep_to_sep"
    mask = np.arange(8) < 6
    assert score(jh.token_class("sep"), uniform(8), mask=mask, sep=~FIRST_TWO) == pytest.approx(4 / 8)


def test_shares_leave_the_first_token_out():
    share, whole = jh.marked_share("noun"), jh.marked_share("noun", with_first=True)
    noun = np.isin(np.arange(8), [2, 5])
    causal = uniform(8, causal=True)
    assert score(share, causal, noun=noun) == pytest.approx(causal[:, noun].sum() / causal[:, 1:].sum(), rel=1e-5)
    assert score(whole, causal, noun=noun) == pytest.approx(causal[:, noun].sum() / 8, rel=1e-5)
    assert score(share, uniform(8), noun=noun) == pytest.approx(2 / 7)
    assert np.isnan(score(share, np.eye(8)[np.zeros(8, int)], noun=noun))  # all rest on the first


def test_alignment_with_dependencies():
    heads = np.array([1, 1, 1, 2, 3])  # of token 1 itself
    relation = np.eye(5)[heads]
    assert score(jh.marked_share("head"), relation, head=relation) == pytest.approx(1)
    assert score(jh.marked_share("head"), uniform(5), head=relation) == pytest.approx(5 / 20)


def test_retrieval_counts_tokens_of_the_needle_once_and_its_code_every_step():
    #         0  1  2  3  4  5  6  7  8 : 5 6 is the needle; the answer says 5 6 5
    tokens = [1, 5, 6, 2, 3, 9, 5, 6, 5]
    needle, answer = np.isin(np.arange(9), [1, 2]), np.isin(np.arange(9), [5, 6, 7])
    copies = np.eye(9)[[0, 0, 0, 0, 0, 1, 2, 1, 0]]
    assert score(jh.retrieval("k", "a"), copies, tokens, k=needle, a=answer) == pytest.approx(1)
    assert score(jh.retrieval("k", "a", repeats=True), copies, tokens, k=needle, a=answer) == pytest.approx(3 / 2)
    wrong = np.eye(9)[[0, 0, 0, 0, 0, 2, 1, 1, 0]]  # at 5 and 6 it looks at the other token
    assert score(jh.retrieval("k", "a"), wrong, tokens, k=needle, a=answer) == pytest.approx(1 / 2)
    elsewhere = np.eye(9)[[0] * 9]
    assert score(jh.retrieval("k", "a"), elsewhere, tokens, k=needle, a=answer) == 0
    twice = [1, 5, 5, 2, 3, 9, 5, 9, 9]  # the needle is one token, twice
    assert score(jh.retrieval("k", "a"), copies, twice, k=needle, a=answer) == pytest.approx(1)
    assert np.isnan(score(jh.retrieval("k", "a"), copies, tokens, k=np.zeros(9, bool), a=answer))


def detected(role: str, pattern: np.ndarray, tokens=None, **options) -> float:
    return score(jh.head_detector(role, **options), pattern, tokens)


def test_transformer_lens_s_detector_has_its_own_scale():
    """Literature 12.1 and trap 4."""
    n, T = 9, 25
    back = shifted(n, -1)
    assert detected("previous_token_head", back) == pytest.approx((n - 1) / n)
    assert detected("previous_token_head", back, measure="abs") == pytest.approx((n - 1) / n)
    assert detected("previous_token_head", back, exclude_current_token=True) == pytest.approx(1)
    for exclude in ({"exclude_bos": True}, {"exclude_current_token": True}):
        looks_at_itself_first = back if "exclude_bos" in exclude else np.eye(n)[[0, *range(n - 1)]]
        assert detected("previous_token_head", looks_at_itself_first, measure="abs", **exclude) == pytest.approx(1)
    tokens = repeats(T, 2)
    induction = np.eye(2 * T + 1)[[*[0] * (T + 1), *range(2, T + 2)]]  # looks at BOS where there is nothing to copy
    assert detected("induction_head", induction, tokens) == pytest.approx(T / (2 * T + 1))
    assert detected("induction_head", induction, tokens, measure="abs") == pytest.approx(T / (2 * T + 1))
    assert detected("induction_head", induction, tokens, exclude_bos=True) == pytest.approx(1)
    assert detected("induction_head", induction, tokens, measure="abs", exclude_bos=True) == pytest.approx(1)
    duplicate = np.eye(2 * T + 1)[[*[0] * (T + 1), *range(1, T + 1)]]
    assert detected("duplicate_token_head", duplicate, tokens, exclude_bos=True) == pytest.approx(1)
    assert detected("duplicate_token_head", induction, tokens, exclude_bos=True) == 0
    with pytest.raises(ValueError, match=r"has the roles previous_token_head, .* got 'sink'"):
        jh.head_detector("sink")


def test_the_detector_is_transformer_lens_s_formula_on_any_pattern():
    """Its detection patterns, written as its own code has them: rolled, and cut to below the diagonal."""
    tokens, A = np.array([0, 1, 2, 1, 2, 2, 3, 1]), random_pattern(8, 0) * np.tril(np.ones((8, 8)))
    A /= A.sum(axis=1, keepdims=True)
    same = np.tril(tokens[:, None] == tokens[None, :], -1).astype(float)
    rolled = np.roll(same, 1, axis=1)
    rolled[:, 0] = 0
    previous = np.eye(8, k=-1)
    roles = {"previous_token_head": previous, "duplicate_token_head": same, "induction_head": np.tril(rolled)}
    for role, wanted in roles.items():
        for bos, current in product((False, True), repeat=2):
            weights, difference = A.copy(), np.abs(A - wanted)
            for matrix in (weights, difference):  # "mul" leaves attention out, "abs" leaves differences out
                if bos:
                    matrix[:, 0] = 0
                if current:
                    np.fill_diagonal(matrix, 0)
            mul, absolute = (weights * wanted).sum() / weights.sum(), 1 - difference.mean() * len(difference)
            options = {"exclude_bos": bos, "exclude_current_token": current}
            assert detected(role, A, tokens, **options) == pytest.approx(mul, rel=1e-5)
            assert detected(role, A, tokens, measure="abs", **options) == pytest.approx(absolute, abs=1e-5)


def a_map(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A map of one of the five kinds, with noise."""
    n = int(rng.choice([16, 29, 47]))
    noise = rng.dirichlet(np.full(n, 0.3), size=n)
    vertical = np.zeros((n, n))
    vertical[:, rng.choice(n, rng.integers(1, 4), replace=False)] = 1
    diagonal = np.eye(n, k=int(rng.integers(-1, 2))) + 1e-9
    half = np.arange(n) < rng.integers(n // 3, 2 * n // 3 + 1)
    made = {
        "vertical": vertical,
        "diagonal": diagonal,
        "vertical+diagonal": vertical / vertical.sum(axis=1, keepdims=True) + diagonal,
        "block": (half[:, None] == half[None, :]) * rng.uniform(0.5, 1.5, (n, n)),
        "heterogeneous": noise,
    }[kind]
    share = rng.uniform(0, 0.1 if kind == "block" else 0.3)
    return ((1 - share) * made / made.sum(axis=1, keepdims=True) + share * noise).astype(np.float32)


def test_rules_tell_the_five_kinds_of_maps_apart():
    rng, right = np.random.default_rng(0), []
    for index, kind in enumerate(CLASSES):
        for _ in range(60):
            made = a_map(kind, rng)
            example = Example(jnp.zeros(len(made), jnp.int32), jnp.ones(len(made), bool))
            value, _ = VARIANTS["pattern_class"](jnp.asarray(made), example)
            right.append(int(np.argmax(value)) == index)
    assert np.mean(right) >= 0.98, [np.mean(right[60 * k : 60 * k + 60]) for k in range(5)]


def test_the_sink_rate_is_a_share_of_examples():
    assert score("sink", uniform(64, causal=True)) == 0  # its first token has .0741
    assert score("sink", np.eye(8)[np.zeros(8, int)]) == 1


def test_metrics_are_registered_in_one_line(decoder: jh.Model):
    jh.register(jh.Metric("second", lambda A, example: (A[:, 1].mean(), True), needs="order"))
    try:
        batch = jh.Batch(np.arange(12).reshape(2, 6) % 7)
        table = jh.measure(decoder, batch, ("second", "entropy"))
        expected = np.asarray(jh.run(decoder, batch, "pattern").seen["pattern"])[..., 1].mean(axis=(1, 3))
        np.testing.assert_allclose(table.grid("second"), expected, rtol=1e-5)
        with pytest.raises(ValueError, match="'entropy' is there already"):
            jh.register(jh.Metric("entropy", lambda A, example: (A.mean(), True)))
    finally:
        del VARIANTS["second"]


def test_marks_are_checked_before_anything_runs(decoder: jh.Model):
    tokens, metric = np.arange(12).reshape(2, 6) % 7, jh.token_class("noun")
    with pytest.raises(ValueError, match=r"no mark 'noun'; it has none: Batch\(…, marks"):
        jh.measure(decoder, jh.Batch(tokens), metric)
    with pytest.raises(ValueError, match=r"'noun' must be \[2, 6\] or \[2, 6, 6\] for the decoder, got \(2, 5\)"):
        jh.measure(decoder, jh.Batch(tokens, marks={"noun": np.ones((2, 5))}), metric)
    with pytest.raises(ValueError, match=r"'noun' must be numbers .* for 2 examples; got int64 of shape"):
        jh.Batch(tokens, marks={"noun": np.ones((3, 6), int)})
    with pytest.raises(ValueError, match="'noun' must be finite"):
        jh.Batch(tokens, marks={"noun": np.full((2, 6), np.nan)})


def test_marks_go_with_their_examples(decoder: jh.Model):
    rng = np.random.default_rng(0)
    batch = jh.Batch(
        rng.integers(0, 13, (5, 6)), marks={"noun": rng.random((5, 6)) < 0.5, "head": rng.random((5, 6, 6))}
    )
    metrics = (jh.token_class("noun"), jh.marked_share("head"))
    whole = jh.measure(decoder, batch, metrics)
    parts = jh.measure(decoder, [batch.take([0, 1]), batch.take([2, 3]), batch.take([4])], metrics)
    assert_close(parts.per_example, whole.per_example)
    A = np.asarray(jh.run(decoder, batch, "pattern").seen["pattern"])
    assert batch.marks is not None
    by_hand = (A * np.asarray(batch.marks["noun"])[None, :, None, None]).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(np.asarray(whole.per_example)[0], by_hand.swapaxes(0, 1), rtol=1e-5)
