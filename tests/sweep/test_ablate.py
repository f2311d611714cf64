"""The fast sweep equals the slow one; what a table of ablations holds; what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jaxheads as jh
from jaxheads.execution.batching import Chunks
from jaxheads.sweep.exact.replacement import METHODS, FixedValues, HeadValues, choose_donors

from ..models.huggingface import VOCABULARY, alone, assert_close, pair, random_batch, small_model
from ..models.specs import SPECS
from ..models.specs.spec import small
from . import naive

METHOD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "zero": {"method": "zero"},
    "mean": {"method": "mean"},
    "mean of all positions": {"method": "mean", "per_position": False},
    "mean by position": {"method": "mean", "per_position": True},
    "mean by group": {"method": "mean", "groups": [1, 7, 1, 7]},
    "mean by position and group": {"method": "mean", "per_position": True, "groups": ["b", "a", "a", "b"]},
    "one donor": {"method": "resample", "donors": 1},
    "two donors": {"method": "resample", "donors": 2},
}
LENGTHS = st.tuples(st.just(5), st.just(5), st.integers(2, 5), st.integers(2, 5)).flatmap(st.permutations)
"""One shape, [4, 5], so that few things compile; two examples have every position."""
LAYOUTS = {None: "first position apart", True: "by position", False: "pooled"}


BY_LOSS = {
    (family, kind): (number + place) % 2 == 0
    for place, family in enumerate(("llama", "gpt2"))
    for number, kind in enumerate(METHOD_ARGUMENTS)
} | {("bert", kind): False for kind in METHOD_ARGUMENTS}
"""Each decoder is asked half of its questions about its loss, the other about a logit difference."""


def question(batch: jh.Batch, by_loss: bool, seed: int) -> naive.Question:
    """A loss, or a logit difference at some real position, as at a [MASK]."""
    if by_loss:
        return naive.loss()
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(real)) for real in np.asarray(batch.mask)]
    right, wrong = rng.integers(0, VOCABULARY, (2, len(batch)))
    return naive.logit_difference(right, wrong, np.array(rows))


def sources(model: jh.Model, batch: jh.Batch, reference: jh.Batch | None, seed: int, arguments: dict) -> list:
    given_batch = batch if reference is None else reference
    if arguments["method"] == "zero":
        return [naive.zeros(model)]
    if arguments["method"] == "resample":
        chosen = choose_donors(batch, reference, donors=arguments["donors"], seed=seed)
        return [naive.from_donors(model, batch, given_batch, donors) for donors in chosen]
    groups, layout = arguments.get("groups"), LAYOUTS[arguments.get("per_position")]
    return [naive.means(model, batch, reference, layout=layout, groups=groups, theirs=groups)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("kind", METHOD_ARGUMENTS)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(lengths=LENGTHS, side=st.sampled_from(["right", "left"]), own=st.booleans(), seed=st.integers(0, 3))
def test_equals_whole_forward_passes(family: str, kind: str, lengths: list[int], side: str, own: bool, seed: int):
    model, arguments = small_model(family), METHOD_ARGUMENTS[kind]
    alike = arguments["method"] == "resample" or {"per_position", "groups"} <= set(arguments)
    lengths = [5] * 4 if alike and own else lengths
    batch = random_batch(tuple(lengths), side, types=2 if family == "bert" else 1, seed=seed)
    reference = None if own else random_batch((5, 5, 5, 5), seed=seed + 10)
    asked = question(batch, BY_LOSS[family, kind], seed)
    table = jh.ablate(model, batch, asked.objective, reference=reference, seed=seed, **arguments)
    slow = naive.effects(model, batch, asked.judge, sources(model, batch, reference, seed, arguments))
    assert_close(table.per_example, slow)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "gpt_neo", "olmo", "olmo2", "granite"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_caps_and_norms_after_the_heads_change_nothing_of_that(family: str, side: str):
    both = small(family)
    batch = SPECS[family].batch(both.theirs, side).take([0, 1])
    asked = naive.loss()
    table = jh.ablate(both.ours, batch, asked.objective, method="zero")
    assert_close(table.per_example, naive.effects(both.ours, batch, asked.judge, [naive.zeros(both.ours)]))


def test_a_reference_may_have_more_examples_of_each_group():
    model, batch = small_model("llama"), random_batch((5, 4, 3))
    reference, theirs = random_batch((5, 5, 4, 5, 3), "left", seed=4), [2, 1, 2, 1, 1]
    asked = question(batch, False, 0)
    table = jh.ablate(
        model,
        batch,
        asked.objective,
        reference=reference,
        per_position=True,
        groups=[1, 2, 1],
        reference_groups=theirs,
    )
    stand_in = naive.means(model, batch, reference, layout="by position", groups=[1, 2, 1], theirs=theirs)
    assert_close(table.per_example, naive.effects(model, batch, asked.judge, [stand_in]))
    assert table.provenance["groups"] == 2


def test_a_table_of_ablations():
    model, batch = small_model("llama"), random_batch((5, 4, 3))
    table = jh.ablate(model, batch, jh.loss(), seed=5, level=0.9)
    assert table.frame.index.names == ["stack", "layer", "head"]
    assert list(table.frame) == ["effect", "effect_low", "effect_high", "effect_n", "model"]
    assert table.frame.index[5] == ("decoder", 1, 1)
    assert table.values.shape == (2, 4)
    assert table.per_example is not None
    assert table.per_example.shape == (3, 2, 4)
    np.testing.assert_allclose(table.per_example.mean(axis=0), table.values, atol=1e-6)
    np.testing.assert_array_equal(table.frame["effect"].to_numpy().reshape(2, 4), table.values)
    assert (table.grid("effect_low") <= table.values).all()
    assert (table.values <= table.grid("effect_high")).all()
    said = table.provenance
    logits = np.asarray(jh.run(model, batch).output, np.float64)
    assert said["unedited"] == pytest.approx(naive.loss().judge(logits, batch).mean(), abs=1e-5)
    assert (said["objective"], said["method"], said["examples"]) == ("loss", "mean", 3)
    assert (said["seed"], said["level"], said["reference"]) == (5, 0.9, "the batch")
    assert (said["means"], said["mean_examples"]) == ("first position apart", 2)
    assert (said["model"], said["weights"]) == (model.name, model.identity())
    assert said["not_finite"] == []
    assert {"versions", "device", "command", "git", "time_utc"} <= set(said)


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(method: Any):
    model, objective = small_model("gpt2"), jh.logit_difference(3, 7)
    padded = random_batch((3, 5, 5), "left")
    bare, reference = alone(padded, 0), random_batch((5, 5), seed=8)
    one = jh.ablate(model, padded, objective, method, reference=reference)
    other = jh.ablate(model, bare, objective, method, reference=reference)
    if method == "resample":  # the first example draws first, so its donor is the same
        assert choose_donors(padded, reference, donors=1, seed=0)[0, 0] == choose_donors(
            bare, reference, donors=1, seed=0
        )
    assert one.per_example is not None
    assert other.per_example is not None
    assert_close(one.per_example[0], other.per_example[0])


def test_permuting_heads_permutes_the_table():
    model, batch = small_model("gpt2"), random_batch((5, 4))
    order = np.array([2, 0, 3, 1])

    def permute(path: str, weight: Any) -> Any:
        name = path.rpartition(".")[2]
        if name not in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            return weight
        return weight[:, :, order] if name in ("W_Q", "W_K", "W_V") else weight[:, order]

    table = jh.ablate(model, batch, jh.loss())
    permuted = jh.ablate(naive.changed(model, permute), batch, jh.loss())
    assert_close(permuted.values, table.values[:, order])


def test_a_head_that_always_says_the_same_is_its_own_mean():
    def silence(path: str, weight: Any) -> Any:
        return weight.at[:, :, 1].set(0) if path.endswith("W_V") else weight

    table = jh.ablate(naive.changed(small_model("gpt2"), silence), random_batch((5, 4)), jh.loss(), "mean")
    np.testing.assert_allclose(table.values[:, 1], 0, atol=1e-5)
    assert (np.abs(table.values[:, [0, 2, 3]]) > 1e-3).all()


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_zeroing_a_head_that_writes_nothing_has_no_effect(family: str):
    def mute(path: str, weight: Any) -> Any:
        return weight.at[:, 2].set(0) if path.endswith("W_O") else weight

    table = jh.ablate(naive.changed(small_model(family), mute), random_batch((5, 4)), jh.logit_difference(3, 7), "zero")
    np.testing.assert_allclose(table.values[:, 2], 0, atol=2e-6)
    assert (np.abs(table.values[:, [0, 1, 3]]) > 1e-3).all()


def test_what_is_not_finite_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("gpt2"), random_batch((5, 4))
    sound = jh.ablate(model, batch, jh.loss(), "zero")

    original = FixedValues.of

    def overflowing(self: FixedValues, chunk: Any) -> Iterator[HeadValues]:
        for values in original(self, chunk):
            yield replace(values, values=values.values.at[1, :, 2].set(np.inf))

    monkeypatch.setattr(FixedValues, "of", overflowing)
    table = jh.ablate(model, batch, jh.loss(), "zero")
    assert table.provenance["not_finite"] == [{"column": "effect", "example": e, "layer": 1, "head": 2} for e in (0, 1)]
    assert table.per_example is not None
    assert np.isnan(table.per_example[:, 1, 2]).all()
    others = np.ones((2, 4), bool)
    others[1, 2] = False
    assert_close(table.values[others], sound.values[others])


def test_a_model_that_overflows_by_itself_gives_a_table_of_nothing():
    def explode(path: str, weight: Any) -> Any:
        return weight.at[:].set(np.nan) if path.endswith("final_norm.scale") else weight

    table = jh.ablate(naive.changed(small_model("gpt2"), explode), random_batch((5, 4)), jh.loss(), "zero")
    assert np.isnan(table.values).all()
    assert table.provenance["unedited"] is None


BATCH = random_batch((5, 4, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "median"}, "method must be one of zero, mean, resample; got 'median'"),
        ({"method": "resample", "donors": 0}, "donors must be at least 1, got 0"),
        ({"method": "resample"}, "example 0 has 5 tokens and 0 other examples at least as long"),
        ({"method": "resample", "donors": 3, "reference": random_batch((5, 5))}, "2 other examples .* 3 are needed"),
        (
            {"per_position": True, "reference": random_batch((3, 4))},
            "means of 3 tokens need at least 2 examples each, .* the reference has 1 for position 3 of group 0",
        ),
        ({"groups": [0, 1, 1], "reference_groups": [0, 0], "reference": random_batch((5, 5))}, "of group 1"),
        ({"per_position": True}, "the batch has 1 for position 4 of group 0; give a reference, or per_position=None"),
        ({"groups": [0, 1, 1]}, "the batch has 1 for position 0 of group 0; give a reference"),
        ({"per_position": False, "groups": [0, 1, 1]}, "the batch has 1 for position 0 of group 0; give a reference"),
        (
            {"reference": random_batch((9,))},
            "has 1 for position 0 .* or per_position=False",
        ),
        ({"groups": [0, 1]}, "label each of 3 examples.* got 2 and 2 labels"),
        ({"groups": [0, 1, 1], "reference": random_batch((5, 5))}, r"the reference each of 2 .* got 3 and 3 labels"),
        ({"groups": [[0], [1], [1]]}, r"one label for each example, got shapes \(3, 1\)"),
        ({"reference_groups": [0, 1, 1]}, "give groups as well"),
        ({"method": "zero", "groups": [0, 1, 1]}, "groups are what means are taken over"),
        ({"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        ({"reference": jh.Batch([[VOCABULARY]])}, "token ids .* lie in 0..36; got 37"),
        ({"level": 1.5}, "level: expected a number between 0 and 1"),
    ],
)
def test_wrong_questions_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.ablate(small_model("llama"), BATCH, jh.loss(), **arguments)


def test_objectives_that_the_model_cannot_give_are_refused():
    bare = pair("BertModel").ours
    with pytest.raises(ValueError, match="needs logits over a vocabulary"):
        jh.ablate(bare, BATCH, jh.logit_difference(3, 7))
    with pytest.raises(ValueError, match=r"token ids in 0\.\.36"):
        jh.ablate(small_model("llama"), BATCH, jh.logit_difference(3, VOCABULARY))
    with pytest.raises(ValueError, match="needs a causal decoder"):
        jh.ablate(small_model("bert"), BATCH, jh.loss())


def test_examples_that_fill_a_chunk_up_count_once_in_means(monkeypatch: pytest.MonkeyPatch):
    model, batch, reference = small_model("llama"), random_batch((5, 4)), random_batch((5, 5, 5), seed=3)
    whole = jh.ablate(model, batch, jh.loss(), "mean", reference=reference)
    monkeypatch.setattr("jaxheads.sweep.exact.replacement.forward_chunks", lambda *_: Chunks(2))
    assert_close(jh.ablate(model, batch, jh.loss(), "mean", reference=reference).per_example, whole.per_example)
