"""Strings in, strings out: texts where batches stand, answers as texts, and tokens as texts in what comes back."""

import functools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxheads as jh

from .models.huggingface import assert_close, random_batch, small_model
from .sweep import naive

MERGES = ["t h", "th e", "_ the", "c a", "ca t", "_ cat", "s a", "sa t", "_ sat", "m a", "ma r", "mar y", "_ mary"]
MERGES += ["j o", "jo n", "_ jon", "_ a", "o n", "_ on"]
TEXTS = ["the cat sat", "the mary sat on the cat"]
OTHERS = ["the jon sat", "the cat sat on the jon"]
ANSWER = jh.logit_difference(" mary", " jon")


@functools.cache
def tokenizer(kind: str = "byte-level") -> PreTrainedTokenizerFast:
    """A tokenizer of 35 tokens that writes a word's space as GPT-2's does, or marks its start as Llama's does."""
    mark = "Ġ" if kind == "byte-level" else "▁"
    merges: Any = [tuple(merge.replace("_", mark).split()) for merge in MERGES]
    vocabulary = ["<s>", "</s>", "<pad>", mark, *"acehjmnorsty", *(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=merges))
    if kind == "byte-level":
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@functools.cache
def model(family: str = "llama", kind: str = "byte-level") -> jh.Model:
    return replace(small_model(family), tokenizer=tokenizer(kind), name="tiny")


def kept(table: jh.HeadTable) -> np.ndarray:
    """The table's values of single examples, which it has."""
    assert table.per_example is not None
    return table.per_example


def numbers(answer: Any) -> np.ndarray:
    return np.asarray(answer.output if isinstance(answer, jh.Run) else getattr(answer, "per_example", None))


ASKED: dict[str, Callable[..., Any]] = {
    "run": lambda given, other, objective: jh.run(model(), given),
    "measure": lambda given, other, objective: jh.measure(model(), given, ("entropy", "induction")),
    "ablate": lambda given, other, objective: jh.ablate(model(), given, objective, "mean", reference=other),
    "knock_out": lambda given, other, objective: jh.knock_out(model(), given, objective, 2, 0, by=("layer",)),
    "importance": lambda given, other, objective: jh.importance(model(), given, objective),
    "patch": lambda given, other, objective: jh.patch(model(), given, other, objective),
    "attribute": lambda given, other, objective: jh.attribute(model(), given, other, objective),
    "paths": lambda given, other, objective: jh.paths(model(), given, other, objective),
    "circuit": lambda given, other, objective: jh.circuit(model(), given, objective, [(0, 0)], "zero").faithfulness,
    "direct_effects": lambda given, other, objective: jh.direct_effects(model(), given, objective),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_texts_stand_for_their_batch_and_answers_for_their_ids(ask: Callable[..., Any]):
    ids = [model().tokenizer(text)["input_ids"][0] for text in (" mary", " jon")]
    expected = ask(model().encode(TEXTS), model().encode(OTHERS), jh.logit_difference(*ids))
    np.testing.assert_array_equal(numbers(ask(TEXTS, OTHERS, ANSWER)), numbers(expected))
    np.testing.assert_array_equal(numbers(ask(np.array(TEXTS), pd.Series(OTHERS), ANSWER)), numbers(expected))


def test_streams_may_hold_texts():
    def texts() -> Iterator[Any]:
        yield TEXTS
        yield model().encode(OTHERS)

    whole = jh.measure(model(), [*TEXTS, *OTHERS], "entropy")
    assert_close(kept(jh.measure(model(), texts(), "entropy")), kept(whole))
    own = jh.ablate(model(), ((texts, jh.logit(" mary")) for texts in (TEXTS, OTHERS)), method="zero")
    assert_close(kept(own), kept(jh.ablate(model(), [*TEXTS, *OTHERS], jh.logit(" mary"), "zero")))
    pairs = jh.patch(model(), list(zip(TEXTS, OTHERS, strict=True)), objective=ANSWER)
    assert_close(kept(pairs)[0], kept(jh.patch(model(), TEXTS, OTHERS, ANSWER))[0])


def test_one_text_is_a_batch_of_one():
    assert jh.run(model(), TEXTS[0]).output.shape[:2] == (1, 3)
    assert jh.objectives.loss()(model(), TEXTS[0]).shape == (1,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jh.run(small_model("llama"), "the cat"), "run: batch: .* has no tokenizer .*; give token ids"),
        (lambda: jh.patch(model(), TEXTS, ["the", "the"], ANSWER), "must have the same shape and the same padding"),
        (lambda: jh.measure(model(), ["the", ""]), r"measure: batch: every text needs .* are empty: \[1\]"),
        (lambda: jh.ablate(small_model("llama"), random_batch((3,)), ANSWER), r"right: .* no tokenizer .* for ' mary'"),
    ],
)
def test_texts_that_can_not_be_encoded_are_refused_by_the_arguments_name(call: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_text_is_the_token_that_goes_on(kind: str):
    """With its space in the middle of a text, however the tokenizer writes a text's beginning."""
    mark = "Ġ" if kind == "byte-level" else "▁"
    mary, the, jon = (tokenizer(kind).convert_tokens_to_ids(mark + word) for word in ("mary", "the", "jon"))
    resolved = jh.logit_difference([" mary", " the"], " jon").resolved(model("llama", kind))
    assert [*np.asarray(resolved.right), *np.asarray(resolved.wrong)] == [mary, the, jon]
    named = jh.logit(f"{mark}cat").resolved(model("llama", kind))
    assert np.asarray(named.token).tolist() == [tokenizer(kind).convert_tokens_to_ids(f"{mark}cat")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" the cat", r"right: ' the cat' is 2 tokens of tiny, ' the', ' cat', and one is needed: give another answer"),
        (" matte", r"' ', 'ma', 't', 't', 'e', .* jh\.answer_log_probability\(' matte'\), which takes them all"),
        ("ton", "'ton' is 2 tokens of tiny, 't', 'on', and one is needed: give"),
        ("jat", r"'j', 'a', 't', "),
        ("mat", "'mat' is 2 tokens"),
        ("", "right: '' has no token"),
    ],
)
def test_an_answer_of_several_tokens_is_refused_with_its_pieces(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        jh.ablate(model(), TEXTS, jh.logit_difference(text, " jon"))


def test_of_several_accepted_answers_any_counts():
    logits = np.asarray(jh.run(model(), TEXTS).output, np.float64)[np.arange(2), [2, 5]]
    ids = {text: tokenizer()(text)["input_ids"][0] for text in (" mary", " cat", " jon", " the")}
    right, wrong = [[" mary", " cat"], [" jon"]], [[" jon", ids[" the"], " the"]]
    expected = [
        np.log(np.exp(logits[row, [ids[text] for text in texts]]).sum())
        - np.log(np.exp(logits[row, [ids[" jon"], ids[" the"]]]).sum())
        for row, texts in enumerate(right)
    ]
    objective = jh.logit_difference(right, wrong)
    assert_close(objective(model(), TEXTS), expected)
    assert_close(
        jh.logit([[" mary", " cat"]])(model(), TEXTS), np.log(np.exp(logits[:, [ids[" mary"], ids[" cat"]]]).sum(1))
    )
    table = jh.ablate(model(), TEXTS, objective, "zero")
    edits = jh.zero_heads(model(), [(1, 2)])
    after = np.asarray(jh.run(model(), TEXTS, edits=edits).output, np.float64)[np.arange(2), [2, 5]]
    odds = [np.log(np.exp(after[row, [ids[text] for text in texts]]).sum()) for row, texts in enumerate(right)]
    odds -= np.log(np.exp(after[:, [ids[" jon"], ids[" the"]]]).sum(axis=1))
    assert_close(kept(table)[:, 1, 2], odds - expected)


def test_texts_of_a_probability_difference():
    by_text = jh.probability_difference([" mary", " jon"], [1, -1])
    ids = [tokenizer()(text)["input_ids"][0] for text in (" mary", " jon")]
    np.testing.assert_array_equal(by_text(model(), TEXTS), jh.probability_difference(ids, [1, -1])(model(), TEXTS))


def answered(texts: list[str], answers: list[str]) -> list[float]:
    """The log-probability of each answer, from the run of the whole text, one at a time."""
    values = []
    for text, answer in zip(texts, answers, strict=True):
        ids, own = (tokenizer()(own)["input_ids"] for own in (text, answer))
        logits = np.asarray(jh.run(model(), jh.Batch([ids + own])).output[0], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        values.append(sum(log_p[len(ids) - 1 + number, token] for number, token in enumerate(own)))
    return values


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_log_probability_of_an_answer_is_the_sum_over_its_tokens(side: str):
    answers = [" the cat sat", " on"]
    batch = model().encode(TEXTS, side=side)
    batch = batch.marked({"noun": np.ones(batch.tokens.shape), "pairs": np.ones((2, 6, 6))}).clustered([3, 3])
    objective = jh.answer_log_probability(answers)
    assert_close(objective(model(), batch), answered(TEXTS, answers))
    assert_close(jh.answer_log_probability(" mary")(model(), TEXTS), answered(TEXTS, [" mary"] * 2))
    ids = [tokenizer()(answer)["input_ids"] for answer in answers]
    assert_close(jh.answer_log_probability(ids)(model(), batch), answered(TEXTS, answers))
    table = jh.ablate(model(), batch, objective, "zero")
    longer = objective.completed(model(), batch)
    assert longer.tokens.shape == (2, 7)
    assert_close(np.asarray((longer.marks or {})["noun"]).sum(axis=1), [3, 6])
    edits = jh.zero_heads(model(), [(0, 1)])
    logits = np.asarray(jh.run(model(), longer, edits=edits).output, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    mark = np.asarray((longer.marks or {})["answer tokens"]).astype(bool)
    after = [log_p[b, np.flatnonzero(mark[b]) - 1, np.asarray(longer.tokens)[b, mark[b]]].sum() for b in range(2)]
    assert_close(kept(table)[:, 0, 1], np.array(after) - answered(TEXTS, answers))
    assert np.asarray(table.clusters).tolist() == [0, 0]
    # A question within a question gets the answer once.
    both = jh.interactions(model(), batch, objective, [(0, 1), (1, 2)], "zero")
    assert_close(kept(both)[1, :, 0, 0], kept(table)[:, 0, 1])


def test_the_answer_of_a_translator_follows_its_decoders_input():
    translator = jh.init(jh.data.tasks.Translation(shortest=2, longest=3).model_config(d_model=8))
    translator = replace(translator, network=jax.tree.map(lambda weight: 10 * weight, translator.network))
    source = jh.Batch([[5, 6, 7], [6, 4, 0]], [[1, 1, 1], [1, 1, 0]])
    batch = jh.Batch(source.tokens, source.mask, targets=[[1, 4], [1, 5]])
    value = jh.answer_log_probability([[6, 7], [8]])(translator, batch)
    whole = jh.Batch(source.tokens, source.mask, targets=[[1, 4, 6, 7], [1, 5, 8, 0]])
    logits = np.asarray(jh.run(translator, whole).output, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    assert_close(value, [log_p[0, 1, 6] + log_p[0, 2, 7], log_p[1, 1, 8]])


@pytest.mark.parametrize(
    ("answer", "family", "message"),
    [
        ([" the"] * 3, "llama", "answer must be one or 2, one for each example; got 3"),
        (" the", "bert", "needs a causal decoder"),
        ("", "llama", "answer must be a text"),
        ([3, 4], "llama", r"answer\[0\] must be|answer must be a text"),
    ],
)
def test_answers_that_can_not_be_read(answer: Any, family: str, message: str):
    with pytest.raises(ValueError, match=message):
        jh.answer_log_probability(answer)(model(family), TEXTS)


def test_the_divergence_from_the_unedited_run():
    """More examples than are computed together; one head ablated, by hand."""
    batch = random_batch(tuple(3 + number % 3 for number in range(19)), "left")
    objective = jh.kl_divergence()
    assert_close(objective(model(), batch), np.zeros(19))
    table = jh.ablate(model(), batch, objective, "zero")

    def log_probabilities(edits: Any = ()) -> np.ndarray:
        logits = np.asarray(jh.run(model(), batch, edits=edits).output, np.float64)[:, -1]
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    before, after = log_probabilities(), log_probabilities(jh.zero_heads(model(), [(1, 0)]))
    assert_close(kept(table)[:, 1, 0], (np.exp(before) * (before - after)).sum(axis=1))
    assert table.grid("effect_low").min() >= 0
    with pytest.raises(ValueError, match="is not linear in the logits"):
        jh.direct_effects(model(), batch, objective)
    with pytest.raises(ValueError, match="can't be read at padding"):
        jh.kl_divergence(0)(model(), batch)


def test_an_objective_gives_its_value():
    batch = model().encode(TEXTS)
    asked = naive.logit_difference(np.full(2, 3), np.full(2, 7), np.asarray(batch.last))
    expected = asked.judge(np.asarray(jh.run(model(), batch).output, np.float64), batch)
    assert_close(asked.objective(model(), batch), expected)
    assert_close(jh.loss()(model(), batch).mean(), jh.ablate(model(), batch, jh.loss(), "zero").provenance["unedited"])


def test_a_question_in_words_finds_the_parts_of_one_in_ids(tmp_path: Path):
    ids = [tokenizer()(text)["input_ids"][0] for text in (" mary", " jon")]
    jh.ablate(model(), model().encode(TEXTS), jh.logit_difference(*ids), "zero", resume=tmp_path)
    parts = sorted(path.name for path in tmp_path.rglob("*"))
    jh.ablate(model(), TEXTS, ANSWER, "zero", resume=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == parts
    for objective in (jh.kl_divergence(), jh.answer_log_probability(" the cat")):
        jh.ablate(model(), TEXTS, objective, "zero", resume=tmp_path)
        parts = sorted(path.name for path in tmp_path.rglob("*"))
        jh.ablate(model(), TEXTS, pickle.loads(pickle.dumps(objective)), "zero", resume=tmp_path)
        assert sorted(path.name for path in tmp_path.rglob("*")) == parts


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_run_says_its_tokens_and_what_comes_next(kind: str, tmp_path: Path):
    run = jh.run(model("llama", kind), TEXTS)
    first = "the" if kind == "byte-level" else " the"
    assert run.tokens == [[first, " cat", " sat", "", "", ""], [first, " mary", " sat", " on", " the", " cat"]]
    assert "".join(run.tokens[1]).strip() == TEXTS[1]
    top = run.top(3)
    logits = np.asarray(run.output)[0, 2]
    assert top.loc[0]["id"].tolist() == np.argsort(-logits, kind="stable")[:3].tolist()
    assert top["token"].tolist() == [" sat"] * 3 + [run.tokens[1][-1]] * 3
    assert_close(run.top(99).loc[0]["probability"].sum(), 1.0)
    assert run.top(1, "all").shape[0] == sum(map(bool, run.tokens[0] + run.tokens[1]))
    assert run.top(1, 1)["token"].tolist() == [" cat", " mary"]
    for positions, message in ((6, "must be real tokens"), ([0, 1, 2], "for each of 2"), ("last", "got 'last'")):
        with pytest.raises(ValueError, match=message):
            run.top(1, positions)
    assert pickle.loads(pickle.dumps(run)).top(3).equals(top)
    loaded = jh.Run.load(run.save(tmp_path / "run.safetensors"))
    assert loaded.top(3, tokenizer=tokenizer(kind)).equals(top)
    assert list(loaded.top(3)) == ["id", "logit", "probability"]
    with pytest.raises(ValueError, match="no tokenizer, as a run that was loaded"):
        loaded.tokens  # noqa: B018


def test_a_classifier_answers_with_labels():
    """The labels of its config, both in and out."""
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {str(number): f"class {number}" for number in range(3)}
    vit = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 4, "patch_size": 2}
    labelled = jh.init({**vit, **sizes, "id2label": labels})
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    run = jh.run(labelled, jh.Batch(pixels=pixels.astype(np.float32)))
    assert run.top(1)["predicted"].tolist() == [f"class {number}" for number in np.argmax(run.output, axis=1)]
    assert np.asarray(jh.logit_difference("class 1", "class 0").resolved(labelled).right).tolist() == [1]
    with pytest.raises(ValueError, match="answers with a class, one of 'class 0', 'class 1'"):
        jh.logit("cat").resolved(labelled)


def test_tables_over_positions_carry_the_tokens_that_all_examples_have():
    by = ("layer", "position")
    table = jh.patch(model(), TEXTS, OTHERS, ANSWER, site="resid_pre", by=by, direction="noising")
    assert table.frame["token"].tolist() == ["the", "", " sat", " on", " the", " cat"] * 2
    alone = jh.patch(model(), TEXTS[:1], OTHERS[:1], ANSWER, site="resid_pre", by=by, direction="noising")
    assert alone.frame["token"].tolist() == ["the", " cat", " sat"] * 2
    assert jh.HeadTable.from_columns("again", "decoder", {"effect": jh.tables.Column(np.eye(2))}).frame.shape == (4, 3)
    bare = replace(model(), tokenizer=None)
    ids = jh.patch(bare, model().encode(TEXTS), model().encode(OTHERS), jh.logit(3), site="resid_pre", by=by)
    assert "token" not in ids.frame
    nothing = jh.patch(model(), ["the cat", "a mary"], ["the mary", "a cat"], jh.logit(3), site="resid_pre", by=by)
    assert "token" not in nothing.frame
    streamed = jh.patch(model(), zip([TEXTS[:1]], [OTHERS[:1]], strict=True), objective=ANSWER, site="resid_pre", by=by)
    assert streamed.frame["token"].tolist() == ["the", " jon", " sat"] * 2


def test_frames_of_two_models_can_be_put_together(tmp_path: Path):
    other = replace(model("gpt2"), name="other")
    tables = [jh.measure(own, TEXTS, "entropy") for own in (model(), other)]
    together = pd.concat([table.frame for table in tables])
    assert together["model"].tolist() == ["tiny"] * 8 + ["other"] * 8
    assert together.set_index("model", append=True).index.is_unique
    tables[1].save(tmp_path)
    assert jh.HeadTable.load(tmp_path / "measure").frame.equals(tables[1].frame)
    assert jh.composition(other).frame["model"].unique().tolist() == ["other"]
    assert jh.relevance(other, TEXTS[0], jh.logit(), "rollout").frame["token"].tolist() == ["the", " cat", " sat"]
