"""Small valid files of every container, as bytes by their names."""

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.weights import export

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 3, "content": "<s>", "special": True, **dict.fromkeys(FLAGS, False)}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "unk_token": None, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}


@cache
def arrays() -> dict[str, np.ndarray]:
    """The tensors of a random model of CONFIG, under Hugging Face's names."""
    model = jh.init(CONFIG)
    family: Any = FAMILIES["llama"]
    return {name: np.array(value) for name, value in export(model.network, family.table(model.config)).items()}


@cache
def hugging_face() -> dict[str, bytes]:
    """A directory with its tokenizer, its weights in two shards."""
    names = sorted(arrays())
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": json.dumps(TOKENIZER).encode(),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
        ).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{shard: save({name: arrays()[name] for name in held}) for shard, held in shards.items()},
    }


@cache
def orbax() -> dict[str, bytes]:
    """A directory as `to_orbax` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        directory = jh.to_orbax(jh.init(CONFIG), Path(folder, "model"))
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@cache
def gguf() -> bytes:
    """A Llama with a tokenizer, one of its tensors quantised."""
    width, heads, inner, tokens = 32, 2, 32, ["a", "b", "ab", "<s>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gguf")
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_embedding_length(width)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(heads)
        writer.add_context_length(16)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([1, 1, 1, 3])
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(3)
        writer.add_float32("llama.rope.scaling.factor", 2.0)
        shapes = {"token_embd": (4, width), "output_norm": (width,), "blk.0.attn_norm": (width,)}
        shapes |= {f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
        shapes |= {"blk.0.ffn_norm": (width,), "blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width)}
        for name, shape in {**shapes, "blk.0.ffn_down": (width, inner)}.items():
            values = np.full(shape, 0.5, np.float32)
            if name == "blk.0.ffn_up":
                kind = GGMLQuantizationType.Q8_0
                writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(f"{name}.weight", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of these members, not compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    """The members of a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@cache
def state_dict(*, old: bool = False) -> bytes:
    """A file of torch.save, of the format before 1.6 if `old`, with views of a storage and a parameter."""
    import torch

    base, file = torch.arange(24.0), io.BytesIO()
    half = torch.nn.Parameter(base.half().reshape(4, 6).T)
    torch.save(
        {"whole": base.reshape(4, 6), "view": base.reshape(4, 6)[1::2, ::3], "half": half},
        file,
        _use_new_zipfile_serialization=not old,
    )
    return file.getvalue()


@cache
def glassllm() -> dict[str, bytes]:
    """A file of the package glassllm and its tokenizer."""
    from .test_glassllm import SETTINGS, SHAPES, TOKENIZER

    shapes = {"E": (12, 16), "norm_f.gamma": (16,)} | {f"blocks.0.{name}": shape for name, shape in SHAPES.items()}
    file = io.BytesIO()
    np.savez(
        file,
        allow_pickle=False,
        __config__=np.array(json.dumps(SETTINGS)),
        **{name: np.full(shape, 0.5, np.float16) for name, shape in shapes.items()},
    )
    return {"x.npz": file.getvalue(), "x.json": json.dumps(TOKENIZER).encode()}


@cache
def ctranslate2() -> bytes:
    """A Whisper's model.bin."""
    from ..models.specs import SPECS
    from .test_ctranslate2 import converted, written

    return written(converted(SPECS["whisper"].build()))


@cache
def onnx() -> bytes:
    """A file with a DINOv2 of one layer."""
    from .test_onnx import weights, written

    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder, "x.onnx"), weights()).read_bytes()


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make these the only files of a folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
