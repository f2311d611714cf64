"""Minimal pairs: what the objective reads is what whole runs of single sentences give, also under edits."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh

from .measure.probing.planted import tokenizer
from .models.huggingface import assert_close, small_model

SPECIAL = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
GOOD, BAD = [[5, 1, 2, 3, 4], [5, 6, 7]], [[5, 1, 9, 8], [5, 6, 11]]
KINDS = ("gpt2", "llama", "bert")


def model(kind: str) -> jh.Model:
    if kind != "bert":
        return jh.Model(small_model(kind).network, tokenizer(35), name=kind)
    sizes = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32}
    network = jh.init({"model_type": "bert", "architectures": ["BertForMaskedLM"], **sizes}).network
    return jh.Model(jax.tree.map(lambda weight: 3 * weight, network), tokenizer(32, **SPECIAL), name=kind)


def batch(rows: list[list[int]], side: str = "right") -> jh.Batch:
    width = max(map(len, rows))
    pads = [((0, width - len(row)) if side == "right" else (width - len(row), 0)) for row in rows]
    tokens = [np.pad(row, pad) for row, pad in zip(rows, pads, strict=True)]
    mask = [np.pad(np.ones(len(row), bool), pad) for row, pad in zip(rows, pads, strict=True)]
    return jh.Batch(np.array(tokens), np.array(mask))


def sentence_score(own: jh.Model, ids: list[int], edits: Any = ()) -> float:
    """The log-probability of one sentence, by whole runs of it and of its masked copies."""
    total = 0.0
    for position in range(1 if own.causal else 0, len(ids)):
        given = list(ids)
        if not own.causal:
            given[position] = own.tokenizer.mask_token_id
        logits = np.asarray(jh.run(own, jh.Batch(np.array([given])), edits=edits).output, np.float64)[0]
        row = logits[position - 1 if own.causal else position]
        total += row[ids[position]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return total


def expected(own: jh.Model, edits: Any = ()) -> np.ndarray:
    pairs = zip(GOOD, BAD, strict=True)
    return np.array([sentence_score(own, good, edits) - sentence_score(own, bad, edits) for good, bad in pairs])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_the_difference_of_the_sentences_scores(kind: str, side: str):
    own = model(kind)
    value = jh.minimal_pair(batch(BAD, side))(own, batch(GOOD, side))
    assert_close(value, expected(own))
    right = jh.minimal_pair(batch(BAD, side), accuracy=True)(own, batch(GOOD, side))
    assert right.tolist() == (expected(own) > 0).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_ablation_removes_a_head_in_both_sentences(kind: str):
    own = model(kind)
    table = jh.ablate(own, batch(GOOD), jh.minimal_pair(batch(BAD)), "zero", progress=False)
    edited = expected(own, jh.zero_heads(own, [(1, 2)]))
    assert table.per_example is not None
    assert_close(table.per_example[:, 1, 2], edited - expected(own))


@pytest.mark.parametrize("kind", KINDS)
def test_patching_and_its_estimates_read_pairs_in_both_runs(kind: str):
    own, objective = model(kind), jh.minimal_pair(batch(BAD))
    other = jh.minimal_pair(batch([[5, 2, 9, 8], [5, 1, 11]])).completed(own, batch([[5, 2, 2, 3, 4], [5, 1, 7]]))
    clean = objective.completed(own, batch(GOOD))
    read = objective.resolved(own)
    patched = jh.patch(own, clean, other, read, "resid_post", ("layer",), progress=False)
    # The last layer's stream carries all.
    np.testing.assert_allclose(patched.values[1, -1], 1, atol=1e-4)
    estimated = jh.attribute(own, clean, other, read, progress=False)
    assert np.isfinite(estimated.values).all()
    assert np.isfinite(jh.importance(own, clean, read, progress=False).values).all()
    assert np.isfinite(jh.paths(own, clean, other, read, "logits", progress=False).values[0]).all()


def test_equal_sentences_have_no_difference():
    own = model("gpt2")
    np.testing.assert_allclose(jh.minimal_pair(batch(GOOD))(own, batch(GOOD)), 0, atol=1e-5)


def test_texts_are_encoded_as_the_right_ones_are():
    own = model("bert")
    good, bad = ["w5 w1 w2 w3 w4", "w5 w6 w7"], ["w5 w1 w9 w8", "w5 w6 w11"]
    assert_close(jh.minimal_pair(bad)(own, own.encode(good)), expected(own))
    assert_close(jh.minimal_pair(bad)(own, good), expected(own))


def test_what_is_no_pair_is_refused():
    own = model("gpt2")
    with pytest.raises(ValueError, match=r"pairs \[1\] differ in their first token.*bos=True"):
        jh.minimal_pair(batch([[5, 1], [6, 1]]))(own, batch([[5, 2], [7, 2]]))
    with pytest.raises(ValueError, match="bad must be 2 sentences"):
        jh.minimal_pair(batch(BAD[:1]))(own, batch(GOOD))
    with pytest.raises(ValueError, match="mask token"):
        jh.minimal_pair(batch(BAD))(jh.Model(model("bert").network, tokenizer(35)), batch(GOOD))
    objective = jh.minimal_pair(batch(BAD))
    clean = objective.completed(own, batch(GOOD))
    turned = jh.minimal_pair(batch(GOOD)).completed(own, batch(BAD))
    with pytest.raises(ValueError, match="texts of the same lengths"):
        jh.patch(own, clean, turned, objective.resolved(own), progress=False)
