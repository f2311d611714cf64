"""Patching equals whole forward passes at every site; what a table of patches holds; what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jaxheads as jh
from jaxheads.sweep.exact.engine import edited

from ..models.huggingface import VOCABULARY, assert_close, random_batch, small_model
from ..models.specs.spec import small
from . import naive

FAMILIES = ("llama", "gpt2", "bert")
HEADS = ("z", "q", "k", "v", "scores", "pattern")
STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
BY: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(HEADS, (("layer", "head"), ("layer", "head", "position"), ("layer",), ("layer", "position"))),
    **dict.fromkeys(STREAM, (("layer", "position"), ("layer",))),
}
ASKED = [
    (family, site, BY[site][(place + number) % len(BY[site])])
    for number, family in enumerate(FAMILIES)
    for place, site in enumerate((*HEADS, *STREAM))
    if (number + place) % 3
]
"""Every site is asked of two families, by axes that take turns."""


def other_tokens(batch: jh.Batch, shared: int, seed: int) -> jh.Batch:
    """The batch with other tokens, but for each example's first `shared`."""
    drawn = np.random.default_rng(100 + seed).integers(0, VOCABULARY, batch.tokens.shape)
    keep = np.asarray(batch.positions) < shared
    return jh.Batch(np.where(keep, batch.tokens, drawn), batch.mask, batch.token_types)


def question(batch: jh.Batch, seed: int) -> naive.Question:
    """A logit difference at the last position."""
    right, wrong = np.random.default_rng(seed).integers(0, VOCABULARY, (2, len(batch)))
    return naive.logit_difference(right, wrong, np.asarray(batch.last))


@pytest.mark.parametrize(("family", "site", "by"), ASKED)
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    side=st.sampled_from(["left", "right"]),
    shared=st.sampled_from([0, 5]),
    noising=st.booleans(),
    seed=st.integers(0, 3),
)
def test_equals_whole_forward_passes(
    family: str, site: str, by: Sequence[str], side: str, shared: int, noising: bool, seed: int
):
    model, clean = small_model(family), random_batch((9, 6), side, types=2 if family == "bert" else 1, seed=seed)
    corrupt, asked = other_tokens(clean, shared, seed), question(clean, seed)
    table = jh.patch(model, clean, corrupt, asked.objective, site, by, direction="noising" if noising else "denoising")
    base, other = (clean, corrupt) if noising else (corrupt, clean)
    slow = naive.patched(model, base, other, asked.judge, site, by)
    assert table.per_example is not None
    there = ~np.isnan(slow)
    np.testing.assert_array_equal(~np.isnan(table.per_example[0]), there)
    assert np.abs(slow[there]).max() > 1e-2
    assert_close(table.per_example[0][there], slow[there])


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "opt", "bloom", "phi", "falcon"])
@pytest.mark.parametrize(("site", "by"), [("z", ("layer", "head", "position")), ("resid_pre", ("layer", "position"))])
def test_other_blocks_and_biases_equal_whole_forward_passes(family: str, site: str, by: Sequence[str]):
    model, clean = small(family).ours, random_batch((9, 6), "left")
    corrupt, asked = other_tokens(clean, 3, 0), question(clean, 0)
    table = jh.patch(model, clean, corrupt, asked.objective, site, by)
    slow = naive.patched(model, corrupt, clean, asked.judge, site, by)
    assert table.per_example is not None
    assert np.abs(np.nan_to_num(slow)).max() > 1e-2
    assert_close(np.nan_to_num(table.per_example[0]), np.nan_to_num(slow))


def test_a_loss_reads_rows_before_the_edit_too():
    model, clean = small_model("llama"), random_batch((9, 6), "left")
    corrupt, asked = other_tokens(clean, 5, 0), naive.loss()
    table = jh.patch(model, clean, corrupt, asked.objective, "resid_pre", ("layer", "position"))
    slow = naive.patched(model, corrupt, clean, asked.judge, "resid_pre", ("layer", "position"))
    assert table.per_example is not None
    assert_close(np.nan_to_num(table.per_example[0]), np.nan_to_num(slow))


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_all_of_the_stream_is_the_other_run(family: str):
    model, clean = small_model(family), random_batch((7, 5))
    table = jh.patch(model, clean, other_tokens(clean, 0, 1), jh.logit_difference(3, 7), "resid_pre", ("layer",))
    np.testing.assert_allclose(table.grid("normalised"), 1, atol=1e-4)
    assert table.metrics == ("effect", "normalised")


def test_a_run_patched_with_itself_does_not_change():
    model, clean = small_model("gpt2"), random_batch((7, 5))
    table = jh.patch(model, clean, clean, jh.loss(), "pattern")
    np.testing.assert_allclose(table.grid("effect"), 0, atol=1e-6)
    assert np.isnan(table.grid("normalised")).all()


def test_the_normalised_effect_is_a_ratio_of_means():
    model, clean = small_model("gpt2"), random_batch((7, 5, 6))
    corrupt, objective = other_tokens(clean, 2, 1), jh.logit_difference(3, 7)
    table = jh.patch(model, clean, corrupt, objective, direction="noising", level=0.8)
    judge = naive.logit_difference(np.full(3, 3), np.full(3, 7), np.asarray(clean.last)).judge
    before, after = (judge(np.asarray(jh.run(model, b).output, np.float64), b) for b in (clean, corrupt))
    assert_close(table.grid("normalised"), table.grid("effect") / (after - before).mean(), 1e-4)
    assert table.per_example is not None
    assert_close(table.per_example[1].mean(axis=0), table.grid("normalised"), 1e-4)
    assert table.provenance["unedited"] == pytest.approx(before.mean(), abs=1e-5)
    assert table.provenance["direction"] == "noising"


def test_positions_before_the_first_difference_are_not_run(monkeypatch: pytest.MonkeyPatch):
    model, clean = small_model("llama"), random_batch((9, 9))
    starts = []

    def spy(*arguments: Any, **named: Any) -> Any:
        starts.append(named["site"].first)
        return edited(*arguments, **named)

    monkeypatch.setattr("jaxheads.sweep.exact.work.edited", spy)
    jh.patch(model, clean, other_tokens(clean, 7, 0), jh.logit_difference(3, 7))
    assert set(starts) == {4}
    starts.clear()
    jh.patch(model, clean, other_tokens(clean, 0, 0), jh.logit_difference(3, 7), "resid_pre", ("layer", "position"))
    assert set(starts) == {0, 4, 8}


def test_key_and_value_heads_have_their_own_columns():
    model, clean = small_model("llama"), random_batch((5, 4))
    for site, heads in (("k", 2), ("v", 2), ("q", 4)):
        table = jh.patch(model, clean, other_tokens(clean, 0, 0), jh.logit_difference(3, 7), site)
        assert table.shape == (2, heads)


def test_a_stream_of_pairs_is_one_batch(tmp_path: Path):
    model, clean = small_model("gpt2"), random_batch((6, 6, 6, 6))
    corrupt, objective = other_tokens(clean, 0, 0), jh.logit_difference(3, 7)
    pieces = [(clean.take(part), corrupt.take(part)) for part in ([0, 1], [2, 3])]
    whole = jh.patch(model, clean, corrupt, objective)
    streamed = jh.patch(model, iter(pieces), objective=objective, resume=tmp_path)
    assert_close(streamed.per_example, whole.per_example)
    assert_close(streamed.values, whole.values, 1e-4)
    # Of four examples the correction for skewness enlarges what rounding changed.
    numbers = [table.frame.drop(columns="model").to_numpy() for table in (streamed, whole)]
    np.testing.assert_allclose(*numbers, rtol=1e-2, atol=1e-4)


def ask(**changes: Any) -> Any:
    clean = random_batch((5, 4))
    arguments: dict[str, Any] = {"model": small_model("llama"), "clean": clean, "corrupt": other_tokens(clean, 0, 0)}
    arguments |= {"objective": jh.logit_difference(3, 7), **changes}
    return jh.patch(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "nonsense"}, "has the sites"),
        ({"site": "resid_pre"}, "has no heads"),
        ({"by": ("head",)}, "by must be one of"),
        ({"direction": "sideways"}, "direction must be"),
        ({"corrupt": random_batch((5, 5))}, "same shape and the same padding"),
        ({"corrupt": random_batch((4, 4))}, "same shape and the same padding"),
        ({"corrupt": None}, "needs a clean batch"),
        ({"clean": iter([]), "corrupt": None}, "at least one batch"),
        ({"stack": "encoder"}, "has the stacks"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ask(**changes)
