"""Checkpoints of TransformerLens: state dicts with `blocks.N.attn.W_Q`, and configs in HookedTransformer's words.

They become toys, of the family `attention_only`. Norms whose weights were folded ("LNPre", "RMSPre") get weights of 1.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import shown
from .checkpoint import Checkpoint, Tensor, files_identity
from .containers import is_present, listed, reading
from .hf_directory import read_json
from .hf_tokenizer import directory_tokenizer
from .pickles import pickle_tensors
from .plain_pickles import plain_fields
from .weight_files import weight_files

SUFFIXES = (".pth", ".pt")
_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")
_BUFFERS = re.compile(r"(blocks\.\d+\.attn\.)?(mask|IGNORE|rotary_sin|rotary_cos|alibi|causal_mask|masked_bias)")
_NORMS: Mapping[str | None, tuple[str, bool]] = {
    "LN": ("layer_norm", True),
    "LNPre": ("layer_norm", False),
    "RMS": ("rms_norm", True),
    "RMSPre": ("rms_norm", False),
    None: ("none", False),
}
"""Our kind of each norm, and whether a checkpoint holds its weights."""

_ALIASES = {"normalization": "normalization_type", "ln_eps": "eps", "rotary_theta": "rotary_base"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "use_local_attn": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "use_qk_norm": (False,),
    "post_embedding_ln": (False,),
    "load_in_4bit": (False,),
    "use_normalization_before_and_after": (False,),
    "use_NTK_by_parts_rope": (False,),
    "use_yarn_rope": (False,),
    "shortformer_pos": (False,),
    "num_experts": (),
    "rotary_base_local": (),
    "attn_scores_soft_cap": (-1.0, 0.0),
    "output_logits_soft_cap": (-1.0, 0.0),
}
"""Fields that are supported at these values only, beside None."""


def is_transformer_lens(names: Any) -> bool:
    """Whether tensors have TransformerLens's names."""
    return any(re.fullmatch(r"blocks\.\d+\.attn\.W_Q", name) for name in names)


def lens_file(directory: Path) -> Path | None:
    """Return the one .pth file of a directory without weights in Hugging Face's layout; None if there is no such."""
    if weight_files([item.name for item in directory.iterdir()]) is not None:
        return None
    files = [path for path in sorted(directory.iterdir()) if path.suffix in SUFFIXES and path.is_file()]
    final = [path for path in files if path.stem in ("model_final", "model", "ll_model")]
    return files[0] if len(files) == 1 else final[0] if len(final) == 1 else None


def lens_checkpoint(path: Path, *, name: str) -> Checkpoint:
    """Open a state dict that torch.save wrote of a HookedTransformer.

    The config is read from STEM.json, STEM_cfg.json, STEM_cfg.pkl, config.json or cfg.json beside it, whichever is
    there; where there is none, it is read off the tensors.

    Raises:
        ValueError: for a file that can't be read, tensors of other names, or a config that is not understood.
    """
    tensors = pickle_tensors(path)
    if not is_transformer_lens(tensors):
        raise ValueError(
            f"{path} is no state dict of a HookedTransformer (none of its {len(tensors)} tensors is called "
            f"blocks.0.attn.W_Q; it has {listed(sorted(tensors))}). For a model of transformers name its directory; "
            "for one of your own use jh.adopt"
        )
    tokenizer = partial(directory_tokenizer, path.parent)
    return as_toy(Checkpoint(_config_beside(path), tensors, tokenizer, name, partial(files_identity, [path])))


def _config_beside(path: Path) -> dict[str, Any]:
    for beside in (f"{path.stem}.json", f"{path.stem}_cfg.json", f"{path.stem}_cfg.pkl", "config.json", "cfg.json"):
        file = path.parent / beside
        if is_present(file) and file.suffix == ".json":
            return read_json(file)
        if is_present(file):
            with reading(file, "a pickled config of TransformerLens"):
                return plain_fields(file.read_bytes())
    return {}


def as_toy(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint of TransformerLens as one of the family `attention_only`; others as they are.

    Raises:
        ValueError: for a config that is not understood, or that lacks what the tensors can't tell.
    """
    if not is_transformer_lens(checkpoint.tensors) or "model_type" in checkpoint.config:
        return checkpoint
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not _BUFFERS.fullmatch(name)}
    config = _understood(checkpoint.config, checkpoint.name)
    # TransformerLens writes -1 for what it derives from other fields.
    stated = {name: value for name, value in config.items() if value is not None and value != -1}
    stated = {**_read_off(checkpoint.tensors), **stated}
    if not config:
        warnings.warn(
            f"{checkpoint.name} has no config: what its tensors do not tell is taken to be TransformerLens's default "
            "(causal attention, eps=1e-05, scores over the root of d_head, positions added to the stream)",
            stacklevel=4,
        )
    if "normalization_type" in config:
        stated["normalization_type"] = config["normalization_type"]
    toy = _toy_config(stated, checkpoint.name)
    return replace(checkpoint, config=toy, tensors=_toy_tensors(toy, stated, tensors))


def _understood(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of a config under their present names; raise ValueError for one that is not supported."""
    fields = {_ALIASES.get(field, field): value for field, value in config.items()}
    for field, values in _NEUTRAL.items():
        if fields.get(field) is not None and fields[field] not in values:
            raise ValueError(
                f"{name}: TransformerLens's {field}={shown(fields[field])} is not covered; supported is "
                f"{' or '.join(map(repr, values)) or None}"
            )
    passed_over = set(fields) - set(_READ) - set(_NEUTRAL) - _HARMLESS
    if passed_over:
        warnings.warn(
            f"{name}: fields that TransformerLens does not read are passed over ({', '.join(sorted(passed_over))})",
            stacklevel=5,
        )
    return fields


_READ = (
    "n_layers d_model n_ctx d_head n_heads d_mlp act_fn d_vocab d_vocab_out eps use_attn_scale attn_scale final_rms "
    "normalization_type attention_dir attn_only positional_embedding_type parallel_attn_mlp rotary_dim rotary_base "
    "rotary_adjacent_pairs gated_mlp n_key_value_heads"
).split()
_HARMLESS = frozenset(
    "model_name use_attn_result use_split_qkv_input use_hook_mlp_in use_attn_in ungroup_grouped_query_attention "
    "original_architecture from_checkpoint checkpoint_index checkpoint_label_type checkpoint_value tokenizer_name "
    "window_size attn_types init_mode device n_devices seed initializer_range init_weights n_params use_hook_tokens "
    "default_prepend_bos dtype tokenizer_prepends_bos trust_remote_code experts_per_token "
    "relative_attention_max_distance relative_attention_num_buckets decoder_start_token_id tie_word_embeddings "
    "NTK_by_parts_low_freq_factor NTK_by_parts_high_freq_factor NTK_by_parts_factor NTK_original_ctx_len "
    "yarn_attn_factor yarn_original_ctx_len model_type".split()
)


def _read_off(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the tensors of a HookedTransformer say about its config."""
    first = {
        match[2]: tensor.shape
        for name, tensor in tensors.items()
        if (match := _LAYER.fullmatch(name)) and match[1] == "0"
    }
    heads, width, size = first["attn.W_Q"]
    fields: dict[str, Any] = {
        "n_layers": 1 + max(int(match[1]) for name in tensors if (match := _LAYER.fullmatch(name))),
        "n_heads": heads,
        "d_model": width,
        "d_head": size,
        "attn_only": "mlp.W_in" not in first,
        "gated_mlp": "mlp.W_gate" in first,
        "positional_embedding_type": "standard",
    }
    if "mlp.W_in" in first:
        fields["d_mlp"] = first["mlp.W_in"][1]
    if "attn._W_K" in first:
        fields["n_key_value_heads"] = first["attn._W_K"][0]
    if "ln1.w" in first:
        fields["normalization_type"] = "LN" if "ln1.b" in first else "RMS"
    if "mlp.ln.w" in first:
        fields["act_fn"] = "solu_ln"
    if "attn.mask" in first:
        fields["n_ctx"] = first["attn.mask"][0]
    if "attn.rotary_sin" in first:
        context, turning = first["attn.rotary_sin"]
        fields |= {"positional_embedding_type": "rotary", "n_ctx": context, "rotary_dim": turning}
    for name, axis, field in (
        ("embed.W_E", 0, "d_vocab"),
        ("unembed.W_U", 1, "d_vocab_out"),
        ("pos_embed.W_pos", 0, "n_ctx"),
    ):
        if name in tensors:
            fields[field] = tensors[name].shape[axis]
    return fields


_POSITIONS = {"standard": "learned", "rotary": "rotary", "none": "none"}


def _check(fields: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for fields that are missing, or values that are not covered."""
    needed = ["n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "normalization_type"]
    needed += [] if fields.get("attn_only") else ["d_mlp", "act_fn"]
    needed += ["rotary_dim", "rotary_base"] if fields.get("positional_embedding_type") == "rotary" else []
    if missing := [field for field in needed if field not in fields]:
        raise ValueError(
            f'{name}: the tensors do not tell {", ".join(missing)} (norms without weights may be folded ones, "LNPre", '
            "or none, null). Put the model's cfg.to_dict() as cfg.json beside the file, or give it to jh.adopt"
        )
    for field, known in (
        ("normalization_type", _NORMS),
        ("positional_embedding_type", _POSITIONS),
        ("attention_dir", ("causal", "bidirectional")),
    ):
        if fields.get(field, next(iter(known))) not in known:
            raise ValueError(
                f"{name}: TransformerLens's {field}={shown(fields[field])} is not covered; known are "
                f"{', '.join(map(str, known))}"
            )


def _toy_config(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the config of a toy, from fields in TransformerLens's words."""
    _check(fields, name)
    kind, _ = _NORMS[fields["normalization_type"]]
    size = fields["d_head"]
    scale = max(fields.get("attn_scale") or 0, 0) or np.sqrt(size) if fields.get("use_attn_scale", True) else 1.0
    toy = {
        "model_type": "attention_only",
        "vocab_size": fields["d_vocab"],
        "vocab_size_out": fields.get("d_vocab_out", fields["d_vocab"]),
        "d_model": fields["d_model"],
        "n_layers": fields["n_layers"],
        "n_heads": fields["n_heads"],
        "d_head": size,
        "num_key_value_heads": fields.get("n_key_value_heads"),
        "max_position_embeddings": fields["n_ctx"],
        "positions": _POSITIONS[fields["positional_embedding_type"]],
        "rotary_dim": fields.get("rotary_dim"),
        "rope_theta": float(fields.get("rotary_base") or 10000.0),
        "norm": kind,
        "norm_eps": float(fields.get("eps") or 1e-5),
        "final_norm": "rms_norm" if fields.get("final_rms") and kind != "none" else kind,
        "bias": True,
        "scale": 1 / float(scale),
        "causal": fields.get("attention_dir", "causal") == "causal",
        "unembed_bias": True,
    }
    if not fields.get("attn_only"):
        toy |= {"d_mlp": fields["d_mlp"], "activation": fields["act_fn"], "mlp_bias": True}
        toy |= {
            "gated_mlp": bool(fields.get("gated_mlp")),
            "use_parallel_residual": bool(fields.get("parallel_attn_mlp")),
        }
    return {field: value for field, value in toy.items() if value is not None}


def _toy_tensors(toy: Mapping[str, Any], fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names and in the orientation of a toy, those that are not known as they are."""
    layers, width, out = toy["n_layers"], toy["d_model"], toy["vocab_size_out"]
    turned = _turned(fields) if toy["positions"] == "rotary" and fields.get("rotary_adjacent_pairs") else None
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        prefix, rest = (f"layers.{match[1]}.", match[2]) if match else ("", name)
        target, change = _RENAMED.get(rest, (rest, _same))
        if turned is not None and target[-2:] in ("_Q", "_K"):
            change = partial(_changed, turned, change)
        made[prefix + target if rest in _RENAMED else name] = _derived(tensor, change)
    heads, kv_heads, size = toy["n_heads"], toy.get("num_key_value_heads", toy["n_heads"]), toy["d_head"]
    zeros = {f"b_{letter}": (heads if letter == "Q" else kv_heads) * size for letter in "QKV"} | {"b_O": width}
    if "d_mlp" in toy:
        zeros |= {"b_in": toy["d_mlp"], "b_out": width} | ({"b_gate": toy["d_mlp"]} if toy["gated_mlp"] else {})
    for layer in range(layers):
        if toy.get("gated_mlp"):
            _fold_gated_bias(made, f"layers.{layer}.")
        for bias, length in zeros.items():
            made.setdefault(f"layers.{layer}.{bias}", _constant(0.0, length))
    made.setdefault("unembed.bias", _constant(0.0, out))
    if not _NORMS[fields["normalization_type"]][1]:
        _add_norms(made, toy)
    return made


def _add_norms(made: dict[str, Tensor], toy: Mapping[str, Any]) -> None:
    """Add weights of 1 (and biases of 0) for norms whose weights were folded."""
    if toy["norm"] == "none":
        return
    norms = {f"layers.{layer}.norm": (toy["d_model"], toy["norm"]) for layer in range(toy["n_layers"])}
    if "d_mlp" in toy:
        norms |= {f"layers.{layer}.mlp_norm": (toy["d_model"], toy["norm"]) for layer in range(toy["n_layers"])}
        if toy["activation"] == "solu_ln":
            norms |= {f"layers.{layer}.middle_norm": (toy["d_mlp"], toy["norm"]) for layer in range(toy["n_layers"])}
    norms["final_norm"] = (toy["d_model"], toy["final_norm"])
    for name, (length, kind) in norms.items():
        made[f"{name}.weight"] = _constant(1.0, length)
        if kind == "layer_norm":
            made[f"{name}.bias"] = _constant(0.0, length)


def _fold_gated_bias(made: dict[str, Tensor], at: str) -> None:
    """Move the bias that a gated MLP adds after its product, before W_out, behind it."""
    inner, out, matrix = (made.pop(f"{at}b_in", None), made.get(f"{at}b_out"), made.get(f"{at}W_out"))
    if inner is None or out is None or matrix is None:
        return

    def read() -> np.ndarray:
        return out.read() + matrix.read() @ inner.read()

    made[f"{at}b_out"] = Tensor(out.shape, out.dtype, read)


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _transposed(value: np.ndarray) -> np.ndarray:
    return value.T


def _into_heads(value_NDH: np.ndarray) -> np.ndarray:
    return value_NDH.swapaxes(1, 2).reshape(-1, value_NDH.shape[1])


def _out_of_heads(value_NHD: np.ndarray) -> np.ndarray:
    return value_NHD.reshape(-1, value_NHD.shape[-1]).T


def _flat(value: np.ndarray) -> np.ndarray:
    return value.reshape(-1)


_RENAMED: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "embed.W_E": ("embed.weight", _same),
    "pos_embed.W_pos": ("embed_position.weight", _same),
    "unembed.W_U": ("unembed.weight", _transposed),
    "unembed.b_U": ("unembed.bias", _same),
    "ln_final.w": ("final_norm.weight", _same),
    "ln_final.b": ("final_norm.bias", _same),
    **{f"attn.W_{letter}": (f"W_{letter}", _into_heads) for letter in "QKV"},
    **{f"attn._W_{letter}": (f"W_{letter}", _into_heads) for letter in "KV"},
    **{f"attn.b_{letter}": (f"b_{letter}", _flat) for letter in "QKV"},
    **{f"attn._b_{letter}": (f"b_{letter}", _flat) for letter in "KV"},
    "attn.W_O": ("W_O", _out_of_heads),
    "attn.b_O": ("b_O", _same),
    **{f"mlp.W_{matrix}": (f"W_{matrix}", _transposed) for matrix in ("in", "out", "gate")},
    **{f"mlp.b_{matrix}": (f"b_{matrix}", _same) for matrix in ("in", "out", "gate")},
    "ln1.w": ("norm.weight", _same),
    "ln1.b": ("norm.bias", _same),
    "ln2.w": ("mlp_norm.weight", _same),
    "ln2.b": ("mlp_norm.bias", _same),
    "mlp.ln.w": ("middle_norm.weight", _same),
    "mlp.ln.b": ("middle_norm.bias", _same),
}
"""Name and orientation in a toy of each tensor, without the prefix of its layer."""


def _turned(fields: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the reordering of a head's dimensions from rotary pairs (2i, 2i+1) to (i, i + R/2)."""
    rotating = fields["rotary_dim"]
    order = np.concatenate(
        [np.arange(0, rotating, 2), np.arange(1, rotating, 2), np.arange(rotating, fields["d_head"])]
    )
    return lambda value: value[..., order]


def _changed(first: Callable, then: Callable, value: np.ndarray) -> np.ndarray:
    return then(first(value))


def _derived(tensor: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Return a tensor whose values are those of another, reordered."""
    shape = change(np.broadcast_to(np.zeros((), np.int8), tensor.shape)).shape if change is not _same else tensor.shape
    return Tensor(shape, tensor.dtype, lambda: change(tensor.read()))


def _constant(value: float, length: int) -> Tensor:
    return Tensor((length,), "float32", lambda: np.full(length, value, np.float32))
