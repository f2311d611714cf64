"""Models by hand with MLPs: a compiled program whose every answer is known, and the sum of heads and MLPs in NumPy."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

LETTERS, LONGEST = 4, 6
V, COUNTS = LETTERS + 1, LONGEST
BOS = LETTERS


def counting_program() -> jh.Model:
    """RASP's `hist` (Weiss et al. 2021, section 3): how often does a position's letter stand in the text?

    The stream is [letter | is it BOS | share | count]. The head looks at its own letter and at BOS, and moves "is it
    BOS": with c equal letters that is a share of 1 / (c + 1). The MLP turns the share into one of the counts 1 … 6:
    between 1 / (c + 2) and 1 / (c + 1) a pair of ReLUs steps from 0 to 1.
    """
    letter, is_bos, share, count = slice(0, LETTERS), LETTERS, LETTERS + 1, slice(LETTERS + 2, LETTERS + 2 + COUNTS)
    D = LETTERS + 2 + COUNTS
    embed = np.zeros((V, D))
    embed[:LETTERS, letter], embed[BOS, is_bos] = np.eye(LETTERS), 1
    W_Q, W_K, W_V, W_O = np.zeros((1, D, V)), np.zeros((1, D, V)), np.zeros((1, D, V)), np.zeros((1, V, D))
    W_Q[0, letter, :LETTERS] = 60 * np.eye(LETTERS)
    W_Q[0, letter, BOS] = 60
    W_K[0, letter, :LETTERS], W_K[0, is_bos, BOS] = np.eye(LETTERS), 1
    W_V[0, is_bos, 0], W_O[0, 0, share] = 1, 1
    W_in, b_in, W_out = np.zeros((D, 2 * COUNTS)), np.zeros(2 * COUNTS), np.zeros((2 * COUNTS, D))
    for c in range(1, COUNTS + 1):
        steps = slice(2 * c - 2, 2 * c)
        low, high = 1 / (c + 2), 1 / (c + 1)
        W_in[share, steps] = 1 / (high - low)
        b_in[steps] = -low / (high - low) - np.array([0, 1])
        W_out[steps, count.start + c - 1] = [1, -1]
        if c < COUNTS:
            W_out[steps, count.start + c] = [-1, 1]
    unembed = np.zeros((COUNTS, D))
    unembed[:, count] = 20 * np.eye(COUNTS)
    layer = {"W_Q": W_Q, "W_K": W_K, "W_V": W_V, "W_O": W_O, "W_in": W_in, "b_in": b_in, "W_out": W_out}
    return jh.by_hand(embed, [layer], unembed, causal=False)


@pytest.fixture(scope="module")
def program() -> jh.Model:
    return counting_program()


@pytest.fixture(scope="module")
def texts() -> jh.Batch:
    letters = np.random.default_rng(0).integers(0, LETTERS, (8, LONGEST))
    return jh.Batch(np.concatenate([np.full((8, 1), BOS), letters], axis=1))


def counts(batch: jh.Batch) -> np.ndarray:
    tokens = np.asarray(batch.tokens)
    return (tokens[:, :, None] == tokens[:, None, :]).sum(axis=2)


def test_a_compiled_program_computes_its_function(program: jh.Model, texts: jh.Batch):
    run = jh.run(program, texts, capture=("mlp_out", "pattern"))
    assert run.output.shape == (8, LONGEST + 1, COUNTS)
    assert np.array_equal(np.asarray(run.output.argmax(axis=2))[:, 1:] + 1, counts(texts)[:, 1:])
    share = np.asarray(run.seen["pattern"])[0, :, 0, 1:, 0]
    assert np.allclose(share, 1 / (counts(texts)[:, 1:] + 1), atol=1e-6)
    written = np.asarray(run.seen["mlp_out"])[0, :, 1:, LETTERS + 2 :]
    assert np.allclose(written, np.eye(COUNTS)[counts(texts)[:, 1:] - 1], atol=1e-4)


def test_its_head_and_its_mlp_matter(program: jh.Model, texts: jh.Batch):
    right = jnp.asarray(counts(texts)[:, 1] - 1)
    objective = jh.logit(right, positions=1)
    effect = float(jh.ablate(program, texts, objective, method="zero").values.item())
    assert effect == pytest.approx(-20, abs=1e-2)


def test_a_token_that_has_no_logit_is_no_target():
    wide = jh.init({**WIDE, "vocab_size_out": 5})
    with pytest.raises(ValueError, match=r"has logits of 0\.\.4 only: it can't predict the token 6"):
        jh.ablate(wide, jh.Batch([[0, 1, 6]]), jh.loss(), "zero")


WIDE = {"model_type": "attention_only", "vocab_size": 7, "d_model": 8, "n_layers": 1, "n_heads": 2}
WIDE["max_position_embeddings"] = 9


def test_layers_without_heads_or_mlp_and_of_any_width_equal_their_sum():
    rng = np.random.default_rng(1)
    N, D, H, T = 2, 6, 3, 5
    embed, unembed = rng.normal(size=(7, D)), rng.normal(size=(4, D))

    def heads() -> dict[str, np.ndarray]:
        shapes = {**dict.fromkeys(("W_Q", "W_K", "W_V"), (N, D, H)), "W_O": (N, H, D), "b_Q": (N, H), "b_O": (D,)}
        return {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def mlp(width: int) -> dict[str, np.ndarray]:
        shapes = {"W_in": (D, width), "W_out": (width, D), "b_in": (width,), "b_out": (D,)}
        return {name: rng.normal(size=shape) for name, shape in shapes.items()}

    layers = [{**heads(), **mlp(4)}, mlp(9), heads()]
    tokens = rng.integers(0, 7, (2, T))
    for name, act in (("gelu", jax.nn.gelu), ("own", lambda x: jnp.sin(x) + 0.5)):
        exact = (lambda x: np.asarray(jax.nn.gelu(x, approximate=False))) if name == "gelu" else act
        model = jh.by_hand(embed, layers, unembed, scale=0.5, activation="gelu" if name == "gelu" else act)
        assert model.stack().heads == N
        x = embed[tokens]
        for layer in layers:
            if "W_Q" in layer:
                x = x + attention(x, layer)
            if "W_in" in layer:
                x = x + np.asarray(exact(x @ layer["W_in"] + layer["b_in"])) @ layer["W_out"] + layer["b_out"]
        expected = x @ unembed.T
        assert np.abs(jh.run(model, jh.Batch(tokens)).output - expected).max() < 1e-4 * np.abs(expected).max()


def attention(x_BTD: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    q = np.einsum("btd,ndh->bnth", x_BTD, layer["W_Q"]) + layer["b_Q"][None, :, None]
    k, v = (np.einsum("btd,ndh->bnth", x_BTD, layer[name]) for name in ("W_K", "W_V"))
    scores = np.where(np.tri(x_BTD.shape[1], dtype=bool), 0.5 * q @ k.swapaxes(2, 3), -np.inf)
    pattern = np.exp(scores - scores.max(axis=3, keepdims=True))
    pattern /= pattern.sum(axis=3, keepdims=True)
    return np.einsum("bnth,nhd->btd", pattern @ v, layer["W_O"]) + layer["b_O"]


def test_a_program_is_written_and_read(program: jh.Model, texts: jh.Batch, tmp_path: Path):
    jh.to_hf(program, tmp_path / "program")
    again = jh.load(str(tmp_path / "program"))
    assert np.array_equal(jh.run(again, texts).output, jh.run(program, texts).output)
    own = jh.by_hand(np.eye(3), [{"W_in": np.eye(3), "W_out": np.eye(3)}], np.eye(3), activation=jnp.sin)
    with pytest.raises(ValueError, match="no Hugging Face config"):
        jh.to_hf(own, tmp_path / "own")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "mish"}, "activation 'mish' is not known"),
        ({"activation": "solu_ln", "norm": "none"}, "solu_ln has a norm"),
        ({"activation": "solu_ln", "gated_mlp": True}, "solu_ln has a norm"),
        ({"vocab_size_out": 5, "tie_word_embeddings": True}, "as many logits as tokens"),
        ({"final_norm": "batch_norm"}, "final_norm must be one of"),
        ({"d_mlp": 0}, "d_mlp must be a whole number of at least 1"),
    ],
)
def test_configs_of_toys_that_contradict_themselves_are_refused(fields: dict[str, Any], message: str):
    config = {"model_type": "attention_only", "vocab_size": 7, "d_model": 8, "n_layers": 1, "n_heads": 2}
    config |= {"max_position_embeddings": 9, "d_mlp": 12, "norm": "layer_norm"}
    with pytest.raises(ValueError, match=message):
        jh.init(config | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"d_mlp": 12, "norm": "layer_norm", "activation": "solu_ln", "final_norm": "rms_norm"},
        {"d_mlp": 12, "gated_mlp": True, "norm": "rms_norm", "use_parallel_residual": True, "num_key_value_heads": 1},
        {"d_mlp": 12, "use_parallel_residual": True, "mlp_bias": True, "vocab_size_out": 5, "unembed_bias": True},
        {"positions": "rotary", "rotary_dim": 2, "rope_theta": 500.0, "bias": True},
    ],
)
def test_toys_of_every_kind_are_written_read_measured_and_swept(fields: dict[str, Any], tmp_path: Path):
    config = {"model_type": "attention_only", "vocab_size": 7, "d_model": 8, "n_layers": 2, "n_heads": 2}
    model = jh.init(config | {"max_position_embeddings": 9} | fields)
    batch = jh.Batch(np.arange(10).reshape(2, 5) % 5)
    jh.to_hf(model, tmp_path / "toy")
    again = jh.load(str(tmp_path / "toy"))
    assert np.array_equal(jh.run(again, batch).output, jh.run(model, batch).output)
    objective = jh.logit_difference(1, 2)
    effects = jh.ablate(model, batch, objective, method="zero")
    changed = jh.run(model, batch, edits=jh.zero_heads(model, [(1, 0)])).output - jh.run(model, batch).output
    assert np.isclose(effects.values[1, 0], (changed[:, -1, 1] - changed[:, -1, 2]).mean(), atol=1e-6)
    if fields.get("d_mlp") and fields.get("norm"):
        folded = jh.run(jh.fold_norms(model), batch).output
        assert np.allclose(folded, jh.run(model, batch).output, atol=1e-5)
