"""Objectives of classes against whole outputs, against the losses of `transformers`, and what they refuse."""

import tempfile
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxheads as jh
from jaxheads.models.stack import take_rows
from jaxheads.reads import read_out, reads_of

from .models.huggingface import Pair, assert_close, random_batch
from .models.specs import SPECS

LABELS = {0: "sad", 1: "calm", 2: "glad"}
SEQUENCE, TOKENS, ANSWERS = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
BATCH = random_batch((6, 4, 5))


@cache
def small(name: str, architecture: str, **config: Any) -> Pair:
    if "num_labels" not in config and not architecture.endswith(ANSWERS):
        config = {"id2label": LABELS, "label2id": {word: index for index, word in LABELS.items()}, **config}
    theirs = SPECS[name].build(architecture, **{"pad_token_id": 1, **config})
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return Pair(theirs, jh.load(directory))


def values(model: jh.Model, objective: Any, batch: jh.Batch = BATCH) -> np.ndarray:
    """The objective of an unedited run, read as a sweep reads it."""
    reads, stack = reads_of(objective, model, batch), model.network.streams[-1]
    stream = jh.run(model, batch, capture=f"{stack.name}.resid_post").seen[f"{stack.name}.resid_post"][-1]
    return np.asarray(objective.value(read_out(model.network, take_rows(stream, reads.rows), reads), reads))


def output(model: jh.Model) -> np.ndarray:
    return np.asarray(jh.run(model, BATCH).output)


def log_p(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(logits))


MEAN = {"classifier_pooling": "mean"}
EXAMPLES = pytest.mark.parametrize(
    "model",
    [
        lambda: small("bert", "Bert" + SEQUENCE),
        lambda: small("gpt2", "GPT2" + SEQUENCE),
        lambda: small("modernbert", "ModernBert" + SEQUENCE, **MEAN),
    ],
    ids=["bert", "gpt2", "modernbert, mean"],
)


@EXAMPLES
def test_classes_of_examples(model: Any):
    ours, logits = model().ours, output(model().ours)
    words, ids, each = ["glad", "sad", "calm"], np.array([2, 0, 1]), np.arange(3)
    assert ours.labels == tuple(LABELS.values())
    assert_close(values(ours, jh.class_logit(words)), logits[each, ids])
    assert_close(values(ours, jh.class_logit("calm")), logits[:, 1])
    assert_close(values(ours, jh.class_logit(np.array(1))), logits[:, 1])
    assert_close(values(ours, jh.class_logit()), logits.max(axis=1))
    assert_close(values(ours, jh.class_loss(ids)), -log_p(logits)[each, ids])
    assert_close(values(ours, jh.class_probability(words)), np.exp(log_p(logits))[each, ids])
    assert_close(values(ours, jh.class_accuracy(ids)), logits.argmax(axis=1) == ids)
    assert_close(values(ours, jh.logit_difference(ids, 1)), logits[each, ids] - logits[:, 1])
    assert_close(values(ours, jh.logit()), logits.max(axis=1))


def test_the_losses_are_those_of_transformers():
    """A label for each example, a number for each, several labels, and a label for each token."""
    scores, truth = np.array([0.5, -2.0, 1.0], np.float32), np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]])
    tokens = np.where(np.asarray(BATCH.mask), np.arange(18).reshape(3, 6) % 3, -100)
    cases = [
        (small("bert", "Bert" + SEQUENCE), [2, 0, 1], torch.tensor([2, 0, 1])),
        (small("bert", "Bert" + SEQUENCE, num_labels=1), scores, torch.tensor(scores)),
        (small("bert", "Bert" + SEQUENCE, num_labels=2, problem_type="regression"), truth[:, :2] * 0.5, None),
        (small("bert", "Bert" + SEQUENCE, problem_type="multi_label_classification"), truth, torch.tensor(truth * 1.0)),
        (small("bert", "Bert" + TOKENS), tokens, torch.tensor(tokens)),
    ]
    for both, labels, theirs in cases:
        each = values(both.ours, jh.class_loss(labels))
        assert each.shape == (3,)
        for example, mine in enumerate(each):
            real = np.asarray(BATCH.mask[example])
            given = torch.tensor(np.asarray(labels, np.float32)) if theirs is None else theirs
            given = given[example : example + 1]
            with torch.no_grad():
                loss = both.theirs(
                    torch.tensor(np.asarray(BATCH.tokens[example])[real][None]),
                    labels=given[:, torch.tensor(real)] if given.shape == (1, 6) else given,
                ).loss
            assert_close(mine, loss.item())


def test_classes_of_tokens():
    ours = small("bert", "Bert" + TOKENS).ours
    logits, each = output(ours), np.arange(3)
    assert_close(values(ours, jh.class_logit("glad", positions=[1, 2, 3])), logits[each, [1, 2, 3], 2])
    assert_close(values(ours, jh.class_logit(positions=2)), logits[:, 2].max(axis=1))
    words = [
        ["sad", None, "calm", None, None, "glad"],
        [None, "glad", None, None, None, None],
        [None] * 4 + ["sad", None],
    ]
    mean = [(logits[0, 0, 0] + logits[0, 2, 1] + logits[0, 5, 2]) / 3, logits[1, 1, 2], logits[2, 4, 0]]
    assert_close(values(ours, jh.class_logit(words)), mean)
    right = logits.argmax(axis=2)
    right[0, :3] = (right[0, :3] + 1) % 3
    assert_close(values(ours, jh.class_accuracy(right)), [0.5, 1, 1])


def test_a_discriminator_has_truth_values():
    ours = small("electra", "ElectraForPreTraining").ours
    logits = output(ours)
    assert logits.shape == (3, 6)
    replaced = (np.arange(18).reshape(3, 6) % 2) * np.asarray(BATCH.mask)
    nats = np.asarray(optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), jnp.asarray(replaced)))
    mask = np.asarray(BATCH.mask)
    assert_close(values(ours, jh.class_loss(replaced)), (nats * mask).sum(axis=1) / mask.sum(axis=1))
    p = np.asarray(jax.nn.sigmoid(logits))
    assert_close(values(ours, jh.class_probability(0, positions=1)), 1 - p[:, 1])
    assert_close(values(ours, jh.class_accuracy(1, positions=1)), p[:, 1] > 0.5)
    assert_close(values(ours, jh.class_logit(0, positions=1)), logits[:, 1])


def test_answers():
    both = small("bert", "Bert" + ANSWERS)
    logits, each = output(both.ours), np.arange(3)
    start, end = [1, 0, 2], [4, 3, 2]
    assert both.ours.labels == ("start", "end")
    assert_close(values(both.ours, jh.answer_logit(start, end)), logits[each, start, 0] + logits[each, end, 1])
    for example, mine in enumerate(values(both.ours, jh.answer_loss(start, end))):
        ids = torch.tensor(np.asarray(BATCH.tokens[example])[np.asarray(BATCH.mask[example])][None])
        ends = {"start_positions": torch.tensor([start[example]]), "end_positions": torch.tensor([end[example]])}
        with torch.no_grad():
            assert_close(mine, both.theirs(ids, **ends).loss.item())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda: jh.class_logit("gladd"), "has the labels sad, calm, glad; got 'gladd'; did you mean 'glad'"),
        (lambda: jh.class_logit(3), r"classes of .* are 0\.\.2 \(sad, calm, glad\); got 3"),
        (lambda: jh.class_logit([0, 1]), "labels must be one class or 3"),
        (lambda: jh.class_logit(0, positions=1), "classifies whole examples: give no positions"),
        (lambda: jh.class_logit([0, 1, None]), "every example needs a label"),
        (lambda: jh.class_loss([0.5, 1.0, 2.0]), "labels must be numbers or names of classes"),
        (lambda: jh.class_loss([[0, 1], [1, 0], [0, 0]]), "0 or 1 for each of 3 examples of 3 classes"),
        (lambda: jh.answer_logit(0, 1), "is for models that answer questions"),
    ],
)
def test_what_a_classifier_has_not_is_refused(objective: Any, message: str):
    with pytest.raises(ValueError, match=message):
        reads_of(objective(), small("bert", "Bert" + SEQUENCE).ours, BATCH)


@pytest.mark.parametrize("labels", ["", [], [[0, 1], [1]], {"a": 1}, [object()], 0.5, [0.5], [True, "glad"]])
def test_labels_are_numbers_or_names(labels: Any):
    with pytest.raises(ValueError, match="labels must be numbers or names of classes"):
        reads_of(jh.class_logit(labels), small("bert", "Bert" + SEQUENCE).ours, BATCH)


def test_objectives_of_another_head_are_refused():
    answers, tokens = small("bert", "Bert" + ANSWERS).ours, small("bert", "Bert" + TOKENS).ours
    score, causal = small("bert", "Bert" + SEQUENCE, num_labels=1).ours, small("gpt2", "GPT2" + SEQUENCE).ours
    words = small("bert", "BertForMaskedLM", num_labels=2).ours
    for model, objective, message in [
        (answers, jh.class_logit(1), "answers questions: use jh.answer_logit"),
        (words, jh.class_logit(1), "the logits of .* are of tokens: use jh.logit"),
        (tokens, jh.class_logit(1), "labels tokens: give the positions"),
        (tokens, jh.class_loss(np.full((3, 6), -100)), r"no token has a label in examples \[0, 1, 2\]"),
        (tokens, jh.class_logit(1, positions=5), r"there is padding at the positions of examples \[1, 2\]"),
        (score, jh.class_probability(0), "has one label, a score"),
        (causal, jh.loss(), r"are of classes \(sad, calm, glad\): use jh.class_logit"),
        (answers, jh.answer_loss(0, 6), r"positions must lie in 0\.\.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            reads_of(objective, model, BATCH)
    with pytest.raises(ValueError, match="is a classifier"):
        jh.eigenvalue_copying(causal)
