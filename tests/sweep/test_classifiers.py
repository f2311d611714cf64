"""Sweeps over image classifiers, unchanged: equal to whole forward passes, whatever the head reads."""

from collections.abc import Sequence

import numpy as np
import pytest

import jaxheads as jh

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small
from . import naive

FAMILIES = ("vit", "deit", "dinov2_with_registers")
"""Their heads read CLS; CLS and the distillation token; CLS and all patches."""
RIGHT, WRONG = np.array([1, 4]), np.array([0, 2])

families = pytest.mark.parametrize("family", FAMILIES)


def images(family: str, seed: int = 0) -> jh.Batch:
    return SPECS[family].batch(None, seed=seed)


@families
@pytest.mark.parametrize("method", ["zero", "mean"])
def test_ablation_equals_whole_forward_passes(family: str, method: str):
    model, batch, asked = small(family).ours, images(family), naive.class_difference(RIGHT, WRONG)
    table = jh.ablate(model, batch, asked.objective, method)  # type: ignore[arg-type]
    put = naive.zeros(model) if method == "zero" else naive.means(model, batch)
    expected = naive.effects(model, batch, asked.judge, [put])
    assert table.per_example is not None
    assert_close(table.per_example, expected)
    assert np.abs(expected).min(axis=(0, 1)).max() > 1e-4


@families
@pytest.mark.parametrize(
    ("site", "by"),
    [("z", ("layer", "head", "position")), ("pattern", ("layer", "head")), ("resid_pre", ("layer", "position"))],
)
def test_patching_equals_whole_forward_passes(family: str, site: str, by: Sequence[str]):
    model, clean, corrupt = small(family).ours, images(family), images(family, seed=1)
    asked = naive.class_difference(RIGHT, WRONG)
    table = jh.patch(model, clean, corrupt, asked.objective, site, by)
    expected = naive.patched(model, corrupt, clean, asked.judge, site, by)
    assert table.per_example is not None
    assert_close(table.per_example[0], expected)


@families
def test_ablating_a_head_at_one_position(family: str):
    model, batch, asked = small(family).ours, images(family), naive.class_difference(RIGHT, WRONG)
    table = jh.ablate(model, batch, asked.objective, "zero", by=("layer", "head", "position"))
    assert table.per_example is not None
    before = asked.judge(np.asarray(jh.run(model, batch).output), batch)
    z = np.asarray(jh.run(model, batch, "z").seen["z"])
    for layer, head, position in ((0, 1, 0), (1, 3, 1), (0, 2, z.shape[2] - 1)):
        weight = np.zeros((1, 1, *z.shape[2:4], 1), np.float32)
        weight[0, 0, position, head] = 1
        edit = jh.SiteEdit(np.array([layer]), weight, np.zeros((1, 1, 1, 1, 1), np.float32), "z", "encoder")  # type: ignore
        after = asked.judge(np.asarray(jh.run(model, batch, edits=edit).output), batch)
        assert_close(table.per_example[:, layer, head, position], after - before)


def test_a_head_that_reads_several_positions_takes_none():
    model, batch = small("deit").ours, images("deit")
    with pytest.raises(ValueError, match="reads 2 positions together: give none"):
        jh.ablate(model, batch, jh.logit_difference(1, 0, 0))


@families
def test_classes_have_no_next_token(family: str):
    with pytest.raises(ValueError, match="needs a causal decoder"):
        jh.ablate(small(family).ours, images(family), jh.loss())
    with pytest.raises(ValueError, match=r"must be token ids in 0\.\.4"):
        jh.ablate(small(family).ours, images(family), jh.logit_difference(5, 0))
