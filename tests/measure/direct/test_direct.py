"""Direct effects add up to the objective, in every family whose stream is a sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.execution.resources import Resources
from jaxheads.measure.direct.direct_effects import _split
from jaxheads.objectives import Reads

from ...models.huggingface import assert_close, random_batch, small_model
from ...models.specs import SPECS
from ...models.specs.spec import small
from ..weights.test_factored import changed, permute

RIGHT, WRONG = 1, 2
OBJECTIVE = jh.logit_difference(RIGHT, WRONG)
POST_NORM = {"bert", "roberta", "camembert", "xlm_roberta", "distilbert", "albert", "mpnet", "bart", "marian"} | {
    "deberta",
    "deberta_v2",
    "electra",
}
WITHOUT_LOGITS = {"clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"}
SAME = {"gemma3", "dinov2", "mistral", "qwen2", "vit"}
"""Families whose networks are built of another's classes."""
SUMS = sorted(set(SPECS) - POST_NORM - WITHOUT_LOGITS - SAME - {"clip", "siglip", "modernbert"})


def asked(family: str) -> tuple[jh.Model, jh.Batch]:
    both = small(family)
    return both.ours, SPECS[family].batch(both.theirs)


def check_sum(model: jh.Model, batch: jh.Batch, sources: str | None = None) -> tuple[jh.DirectParts, np.ndarray | None]:
    """Return the parts, which add up, and those of each source position in one stack."""
    parts, sources_ELNS = _split(model, batch, OBJECTIVE, sources, Resources())
    assert_close(parts.total, parts.value)
    assert float(parts.frame["effect"].to_numpy().sum()) == pytest.approx(parts.value.mean(), abs=1e-4)
    return parts, sources_ELNS


@pytest.mark.parametrize("family", SUMS)
def test_parts_add_up_to_the_objective(family: str):
    model, batch = asked(family)
    *_, stack = model.network.streams[-1].members
    parts, sources_ELNS = check_sum(model, batch, stack.name)
    for name, heads in parts.heads.items():
        shape = (len(batch), model.stack(name).layers, model.stack(name).heads)
        assert heads.shape == shape
        assert np.abs(heads).max() > 1e-3
    assert sources_ELNS is not None
    assert_close(sources_ELNS.sum(axis=3), parts.heads[stack.name])
    assert np.abs(sources_ELNS * ~np.asarray(stack.keys.of(batch).mask)[:, None, None]).max() == 0
    if model.network.unembedding.cap is None:
        output = np.asarray(jh.run(model, batch).output)
        if output.ndim == 3:
            output = output[np.arange(len(batch)), np.asarray(model.network.readout_positions(batch))]
        assert_close(parts.value, output[:, RIGHT] - output[:, WRONG])


def test_halves_of_a_comparison_add_up():
    both = small("clip")
    batch = SPECS["clip"].batch(both.theirs)
    texts, images = jh.Batch(batch.tokens, batch.mask), jh.Batch(pixels=batch.pixels)
    check_sum(jh.zero_shot(both.ours, texts), images)


@pytest.mark.parametrize(("family", "side"), [("gpt2", "left"), ("llama", "right")])
def test_a_heads_effect_is_its_output_through_the_frozen_norm(family: str, side: str):
    model, batch = small_model(family), random_batch((6, 4), side)
    run = jh.run(model, batch, ["z", "resid_post", "pattern", "v"])
    network, weights = model.network, model.stack().weights
    last = np.asarray(batch.last)
    x = np.asarray(run.seen["resid_post"], np.float64)[-1][[0, 1], last]
    norm, W_U = network.final_norm, np.asarray(network.unembedding.weight, np.float64)
    centre = (lambda y: y - y.mean(-1, keepdims=True)) if family == "gpt2" else (lambda y: y)
    size = np.sqrt((centre(x) ** 2).mean(-1, keepdims=True) + norm.epsilon)
    reads = W_U[RIGHT] - W_U[WRONG]

    def effect(written_BD: np.ndarray) -> np.ndarray:
        return (centre(written_BD) / size * np.asarray(norm.scale[...]) * reads).sum(-1)

    table = jh.direct_effects(model, batch, OBJECTIVE)
    sources = jh.direct_effects(model, batch, OBJECTIVE, by=("layer", "head", "position"))
    assert table.per_example is not None
    assert sources.per_example is not None
    z = np.asarray(run.seen["z"], np.float64)[:, [0, 1], last]
    group = 4 // model.stack().kv_heads
    for layer, head in ((0, 1), (1, 3)):
        W_O = np.asarray(weights.W_O[layer, head], np.float64)
        assert_close(table.per_example[:, layer, head], effect(z[layer, :, head] @ W_O))
        for example in range(2):
            real = np.flatnonzero(np.asarray(batch.mask)[example])
            assert np.isnan(sources.per_example[example, layer, head, len(real) :]).all()
            for place, column in enumerate(real):
                v = np.asarray(run.seen["v"], np.float64)[layer, example, column, head // group]
                weight = float(run.seen["pattern"][layer, example, head, last[example], column])
                written = np.zeros_like(x)
                written[example] = weight * (v @ W_O)
                assert sources.per_example[example, layer, head, place] == pytest.approx(
                    effect(written)[example], abs=1e-5
                )


def test_chunks_of_examples_give_one_answer():
    model, batch = small_model("gpt2"), random_batch((6, 4, 5, 2, 6))
    whole = jh.direct_parts(model, batch, OBJECTIVE)
    chunked = jh.direct_parts(model, batch, OBJECTIVE, memory=1)
    assert_close(chunked.heads["decoder"], whole.heads["decoder"])
    assert_close(chunked.total, whole.value)


def test_provenance_has_the_rest_of_the_sum():
    model, batch = small_model("gpt2"), random_batch((6, 4))
    table = jh.direct_effects(model, batch, OBJECTIVE)
    rest = table.provenance["parts"]
    total = table.values.sum() + rest["embedding"] + rest["constant"]
    total += sum(np.sum(rest[kind]["decoder"]) for kind in ("bias", "mlp"))
    assert total == pytest.approx(table.provenance["objective"], abs=1e-5)


def test_permuting_heads_permutes_direct_effects():
    model, batch, order = small_model("gpt2"), random_batch((5, 3)), np.array([2, 0, 3, 1])
    other = changed(model, permute)
    assert_close(
        jh.direct_effects(other, batch, OBJECTIVE).values, jh.direct_effects(model, batch, OBJECTIVE).values[:, order]
    )


@pytest.mark.parametrize("family", ["bert", "bart", "modernbert"])
def test_streams_that_are_no_sum_are_refused(family: str):
    model, batch = asked(family)
    with pytest.raises(ValueError, match=r"no sum over heads"):
        jh.direct_parts(model, batch, OBJECTIVE)


def test_an_encoder_has_no_direct_effect():
    model, batch = asked("t5")
    with pytest.raises(ValueError, match="through cross-attention only"):
        jh.direct_effects(model, batch, OBJECTIVE, stack="encoder")


class Squared:
    """An objective that is not linear."""

    name = "squared"

    def reads(self, model: jh.Model, batch: jh.Batch) -> Reads:
        return OBJECTIVE.reads(model, batch)

    @staticmethod
    def value(read: jax.Array, reads: Any) -> jax.Array:
        del reads
        return jnp.square(read[:, 0, 0]) + 1


def test_objectives_that_are_not_linear_are_refused():
    model, batch = small_model("gpt2"), random_batch((5, 3))
    for objective, message in ((jh.loss(), "not linear in logits"), (Squared(), "not linear in the logits it reads")):
        with pytest.raises(ValueError, match=message):
            jh.direct_parts(model, batch, objective)  # type: ignore
    with pytest.raises(ValueError, match="by must be one of"):
        jh.direct_effects(model, batch, OBJECTIVE, by=("layer",))
