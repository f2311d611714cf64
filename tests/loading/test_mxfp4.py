"""Experts packed in MXFP4, against transformers' own unpacking."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import jaxheads as jh

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import their_run

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
NAMES = ("gate_up_proj", "down_proj")


def packed(directory: Path) -> Any:
    """Write a model of which the experts are packed; return the model of transformers with these experts."""
    theirs = SPECS["gpt_oss"].build(**SIZES)
    theirs.save_pretrained(directory)
    tensors, rng = load_file(directory / "model.safetensors"), np.random.default_rng(0)
    for layer, block in enumerate(theirs.model.layers):
        for name in NAMES:
            weight = getattr(block.mlp.experts, name)
            experts, inner, outer = weight.shape
            blocks = rng.integers(0, 256, (experts, outer, inner // 32, 16), np.uint8)
            scales = rng.integers(120, 126, blocks.shape[:-1], np.uint8)
            at = f"model.layers.{layer}.mlp.experts.{name}"
            del tensors[at]
            tensors |= {f"{at}_blocks": blocks, f"{at}_scales": scales}
            whole = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
            weight.data.copy_(whole)
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (directory / "config.json").write_text(json.dumps(config))
    return theirs


def test_packed_experts_are_those_that_transformers_unpacks(tmp_path: Path):
    theirs = packed(tmp_path / "packed")
    ours = jh.load(tmp_path / "packed")
    mlp = ours.network.decoder.blocks.mlp.experts
    for layer, block in enumerate(theirs.model.layers):
        np.testing.assert_array_equal(mlp.down.kernel[layer], block.mlp.experts.down_proj.detach().numpy())
        np.testing.assert_array_equal(mlp.gate.kernel[layer], block.mlp.experts.gate_up_proj.detach().numpy()[..., ::2])
    batch = SPECS["gpt_oss"].batch(theirs)
    real = np.asarray(batch.mask)[0]
    assert_close(np.asarray(jh.run(ours, batch).output)[0][real], their_run(theirs, batch, 0)["output"])
    jh.to_hf(ours, tmp_path / "whole")
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    np.testing.assert_array_equal(
        jh.load(tmp_path / "whole").network.decoder.blocks.mlp.experts.up.kernel, mlp.up.kernel
    )


def test_packed_experts_in_half_precision(tmp_path: Path):
    packed(tmp_path)
    kernel = jh.load(tmp_path, dtype=jnp.bfloat16).network.decoder.blocks.mlp.experts.down.kernel
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        kernel[...].astype(np.float32), jh.load(tmp_path).network.decoder.blocks.mlp.experts.down.kernel
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, at: tensors.pop(f"{at}_scales"), "down_proj_blocks but no .*down_proj_scales"),
        (
            lambda tensors, at: tensors.update({f"{at}_scales": tensors[f"{at}_scales"][:, 1:]}),
            r"\[experts, out, blocks, 16\] .* got uint8 of shape \[4, 64, 1, 16\] and uint8 of \[4, 63, 1\]",
        ),
        (lambda tensors, at: tensors.pop(f"{at}_blocks"), "not known: .*down_proj_scales"),
    ],
)
def test_packed_experts_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path):
    packed(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors, "model.layers.1.mlp.experts.down_proj")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        jh.load(tmp_path)
