"""CLIP: texts and images in numbers of their own, one side fixed, the first configs' spellings."""

from typing import Any

import numpy as np
import pytest
import torch

import jaxheads as jh
from jaxheads.models.families.clip import ClipConfig

from ..sweep import naive
from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small

BOTH = SPECS["clip"].batch(small("clip").theirs)
TEXTS = BOTH.only("tokens")
IMAGES = jh.Batch(pixels=np.random.default_rng(5).standard_normal((2, 12, 12, 3), np.float32))
PAIRS = jh.Batch(TEXTS.tokens, TEXTS.mask, pixels=IMAGES.pixels)
"""Three texts, two images."""


def theirs(texts: jh.Batch = TEXTS, images: jh.Batch = IMAGES) -> dict[str, np.ndarray]:
    given = {
        "input_ids": torch.tensor(np.asarray(texts.tokens)),
        "attention_mask": torch.tensor(np.asarray(texts.mask, np.int64)),
        "pixel_values": torch.tensor(np.moveaxis(np.asarray(images.pixels), -1, 1)),
    }
    with torch.no_grad():
        out = small("clip").theirs(**given)
    return {name: out[name].numpy() for name in ("logits_per_image", "image_embeds", "text_embeds")}


def unit(x: Any) -> np.ndarray:
    return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)


def test_every_image_is_compared_with_every_text():
    run = jh.run(small("clip").ours, PAIRS, ("text.pattern", "vision.z"))
    assert_close(run.output, theirs()["logits_per_image"])
    assert run.seen["text.pattern"].shape[:2] == (2, 3)
    assert run.seen["vision.z"].shape[:2] == (3, 2)


def test_one_kind_alone_gives_its_embeddings():
    model = small("clip").ours
    assert_close(unit(jh.run(model, TEXTS).output), theirs()["text_embeds"])
    assert_close(unit(jh.run(model, IMAGES, "vision.pattern").output), theirs()["image_embeds"])


def test_left_padding_with_end_tokens_is_no_end():
    tokens, mask = np.array([[36, 36, 7, 8, 36], [5, 6, 7, 8, 36]]), [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    alone = jh.run(small("clip").ours, jh.Batch([[7, 8, 36]])).output
    assert_close(jh.run(small("clip").ours, jh.Batch(tokens, mask)).output[:1], alone)


@pytest.mark.parametrize(("stack", "kind"), [("text", "tokens"), ("vision", "patches")])
def test_heads_are_measured_in_whatever_numbers(stack: str, kind: str):
    model = small("clip").ours
    edits = [jh.zero_heads(model, [(0, 1)], stack=name) for name in ("text", "vision")]
    table = jh.measure(model, PAIRS, stack=stack, edits=edits, progress=False)
    alone = jh.measure(model, PAIRS.only(kind), stack=stack, edits=edits[stack == "vision"])
    assert table.per_example is not None
    assert table.per_example.shape[1] == (3 if stack == "text" else 2)
    np.testing.assert_array_equal(table.per_example, alone.per_example)
    assert "distance" in table.frame.columns
    assert ("induction" in table.frame.columns) == (stack == "text")


def test_a_head_without_its_output():
    model = small("clip").ours
    both = small("clip").theirs
    for stack, tower in (("text", both.text_model), ("vision", both.vision_model)):
        edited = jh.run(model, PAIRS, edits=jh.zero_heads(model, [(1, 0)], stack=stack)).output
        size = 24 // model.stacks[stack].heads
        module = tower.encoder.layers[1].self_attn.out_proj
        handle = module.register_forward_pre_hook(lambda _, args, s=size: (args[0] * (torch.arange(24) >= s),))
        expected = theirs()["logits_per_image"]
        handle.remove()
        assert_close(edited, expected)
        assert np.abs(edited - theirs()["logits_per_image"]).max() > 1e-3


def test_numbers_that_differ_make_no_examples():
    with pytest.raises(ValueError, match="3 texts and 2 images has no examples of both"):
        PAIRS.take([0])
    with pytest.raises(ValueError, match="3 texts and 2 images"):
        len(PAIRS)
    assert len(BOTH.take([2, 0])) == 2
    with pytest.raises(ValueError, match="same number of examples"):
        jh.Batch(TEXTS.tokens, targets=[[1, 2]])


@pytest.mark.parametrize(
    ("batch", "arguments", "message"),
    [
        (IMAGES, {"capture": "text.z"}, "the batch has no tokens: the text of .* does not run"),
        (IMAGES, {"edits": jh.zero_heads(small("clip").ours, [(0, 0)], stack="text")}, "the batch has no tokens"),
        (jh.Batch([[4, 5]]), {}, r"at its end token \(36\); texts \[0\] have none"),
        (jh.Batch(pixels=np.zeros((1, 8, 12, 3), np.float32)), {}, r"pixels must be \[examples, 12, 12, 3\]"),
        (jh.Batch(features=np.zeros((1, 8, 12), np.float32)), {}, "takes pixels, tokens; the batch has features"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: jh.Batch, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.run(small("clip").ours, batch, **arguments)


@pytest.mark.parametrize(("stack", "classes", "batch"), [("vision", TEXTS, IMAGES), ("text", IMAGES, TEXTS)])
@pytest.mark.parametrize("by", [("layer", "head"), ("layer", "head", "position")])
def test_one_side_fixed_is_a_classifier_of_the_other(stack: str, classes: jh.Batch, batch: jh.Batch, by: tuple):
    """Ablated head by head, it is the whole model's run with that head's output replaced."""
    whole = small("clip").ours
    model = jh.zero_shot(whole, classes)
    logits = np.asarray(jh.run(whole, PAIRS).output)
    assert_close(jh.run(model, batch).output, logits if stack == "vision" else logits.T)
    asked = naive.class_difference(np.zeros(len(batch), int), np.ones(len(batch), int))
    table = jh.ablate(model, batch, asked.objective, "zero", by=by)
    assert table.per_example is not None

    def judge(output: Any) -> np.ndarray:
        return asked.judge(np.asarray(output) if stack == "vision" else np.asarray(output).T, batch)

    for layer, head in np.ndindex(model.stack().layers, model.stack().heads):
        edit = jh.zero_heads(whole, [(layer, head)], stack=stack)
        if len(by) == 3:  # at the first real position alone
            side = model.stack().queries.of(batch)
            first = np.asarray(side.mask & (side.positions == 0), np.float32)[None, :, :, None, None]
            edit = jh.SiteEdit(edit.layers, edit.weight * first, edit.source, "z", stack)
        expected = judge(jh.run(whole, PAIRS, edits=edit).output) - judge(logits)
        found = table.per_example[:, layer, head]
        assert_close(found[:, 0] if len(by) == 3 else found, expected)


def test_what_zero_shot_asks_for():
    model = small("clip").ours
    with pytest.raises(ValueError, match=r"fix one side with jh\.zero_shot"):
        jh.ablate(model, BOTH, jh.logit_difference(0, 1), stack="text")
    with pytest.raises(ValueError, match="texts or images, to classify the other; the batch has both"):
        jh.zero_shot(model, BOTH)
    with pytest.raises(ValueError, match=r"compares images with texts; .* does not"):
        jh.zero_shot(small("vit").ours, SPECS["vit"].batch(None))
    assert jh.zero_shot(model, TEXTS).identity() != jh.zero_shot(model, TEXTS.take([0, 1])).identity()


OLD = {
    "attention_dropout": 0.0,
    "add_cross_attention": False,
    "is_decoder": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "dropout": 0.0,
    "torchscript": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "typical_p": 1.0,
}
"""As a tower's part of the first configs has it."""


def test_the_first_configs_are_read():
    config = ClipConfig.from_hf(
        {
            "model_type": "clip",
            "architectures": ["CLIPModel"],
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "projection_dim": 768,
            "text_config": {**OLD, "hidden_size": 512},
            "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12, "projection_dim": 768},
            "vision_config": {**OLD, "hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14},
            "vision_config_dict": None,
        }
    )
    assert (config.text.hidden_size, config.text.eos_token_id, config.projection_dim) == (768, 49407, 768)
    assert (config.vision.hidden_size, config.vision.patch_size, config.vision.image_size) == (1024, 14, (224, 224))
    assert (config.vocab_size, config.max_position_embeddings) == (49408, 77)
