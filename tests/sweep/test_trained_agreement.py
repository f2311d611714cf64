"""Causal proof on a trained model: the head that finds the subject, and its edge to it, cost the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from jaxheads.data.tasks import Agreement
from jaxheads.train import grid, train

TASK = Agreement(nouns=6, prepositions=3, most=2)
WORDS = [f"w{number}" for number in range(TASK.vocabulary)]
FIRST_VERB = TASK.vocabulary - 2


def sentences(count: int = 192) -> Sentences:
    """Return sentences whose last noun, where the verb is predicted, is joined to the subject."""
    sample, made = TASK.sample(jax.random.key(9), count), []
    tokens, mask = np.asarray(sample.batch.tokens), np.asarray(sample.batch.mask)
    assert sample.batch.marks is not None
    predicts, subject = (np.asarray(sample.batch.marks[name]).argmax(axis=1) for name in ("predicts", "subject"))
    for number in range(count):
        words = tuple(WORDS[token] for token in tokens[number][mask[number]][:-1])
        query, key = int(predicts[number]), int(subject[number])
        links = (Link(query, key, "agreement"),) if query != key else ()
        made.append(Sentence(words, links={"deprel": links}, document=str(number)))
    return Sentences(tuple(made))


def verb_objective(batch: jh.Batch) -> jh.Objective:
    """Return the logit of the verb less that of its other number, where the last noun predicts it."""
    at = np.asarray(batch.mask).sum(axis=1) - 2
    right = np.asarray(batch.tokens)[np.arange(len(at)), at + 1]
    return jh.logit_difference(right, FIRST_VERB + ((right - FIRST_VERB) ^ 1), positions=at)


def test_knocking_out_the_gold_edge_costs_what_ablating_the_trained_subject_head_costs():
    config = TASK.model_config(n_layer=1, n_head=2, n_embd=32)
    trained = train(config, TASK, 300, runs=grid([0], rate=[3e-3]), checkpoints=[300], progress=False).model(0)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w0")
    model, gold = replace(trained, tokenizer=tokenizer), sentences()
    # Which head it is, the relation says: on sentences of its own.
    shares = jh.relations(model, gold, half=0, least=1).frame["agreement_to_head_mass"]
    head = shares.to_numpy().argmax()
    part = jh.half_of(gold, 1).where(lambda one: bool(one.links["deprel"]))
    proof = jh.head_proof(model, part, (0, int(head)), "agreement", verb_objective, direction="to_head")
    own, other = proof.loc[f"0.{head}"], proof.loc[f"0.{1 - head}"]
    batch = model.encode(part)
    preference = float(verb_objective(batch)(model, batch).mean())  # type: ignore[operator]
    # Without its subject the verb has either number: the attractors' says nothing of it.
    assert preference > 5
    assert own["edge"] == pytest.approx(own["ablated"], rel=0.05)
    assert own["edge"] == pytest.approx(-preference, rel=0.25)
    assert abs(own["other_edge"]) < 0.01 * preference
    assert max(abs(other[name]) for name in ("ablated", "edge", "other_edge")) < 0.01 * preference
