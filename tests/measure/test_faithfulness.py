"""Faithfulness of a bag of words, where every number is known, and of random models."""

from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.relevance.faithfulness import CONTROLS, MEASURES, SHARES
from jaxheads.measure.relevance.methods import METHODS

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

WORTH = np.array([4.0, -3.0, 2.0, 1.0, 0.5])
"""Each token's contribution to the logit of token 0, times the number of tokens."""

TOKENS = [[0, 1, 2, 3], [4, 3, 2, 2]]


@pytest.fixture(scope="module")
def bag() -> jh.Model:
    """Even attention that averages the tokens' worth into the logit of token 0."""
    embed = np.zeros((5, 2))
    embed[:, 0] = WORTH
    unembed = np.zeros((5, 2))
    unembed[0, 1] = 1
    nothing = np.zeros((1, 2, 1))
    layer = {"W_Q": nothing, "W_K": nothing, "W_V": [[[1.0], [0.0]]], "W_O": [[[0.0, 1.0]]]}
    return jh.by_hand(embed, [layer], unembed, causal=False)


def test_a_bag_of_words(bag: jh.Model):
    batch = jh.Batch(TOKENS)
    found = jh.faithfulness(bag, batch, jh.logit(0), ("cplrp", "gradient", "blank-out", "rollout"), points=4)
    worth = WORTH[np.array(TOKENS)]
    falling = -np.sort(-worth, axis=1)
    sums = np.concatenate([np.zeros((2, 1)), np.cumsum(falling, axis=1)], axis=1) / 4
    counts = np.ceil(np.array(SHARES) * 4).astype(int)
    expected = {
        "comprehensiveness": sums[:, counts].mean(axis=1),
        "sufficiency": (sums[:, -1:] - sums[:, counts]).mean(axis=1),
        "deletion": np.trapezoid(sums[:, -1:] - sums, dx=0.25, axis=1),
        "insertion": np.trapezoid(sums, dx=0.25, axis=1),
        "blank_out": np.ones(2),
        "blank_out_absolute": np.ones(2),
    }
    for method in ("cplrp", "gradient", "blank-out"):
        for name, numbers in expected.items():
            np.testing.assert_allclose(found.per_example[method][name], numbers, atol=1e-6)
            assert found.frame.loc[method, name] == pytest.approx(numbers.mean(), abs=1e-6)
    deletion = found.curves.query("method == 'cplrp' and curve == 'deletion'")
    np.testing.assert_allclose(deletion["value"], (sums[:, -1:] - sums).mean(axis=0), atol=1e-6)
    assert list(found.frame.index) == ["cplrp", "gradient", "blank-out", "rollout"]
    assert all(seconds > 0 for seconds in found.frame["seconds"])


def test_tokens_that_do_not_count_stay(bag: jh.Model):
    where = np.array([[True, True, False, False], [True, True, True, True]])
    found = jh.faithfulness(bag, jh.Batch(TOKENS), jh.logit(0), ("cplrp",), where=where, points=2)
    curve = found.per_example["cplrp"]
    worth = WORTH[np.array(TOKENS)][0] / 4
    whole = worth.sum()
    deleted = [whole, whole - worth[0], whole - worth[:2].sum()]
    assert curve["deletion"][0] == pytest.approx(np.trapezoid(deleted, dx=0.5), abs=1e-6)


def test_every_method_on_random_models():
    """Every method has a row, and measures do not depend on the size of chunks."""
    both = small("bert")
    batch = SPECS["bert"].batch(both.theirs)
    methods = ("flow", "cplrp", "random", "blank-out")
    one, other = (
        jh.faithfulness(both.ours, batch, jh.logit_difference(1, 2), methods, blank=4, points=3, memory=memory, seed=1)
        for memory in (1 << 30, 1)
    )
    assert set(one.frame) == {f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high", "_n")} | {
        "seconds",
        "model",
    }
    for method in methods:
        for name in MEASURES:
            assert_close(np.nan_to_num(other.per_example[method][name]), np.nan_to_num(one.per_example[method][name]))
    assert np.nanmin(one.per_example["blank-out"]["blank_out"]) == pytest.approx(1)
    assert (one.per_example["blank-out"]["deletion"] <= one.per_example["random"]["deletion"] + 1).all()


def test_images_and_two_streams():
    for family in ("vit", "t5"):
        both = small(family)
        batch: Any = SPECS[family].batch(both.theirs)
        found = jh.faithfulness(both.ours, batch, jh.logit_difference(0, 1), ("gradient",), points=2)
        assert np.isfinite(found.frame["deletion"]).all()


def test_wrong_arguments_are_refused(bag: jh.Model):
    batch = jh.Batch(TOKENS)
    nowhere = np.zeros((2, 4), bool)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"methods": ("lime",)}, "methods must be one of rollout, .* got 'lime'"),
        ({"methods": ()}, "methods must be some of"),
        ({"methods": ("flow", "flow")}, "each once"),
        ({"where": nowhere}, r"every example needs a token that counts; examples \[0, 1\] have none"),
        ({"where": nowhere[:, :2]}, r"where must have the shape of the input's positions \(2, 4\), got \(2, 2\)"),
        ({"points": 0}, "points must be at least 1"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            jh.faithfulness(bag, batch, jh.logit(0), **options)
    assert not set(CONTROLS) & set(METHODS)
