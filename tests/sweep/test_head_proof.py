"""Causal proof of a head on a planted model: the word after a verb has the number of the verb's subject."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences

WORDS = ["[PAD]", "[CLS]", "[UNK]", "one", "many", "is", "this", "these", "x", "y", "z", "[MASK]"]
NUMBER = {word: number for number, word in enumerate(WORDS)}


def agreement_model(query: str = "is", *, causal: bool = True) -> jh.Model:
    """Return a model whose head 0.0 looks from the verb "is" at its subject, and writes which word comes next.

    With "[MASK]" as the query, and attention to both sides, it writes which word is masked.
    """
    V = len(WORDS)
    queries, values = np.zeros((2, V, V)), np.zeros((2, V, V))
    queries[:, :, NUMBER["[CLS]"]] = 100
    queries[0, NUMBER[query]] = 0
    queries[0, NUMBER[query], [NUMBER["one"], NUMBER["many"]]] = 100
    values[0, NUMBER["one"], NUMBER["this"]] = values[0, NUMBER["many"], NUMBER["these"]] = 20
    layer = {"W_Q": queries, "W_K": np.tile(np.eye(V), (2, 1, 1)), "W_V": values, "W_O": np.tile(np.eye(V), (2, 1, 1))}
    inner = Tokenizer(models.WordLevel(NUMBER, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made = jh.by_hand(np.eye(V), [layer], np.eye(V), causal=causal, name="agreement")
    return replace(made, tokenizer=tokenizer)


def sentences(count: int = 24) -> Sentences:
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        subject, other = ("one", "this") if number % 2 else ("many", "these")
        between = rng.choice(["x", "y", "z"], rng.integers(1, 4)).tolist()
        words = (subject, *between, "is", other)
        verb = len(between) + 1
        links = (Link(0, verb, "nsubj"), Link(verb, -1, "root"), Link(verb + 1, verb, "obj"))
        made.append(Sentence(words, links={"deprel": links}, document=str(number % 6)))
    return Sentences(tuple(made))


def test_without_its_edge_the_head_serves_nothing_and_its_control_never_did():
    proof = jh.head_proof(agreement_model(), sentences(), (0, 0), "nsubj")
    head, control, difference = (proof.loc[name] for name in ("0.0", "0.1", "difference"))
    assert [bool(flag) for flag in proof["gold"]] == [True, False, False]
    # Without it every word is as likely, but for the verb itself.
    alone = np.log(np.exp(1) + len(WORDS) - 1)
    assert head["edge"] == pytest.approx(alone, abs=1e-3)
    # The mean of the head's output still writes both forms, a little.
    assert 1 < head["ablated"] < head["edge"]
    assert head["other_edge"] == pytest.approx(0, abs=1e-4)
    assert [control[name] for name in ("ablated", "edge", "other_edge")] == pytest.approx([0, 0, 0], abs=1e-4)
    assert difference["edge"] == pytest.approx(head["edge"] - control["edge"])
    assert head["edge_n"] == 6  # documents


def test_knocking_out_the_gold_edge_costs_what_ablating_its_head_costs():
    def objective(batch: jh.Batch) -> jh.Objective:
        singular = (np.asarray(batch.tokens) == NUMBER["one"]).any(axis=1)
        right, wrong = np.where(singular, 6, 7), np.where(singular, 7, 6)
        at = np.asarray(batch.mask).sum(axis=1) - 2
        return jh.logit_difference(right, wrong, positions=at)

    proof = jh.head_proof(agreement_model(), sentences(), (0, 0), "nsubj", objective)
    assert proof.loc["0.0", "edge"] == pytest.approx(-20, abs=1e-3)
    assert proof.loc["0.0", "ablated"] == pytest.approx(-20, rel=0.05)


def test_a_masked_model_predicts_the_word_that_looks():
    gold, made = sentences(), []
    for one in gold:
        # "one x y this": the last word is of its subject's number.
        links = (Link(0, len(one.words) - 2, "nsubj"), Link(len(one.words) - 2, -1, "root"))
        made.append(Sentence((*one.words[:-2], one.words[-1]), links={"deprel": links}, document=one.document))
    proof = jh.head_proof(agreement_model("[MASK]", causal=False), Sentences(tuple(made)), (0, 0), "nsubj")
    head, control = proof.loc["0.0"], proof.loc["0.1"]
    # All words are as likely then, but for [MASK] itself.
    assert head["edge"] == pytest.approx(np.log(np.exp(1) + len(WORDS) - 1), abs=1e-3)
    assert head["other_edge"] == pytest.approx(0, abs=1e-4)
    assert head["ablated"] > 1
    assert [control[name] for name in ("ablated", "edge", "other_edge")] == pytest.approx([0, 0, 0], abs=1e-4)


def test_what_can_not_be_proved_is_refused():
    model, gold = agreement_model(), sentences()
    with pytest.raises(ValueError, match=r"head must be \(layer, head\) within 1 × 2"):
        jh.head_proof(model, gold, (1, 0), "nsubj")
    with pytest.raises(ValueError, match="relation must be one of"):
        jh.head_proof(model, gold, (0, 0), "iobj")
    with pytest.raises(ValueError, match="no sentence has a nsubj edge"):
        jh.head_proof(model, gold, (0, 0), "nsubj", direction="to_head")  # a subject sees no later verb
    unmasked = replace(agreement_model(causal=False), tokenizer=None)
    with pytest.raises(ValueError, match="agreement predicts neither next nor masked tokens"):
        jh.head_proof(unmasked, gold, (0, 0), "nsubj")
    with pytest.raises(ValueError, match="controls: expected 1 or more"):
        jh.head_proof(model, gold, (0, 0), "nsubj", controls=0)
