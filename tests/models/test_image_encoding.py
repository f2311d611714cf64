"""Images become the pixels that `transformers` makes of them; what is not understood is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from PIL import Image

import jaxheads as jh
from jaxheads.models.inputs.images import image_pixels, image_processor

from .huggingface import assert_close
from .specs.spec import small

RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((61, 43), Image.Resampling.BICUBIC)
TALL = SMOOTH.rotate(90, expand=True)
MEANS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}


@pytest.mark.parametrize("image", [SMOOTH, TALL], ids=["wide", "tall"])
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("ViT", {"size": 20}),
        ("ViT", {"size": {"height": 20, "width": 24}, "resample": 3, **MEANS}),
        ("ViT", {"size": {"shortest_edge": 20}, "resample": 1}),
        ("ViT", {"do_resize": False, "do_rescale": False}),
        ("ViT", {"size": [20, 16], "rescale_factor": 0.01, "do_normalize": False}),
        ("ViT", {"size": 20, "resample": 0, "image_mean": 0.5, "image_std": 0.5}),
        ("DeiT", {"size": 30, "crop_size": 21}),
        ("DeiT", {"size": {"height": 20, "width": 15}, "crop_size": {"height": 31, "width": 12}, **MEANS}),
        ("CLIP", {"size": 20, "crop_size": 17}),
        ("CLIP", {"size": {"shortest_edge": 21}, "crop_size": {"height": 20, "width": 20}, "resample": 2}),
        ("CLIP", {"do_resize": False, "crop_size": 55}),
        ("CLIP", {"do_center_crop": False, "size": 19}),
        ("Siglip", {"size": {"height": 20, "width": 24}, **MEANS}),
        ("Siglip", {"size": 18, "resample": 2}),
        ("Bit", {"size": {"shortest_edge": 33}, "crop_size": {"height": 28, "width": 28}, "do_pad": False}),
    ],
)
def test_pixels_are_those_of_transformers(kind: str, given: dict[str, Any], image: Image.Image):
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**given)
    expected = theirs(images=image, return_tensors="np")["pixel_values"][0]
    for spelling in ({"image_processor_type": f"{kind}ImageProcessor", **theirs.to_dict()}, given):
        named = {"feature_extractor_type": f"{kind}FeatureExtractor", **MEANS} if spelling is given else {}
        if spelling is given and "image_mean" not in given:
            named |= {"image_mean": list(theirs.image_mean), "image_std": list(theirs.image_std)}
        found = image_pixels(image, json.loads(json.dumps({**named, **spelling})))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[0], np.moveaxis(expected, 0, -1))


SETTINGS = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 12}, **MEANS}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> jh.Model:
    directory = tmp_path_factory.mktemp("vit")
    jh.to_hf(replace(small("vit").ours, preprocessor=SETTINGS), directory / "saved")
    return jh.load(directory / "saved")


def test_an_image_is_the_same_in_whichever_form(vit: jh.Model):
    array = np.asarray(SMOOTH)
    forms = [SMOOTH, array, jnp.asarray(array), (array / 255).astype(np.float32), SMOOTH.convert("RGBA")]
    batch = vit.encode(forms)
    assert batch.pixels is not None
    assert batch.pixels.shape == (5, 8, 12, 3)
    for pixels in batch.pixels:
        np.testing.assert_array_equal(pixels, batch.pixels[0])
    np.testing.assert_array_equal(vit.encode(SMOOTH).pixels, batch.pixels[:1])
    np.testing.assert_array_equal(vit.encode(images=array[None]).pixels, batch.pixels[:1])
    assert jh.run(vit, batch).output.shape == (5, 5)


def test_grey_images_have_three_equal_channels(vit: jh.Model):
    grey = np.asarray(SMOOTH.convert("L"))
    pixels = np.asarray(vit.encode([grey, grey[..., None], SMOOTH.convert("L")]).pixels)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(pixels[0], pixels[2])
    plain = pixels * np.array(MEANS["image_std"], np.float32) + np.array(MEANS["image_mean"], np.float32)
    assert_close(plain[..., :1].repeat(3, axis=-1), plain)


def test_settings_are_kept_wherever_a_model_is_written(vit: jh.Model, tmp_path: Path):
    assert vit.preprocessor == SETTINGS
    jh.to_orbax(vit, tmp_path / "orbax")
    assert jh.load(tmp_path / "orbax").preprocessor == SETTINGS
    (tmp_path / "orbax" / "preprocessor_config.json").unlink()
    (tmp_path / "orbax" / "processor_config.json").write_text(json.dumps({"image_processor": SETTINGS}))
    assert jh.load(tmp_path / "orbax").preprocessor == SETTINGS


def test_clip_encodes_texts_images_or_both():
    class Tokenizer:
        pad_token_id, bos_token_id = 36, 0

        def __call__(self, text: str, *_: Any, **__: Any) -> dict[str, list[int]]:
            return {"input_ids": [0, *(5 + len(word) for word in text.split()), 36]}

        def __len__(self) -> int:
            return 37

    settings = {"image_processor_type": "CLIPImageProcessor", "size": 14, "crop_size": 12, **MEANS}
    model = replace(small("clip").ours, tokenizer=Tokenizer(), preprocessor=settings)
    both = model.encode(["a cat", "an old dog", "a"], images=[SMOOTH, TALL])
    assert jh.run(model, both).output.shape == (2, 3)
    np.testing.assert_array_equal(both.pixels, model.encode([SMOOTH, TALL]).pixels)
    np.testing.assert_array_equal(both.tokens, model.encode(["a cat", "an old dog", "a"]).tokens)
    classifier = jh.zero_shot(model, model.encode(["a cat", "a dog"]))
    assert jh.run(classifier, classifier.encode(SMOOTH)).output.shape == (1, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "takes images, not texts"),
        (np.zeros((3, 8, 12), np.uint8), r"an array \(height, width, 3\), or one of grey; got shape \(3, 8, 12\)"),
        (np.full((8, 12, 3), 2.0), r"floats must lie from 0 to 1; got 2\.0 to 2\.0"),
        (np.full((8, 12, 3), np.nan), "floats must lie from 0 to 1"),
        (np.zeros((8, 12, 3), np.int32), r"8-bit integers \(uint8\), or floats from 0 to 1; got int32"),
        ("a cat", "takes images, not texts"),
        (None, "needs tokens, pixels or features"),
    ],
)
def test_what_is_no_image_is_refused(vit: jh.Model, images: Any, message: str):
    with pytest.raises(ValueError, match=message):
        vit.encode(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "crop_pct": 0.9}, "not understood: crop_pct"),
        ({**SETTINGS, "do_pad": True}, "not understood: do_pad"),
        ({**SETTINGS, "image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor is not covered"),
        ({**SETTINGS, "size": {"longest_edge": 8}}, "must be a whole number, a height and a width, or a shortest_edge"),
        ({**SETTINGS, "image_mean": [0.5]}, r"image_mean .* must be one number or three; got \[0\.5\]"),
        ({**SETTINGS, "do_center_crop": True}, "crop_size of preprocessor_config.json must be"),
        ({**SETTINGS, "resample": 9}, "resample of preprocessor_config.json must be one of .*; got 9"),
        ({**SETTINGS, "do_normalize": "no", "do_resize": 0}, "must say true or false to do_normalize, do_resize"),
        ({"size": 8}, "image_mean of preprocessor_config.json must be one number or three; got None"),
    ],
)
def test_settings_that_are_not_understood_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        image_processor(settings)


HOSTILE = ("8", [1], [[]], {"a": 1}, -1, 0, 10**9, float("nan"), float("inf"), True)


@pytest.mark.parametrize("name", ["size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std"])
def test_settings_of_another_kind_are_refused_by_name(name: str):
    """A deviation of 0 would make pixels infinite, a side of a billion pixels would fill memory."""
    whole = {"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": 17, **MEANS}
    image_processor(whole)
    fine = {"resample": (0, True), "rescale_factor": (10**9,), "image_mean": (-1, 0, 10**9), "image_std": (10**9,)}
    for value in HOSTILE:
        if value not in fine.get(name, ()) or (value is True and name != "resample"):
            with pytest.raises(ValueError, match=name):
                image_processor({**whole, name: value})


def test_images_need_settings_and_one_size():
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json .*jh\.Batch\(pixels=…\)"):
        small("vit").ours.encode(SMOOTH)
    with pytest.raises(ValueError, match="takes no images"):
        small("bert").ours.encode(SMOOTH)
    whole = replace(small("dinov2").ours, preprocessor={**SETTINGS, "do_resize": False})
    with pytest.raises(ValueError, match=r"must have one size.*got 8 × 8, 8 × 12\. Encode them one by one"):
        whole.encode([np.zeros((8, 8, 3)), np.zeros((8, 12, 3))])
    with pytest.raises(ValueError, match="images: expected at least one, got none"):
        whole.encode(images=[])
