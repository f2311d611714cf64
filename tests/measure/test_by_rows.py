"""Metrics by rows: blocks of query rows of any size give what the whole pattern gives."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxheads as jh
from jaxheads.measure.patterns import METRICS, VARIANTS, ByRows, Example, Metric, mean_sums
from jaxheads.measure.patterns.alignment import POSSIBLE, SKIPPED, SURE, _hits, _links, _total
from jaxheads.measure.patterns.metric import check_functions
from jaxheads.measure.patterns.row_scores import RowScores, read_in_blocks
from jaxheads.measure.patterns.texts import NONE, TextScores
from jaxheads.measure.patterns.value_norms import OfNorms

B, T, N, H = 2, 9, 2, 3
SIZES = (1, 2, 4, 5)


def corner(A_TS: jax.Array, example: Example) -> tuple[jax.Array, jax.Array]:
    """A user's metric of whole patterns."""
    return A_TS[-1, 0] + A_TS[2, 1], example.mask.any()


OWN = (
    jh.token_class("noun"),
    jh.token_class("noun", queries="verb"),
    jh.marked_share("noun"),
    jh.marked_share("pair", with_first=True),
    jh.retrieval("noun", "verb"),
    jh.retrieval("noun", "verb", repeats=True),
    Metric("links", ByRows(_links, _total)),
    Metric("hits", ByRows(_hits, _total), (("of", SURE),)),
    Metric("second", ByRows(lambda A, example: mean_sums(A[:, 1], example.mask))),
)
ALL = (*METRICS.values(), *VARIANTS.values(), *OWN)


def drawn(seed: int) -> tuple[np.ndarray, Example]:
    """Patterns, one-hot ones among them, and examples with padding at either end, and repeated tokens."""
    rng = np.random.default_rng(seed)
    pattern = rng.dirichlet(np.full(T, 0.3), (B, N, T)).astype(np.float32)
    pattern[0, 0] = np.eye(T)[rng.integers(0, T, T)]
    mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    mask[0] = mask[0, ::-1]
    marks = {"noun": rng.random((B, T)) < 0.5, "verb": rng.random((B, T)) < 0.5, "pair": rng.random((B, T, T))}
    marks |= {name: rng.random((B, T, T)) < 0.3 for name in (SURE, POSSIBLE)} | {SKIPPED: rng.random((B, T)) < 0.2}
    return pattern, Example(rng.integers(0, 4, (B, T)), mask, marks=marks)  # type: ignore


@partial(jax.jit, static_argnums=(0, 3))
def scores(metrics: tuple[Metric, ...], pattern: Any, example: Example, size: int) -> jax.Array:
    return read_in_blocks(RowScores(metrics, example, N), {"pattern": pattern}, size)


@pytest.mark.parametrize("size", SIZES)
@given(seed=st.integers(0, 2**32 - 1), sink=st.booleans())
@settings(max_examples=25, deadline=None)
def test_blocks_of_rows_give_what_the_whole_pattern_gives(size: int, seed: int, sink: bool):
    pattern, example = drawn(seed)
    if sink:
        pattern, example = pattern / 2, example._replace(sink=jnp.ones(B, bool))
    whole = np.asarray(scores(ALL, pattern, example, T))
    np.testing.assert_allclose(scores(ALL, pattern, example, size), whole, rtol=1e-6, atol=1e-6)


def test_every_metric_of_the_package_is_by_rows():
    assert [metric.name for metric in ALL if not metric.by_rows] == []


@pytest.mark.parametrize("size", [1, 4])
def test_a_function_of_the_whole_pattern_gets_all_rows(size: int):
    pattern, example = drawn(3)
    own = (Metric("corner", corner), METRICS["entropy"])
    found = np.asarray(scores(own, pattern, example, size))
    np.testing.assert_array_equal(found[..., 0], pattern[:, :, -1, 0] + pattern[:, :, 2, 1])
    np.testing.assert_allclose(found, scores(own, pattern, example, T), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_distances_in_an_image_and_cross_attention(size: int):
    pattern, example = drawn(4)
    pixels = np.random.default_rng(0).integers(0, 9, (B, T, 2)).astype(np.float32)
    patch = np.broadcast_to(np.arange(T) > 0, (B, T))
    image = Example(None, jnp.ones((B, T), bool), None, jnp.asarray(pixels), jnp.asarray(patch))
    np.testing.assert_allclose(
        scores((METRICS["distance"],), pattern, image, size),
        scores((METRICS["distance"],), pattern, image, T),
        rtol=1e-6,
    )
    fewer = example._replace(key_mask=jnp.ones((B, T - 2), bool), marks=None)
    metrics = tuple(metric for metric in (METRICS | VARIANTS).values() if metric.needs == "any" and not metric.best_of)
    narrow = pattern[..., : T - 2]
    np.testing.assert_allclose(
        scores(metrics, narrow, fewer, size), scores(metrics, narrow, fewer, T), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("size", [2, T])
def test_texts_that_share_an_example_are_scored_as_examples_of_their_own(size: int):
    pattern, example = drawn(5)
    example = example._replace(mask=jnp.ones((B, T), bool), marks=None)
    segments = jnp.asarray([[7] * 4 + [2] * 5, [1] * 2 + [0] * 3 + [5] * 4])
    texts = jnp.asarray([[7, 2, NONE, NONE], [1, 0, 5, NONE]])
    metrics = tuple((METRICS | VARIANTS).values())
    found = jax.jit(
        lambda pattern: read_in_blocks(TextScores(metrics, example, N, segments, texts), {"pattern": pattern}, size)
    )(pattern)
    for b, k in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        own = example._replace(mask=example.mask & (segments == texts[b, k]))
        alone = scores(metrics, pattern, own, T)[b]
        np.testing.assert_allclose(found[b, k], alone, rtol=1e-6, atol=1e-6)
    assert np.isnan(np.asarray(found)[0, 2:]).all()


@pytest.mark.parametrize("of", ["norms", "raw_norms"])
@pytest.mark.parametrize("sinks", [False, True])
def test_norms_by_rows(of: Any, sinks: bool):
    pattern, example = drawn(6)
    rng = np.random.default_rng(0)
    v, gram = jnp.asarray(rng.standard_normal((B, T, 1, H)), jnp.float32), np.eye(H) * rng.random((2, N, 1, 1)) + 0.1
    metrics = METRICS["entropy"], METRICS["first_token"]
    reader = OfNorms(RowScores(metrics, example, N), of, (B, N, T), jnp.asarray(gram, jnp.float32), sinks)
    sites = {"pattern": jnp.asarray(pattern), "v": v, "layer": jnp.asarray(1)}
    whole, blocks = (jax.jit(partial(read_in_blocks, reader, size=size))(sites) for size in (T, 2))
    np.testing.assert_allclose(blocks, whole, rtol=2e-6)
    assert not np.allclose(whole, scores(metrics, pattern, example, T), equal_nan=True)


def refusal(function: Any) -> str:
    example = jax.eval_shape(lambda: Example(jnp.zeros(5, jnp.int32), jnp.ones(5, bool)))
    with pytest.raises(ValueError, match="metric 'own': its function must return a number") as error:
        check_functions((Metric("own", function),), (5, 5), example)
    return str(error.value)


def test_what_is_not_by_rows_is_refused_before_anything_runs():
    # Queries' tokens in the place of the keys': of the whole pattern they are the same.
    both = ByRows(lambda A, example: mean_sums((A * (example.tokens[None] == 1)).sum(axis=1), example.mask))
    assert "with 2 rows of 5" in refusal(both)
    assert "one shape for any number of rows" in refusal(ByRows(lambda A, example: (A[:, 0], example.mask)))
    assert "it returned" in refusal(ByRows(lambda A, example: A.sum(axis=0), lambda sums, example: (sums, True)))
