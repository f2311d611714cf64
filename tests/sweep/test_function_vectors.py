"""Indirect effects of mean outputs against whole runs with edits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

from ..good_values import Words
from ..models.huggingface import assert_close, random_batch, small_model
from ..models.specs import SPECS
from ..models.specs.spec import small

ANSWERS = np.array([3, 9, 20])


def probability(model: jh.Model, batch: jh.Batch, *edits: jh.SiteEdit) -> np.ndarray:
    output = jh.run(model, batch, edits=edits).output
    rows = np.arange(len(batch))
    last = np.asarray(model.network.readout_positions(batch))
    return np.asarray(jax.nn.softmax(output)[rows, last, ANSWERS], np.float64)


@pytest.mark.parametrize(("family", "side"), [("gpt2", "left"), ("llama", "right")])
def test_effects_are_those_of_whole_runs(family: str, side: str):
    model, clean, shuffled = small_model(family), random_batch((6, 4), side), random_batch((3, 7, 5), side, seed=1)
    found = jh.function_vectors(model, clean, shuffled, ANSWERS)
    z = jh.run(model, clean, "z").seen["z"][:, [0, 1], np.asarray(clean.last)].mean(axis=1)
    assert_close(found.outputs, z)
    before = probability(model, shuffled)
    at_last = np.zeros((3, 7), np.float32)
    at_last[np.arange(3), np.asarray(shuffled.last)] = 1
    assert found.effects.per_example is not None
    for layer, head in np.ndindex(2, 4):
        weight = at_last[None, :, :, None, None] * (np.arange(4) == head)[None, None, None, :, None]
        edit = jh.SiteEdit(
            jnp.array([layer]), jnp.asarray(weight, jnp.float32), z[layer][None, None, None], "z", "decoder"
        )
        expected = probability(model, shuffled, edit) - before
        assert_close(found.effects.per_example[:, layer, head], expected)
    assert np.abs(found.effects.values).max() > 1e-4


def test_patching_a_prompt_with_itself_does_nothing():
    model, prompt = small_model("gpt2"), random_batch((6,))
    found = jh.function_vectors(model, prompt, prompt, 3)
    assert_close(found.effects.values, np.zeros((2, 4)), 1e-6)


def test_a_function_vector_is_the_sum_of_what_the_best_heads_write():
    model, clean, shuffled = small_model("llama"), random_batch((6, 4)), random_batch((3, 7, 5), seed=1)
    found = jh.function_vectors(model, clean, shuffled, ANSWERS)
    order = np.argsort(-found.effects.values, axis=None)[:3]
    pairs = [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, (2, 4)), strict=True)]
    weights = model.stack().weights
    expected = sum(found.outputs[pair] @ np.asarray(weights.W_O[pair], np.float64) for pair in pairs)
    assert_close(found.vector(3), expected)
    assert_close(found.vector(pairs), expected)
    every = sum(found.vector([(layer, head)]) for layer, head in np.ndindex(2, 4))
    assert_close(found.vector(8), every)
    for heads in (0, 9, [], [(2, 0)]):
        with pytest.raises(ValueError, match="heads"):
            found.vector(heads)


def test_decoders_beside_an_encoder_have_them_too():
    both = small("t5")
    clean, shuffled = (SPECS["t5"].batch(both.theirs, seed=seed) for seed in (0, 1))
    found = jh.function_vectors(both.ours, clean, shuffled, ANSWERS, stack="cross")
    assert np.isfinite(found.effects.values).all()
    with pytest.raises(ValueError, match="reads another sequence"):
        jh.function_vectors(both.ours, clean, shuffled, ANSWERS, stack="encoder")


def test_what_does_not_fit_is_refused():
    model, batch = small_model("gpt2"), random_batch((6, 4))
    for answers, message in (([1, 2, 3], "one token id or 2"), (37, "must lie in 0..36"), (0.5, "one token id")):
        with pytest.raises(ValueError, match=message):
            jh.function_vectors(model, batch, batch, answers)
    both = small("vit")
    images = SPECS["vit"].batch(both.theirs)
    with pytest.raises(ValueError, match="language models"):
        jh.function_vectors(both.ours, images, images, 1)


def test_it_can_be_planned():
    model, batch = small_model("gpt2"), random_batch((6, 4))
    assert jh.plan(jh.function_vectors, model, batch, batch, 1).cost() is not None  # type: ignore


def test_of_an_answer_in_words_the_first_token_counts():
    model = replace(small_model("gpt2"), tokenizer=Words())
    clean, shuffled = random_batch((6, 4)), random_batch((3, 7), seed=1)
    tokenizer = model.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("Mary", "garden")]
    texts = jh.function_vectors(model, clean, shuffled, ["Mary", "garden wide"])
    numbers = jh.function_vectors(model, clean, shuffled, ids)
    np.testing.assert_array_equal(texts.effects.per_example, numbers.effects.per_example)
    with pytest.raises(ValueError, match="no tokenizer"):
        jh.function_vectors(small_model("gpt2"), clean, shuffled, ["Mary", "garden"])
