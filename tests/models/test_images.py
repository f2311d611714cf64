"""Image models: batches that don't fit, weights split and saved."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import jaxheads as jh
from jaxheads.models.patches import resize_grid

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small, their_run

MODELS = ("vit", "deit", "dinov2", "dinov2_with_registers", "clip", "clip_text_model", "clip_vision_model", "siglip")
MESH = jax.make_mesh((1,), ("model",))


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 12, 8, 3), (2, 8, 12, 1)])
@pytest.mark.parametrize("name", ["vit", "deit"])
def test_images_have_the_size_of_the_positions(name: str, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"pixels must be \[examples, 8, 12, 3\].*got .*Resize the images"):
        jh.run(small(name).ours, jh.Batch(pixels=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("shape", [(2, 10, 12, 3), (2, 12, 7, 3), (2, 8, 12, 4)])
def test_images_are_whole_patches_where_positions_are_interpolated(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"sides of whole patches of 4 pixels; got .*Resize or crop"):
        jh.run(small("dinov2").ours, jh.Batch(pixels=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (37, 3), (9, 20), (1, 1), (50, 64)])
def test_grids_are_resized_as_torch_does(size: tuple[int, int], antialias: bool):
    grid = np.random.default_rng(0).standard_normal((16, 16, 6), np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(grid).permute(2, 0, 1)[None], size, mode="bicubic", align_corners=False, antialias=antialias
    )
    assert_close(resize_grid(jnp.asarray(grid), *size, antialias=antialias), theirs[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers"])
@pytest.mark.parametrize("height", [4, 20, 36])
def test_positions_fit_images_of_any_size(name: str, height: int):
    both = small(name)
    batch = jh.Batch(pixels=np.random.default_rng(0).standard_normal((1, height, 20, 3), np.float32))
    assert_close(jh.run(both.ours, batch).output[0], their_run(both.theirs, batch, 0)["output"])


def test_an_image_model_takes_no_tokens():
    with pytest.raises(ValueError, match="takes pixels; the batch has tokens"):
        jh.run(small("vit").ours, jh.Batch([[1, 2]]))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_rule_for_a_mesh(name: str):
    model = small(name).ours
    assert len(jh.placement(jh.shard(model, MESH))) == len(jax.tree.leaves(model.network))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_transformers_loads(name: str, tmp_path: Path):
    model, architecture = small(name).ours, SPECS[name].architectures[0]
    batch = SPECS[name].batch(small(name).theirs).take([0])
    jh.to_hf(model, tmp_path / "saved")
    theirs = getattr(transformers, architecture).from_pretrained(tmp_path / "saved", attn_implementation="eager")
    output = np.asarray(jh.run(model, batch).output[0])
    real = np.asarray(model.network.streams[-1].queries.of(batch).mask[0])
    assert_close(output[real] if output.ndim > 1 else output, their_run(theirs.eval(), batch, 0)["output"])


def test_a_single_image_is_the_same_as_in_a_batch():
    model, batch = small("vit").ours, SPECS["vit"].batch(None)
    assert_close(jh.run(model, batch.take([1])).output[0], jh.run(model, batch).output[1])
    assert jh.run(model, batch).output.shape == (2, 5)
