"""Image models: batches that don't fit, weights split and saved."""

from pathlib import Path

import jax
import numpy as np
import pytest
import transformers

import jaxheads as jh

from .huggingface import assert_close
from .specs import SPECS
from .specs.spec import small, their_run

MODELS = ("vit", "deit")
MESH = jax.make_mesh((1,), ("model",))


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 12, 8, 3), (2, 8, 12, 1)])
@pytest.mark.parametrize("name", ["vit", "deit"])
def test_images_have_the_size_of_the_positions(name: str, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"pixels must be \[examples, 8, 12, 3\].*got .*Resize the images"):
        jh.run(small(name).ours, jh.Batch(pixels=np.zeros(shape, np.float32)))


def test_an_image_model_takes_no_tokens():
    with pytest.raises(ValueError, match="takes pixels; the batch has tokens"):
        jh.run(small("vit").ours, jh.Batch([[1, 2]]))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_rule_for_a_mesh(name: str):
    model = small(name).ours
    assert len(jh.placement(jh.shard(model, MESH))) == len(jax.tree.leaves(model.network))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_transformers_loads(name: str, tmp_path: Path):
    model, batch, architecture = small(name).ours, SPECS[name].batch(None), SPECS[name].architectures[0]
    jh.to_hf(model, tmp_path / "saved")
    theirs = getattr(transformers, architecture).from_pretrained(tmp_path / "saved", attn_implementation="eager")
    for example in range(len(batch)):
        assert_close(jh.run(model, batch).output[example], their_run(theirs.eval(), batch, example)["output"])


def test_a_single_image_is_the_same_as_in_a_batch():
    model, batch = small("vit").ours, SPECS["vit"].batch(None)
    assert_close(jh.run(model, batch.take([1])).output[0], jh.run(model, batch).output[1])
    assert jh.run(model, batch).output.shape == (2, 5)
