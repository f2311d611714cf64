"""Sweeps over classifiers of texts: equal to whole forward passes, whatever the head reads; Michel's study on one."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxheads as jh

from ..models.huggingface import assert_close, random_batch
from ..models.specs import SPECS
from . import naive

BATCH, OTHER = random_batch((6, 4)), random_batch((6, 4), seed=1)
LABELS = np.array([2, 0])
HEADS = {
    "pooled": ("bert", "BertForSequenceClassification", {}),
    "mean": ("modernbert", "ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
    "last": ("gpt2", "GPT2ForSequenceClassification", {}),
    "tokens": ("bert", "BertForTokenClassification", {}),
    "answers": ("bert", "BertForQuestionAnswering", {}),
}


@cache
def small(head: str) -> jh.Model:
    name, architecture, config = HEADS[head]
    labels = {} if head == "answers" else {"num_labels": 3}
    theirs = SPECS[name].build(architecture, pad_token_id=1, **labels, **config)
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return jh.load(directory)


def loss_of_class(logits: np.ndarray, batch: jh.Batch) -> np.ndarray:
    return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(batch)), LABELS]


def loss_of_tokens(logits: np.ndarray, batch: jh.Batch) -> np.ndarray:
    nats = -np.asarray(jax.nn.log_softmax(logits))
    return np.array([(nats[0, 1, 2] + nats[0, 5, 0]) / 2, nats[1, 3, 1]])


def loss_of_answer(logits: np.ndarray, batch: jh.Batch) -> np.ndarray:
    masked = np.where(np.asarray(batch.mask)[..., None], logits, -1e30)
    nats, each = -np.asarray(jax.nn.log_softmax(masked, axis=1)), np.arange(2)
    return (nats[each, [1, 0], 0] + nats[each, [4, 3], 1]) / 2


TOKEN_LABELS = np.full((2, 6), -100)
TOKEN_LABELS[[0, 0, 1], [1, 5, 3]] = [2, 0, 1]
ASKED: dict[str, tuple[Any, Callable]] = {
    **dict.fromkeys(("pooled", "mean", "last"), (jh.class_loss(LABELS), loss_of_class)),
    "tokens": (jh.class_loss(TOKEN_LABELS), loss_of_tokens),
    "answers": (jh.answer_loss([1, 0], [4, 3]), loss_of_answer),
}


@pytest.mark.parametrize("head", HEADS)
def test_ablation_equals_whole_forward_passes(head: str):
    model, (objective, judge) = small(head), ASKED[head]
    table = jh.ablate(model, BATCH, objective, "zero")
    expected = naive.effects(model, BATCH, judge, [naive.zeros(model)])
    assert table.per_example is not None
    assert_close(table.per_example, expected)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("head", ["mean", "answers"])
def test_patching_equals_whole_forward_passes(head: str):
    model, (objective, judge) = small(head), ASKED[head]
    patched = jh.patch(model, OTHER, BATCH, objective, "resid_pre", ("layer", "position"))
    assert patched.per_example is not None
    seen = naive.patched(model, BATCH, OTHER, judge, "resid_pre", ("layer", "position"))
    np.testing.assert_array_equal(np.isnan(patched.per_example[0]), np.isnan(seen))
    assert_close(np.nan_to_num(patched.per_example[0]), np.nan_to_num(seen))


@pytest.mark.parametrize("head", ["mean", "answers"])
def test_importance_is_the_slope_of_whole_forward_passes(head: str):
    """Of central differences between two gated runs."""
    model, (objective, judge) = small(head), ASKED[head]
    table = jh.importance(model, BATCH, objective)
    step, layer, other = 0.01, 1, 2
    runs = []
    for gate in (1 - step, 1 + step):
        gates = np.ones((model.stack().layers, model.stack().heads), np.float32)
        gates[layer, other] = gate
        runs.append(judge(np.asarray(jh.run(model, BATCH, edits=jh.gate(model, gates)).output, np.float64), BATCH))
    assert table.per_example is not None
    np.testing.assert_allclose(table.per_example[:, layer, other], np.abs(runs[1] - runs[0]) / (2 * step), rtol=0.02)


QUESTIONS: dict[str, Callable] = {
    "ablate": lambda model, objective: jh.ablate(model, BATCH, objective).per_example,
    "attribute": lambda model, objective: jh.attribute(model, BATCH, OTHER, objective).per_example,
    "importance": lambda model, objective: jh.importance(model, BATCH, objective).per_example,
    "knock_out": lambda model, objective: jh.knock_out(model, BATCH, objective, queries=3, keys=1).per_example,
    "circuit": lambda model, objective: jh.circuit(model, BATCH, objective, [(0, 1), (1, 0)]).faithfulness.values,
    "relevance": lambda model, objective: jh.relevance(model, BATCH, objective, "attnlrp").frame["relevance"],
    "chefer": lambda model, objective: jh.relevance(model, BATCH, objective, "chefer").frame["relevance"],
}


CASES = [
    *(("mean", question) for question in QUESTIONS),
    ("pooled", "relevance"),
    ("last", "attribute"),
]


@pytest.mark.parametrize(("head", "question"), CASES)
def test_a_class_s_logit_is_asked_for_as_any_logit(head: str, question: str):
    ask, model = QUESTIONS[question], small(head)
    mine, theirs = ask(model, jh.class_logit(LABELS)), ask(model, jh.logit(LABELS))
    assert_close(np.nan_to_num(np.asarray(mine, float)), np.nan_to_num(np.asarray(theirs, float)))
    assert np.nanmax(np.abs(np.asarray(mine, float))) > 1e-4


def test_paths_edges_and_direct_effects_of_a_decoder():
    model = small("last")
    for ask in (
        lambda objective: jh.paths(model, BATCH, OTHER, objective).per_example,
        lambda objective: jh.patch_edges(model, BATCH, OTHER, objective).per_example,
        lambda objective: jh.attribute(model, BATCH, OTHER, objective, "eap").per_example,
        lambda objective: jh.direct_effects(model, BATCH, objective).per_example,
    ):
        mine, theirs = ask(jh.class_logit(LABELS)), ask(jh.logit(LABELS))
        assert_close(np.nan_to_num(np.asarray(mine, float)), np.nan_to_num(np.asarray(theirs, float)))


def test_a_step_is_ablated_but_not_differentiated():
    model, objective = small("pooled"), jh.class_accuracy(LABELS)
    effects = jh.ablate(model, BATCH, objective, "zero").per_example
    assert effects is not None
    assert set(np.unique(effects)) <= {-1.0, 0.0, 1.0}
    for ask in (
        lambda: jh.importance(model, BATCH, objective),
        lambda: jh.attribute(model, BATCH, OTHER, objective),
        lambda: jh.relevance(model, BATCH, objective),
    ):
        with pytest.raises(ValueError, match="derivative of class_accuracy is 0 everywhere"):
            ask()


def test_the_importance_of_heads_of_a_trained_classifier(tmp_path):
    """Michel et al. 2019: heads are pruned by their importance for the loss, and the least important cost the least."""
    calm: dict[str, Any]
    spec, calm = replace(SPECS["bert"], spread=0.05), {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs, rng = spec.build("BertForSequenceClassification", num_labels=2, **calm), np.random.default_rng(0)
    tokens = rng.integers(4, 37, (512, 8))
    labels = (tokens[:, 2] < tokens[:, 5]).astype(int)  # which of two tokens has the larger number
    optimizer = torch.optim.Adam(theirs.parameters(), 3e-3)
    for _ in range(150):
        some = rng.integers(0, 512, 64)
        loss = theirs(torch.tensor(tokens[some]), labels=torch.tensor(labels[some])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    theirs.config.id2label, theirs.config.label2id = {0: "falls", 1: "rises"}, {"falls": 0, "rises": 1}
    theirs.save_pretrained(tmp_path)

    model, batch = jh.load(tmp_path), jh.Batch(tokens[:96])
    words = np.array(model.labels)[labels[:96]]
    table = jh.importance(model, batch, jh.class_loss(words))
    order = sorted(np.ndindex(*table.values.shape), key=lambda cell: table.values[cell])
    halves = {"least": order[:4], "most": order[4:]}
    loss, right = (
        jh.ablate(model, batch, objective, "zero", sets=halves)
        for objective in (jh.class_loss(words), jh.class_accuracy(words))
    )
    assert right.provenance["unedited"] > 0.95
    least, most = loss.frame["effect"]
    assert least < 0.05 < 0.2 < most
    least, most = right.frame["effect"]
    assert -0.05 < least < 0 < 0.05 < -most
