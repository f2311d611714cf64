"""SigLIP: pairs in numbers of their own, one side fixed, texts of one length, configs of the hub."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.models.families.siglip import SiglipConfig

from ..sweep import naive
from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small

RNG = np.random.default_rng(5)
TEXTS = jh.Batch(RNG.integers(4, 37, (3, 7)))
IMAGES = jh.Batch(pixels=RNG.standard_normal((2, 12, 12, 3), np.float32))
PAIRS = jh.Batch(TEXTS.tokens, TEXTS.mask, pixels=IMAGES.pixels)


def theirs() -> Any:
    with torch.no_grad():
        return small("siglip").theirs(
            input_ids=torch.tensor(np.asarray(TEXTS.tokens)),
            pixel_values=torch.tensor(np.moveaxis(np.asarray(IMAGES.pixels), -1, 1)),
        )


def unit(x: Any) -> np.ndarray:
    return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)


def test_every_image_is_compared_with_every_text():
    model = small("siglip").ours
    out = theirs()
    assert_close(jh.run(model, PAIRS).output, out.logits_per_image.numpy())
    assert_close(unit(jh.run(model, TEXTS).output), out.text_embeds.numpy())
    assert_close(unit(jh.run(model, IMAGES).output), out.image_embeds.numpy())


@pytest.mark.parametrize(("stack", "classes", "batch"), [("vision", TEXTS, IMAGES), ("text", IMAGES, TEXTS)])
def test_one_side_fixed_is_a_classifier_of_the_other(stack: str, classes: jh.Batch, batch: jh.Batch):
    """Ablated head by head, it is the whole model's run with that head's output replaced."""
    whole = small("siglip").ours
    model = jh.zero_shot(whole, classes)
    logits = np.asarray(jh.run(whole, PAIRS).output)
    assert_close(jh.run(model, batch).output, logits if stack == "vision" else logits.T)
    asked = naive.class_difference(np.zeros(len(batch), int), np.ones(len(batch), int))
    table = jh.ablate(model, batch, asked.objective, "zero")
    assert table.per_example is not None

    def judge(output: Any) -> np.ndarray:
        return asked.judge(np.asarray(output) if stack == "vision" else np.asarray(output).T, batch)

    for layer, head in np.ndindex(model.stack().layers, model.stack().heads):
        edit = jh.zero_heads(whole, [(layer, head)], stack=stack)
        expected = judge(jh.run(whole, PAIRS, edits=edit).output) - judge(logits)
        assert_close(table.per_example[:, layer, head], expected)
    assert len(jh.placement(jh.shard(model, jax.make_mesh((1,), ("model",))))) == len(jax.tree.leaves(model.network))


def test_direct_effects_add_up_for_texts_and_are_refused_for_images():
    whole = small("siglip").ours
    objective = jh.logit_difference(0, 1)
    table = jh.direct_effects(jh.zero_shot(whole, IMAGES), TEXTS, objective)
    assert np.isfinite(np.asarray(table.values)).all()
    with pytest.raises(ValueError, match="no sum over heads"):
        jh.direct_effects(jh.zero_shot(whole, TEXTS), IMAGES, objective)


def test_relevance_reaches_every_patch():
    classifier = jh.zero_shot(small("siglip").ours, TEXTS)
    tokens = jh.relevance(classifier, IMAGES, jh.logit_difference(0, 1), "attnlrp").tokens
    assert np.asarray(tokens).shape == (2, 9)
    assert (np.abs(tokens) > 0).all()


def words() -> PreTrainedTokenizerFast:
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2, "cat": 3, "dog": 4}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_max_length=16
    )


def test_texts_are_padded_to_the_length_that_the_model_reads():
    """Padding counts as text, as in training: the embedding is read at its last position."""
    model = replace(small("siglip").ours, tokenizer=words())
    batch = model.encode(["a cat", "a dog a dog"])
    expected = words()(["a cat", "a dog a dog"], padding="max_length", max_length=16)["input_ids"]
    np.testing.assert_array_equal(batch.tokens, expected)
    assert np.asarray(batch.mask).all()
    with torch.no_grad():
        theirs = small("siglip").theirs.get_text_features(input_ids=torch.tensor(expected)).pooler_output
    assert_close(jh.run(model, batch).output, theirs.numpy())
    classifier = jh.zero_shot(model, IMAGES)
    np.testing.assert_array_equal(classifier.encode(["a cat"]).tokens, expected[:1])
    with pytest.raises(ValueError, match="16"):
        model.encode(["a " * 20])


def test_hub_configs_are_read():
    hub = {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "text_config": {"model_type": "siglip_text_model"},
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    config = SiglipConfig.from_hf(hub)
    assert (config.text.hidden_size, config.text.vocab_size, config.max_position_embeddings) == (768, 32000, 64)
    assert (config.vision.image_size, config.vision.patch_size, config.vision.layer_norm_eps) == ((224, 224), 16, 1e-6)
    two = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
    vision = {**two, "image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"}
    config = SiglipConfig.from_hf({**hub, "text_config": {**two, "vocab_size": 256000}, "vision_config": vision})
    assert (config.text.vocab_size, config.vision.image_size) == (256000, (384, 384))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_config": {"vision_use_head": False}}, "vision_use_head=False: images then have no embedding"),
        ({"text_config": {"projection_size": 5}}, "must be of one size, got 5 and 768"),
        ({"vision_config": {"image_size": [8, 12]}}, r"images of SigLIP are square; got image_size=\[8, 12\]"),
        ({"architectures": ["SiglipForImageClassification"]}, "SiglipForImageClassification is not covered"),
    ],
)
def test_what_is_not_covered_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        SiglipConfig.from_hf({"model_type": "siglip", **fields})


def test_the_specs_read_their_last_token():
    """Without padding: theirs reads the last position, whatever it is."""
    batch = SPECS["siglip"].batch(small("siglip").theirs, "left")
    alone = jh.Batch(np.asarray(batch.tokens)[1, np.asarray(batch.mask)[1]][None])
    both = jh.run(small("siglip").ours, jh.Batch(batch.tokens, batch.mask)).output
    assert_close(both[1:2], jh.run(small("siglip").ours, alone).output)
