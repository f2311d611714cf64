"""The alignment error rate: closed forms, and a count by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data.tasks import Translation
from jaxheads.measure.patterns.alignment import POSSIBLE, SKIPPED, SURE, _head_links, _hits, _links
from jaxheads.measure.patterns.example import Example

from ..models.huggingface import assert_close


def counts(pattern: np.ndarray, sure: np.ndarray, possible: np.ndarray, skip: np.ndarray) -> tuple[float, ...]:
    T, S = pattern.shape
    marks = {SURE: jnp.asarray(sure), POSSIBLE: jnp.asarray(possible), SKIPPED: jnp.asarray(skip)}
    example = Example(None, jnp.ones(T, bool), jnp.ones(S, bool), marks=marks)
    given = jnp.asarray(pattern, jnp.float32), example
    return tuple(float(part) for part in (_links(*given), _hits(*given, of=POSSIBLE), _hits(*given, of=SURE)))


def aer(pattern: np.ndarray, sure: np.ndarray, possible: np.ndarray | None = None, skip: Any = None) -> float:
    possible = sure if possible is None else possible
    links, p, s = counts(pattern, sure, possible, np.zeros(pattern.shape[1], bool) if skip is None else skip)
    return 1 - (p + s) / (links + sure.sum())


def test_closed_forms():
    gold = np.eye(4, dtype=bool)
    assert aer(np.eye(4), gold) == 0
    assert aer(np.roll(np.eye(4), 1, axis=1), gold) == 1
    half = np.eye(4)
    half[[0, 1]] = half[[1, 0]]
    assert aer(half, gold) == 0.5


@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_a_diagonal_reading_of_a_reversed_sentence(n: int):
    """Only the middle word of an odd number is in its place: 1 − (n odd) / n."""
    assert aer(np.eye(n), np.eye(n, dtype=bool)[::-1]) == pytest.approx(1 - (n % 2) / n)


def test_possible_links_and_skipped_sources():
    """Three words; the first is sure, the second only possible, the third looks at the end and makes no link."""
    pattern = np.eye(3)
    sure, possible = np.diag([True, False, False]), np.diag([True, True, True])
    assert counts(pattern, sure, possible, np.array([False, False, True])) == (2, 2, 1)
    assert aer(pattern, sure, possible, np.array([False, False, True])) == pytest.approx(0)


def test_no_link_goes_to_padding():
    gold = jnp.eye(2, dtype=bool)
    marks = {SURE: gold, POSSIBLE: gold, SKIPPED: jnp.zeros(2, bool)}
    made_T, to_T = _head_links(jnp.eye(2), Example(None, jnp.ones(2, bool), jnp.array([True, False]), marks=marks))
    assert to_T.tolist() == [0, 0]
    assert made_T.tolist() == [True, False]  # the second row's only gold link is to padding: it is no word


@pytest.fixture(scope="module")
def given() -> tuple[jh.Model, jh.Batch]:
    task = Translation("swap", shortest=3, longest=6)
    sample = task.sample(jax.random.key(1), 7)
    model = jh.init(task.model_config(encoder_layers=1, decoder_layers=2), seed=0)
    return model, sample.batch


@pytest.mark.parametrize("mark", ["alignment", "alignment_input"])
def test_the_table_is_the_count_by_hand(given: tuple[jh.Model, jh.Batch], mark: str):
    model, batch = given
    assert batch.marks is not None
    sure, end = np.asarray(batch.marks[mark]), np.asarray(batch.tokens) == 2
    table = jh.alignment_error_rate(model, batch, sure, skip=end)
    assert table.metrics == ("aer", "precision", "recall")
    pattern = np.array(jh.run(model, batch, ["cross.pattern"]).seen["cross.pattern"])
    for layer, head in np.ndindex(2, 4):
        links = hits = 0
        for e, row in zip(*np.nonzero(sure.any(axis=2)), strict=True):
            at = np.where(np.asarray(batch.mask)[e], pattern[layer, e, head, row], -1).argmax()
            links += not end[e, at]
            hits += sure[e, row, at]
        found = table.frame.loc[("cross", layer, head)]
        assert_close(
            found[["aer", "precision", "recall"]].to_numpy(float),
            [1 - 2 * hits / (links + sure.sum()), hits / links if links else np.nan, hits / sure.sum()],
        )
        assert found["aer_low"] <= found["aer"] <= found["aer_high"]
    again = jh.alignment_error_rate(model, batch.take(np.arange(7)[::-1]), sure[::-1], skip=end[::-1])
    assert_close(again.values, table.values)


def test_wrong_links_are_refused(given: tuple[jh.Model, jh.Batch]):
    model, batch = given
    assert batch.marks is not None
    sure = np.asarray(batch.marks["alignment"])
    wrong: tuple[tuple[np.ndarray, dict[str, Any], str], ...] = (
        (sure[:, 1:], {}, r"sure: expected bool \[7, 7, 7\], got bool of shape \[7, 6, 7\]"),
        (sure.astype(int), {}, "got int64"),
        (sure, {"possible": ~sure}, "sure links must be possible"),
        (~sure & sure, {}, "no sure link"),
        (np.ones_like(sure), {}, r"links of examples \[.*\] lead to or from padding"),
        (sure, {"skip": np.zeros(3, bool)}, "skip: expected bool"),
        (sure, {"level": 3}, "level"),
    )
    for links, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            jh.alignment_error_rate(model, batch, links, **options)
