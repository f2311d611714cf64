"""Packed batches: short texts share a window, and every number is that of each text by itself."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import text_batches
from jaxheads.models.inputs.batch import count_positions

from ..models.huggingface import assert_close
from ..models.specs.spec import small
from .test_streams import Letters

TEXTS = ["abcde", "fg", "abcabcabcabcabcabcabc", "hijk", "ab", "lmnopq", "abab", "rst", "c"]

FAMILIES = ["llama", "gpt2", "bloom", "gptj", "mpnet", "bert", "gemma2", "mistral", "opt", "modernbert", "gpt_neo"]
"""Rotary, learned, ALiBi and relative positions; causal and not; windows of attention; offsets of positions."""


def lettered(family: str) -> jh.Model:
    return jh.Model(small(family).ours.network, Letters(), name=family)  # type: ignore[arg-type]


def apart(batch: jh.Batch) -> list[tuple[int, int, np.ndarray]]:
    """The texts of a packed batch: their example, number and columns."""
    assert batch.segments is not None
    found = []
    for example, (texts, real) in enumerate(zip(np.asarray(batch.segments), np.asarray(batch.mask), strict=True)):
        for text in dict.fromkeys(texts[real].tolist()):
            found.append((example, text, np.flatnonzero(real & (texts == text))))
    return found


def test_every_token_is_there_once_and_windows_are_full():
    model = lettered("llama")
    batches = list(text_batches(model, TEXTS, length=16, examples=2, pack=True))
    assert {batch.tokens.shape[1] for batch in batches} == {16}
    found: dict[int, str] = {}
    for batch in batches:
        for example, text, columns in apart(batch):
            ids = np.asarray(batch.tokens)[example, columns]
            assert ids[0] == 0, "each text has its own BOS"
            found[text] = found.get(text, "") + "".join(chr(96 + token) for token in ids[1:])
    assert found == dict(enumerate(TEXTS))
    windows, plain = sum(map(len, batches)), list(text_batches(model, TEXTS, length=16, examples=2))
    assert windows <= 5 < sum(map(len, plain))
    # The pieces of a long text are alone, so that texts of one window depend on no other window.
    labels = np.concatenate([np.asarray(batch.clusters) for batch in batches])
    assert sorted(Counter(labels.tolist()).values()) == [1] * (windows - 2) + [2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_run_equals_each_text_by_itself(family: str):
    model, texts = lettered(family), [text for text in TEXTS if len(text) < 9]
    [packed] = text_batches(model, texts, length=12, examples=9, pack=True)
    [plain] = text_batches(model, texts, length=12, examples=9)
    assert len(packed) < len(plain) == len(texts)
    run, alone = (jh.run(model, batch, capture=("pattern", "z")) for batch in (packed, plain))
    for example, text, columns in apart(packed):
        own = slice(0, len(columns))
        assert_close(np.asarray(run.output)[example, columns], np.asarray(alone.output)[text, own])
        pattern = np.asarray(run.seen["pattern"])[:, example][:, :, columns]
        assert_close(pattern[..., columns], np.asarray(alone.seen["pattern"])[:, text, :, own, own])
        assert_close(pattern.sum(axis=-1), pattern[..., columns].sum(axis=-1))
        assert_close(np.asarray(run.seen["z"])[:, example, columns], np.asarray(alone.seen["z"])[:, text, own])


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_measure_scores_each_text_as_if_it_were_alone(family: str, tmp_path: Any):
    model = lettered(family)
    one = jh.measure(model, text_batches(model, TEXTS, length=16, examples=2, pack=True), resume=tmp_path, memory=1)
    again = jh.measure(model, text_batches(model, TEXTS, length=16, examples=2, pack=True), resume=tmp_path, memory=1)
    plain = jh.measure(model, text_batches(model, TEXTS, length=16, examples=2))
    assert one.frame.equals(again.frame)
    assert one.provenance["tokens"] == plain.provenance["tokens"]
    assert one.examples == plain.examples == 10
    for column in plain.frame.columns.drop("model"):
        assert_close(np.nan_to_num(one.frame[column]), np.nan_to_num(plain.frame[column]))


def test_the_loss_and_its_sweeps_leave_out_predictions_across_texts():
    model = lettered("gpt2")
    [batch] = text_batches(model, TEXTS, length=16, examples=9, pack=True)
    packed = jh.ablate(model, batch, jh.loss(), "zero")
    gradient = jh.importance(model, batch, jh.loss())
    assert packed.per_example is not None
    for example in range(len(batch)):
        texts = [columns for own, _, columns in apart(batch) if own == example]
        counts = np.array([len(columns) - 1 for columns in texts])
        effects, gradients = [], []
        for columns in texts:
            single = jh.Batch(np.asarray(batch.tokens)[example, columns][None])
            effects.append(jh.ablate(model, single, jh.loss(), "zero").values)
            gradients.append(jh.importance(model, single, jh.loss(), normalise=None).values)
        assert_close(packed.per_example[example], np.average(effects, axis=0, weights=counts))
    assert np.isfinite(gradient.values).all()
    mean = jh.ablate(model, batch, jh.loss(), "mean")
    assert np.isfinite(mean.values).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, batch: jh.ablate(model, batch, jh.loss(), "resample"),
        lambda model, batch: jh.ablate(model, batch, jh.logit_difference(1, 2), "zero"),
        lambda model, batch: jh.patch(model, batch, batch, jh.loss()),
        lambda model, batch: jh.attribute(model, batch, batch, jh.loss()),
        lambda model, batch: jh.paths(model, batch, batch, jh.loss()),
        lambda model, batch: jh.knock_out(model, batch, jh.loss(), 1, 0),
        lambda model, batch: jh.compare_heads(model, batch),
        lambda model, batch: jh.logit_lens(model, batch),
        lambda model, batch: jh.relevance(model, batch, jh.loss()),
        lambda model, batch: jh.icl_score(model, batch, early=2, late=4),
        lambda model, batch: jh.circuit(model, batch, jh.loss(), [(0, 0)], "zero"),
        lambda model, batch: jh.variability(model, batch),
        lambda model, batch: jh.share(model, batch, jh.loss(), np.zeros((2, model.stack().heads, 2), int)),
    ],
)
def test_questions_that_read_an_example_as_one_text_refuse_it(ask: Any):
    model = lettered("gpt2")
    [batch] = text_batches(model, TEXTS, length=16, examples=9, pack=True)
    with pytest.raises(ValueError, match=r"the batch is packed.*pack=False"):
        ask(model, batch)


def test_models_without_an_output_at_every_position_refuse_it():
    model, tokens = small("bart").ours, np.ones((1, 4), int)
    with pytest.raises(ValueError, match="takes no packed batches"):
        jh.run(model, jh.Batch(tokens, segments=[[0, 0, 1, 1]], targets=tokens))


def test_segments_are_stretches_of_tokens():
    batch = jh.Batch([[5, 6, 7, 8, 9]], [[1, 1, 0, 1, 1]], segments=[[3, 3, 7, 3, 4]])
    assert np.asarray(batch.positions).tolist() == [[0, 1, 0, 2, 0]]
    assert np.asarray(count_positions(batch.mask)).tolist() == [[0, 1, 0, 2, 3]]
    with pytest.raises(ValueError, match=r"one stretch each; those of example 0 come back: \[1, 2, 1\]"):
        jh.Batch([[5, 6, 7]], segments=[[1, 2, 1]])
    with pytest.raises(ValueError, match="segments must have the shape of tokens"):
        jh.Batch([[5, 6, 7]], segments=[[1, 2]])
