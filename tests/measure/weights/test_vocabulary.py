"""Circuits between the vocabulary and itself: copying, token pairs, positions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.weights import extreme_pairs, vocabulary
from jaxheads.models.norms import unit_stream

from ...models.huggingface import assert_close, small_model
from ...models.specs import SPECS
from ...models.specs.spec import small

WITH_WORDS = ("gpt2", "llama", "gemma2", "gptj", "opt", "bloom")
OTHERS = (
    "gpt_neox",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3_text",
    "gpt_neo",
    "olmo",
    "olmo2",
    "phi",
    "stablelm",
    "falcon",
)
SAME = (
    "gemma",
    "starcoder2",
    "codegen",
    "phi3",
    "marian",
    "camembert",
    "xlm_roberta",
    "gemma3",
    "dinov2",
    "mistral",
    "deit",
)
"""Families whose networks are built of another's classes."""


def one_head(W_O: np.ndarray, W_V: np.ndarray | None = None) -> jh.Model:
    eye = np.eye(len(W_O))
    layer = {"W_Q": eye[None], "W_K": eye[None], "W_V": (eye if W_V is None else W_V)[None], "W_O": W_O[None]}
    return jh.by_hand(eye, [layer], eye)


def turn(angle: float, pairs: int) -> np.ndarray:
    block = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.kron(np.eye(pairs), block)


def test_copying_has_its_closed_forms():
    def copying(W_O: np.ndarray) -> float:
        return jh.eigenvalue_copying(one_head(W_O)).values[0, 0]

    assert copying(np.eye(6)) == pytest.approx(1)
    assert copying(-3 * np.eye(6)) == pytest.approx(-1)
    for angle in (0.3, 1.2, 2.5):
        assert copying(turn(angle, 3)) == pytest.approx(np.cos(angle), abs=1e-6)
    assert np.isnan(copying(np.zeros((6, 6))))
    rng = np.random.default_rng(0)
    random = [jh.eigenvalue_copying(one_head(rng.standard_normal((64, 64)))).values[0, 0] for _ in range(8)]
    assert abs(np.mean(random)) < 0.05


def words_of(model: jh.Model) -> jnp.ndarray:
    return model.network.embed_tokens(jnp.arange(model.config.vocab_size))


def full_ov(model: jh.Model, words_VD: jnp.ndarray, layer: int, head: int) -> np.ndarray:
    """Return the full OV circuit, V × V, with norms, multiplied out by the model's own operations."""
    network = model.network
    circuit = jh.ov_circuit(model)[layer, head]
    moved_VD = words_VD @ circuit.left @ circuit.right
    features = network.with_frozen_statistics(moved_VD[None], unit_stream(moved_VD[None]))
    return np.asarray(features[0] @ network.unembedding.weight.T, np.float64)


@pytest.mark.parametrize("family", WITH_WORDS)
def test_the_small_product_has_the_large_ones_eigenvalues(family: str):
    model = small(family).ours
    for embedding in ("raw", "effective"):
        block: Any = model.stack().block(0)
        if embedding == "effective" and not (block.additive and block.mlp_reads == "after"):
            with pytest.raises(ValueError, match="Use embedding='raw'"):
                jh.eigenvalue_copying(model, embedding="effective")
            continue
        words = words_of(model)
        if embedding == "effective":
            words = words + block.feed_forward(words[None])[0]
        found = jh.eigenvalue_copying(model, embedding=embedding).values
        for layer, head in ((0, 0), (1, 3)):
            roots = np.linalg.eigvals(full_ov(model, words, layer, head))
            roots = roots[np.argsort(-np.abs(roots))][: model.stack().head_size]
            assert found[layer, head] == pytest.approx(roots.sum().real / np.abs(roots).sum(), abs=2e-3)


def test_chunks_of_the_vocabulary_give_one_answer(monkeypatch: pytest.MonkeyPatch):
    model = small_model("llama")
    whole = jh.eigenvalue_copying(model).values
    whole_pairs = jh.token_pairs(model, "ov", 1, 2, count=4).frame
    monkeypatch.setattr(vocabulary, "CHUNK", 10)
    monkeypatch.setattr(extreme_pairs, "ENTRIES", 100)
    assert_close(jh.eigenvalue_copying(model).values, whole)
    chunked = jh.token_pairs(model, "ov", 1, 2, count=4).frame
    for side in ("first", "second"):
        assert chunked[side].tolist() == whole_pairs[side].tolist()


def test_copying_without_norms_is_that_of_the_bare_weights():
    model = small_model("gpt2")
    weights, network = model.stack().weights, model.network
    bare = jh.eigenvalue_copying(model, norms=False).values
    embed = np.asarray(network.embed.embedding[...], np.float64)
    head = np.asarray(weights.W_V[1, 2], np.float64) @ np.asarray(weights.W_O[1, 2], np.float64)
    roots = np.linalg.eigvals(embed @ head @ embed.T)
    assert bare[1, 2] == pytest.approx(roots.sum().real / np.abs(roots).sum(), abs=1e-3)
    assert np.abs(bare - jh.eigenvalue_copying(model).values).max() > 1e-3


@pytest.mark.parametrize("family", WITH_WORDS)
def test_token_pairs_are_the_ends_of_all_pairs(family: str):
    model = small(family).ours
    layer, head, offset, count = 1, 3, 2, 5
    network, block, words = model.network, model.stack().block(1), words_of(model)
    places = jnp.zeros((1, len(words)), jnp.int32)
    k, v = block.keys_values(words[None], places)
    q = block.queries(words[None], places + offset)
    group = head // (model.stack().heads // model.stack().kv_heads)
    W_O = block.head_contribution(
        model.stack().weights.W_O[layer, head], unit_stream(model.stack().weights.W_O[layer, head])
    )
    value = v[0, :, group]
    if block.attention.b_V is not None:
        value = value - block.attention.b_V[...][group][None]
    features = network.with_frozen_statistics((value @ W_O)[None], unit_stream(words[None]))[0]
    full = {
        "ov": np.asarray(features @ network.unembedding.weight.T),
        "qk": np.asarray(q[0, :, head] @ k[0, :, group].T * block.attention.scale),
    }
    for circuit, matrix in full.items():
        frame = jh.token_pairs(model, circuit, layer, head, count=count, offset=offset).frame  # type: ignore
        ordered = np.sort(matrix.reshape(-1))
        top, bottom = (frame[frame["end"] == end] for end in ("top", "bottom"))
        assert_close(top["value"], ordered[::-1][:count])
        assert_close(bottom["value"], ordered[:count])
        assert_close(frame["value"], matrix[frame["first"], frame["second"]])
        assert frame["rank"].tolist() == [*range(count), *range(count)]


def test_pairs_may_be_as_many_as_tokens():
    model = small_model("gpt2")
    frame = jh.token_pairs(model, "qk", 0, 0, count=37).frame
    assert len(frame) == 74
    for count in (0, 38):
        with pytest.raises(ValueError, match="count must lie in"):
            jh.token_pairs(model, "qk", 0, 0, count=count)
    with pytest.raises(ValueError, match="circuit must be one of ov, qk"):
        jh.token_pairs(model, "vo", 0, 0)  # type: ignore
    with pytest.raises(ValueError, match="heads 0"):
        jh.token_pairs(model, "ov", 0, 4)


def test_previous_tokens_by_learnt_positions():
    """Scores are `P W_Q W_Kᵀ Pᵀ`, with a causal softmax."""
    model, T = small_model("gpt2"), 7
    found = jh.positional_kernel(model, 1, positions=T)
    block = model.stack().block(1)
    places = np.asarray(block.normed(model.network.embed_position.embedding[...][None, :T])[0], np.float64)
    weights: Any = model.stack().weights
    for head in range(4):
        q = places @ np.asarray(weights.W_Q[1, head], np.float64) + np.asarray(weights.b_Q[1, head])
        k = places @ np.asarray(weights.W_K[1, head], np.float64) + np.asarray(weights.b_K[1, head])
        scores = np.where(np.tri(T, dtype=bool), q @ k.T * block.attention.scale, -np.inf)
        pattern = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        assert found.grid("attention")[1, head] == pytest.approx(np.diag(pattern, -1).mean(), abs=1e-5)
        above = [scores[t, t - 1] - scores[t, : t + 1].mean() for t in range(1, T)]
        assert found.grid("kernel")[1, head] == pytest.approx(np.mean(above), abs=1e-5)
    assert found.provenance["content"] == "none"


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_previous_tokens_by_rotary_positions(offset: int):
    """Scores are `(c W_Q) R(δ) (c W_K)ᵀ` for the mean embedding c, by the circuit at each offset."""
    model, T = small_model("llama"), 6
    found = jh.positional_kernel(model, offset, positions=T)
    block: Any = model.stack().block(0)
    mean = block.normed(words_of(model).mean(axis=0)[None, None])[0, 0] / block.attention_norm.scale[...]
    by_offset = []
    for delta in range(T):
        circuit = jh.qk_circuit(model, offset=delta)
        by_offset.append(np.asarray(jnp.einsum("d,ndh,nhe,e->n", mean, circuit.left[0], circuit.right[0], mean)))
    scores_ON = np.array(by_offset) * block.attention.scale
    kernel = np.mean([scores_ON[offset] - scores_ON[: t + 1].mean(axis=0) for t in range(offset, T)], axis=0)
    weight = [np.exp(scores_ON[offset]) / np.exp(scores_ON[: t + 1]).sum(axis=0) for t in range(offset, T)]
    assert_close(found.grid("kernel")[0], kernel)
    assert_close(found.grid("attention")[0], np.mean(weight, axis=0))
    assert found.provenance["content"] == "mean"


def test_a_head_that_only_counts_is_found_by_its_positions():
    T = 8
    shift = 60 * np.eye(T, k=-1)
    layer = {"W_Q": np.stack([shift]), "W_K": np.eye(T)[None], "W_V": np.eye(T)[None], "W_O": np.eye(T)[None]}
    model = jh.by_hand(np.zeros((3, T)), [layer], np.zeros((3, T)), positions=np.eye(T))
    assert jh.positional_kernel(model, 1, positions=T).grid("attention")[0, 0] == pytest.approx(1)
    assert jh.positional_kernel(model, 2, positions=T).grid("attention")[0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", [name for name in SPECS if name not in {*WITH_WORDS, *SAME}])
def test_every_family_answers_or_says_why_not(family: str):
    model = small(family).ours
    for stack in model.stacks:
        for ask in (
            lambda stack=stack: jh.eigenvalue_copying(model, stack=stack).values,
            lambda stack=stack: jh.positional_kernel(model, positions=5, stack=stack).values,
            lambda stack=stack: jh.token_pairs(model, "ov", 0, 0, stack=stack).frame["value"],
            lambda stack=stack: jh.token_pairs(model, "qk", 0, 0, stack=stack).frame["value"],
        ):
            try:
                found = ask()
            except ValueError:
                assert family not in OTHERS
            else:
                assert np.isfinite(np.asarray(found)).all()


def test_wrong_arguments_of_a_positional_kernel_are_refused():
    model = small_model("gpt2")
    for options, message in (
        ({"offset": 9, "positions": 9}, "offset must lie in 0..8"),
        ({"positions": 100}, "takes up to 64 positions"),
        ({"content": "some"}, "content must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            jh.positional_kernel(model, **options)  # type: ignore
    with pytest.raises(ValueError, match="embedding must be one of"):
        jh.eigenvalue_copying(model, embedding="tied")  # type: ignore
