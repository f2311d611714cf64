"""What context is worth, and heads in words: known answers."""

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.direct.text_span import text_span

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_score_is_a_difference_of_two_losses(side: str):
    both = small("llama")
    batch = SPECS["llama"].batch(both.theirs, side).take([0, 1])
    found = jh.icl_score(both.ours, batch, early=2, late=4)
    logits = np.asarray(jh.run(both.ours, batch).output, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for example, mask in enumerate(np.asarray(batch.mask)):
        tokens, mine = np.asarray(batch.tokens)[example][mask], log_p[example][mask]
        expected = -mine[2, tokens[3]] + mine[0, tokens[1]]
        assert found.per_example[example] == pytest.approx(expected, abs=1e-5)
    assert_close(found.interval.mean, found.per_example.mean())
    with pytest.raises(ValueError, match="early < late <= 4, the shortest example; got 2 and 5"):
        jh.icl_score(both.ours, batch, early=2, late=5)
    with pytest.raises(ValueError, match="needs a causal language model"):
        jh.icl_score(small("bert").ours, jh.Batch([[1, 2, 3]]), 2, 3)


def test_text_span_takes_axes_in_the_order_of_their_spread():
    """Literature 12.1: standard deviations 1, 3, 2 on the axes."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((500, 3))
    white = (white - white.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T, bias=True)).T)
    data = white * [1, 3, 2] + [5, -7, 1]
    found = text_span(data, np.eye(3), 3)
    assert found.chosen.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.deviation, [3, 2, 1], rtol=1e-6)
    np.testing.assert_allclose(found.explained, [9 / 14, 13 / 14, 1], rtol=1e-6)
    np.testing.assert_allclose(found.reconstructed, data, atol=1e-8)
    assert len(text_span(data, np.eye(3)[:1], 3).chosen) == 1  # nothing is left of the one text


def test_a_text_that_was_said_is_not_said_again():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((100, 4)) * [4, 3, 2, 1]
    texts = np.array([[1, 0, 0, 0], [1, 0.01, 0, 0], [0, 1, 0, 0.0]])
    assert set(text_span(data, texts, 2).chosen) == {2, *({0, 1} & set(text_span(data, texts, 1).chosen))}
    flat = data[:, :2] - data[:, :2].mean(axis=0)
    oblique = text_span(flat, np.array([[3, 0], [2, 1.0]]), 2)  # what is left of the second is the other axis
    assert oblique.explained[-1] == pytest.approx(1)
    with pytest.raises(ValueError, match="outputs must be finite"):
        text_span(data[:1], texts, 1)
