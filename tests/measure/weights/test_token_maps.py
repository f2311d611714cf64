"""Relations of tokens by weights: closed forms, the whole vocabulary multiplied out, and their null."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.weights import token_pair_maps as module
from jaxheads.measure.weights import vocabulary

from ...models.huggingface import small_model
from ...models.specs.spec import small
from .test_vocabulary import full_ov, one_head

V = 8
SAME = np.stack([np.arange(V)] * 2, axis=1)
NEXT = np.stack([np.arange(V - 1), np.arange(1, V)], axis=1)


def scores(W_O: np.ndarray, pairs: np.ndarray, **options) -> list[float]:
    table = jh.token_maps(one_head(W_O), pairs, top=1, **options)
    return [table.grid(name)[0, 0] for name in ("maps", "suppresses")]


def test_identity_copies_its_negative_suppresses_and_a_shift_succeeds():
    eye, shift = np.eye(V), np.roll(np.eye(V), 1, axis=1)
    assert scores(eye, SAME) == [1, 0]
    assert scores(-eye, SAME) == [0, 1]
    assert scores(shift, NEXT, candidates=np.arange(V)) == [1, 0]
    assert scores(shift, SAME) == [0, 0]
    assert scores(0 * eye, SAME) == [0, 0]  # all tokens tie, and ties count against a head
    half = np.diag([1.0, 1, 1, 1, -1, -1, -1, -1])
    assert scores(half, SAME) == [0.5, 0.5]


def test_examples_are_pairs_and_sources_are_clusters():
    pairs = np.concatenate([SAME, NEXT])
    table = jh.token_maps(one_head(np.eye(V)), pairs, top=1)
    assert table.per_example is not None
    np.testing.assert_array_equal(table.per_example[0, :, 0, 0], [1] * V + [0] * (V - 1))
    assert table.clusters is not None
    assert table.clusters[0] == table.clusters[V]
    row = table.frame.iloc[0]
    assert row["maps"] == pytest.approx(V / (2 * V - 1))
    assert row["maps_low"] < row["maps"] < row["maps_high"]
    assert table.provenance["pairs"] == len(pairs)


@pytest.mark.parametrize(
    ("family", "embedding"), [("gpt2", "effective"), ("llama", "mlp"), ("gemma2", "raw"), ("gptj", "mlp")]
)
def test_ranks_are_those_of_the_circuit_multiplied_out(family: str, embedding, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabulary, "CHUNK", 16)
    monkeypatch.setattr(module, "PAIRS", 4)
    model = small(family).ours
    pairs = np.random.default_rng(0).integers(0, model.config.vocab_size, (10, 2))
    words = model.network.embed_tokens(jnp.arange(model.config.vocab_size))
    block: Any = model.stack().block(0)
    mlp = block.feed_forward(words[None])[0]
    later = {"raw": words, "mlp": mlp, "effective": words + mlp}[embedding]
    table = jh.token_maps(model, pairs, top=6, embedding=embedding)
    assert table.per_example is not None
    for layer, head in ((0, 1), (1, 3)):
        whole = full_ov(model, words if layer == 0 else later, layer, head)[pairs[:, 0]]
        own = np.take_along_axis(whole, pairs[:, 1:], axis=1)
        for number, sign in enumerate((1, -1)):
            expected = ((sign * whole > sign * own).sum(axis=1) < 6).astype(float)
            np.testing.assert_array_equal(table.per_example[number, :, layer, head], expected)


def test_salient_tokens_are_those_that_grow_most():
    model = small_model("gpt2")
    words = model.network.embed_tokens(jnp.arange(model.config.vocab_size))
    block: Any = model.stack().block(0)
    mlp = block.feed_forward(words[None])[0]
    frame = jh.salient_tokens(model, 1, 3, count=3, mapped=2)
    moved = jh.ov_circuit(model)[1, 3]
    gain = np.linalg.norm(mlp @ moved.left @ moved.right, axis=1) / np.linalg.norm(mlp, axis=1)
    assert frame["token"].to_numpy()[::2].tolist() == np.argsort(-gain)[:3].tolist()
    np.testing.assert_allclose(frame["gain"][::2], np.sort(gain)[::-1][:3], rtol=1e-4)
    best = np.argsort(-full_ov(model, mlp, 1, 3)[frame["token"][0]])[:2]
    assert frame["mapped"][:2].tolist() == best.tolist()


def test_shuffled_pairs_hold_nothing_of_their_own():
    shuffled = jh.shuffled_pairs(SAME, 3)
    assert sorted(shuffled[:, 1].tolist()) == list(range(V))
    assert (shuffled[:, 0] == SAME[:, 0]).all()
    assert not (shuffled[:, 0] == shuffled[:, 1]).any()
    assert scores(np.eye(V), shuffled) == [0, 0]
    constant = np.zeros((V, V))
    constant[:, 3] = 1  # whatever it attends to, it raises token 3
    real = jh.token_maps(one_head(constant), SAME, top=1).grid("maps")
    null = jh.token_maps(one_head(constant), shuffled, top=1).grid("maps")
    assert real[0, 0] == null[0, 0] == 1 / V
    several = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("c", "w"), ("d", "v")]
    for seed in range(5):
        assert not {tuple(row) for row in jh.shuffled_pairs(several, seed).tolist()} & set(several)
    with pytest.raises(ValueError, match="have the source 1"):
        jh.shuffled_pairs([[1, 2], [1, 3], [2, 3]], 0)


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([1, 2], {}, "[P,2]"),
        ([[1, 99]], {}, "in 0..36"),
        ([["a", "b"]], {}, "need a tokenizer"),
        ([[1, 2]], {"candidates": [1, 3]}, "all targets"),
        ([[1, 2]], {"candidates": [1, 2, 99]}, "in 0..36"),
        ([[1, 2]], {"candidates": [1, 2, 3], "top": 3}, "ranked, 3, or every pair counts"),
        ([[1, 2]], {"top": 37}, "ranked, 37"),
    ],
)
def test_pairs_that_will_not_do(pairs, options, message: str):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace(".", r"\.")):
        jh.token_maps(small_model("gpt2"), pairs, **options)


def test_what_tokens_have_no_part_in_is_refused():
    with pytest.raises(ValueError, match="logits over a vocabulary"):
        jh.token_maps(small("vit").ours, [[1, 2]])
    with pytest.raises(ValueError, match="use embedding='raw'"):
        jh.token_maps(one_head(np.eye(4)), [[1, 2]], embedding="mlp")
    with pytest.raises(ValueError, match="layers are"):
        jh.salient_tokens(small_model("gpt2"), 5, 0)
