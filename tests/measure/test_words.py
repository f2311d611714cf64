"""Patterns of pieces pooled to words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.patterns.row_scores import read_in_blocks
from jaxheads.measure.patterns.word_pooling import OverWords, Words
from tests import good_values, language

WORDS = np.array([[-1, 0, 0, 1, 2, 2, 2, -1], [-1, 0, 1, -1, -1, -1, -1, -1]])
"""[CLS], a word of two pieces, one of one, one of three, [SEP]; and a shorter one, padded."""
MASK = np.array([[True] * 8, [True] * 4 + [False] * 4])
BATCH = jh.Batch(np.zeros((2, 8), int), MASK, words=WORDS)


def patterns() -> np.ndarray:
    """Random rows `[L,B,N,T,S]` that sum to 1 over the real keys."""
    raw = np.random.default_rng(0).random((3, 2, 4, 8, 8)) * MASK[None, :, None, None, :]
    return raw / raw.sum(axis=-1, keepdims=True)


def test_to_a_word_the_sum_of_its_pieces_from_a_word_their_mean():
    given = patterns()
    first, second = jh.pool_words(given, BATCH)
    assert first.words.tolist() == [-1, 0, 1, 2, -1]
    assert second.words.tolist() == [-1, 0, 1, -1]
    assert first.pattern.shape == (3, 4, 5, 5)
    # from the word of two pieces (1, 2) to the word of three (4, 5, 6)
    expected = given[:, 0][:, :, 1:3][..., 4:7].sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(first.pattern[:, :, 1, 3], expected, rtol=1e-12)
    for pooled in (first, second):
        np.testing.assert_allclose(pooled.pattern.sum(axis=-1), 1, rtol=1e-12)


def slowly_pooled(pattern_NTT: np.ndarray, words_T: np.ndarray) -> np.ndarray:
    """Return `[N,W,W]`: each pair of words, summed over the keys' pieces and averaged over the queries'."""
    groups: list[list[int]] = []
    for position, word in enumerate(words_T):
        if word >= 0 and position and word == words_T[position - 1]:
            groups[-1].append(position)
        else:
            groups.append([position])
    rows = [[pattern_NTT[:, q][:, :, k].sum(axis=-1).mean(axis=-1) for k in groups] for q in groups]
    return np.moveaxis(np.array(rows), -1, 0)


def test_long_examples_are_pooled_exactly():
    rng, T = np.random.default_rng(0), 128
    words = np.cumsum(rng.random(T) < 0.6)
    words[[0, 50, 51, T - 1]] = -1
    raw = rng.random((4, 1, 12, T, T))
    pattern, batch = raw / raw.sum(axis=-1, keepdims=True), jh.Batch(np.zeros((1, T), int), words=words[None])
    [pooled] = jh.pool_words(pattern, batch)
    for layer in range(4):
        np.testing.assert_allclose(pooled.pattern[layer], slowly_pooled(pattern[layer, 0], words), rtol=0, atol=1e-12)


def test_words_of_one_piece_keep_their_patterns():
    batch = jh.Batch(np.zeros((2, 4), int), words=[[-1, 0, 1, -1]] * 2)
    given = patterns()[..., :4, :4]
    for example, pooled in enumerate(jh.pool_words(given, batch)):
        np.testing.assert_array_equal(pooled.pattern, given[:, example])


def test_special_tokens_side_by_side_stay_apart():
    [pooled] = jh.pool_words(np.full((1, 1, 1, 4, 4), 0.25), jh.Batch(np.zeros((1, 4), int), words=[[-1, -1, 0, 0]]))
    assert pooled.words.tolist() == [-1, -1, 0]
    np.testing.assert_allclose(pooled.pattern[0, 0], [[0.25, 0.25, 0.5]] * 3)


def test_what_can_not_be_pooled_is_refused():
    with pytest.raises(ValueError, match="does not say which word each token belongs to: encode lists of words"):
        jh.pool_words(patterns(), jh.Batch(np.zeros((2, 8), int)))
    with pytest.raises(ValueError, match=r"patterns must be \[layers, 2, heads, 8, 8\], got \(3, 2, 4, 8, 7\)"):
        jh.pool_words(patterns()[..., :7], BATCH)
    with pytest.raises(ValueError, match="words must have the shape of tokens"):
        jh.Batch(np.zeros((2, 8), int), words=WORDS[:, :7])


NAMES = tuple(jh.METRICS)


@pytest.mark.parametrize("kind", language.KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_every_metric_over_words_is_that_of_the_pooled_patterns(kind: str, side: str):
    model = language.model(kind)
    batch = model.encode(language.drawn(), side=side)
    table = jh.measure(model, batch, NAMES, over="words")
    pooled = jh.pool_words(jh.run(model, batch, capture="pattern").seen["pattern"], batch)
    words = Words.of(batch).batch(batch)
    (B, W), (L, N) = words.tokens.shape, pooled[0].pattern.shape[:2]
    whole = np.zeros((L, B, N, W, W))
    for example, own in enumerate(pooled):
        size = own.pattern.shape[-1]
        whole[:, example, :, :size, :size] = own.pattern
    slow = jh.measure_patterns(whole, np.asarray(words.mask), metrics=NAMES, tokens=np.asarray(words.tokens))
    np.testing.assert_allclose(table.values, slow.values, atol=2e-6)
    assert table.per_example is not None
    assert slow.per_example is not None
    np.testing.assert_allclose(table.per_example, slow.per_example, atol=2e-6)
    assert table.provenance["over"] == "words"


def test_blocks_of_rows_pool_as_the_whole_pattern():
    pattern = patterns()[0]
    words = Words.of(BATCH)

    class Pattern:
        """Return the rows, one after the other."""

        def start(self):
            return jnp.zeros((2, 4, *[words.numbers.shape[1]] * 2))

        def add(self, sums, sites, first):
            rows = sites["pattern"]
            return jax.lax.dynamic_update_slice(sums, rows, (0, 0, first, 0))

        def finish(self, sums):
            return sums

    reader = OverWords(Pattern(), jnp.asarray(words.of_tokens), (2, 4, words.numbers.shape[1]))
    whole, blocks = (read_in_blocks(reader, {"pattern": jnp.asarray(pattern, jnp.float32)}, size) for size in (8, 3))
    np.testing.assert_allclose(whole, blocks, atol=1e-6)
    slow = jh.pool_words(patterns(), BATCH)[0].pattern[0]
    np.testing.assert_allclose(whole[0, :, : slow.shape[1], : slow.shape[1]], slow, atol=1e-6)


def test_a_mark_of_a_word_is_one_that_any_of_its_pieces_has():
    mark = np.zeros((2, 8), bool)
    mark[0, 2] = True  # the second piece of the first word
    pair = np.zeros((2, 8, 8))
    pair[0, 2, 5] = 1
    words = Words.of(BATCH)
    marks = words.batch(BATCH.marked({"noun": mark, "head": pair})).marks
    assert marks is not None
    assert np.flatnonzero(np.asarray(marks["noun"])[0]).tolist() == [1]
    assert np.argwhere(np.asarray(marks["head"])[0]).tolist() == [[1, 3]]


def test_words_are_refused_where_positions_are_none():
    model = language.model("bert")
    with pytest.raises(ValueError, match="encode lists of words, or"):
        jh.measure(model, model.encode("the dog"), over="words")
    with pytest.raises(ValueError, match="over"):
        jh.measure(model, model.encode("the dog"), over="pieces")  # pyright: ignore[reportArgumentType]
    vision = good_values.clip()
    with pytest.raises(ValueError, match="words are of tokens that look at each other"):
        jh.measure(vision, good_values.batch(), stack="vision", over="words")
