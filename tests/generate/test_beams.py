"""Beam search finds what `transformers` finds, and what a search over all texts does."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

import jaxheads as jh

from ..models.huggingface import SMALL, build, loaded, random_batch
from ..models.specs import SPECS
from ..models.specs.spec import small


@pytest.mark.parametrize("penalty", [1.0, -2.0])
@pytest.mark.parametrize("end", [None, [3, 9, 11, 20]])
def test_texts_are_those_of_transformers(tmp_path, end: Any, penalty: float):
    theirs = build(SMALL["gpt2"])
    ours = loaded(theirs, tmp_path)
    batch = random_batch((6, 3, 1), "left")
    found = jh.generate(ours, batch, 18, sample=jh.Beams(3, penalty), stop=() if end is None else end)
    settings = {"num_beams": 3, "length_penalty": penalty, "do_sample": False, "max_new_tokens": 18}
    for example in range(3):
        ids = np.asarray(batch.tokens)[example][np.asarray(batch.mask)[example]][None]
        theirs.generation_config.eos_token_id = None
        expected = theirs.generate(torch.tensor(ids.astype(np.int64)), eos_token_id=end, pad_token_id=0, **settings)
        tokens = expected[0, ids.shape[1] :].tolist()
        assert found.tokens[example, : found.lengths[example]].tolist() == tokens[: found.lengths[example]]
        assert end is not None or found.lengths[example] == 18


def test_an_encoder_decoder_under_edits_and_copies():
    """With as many beams as the vocabulary, a search of two steps is one over all texts."""
    model = small("bart").ours
    batch = SPECS["bart"].batch(small("bart").theirs, "left").take(np.array([0, 1]))
    heads = [(0, 0), (1, 1), (2, 0)]
    edits = [jh.zero_heads(model, [head], stack="cross") for head in heads]
    together = jh.generate(model, batch, 2, sample=jh.Beams(37), stop=(), copies=edits)
    for number, edit in enumerate(edits):
        alone = jh.generate(model, batch, 2, sample=jh.Beams(37), stop=(), edits=edit)
        np.testing.assert_array_equal(alone.tokens, together.tokens[number])
    assert alone.batch is not None
    for example in range(2):
        one = batch.take(np.array([example]))
        targets = np.asarray(one.targets)[np.asarray(one.target_mask)]
        pairs = np.array([[*targets, a, b] for a, b in product(range(37), repeat=2)])
        many = one.take(np.zeros(len(pairs), int))
        texts = jh.Batch(many.tokens, many.mask, targets=pairs)
        logits = np.asarray(jh.run(model, texts, edits=edits[-1]).output).astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        n = len(targets)
        sums = log_p[np.arange(len(pairs)), n - 1, pairs[:, n]] + log_p[np.arange(len(pairs)), n, pairs[:, n + 1]]
        assert alone.tokens[example].tolist() == pairs[sums.argmax(), n:].tolist()


def test_what_a_search_does_not_give():
    model = small("gpt2").ours
    batch = random_batch((3, 2))
    with pytest.raises(ValueError, match="goes back to other beams"):
        jh.generate(model, batch, 2, sample=jh.Beams(2), logits=True)
    with pytest.raises(ValueError, match="goes back to other beams"):
        jh.generate(model, batch, 2, sample=jh.Beams(2), capture="z")
