"""TransformerLens's checkpoints, compared with HookedTransformer's own computation, written down in NumPy."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jaxheads as jh

BASE: dict[str, Any] = {
    **{"n_layers": 2, "d_model": 16, "n_ctx": 9, "d_head": 8, "n_heads": 3, "d_vocab": 7, "d_mlp": 12},
    **{"act_fn": "relu", "normalization_type": "LN", "positional_embedding_type": "standard", "eps": 1e-2},
    **{"attn_only": False, "seed": 0, "dtype": "float32", "attn_scores_soft_cap": -1.0, "d_vocab_out": -1},
}
CASES: dict[str, dict[str, Any]] = {
    "norms": {},
    "folded": {"normalization_type": "LNPre", "act_fn": "gelu"},
    "interpbench": {"normalization_type": None, "act_fn": "gelu", "d_vocab_out": 5, "attention_dir": "bidirectional"},
    "solu": {"act_fn": "solu_ln", "final_rms": True},
    "attention": {"attn_only": True, "d_mlp": None, "act_fn": None, "use_attn_scale": False},
    "gated": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 1},
    "rotary": {
        **{"positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": 500, "rotary_adjacent_pairs": True},
        **{"normalization_type": "RMSPre", "attn_scale": 3.0, "parallel_attn_mlp": True},
    },
}
TOKENS = np.arange(14).reshape(2, 7) % 7


def shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that HookedTransformer's state dict has."""
    D, H, N, F, out = c["d_model"], c["d_head"], c["n_heads"], c["d_mlp"], c["d_vocab_out"]
    K, under = c.get("n_key_value_heads") or N, "_" if c.get("n_key_value_heads") else ""
    norm = {"LN": ("w", "b"), "RMS": ("w",)}.get(c["normalization_type"], ())
    own: dict[str, tuple[int, ...]] = {f"ln1.{part}": (D,) for part in norm}
    own |= {"attn.W_Q": (N, D, H), "attn.b_Q": (N, H), "attn.W_O": (N, H, D), "attn.b_O": (D,)}
    own |= {f"attn.{under}W_{letter}": (K, D, H) for letter in "KV"} | {
        f"attn.{under}b_{letter}": (K, H) for letter in "KV"
    }
    own |= {"attn.mask": (9, 9), "attn.IGNORE": ()}
    if not c["attn_only"]:
        own |= {f"ln2.{part}": (D,) for part in norm}
        own |= {"mlp.W_in": (D, F), "mlp.b_in": (F,), "mlp.W_out": (F, D), "mlp.b_out": (D,)}
        own |= {"mlp.W_gate": (D, F)} if c.get("gated_mlp") else {}
        own |= {f"mlp.ln.{part}": (F,) for part in norm} if c["act_fn"] == "solu_ln" else {}
    whole: dict[str, tuple[int, ...]] = {"embed.W_E": (c["d_vocab"], D), "unembed.W_U": (D, out), "unembed.b_U": (out,)}
    if c["positional_embedding_type"] == "standard":
        whole["pos_embed.W_pos"] = (c["n_ctx"], D)
    whole |= {f"blocks.{layer}.{name}": shape for layer in range(c["n_layers"]) for name, shape in own.items()}
    return whole | {f"ln_final.{part}": (D,) for part in (("w",) if c.get("final_rms") else norm)}


def made(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A config as `cfg.to_dict()` gives it, and random weights."""
    config = BASE | CASES[case]
    sizes = config | {"d_vocab_out": 7 if config["d_vocab_out"] == -1 else config["d_vocab_out"]}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) * 0.5 for name, shape in shapes(sizes).items()}
    return config, tensors | {name: value + 1 for name, value in tensors.items() if name.endswith(".w")}


def normed(x: np.ndarray, kind: str | None, w: dict[str, np.ndarray], at: str, eps: float) -> np.ndarray:
    if kind is None:
        return x
    if kind.startswith("LN"):
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * w.get(f"{at}.w", 1) + w.get(f"{at}.b", 0)


def acted(x: np.ndarray, name: str) -> np.ndarray:
    if name == "solu_ln":
        return x * torch.softmax(torch.tensor(x), -1).numpy()
    return getattr(torch.nn.functional, name)(torch.tensor(x)).numpy()


def rotated(x_BTNH: np.ndarray, c: dict[str, Any]) -> np.ndarray:
    """Rotate adjacent pairs of the first dimensions (HookedTransformer's `apply_rotary`)."""
    turning, out = c["rotary_dim"], x_BTNH.copy()
    for pair in range(turning // 2):
        angle = np.arange(x_BTNH.shape[1]) * c["rotary_base"] ** (-2 * pair / turning)
        cosine, sine = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
        first, second = x_BTNH[..., 2 * pair], x_BTNH[..., 2 * pair + 1]
        out[..., 2 * pair], out[..., 2 * pair + 1] = first * cosine - second * sine, second * cosine + first * sine
    return out


def reference(c: dict[str, Any], w: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and patterns as HookedTransformer computes them."""
    w = {name.replace("._", "."): value.astype(np.float64) for name, value in w.items()}
    kind, eps, patterns = c["normalization_type"], c["eps"], []
    x = w["embed.W_E"][TOKENS] + (w["pos_embed.W_pos"][: TOKENS.shape[1]] if "pos_embed.W_pos" in w else 0)
    scale = c.get("attn_scale", c["d_head"] ** 0.5) if c.get("use_attn_scale", True) else 1
    for layer in range(c["n_layers"]):
        at = f"blocks.{layer}."
        inner = normed(x, kind, w, f"{at}ln1", eps)
        q, k, v = (
            np.einsum("btd,ndh->btnh", inner, w[f"{at}attn.W_{letter}"]) + w[f"{at}attn.b_{letter}"] for letter in "QKV"
        )
        if c["positional_embedding_type"] == "rotary":
            q, k = rotated(q, c), rotated(k, c)
        k, v = (np.repeat(kv, c["n_heads"] // kv.shape[2], axis=2) for kv in (k, v))
        scores = np.einsum("btnh,bsnh->bnts", q, k) / scale
        if c.get("attention_dir") != "bidirectional":
            scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
        pattern = torch.softmax(torch.tensor(scores), -1).numpy()
        patterns.append(pattern)
        attn_out = np.einsum("bnts,bsnh,nhd->btd", pattern, v, w[f"{at}attn.W_O"]) + w[f"{at}attn.b_O"]
        if c["attn_only"]:
            x = x + attn_out
            continue
        inner = normed(x if c.get("parallel_attn_mlp") else x + attn_out, kind, w, f"{at}ln2", eps)
        if c.get("gated_mlp"):
            hidden = (
                acted(inner @ w[f"{at}mlp.W_gate"], c["act_fn"]) * (inner @ w[f"{at}mlp.W_in"]) + w[f"{at}mlp.b_in"]
            )
        else:
            hidden = acted(inner @ w[f"{at}mlp.W_in"] + w[f"{at}mlp.b_in"], c["act_fn"])
        if c["act_fn"] == "solu_ln":
            hidden = normed(hidden, kind, w, f"{at}mlp.ln", eps)
        x = x + attn_out + hidden @ w[f"{at}mlp.W_out"] + w[f"{at}mlp.b_out"]
    last = ("RMS" if kind is not None else None) if c.get("final_rms") else kind
    return normed(x, last, w, "ln_final", eps) @ w["unembed.W_U"] + w["unembed.b_U"], np.stack(patterns)


def saved(directory: Path, tensors: dict[str, np.ndarray], name: str = "model.pth") -> Path:
    directory.mkdir(exist_ok=True)
    torch.save({key: torch.tensor(value) for key, value in tensors.items()}, directory / name)
    return directory / name


def compare(model: jh.Model, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    logits, patterns = reference(config, tensors)
    run = jh.run(model, jh.Batch(TOKENS), capture="pattern")
    assert np.abs(run.output - logits).max() <= 1e-5 * max(1, np.abs(logits).max())
    assert np.abs(run.seen["pattern"] - patterns).max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_directory_of_a_state_dict_and_its_config_equals_the_reference(case: str, tmp_path: Path):
    config, tensors = made(case)
    saved(tmp_path, tensors, "ll_model.pth")
    plain = config | {"initializer_range": np.float64(0.1)}
    (tmp_path / "ll_model_cfg.pkl").write_bytes(pickle.dumps(plain))
    model = jh.load(tmp_path)
    compare(model, config, tensors)
    assert model.identity().startswith("sha256:")


class HookedTransformerConfig:
    """An object with a config's fields, as InterpBench's pickles hold some."""

    def __init__(self, fields: dict[str, Any]):
        self.__dict__.update(fields)


def test_configs_come_as_json_as_pickled_objects_or_as_dicts(tmp_path: Path):
    config, tensors = made("interpbench")
    file = saved(tmp_path / "json", tensors)
    (tmp_path / "json" / "config.json").write_text(json.dumps(config))
    compare(jh.load(file), config, tensors)
    file = saved(tmp_path / "object", tensors, "toy.pt")
    (tmp_path / "object" / "toy_cfg.pkl").write_bytes(pickle.dumps(HookedTransformerConfig(config)))
    compare(jh.load(file), config, tensors)
    compare(jh.adopt(config, {name: torch.tensor(value) for name, value in tensors.items()}), config, tensors)


def test_a_pickled_config_runs_no_code(tmp_path: Path):
    _, tensors = made("norms")
    file = saved(tmp_path, tensors)
    (tmp_path / "model_cfg.pkl").write_bytes(pickle.dumps({"act_fn": Attack(tmp_path / "ran")}))
    with pytest.raises(ValueError, match="activation must be a string"):
        jh.load(file)
    assert not (tmp_path / "ran").exists()


class Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_old_configs_have_other_words(tmp_path: Path):
    config, tensors = made("solu")
    config = config | {"normalization": config["normalization_type"], "ln_eps": config["eps"], "shortformer_pos": False}
    for name in ("normalization_type", "eps", "positional_embedding_type"):
        del config[name]
    saved(tmp_path, tensors, "model_final.pth")
    (tmp_path / "config.json").write_text(json.dumps(config | {"lr": 1e-3}))
    with pytest.warns(UserWarning, match=r"passed over \(lr\)"):
        model = jh.load(tmp_path)
    compare(model, *made("solu"))


def test_without_a_config_the_tensors_tell_and_what_is_assumed_is_said(tmp_path: Path):
    config, tensors = made("solu")
    config, tensors = config | {"eps": 1e-5, "final_rms": False}, tensors | {"ln_final.b": np.ones(16, np.float32)}
    with pytest.warns(UserWarning, match=r"no config: .*causal attention, eps=1e-05"):
        compare(jh.load(saved(tmp_path, tensors)), config, tensors)
    for case, lacking in (("folded", "normalization_type, act_fn"), ("norms", "act_fn")):
        with (
            pytest.warns(UserWarning, match="no config"),
            pytest.raises(ValueError, match=f"do not tell {lacking} .*cfg.json"),
        ):
            jh.load(saved(tmp_path, made(case)[1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positional_embedding_type": "shortformer"}, "positional_embedding_type='shortformer' is not covered"),
        ({"shortformer_pos": True}, "shortformer_pos=True is not covered"),
        ({"use_local_attn": True}, "use_local_attn=True is not covered"),
        ({"attn_scores_soft_cap": 30.0}, "attn_scores_soft_cap=30.0 is not covered"),
        ({"normalization_type": "BN"}, "normalization_type='BN' is not covered"),
        ({"act_fn": "mish"}, "activation 'mish' is not known"),
        ({"d_mlp": 13}, r"layers\.0\.W_in is \(12, 16\), expected \(13, 16\)"),
    ],
)
def test_what_is_not_covered_is_refused(fields: dict[str, Any], message: str):
    config, tensors = made("norms")
    with pytest.raises(ValueError, match=message):
        jh.adopt(config | fields, tensors)


def test_other_files_of_torch_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no state dict of a HookedTransformer.*use jh\.adopt"):
        jh.load(saved(tmp_path, {"layer.weight": np.ones((2, 2), np.float32)}))
    _, tensors = made("norms")
    with pytest.raises(ValueError, match=r"not known: blocks\.0\.extra"):
        jh.adopt(made("norms")[0], tensors | {"blocks.0.extra": np.ones(2)})
