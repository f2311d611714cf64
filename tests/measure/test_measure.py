"""The table against a slow and obvious computation, and the laws of measuring in a stream."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads.execution.batching import Chunks
from jaxheads.measure.patterns import METRICS, OFFSETS, VARIANTS, row_scores, scoring
from jaxheads.measure.patterns.scoring import measure
from jaxheads.models.inputs.batch import Batch
from jaxheads.models.model import Model
from jaxheads.tables import HeadTable

NAMES = tuple(METRICS)


def random_batch(examples: int = 5, length: int = 9, seed: int = 0, vocabulary: int = 5) -> Batch:
    """Repetitive tokens, padded by 0 to 3 on the left or the right."""
    rng = np.random.default_rng(seed)
    mask = np.ones((examples, length), bool)
    for row, padding in zip(mask, rng.integers(0, 4, examples), strict=True):
        row[:padding] = False
    mask[::2] = mask[::2, ::-1]
    return Batch(rng.integers(0, vocabulary, (examples, length)), mask)


def one_example(tokens: list[int]) -> Batch:
    return Batch(np.array([tokens]))


def kept(table: HeadTable) -> np.ndarray:
    assert table.per_example is not None
    return table.per_example


def slow(A: np.ndarray, tokens: np.ndarray) -> dict[str, float | list[float]]:
    """Every metric of one pattern without padding, in loops."""
    n = len(A)
    every = range(n)
    mean = lambda numbers: float(np.mean(numbers)) if len(numbers) else np.nan  # noqa: E731
    earlier = {q: [j for j in range(q) if tokens[j] == tokens[q]] for q in every}
    after = {q: [j + 1 for j in earlier[q] if j + 1 < q] for q in every}
    shares = [
        mean([np.argmax(A[q]) == q + d for q in every if 0 <= q + d < n]) if abs(d) < n else np.nan for d in OFFSETS
    ]
    return {
        "entropy": mean([-sum(a * np.log(a) for a in A[q] if a > 0) for q in every]),
        "confidence": mean([max(A[q]) for q in every]),
        "distance": sum(A[q, k] * abs(q - k) for q in every for k in every) / A.sum(),
        "previous_token": mean([A[q, q - 1] for q in every if q >= 1]),
        "next_token": mean([A[q, q + 1] for q in every if q + 1 < n]),
        "self_token": mean([A[q, q] for q in every]),
        "first_token": mean([A[q, 0] for q in every]),
        "duplicate_token": mean([sum(A[q, j] for j in earlier[q]) for q in every if earlier[q]]),
        "induction": mean([sum(A[q, k] for k in after[q]) for q in every if after[q]]),
        "positional_share": shares,
    }


def slow_table(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    """[E,L,N] (or [E,L,N,O]) of every metric, from captured patterns."""
    patterns_LBNTS = np.asarray(jh.run(model, batch, capture="pattern").seen["pattern"], np.float64)
    L, B, N = patterns_LBNTS.shape[:3]
    tokens, mask = np.asarray(batch.tokens), np.asarray(batch.mask)

    def one(layer: int, example: int, head: int) -> dict:
        real = np.flatnonzero(mask[example])
        return slow(patterns_LBNTS[layer, example, head][np.ix_(real, real)], tokens[example, real])

    cells = [[[one(layer, e, n) for n in range(N)] for layer in range(L)] for e in range(B)]
    return {name: np.array([[[c[name] for c in row] for row in each] for each in cells]) for name in NAMES}


def test_the_table_is_the_obvious_computation(model: Model):
    batch = random_batch()
    table, expected = measure(model, batch), slow_table(model, batch)
    assert table.metrics == NAMES
    shares = np.nanmean(expected["positional_share"], axis=0)
    best = table.grid("positional_offset") - OFFSETS[0]
    chosen = np.take_along_axis(shares, best[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, shares.max(axis=-1), atol=1e-6)
    expected["positional_share"] = np.take_along_axis(expected["positional_share"], best[None, ..., None], axis=-1)[
        ..., 0
    ]
    for row, name in enumerate(NAMES):
        np.testing.assert_allclose(kept(table)[row], expected[name], atol=2e-6, err_msg=name)
        np.testing.assert_allclose(table.values[row], np.nanmean(expected[name], axis=0), atol=2e-6)
        low, high = table.grid(f"{name}_low"), table.grid(f"{name}_high")
        assert (low <= table.values[row]).all()
        assert (table.values[row] <= high).all()


def test_streaming_in_different_cuts_gives_the_same_table(model: Model, monkeypatch: pytest.MonkeyPatch):
    batch = random_batch(examples=7)
    whole = measure(model, batch)
    cuts = (batch.take(np.arange(a, b)) for a, b in ((0, 1), (1, 5), (5, 7)))
    tables = [measure(model, cuts)]
    monkeypatch.setattr(scoring, "choose_chunks", lambda *_, **__: Chunks(3))
    tables.append(measure(model, [batch]))
    for table in tables:
        np.testing.assert_allclose(kept(table), kept(whole), atol=1e-5)  # products of other sizes round otherwise
        np.testing.assert_allclose(table.frame.drop(columns="model"), whole.frame.drop(columns="model"), atol=1e-5)
        assert table.provenance["tokens_sha256"] == whole.provenance["tokens_sha256"]


def test_a_stream_traces_once_for_a_shape(decoder: Model, monkeypatch: pytest.MonkeyPatch):
    traced = []
    real = row_scores.packed
    monkeypatch.setattr(row_scores, "packed", lambda *given: traced.append(1) or real(*given))
    jax.clear_caches()
    monkeypatch.setattr(scoring, "choose_chunks", lambda *_, **__: Chunks(2))  # the last chunk is filled up
    measure(decoder, (random_batch(5, 10, seed) for seed in range(4)), ("entropy", "induction"))
    measure(
        decoder,
        random_batch(3, 10),
        [METRICS["entropy"], VARIANTS["induction_literal"].variant("induction", after=1)],
    )
    assert len(traced) <= 2


def test_memory_does_not_grow_with_layers(make_gpt2):
    """What is kept beside weights, input and output is one layer's, whatever the number of layers."""
    batch, metrics = random_batch(4, 64), tuple(METRICS.values())

    def temporary(layers: int) -> int:
        network = make_gpt2(layers)
        compiled = (
            scoring.program().lower(network, batch, batch, (), None, None, "decoder", metrics, "weights").compile()
        )
        memory: Any = compiled.memory_analysis()
        return memory.temp_size_in_bytes

    few, many = temporary(2), temporary(16)
    one_pattern = 4 * 4 * 2 * 64 * 64
    assert many - few < one_pattern / 2, (few, many)


def test_ten_metrics_together_hold_a_few_patterns(make_gpt2):
    network, batch, metrics = make_gpt2(2), random_batch(1, 256), tuple(METRICS.values())
    compiled = scoring.program().lower(network, batch, batch, (), None, None, "decoder", metrics, "weights").compile()
    memory: Any = compiled.memory_analysis()
    one_pattern = 4 * network.stacks[0].heads * 256 * 256
    assert memory.temp_size_in_bytes < 8 * one_pattern, memory.temp_size_in_bytes / one_pattern


def test_left_padding_equals_no_padding(model: Model):
    tokens = np.random.default_rng(0).integers(0, 5, (4, 7))
    padded = np.concatenate([np.full((4, 3), 11), tokens], axis=1)
    mask = np.arange(10)[None] >= np.full((4, 1), 3)
    plain, left = measure(model, Batch(tokens)), measure(model, Batch(padded, mask))
    np.testing.assert_allclose(left.values, plain.values, atol=2e-5)
    # Of four examples the correction for skewness enlarges what rounding changed.
    np.testing.assert_allclose(left.frame.drop(columns="model"), plain.frame.drop(columns="model"), atol=2e-4)


def test_permuting_heads_permutes_the_table(decoder: Model):
    axis = {"W_Q": 2, "W_K": 2, "W_V": 2, "W_O": 1, "b_Q": 1, "b_K": 1, "b_V": 1}

    def permute(path, weight):
        name = jax.tree_util.keystr(path).split(".")[-2]
        return jnp.flip(weight, axis[name]) if name in axis else weight

    flipped = Model(jax.tree_util.tree_map_with_path(permute, decoder.network))
    batch = random_batch()
    np.testing.assert_allclose(measure(flipped, batch).values, measure(decoder, batch).values[:, :, ::-1], atol=1e-5)


def test_edits_change_what_is_measured_and_are_cut_with_the_batch(decoder: Model, monkeypatch: pytest.MonkeyPatch):
    batch = random_batch(6)
    edit = jh.mix(decoder, "z", np.zeros((6, 1, 1, 1)), layers=0, examples=[0, 4], batch=batch)
    plain, edited = measure(decoder, batch, "entropy"), measure(decoder, batch, "entropy", edits=edit)
    changed = ~np.isclose(kept(plain), kept(edited), atol=1e-6).all(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(changed), [0, 4])
    monkeypatch.setattr(scoring, "choose_chunks", lambda *_, **__: Chunks(2))
    chunks = measure(decoder, batch, "entropy", edits=[edit])
    np.testing.assert_allclose(kept(chunks), kept(edited), atol=1e-6)


def test_shuffled_text_is_scored_where_the_repeats_were(decoder: Model):
    """Text without repeats has nothing to measure by itself; scored by the original's tokens it is a null."""
    original, distinct = one_example([1, 2, 3, 1, 2, 3]), one_example([1, 2, 3, 4, 5, 6])
    assert measure(decoder, distinct, ["entropy", "induction"]).provenance["nothing_to_measure"] == ["induction"]
    null = measure(decoder, distinct, "induction", scored_as=original)
    A = np.asarray(jh.run(decoder, distinct, capture="pattern").seen["pattern"])[:, 0]
    # 3 → 1, 4 → 2, 5 → 3: one place after the earlier copy of the original's token
    np.testing.assert_allclose(null.values, A[:, :, [3, 4, 5], [1, 2, 3]].mean(axis=-1), atol=1e-6)
    with pytest.raises(ValueError, match="same mask"):
        measure(decoder, distinct, "induction", scored_as=one_example([1, 1]))
    with pytest.raises(ValueError, match="got more"):
        measure(decoder, distinct, "induction", scored_as=[original, original])


def test_shapes_and_provenance(decoder: Model):
    batch = random_batch(4)
    one, several = measure(decoder, batch, "entropy"), measure(decoder, batch, ("entropy",), seed=3)
    assert one.values.shape == (3, 2)
    assert several.values.shape == (1, 3, 2)
    assert kept(several).shape == (1, 4, 3, 2)
    about = several.provenance
    assert about["model"] == "GPT2"
    assert about["examples"] == 4
    assert about["tokens"] == int(batch.mask.sum())
    assert about["metrics"] == {"entropy": {}}
    assert about["stack"] == "decoder"
    assert about["nothing_to_measure"] == []
    assert about["not_finite"] == 0
    assert "versions" in about


def test_a_model_that_overflows_is_told_of(decoder: Model):
    def broken(path, weight):
        return weight * (jnp.nan if "embed.embedding" in jax.tree_util.keystr(path) else 1)

    table = measure(Model(jax.tree_util.tree_map_with_path(broken, decoder.network)), random_batch(2), "entropy")
    assert np.isnan(table.values).all()
    assert table.provenance["not_finite"] == 2 * 3 * 2


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ([], {}, "at least one batch"),
        ("text", {}, "has no tokenizer"),
        (one_example([1, 99]), {}, "token ids"),
        (one_example([1, 2]), {"metrics": "entropie"}, "did you mean 'entropy'"),
        (one_example([1, 2]), {"stack": "encoder"}, "has the stacks decoder"),
        (one_example([1, 2]), {"level": 95}, "level"),
    ],
)
def test_what_does_not_fit_is_refused(decoder: Model, batch, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        measure(decoder, batch, **options)


def hand_built(make_gpt2) -> Model:
    """The induction transformer of literature 12.2 in GPT-2's blocks: residual = [token | place | previous | out].

    Every position has as many ones as any other, so the LayerNorms, told that number, do nothing.
    """
    V, T, H, beta = 26, 51, 65, 60.0
    D, eps = 2 * H, 1e-5
    token, place, previous, out = (slice(a, a + w) for a, w in ((0, V), (V, T), (V + T, V), (2 * V + T, V)))
    network = make_gpt2(2, vocab_size=V, n_positions=T, n_embd=D, n_head=2, n_inner=4, scale_attn_weights=False)
    W = {name: np.zeros((2, D, 2, H), np.float32) for name in ("W_Q", "W_K", "W_V")}
    W_O = np.zeros((2, 2, H, D), np.float32)
    rows = np.eye(T, H)
    W["W_Q"][0, place, 0], W["W_K"][0, place, 0] = beta * rows[np.maximum(np.arange(T) - 1, 0)], rows
    W["W_Q"][0, token, 1], W["W_K"][0, token, 1] = beta * np.eye(V, H), np.eye(V, H)
    W["W_Q"][1, token, 0], W["W_K"][1, previous, 0] = beta * np.eye(V, H), np.eye(V, H)
    W["W_V"][0, token, 0], W_O[0, 0, :, previous] = np.eye(V, H), np.eye(H, V)
    W["W_V"][1, token, 0], W_O[1, 0, :, out] = np.eye(V, H), np.eye(H, V)
    block = network.decoder.blocks
    for name, weight in (*W.items(), ("W_O", W_O)):
        setattr(block.attention, name, nnx.Param(jnp.asarray(weight)))
    ones = np.array([2.0, 3.0]) / D  # the mean of two ones, then of three
    block.attention_norm.scale = nnx.Param(jnp.asarray(np.tile(np.sqrt(ones - ones**2 + eps)[:, None], D), jnp.float32))
    block.attention_norm.bias = nnx.Param(jnp.asarray(np.tile(ones[:, None], D), jnp.float32))
    block.mlp.down.kernel = nnx.Param(jnp.zeros_like(block.mlp.down.kernel[...]))
    network.embed.embedding = nnx.Param(jnp.eye(V, D))
    network.embed_position.embedding = nnx.Param(jnp.eye(T, D, V))
    return Model(network, name="hand-built")


def test_the_hand_built_induction_transformer(make_gpt2):
    segments = np.stack([np.random.default_rng(seed).permutation(25) for seed in range(4)])
    batch = Batch(np.concatenate([np.full((4, 1), 25), segments, segments], axis=1))
    table = measure(hand_built(make_gpt2), batch, ("previous_token", "duplicate_token", "induction"))
    previous, duplicate, induction = table.values
    assert previous[0, 0] == pytest.approx(1, abs=1e-5)
    assert duplicate[0, 1] == pytest.approx(0.5, abs=1e-5)
    assert induction[1, 0] == pytest.approx(1, abs=1e-5)
    assert table.top("induction", 1).index[0] == ("decoder", 1, 0)
    assert table.top("previous_token", 1).index[0] == ("decoder", 0, 0)
