"""The logit lens against whole logits, and copying as logits show it."""

import itertools
from collections import OrderedDict

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models import unembedding
from jaxheads.models.norms import unit_stream

from ...models.huggingface import assert_close, random_batch, small_model
from ...models.specs import SPECS
from ...models.specs.spec import small


def lens_by_hand(model: jh.Model, stream_BTD: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and ranks of every token at every position, `[B,T,V]`."""
    network = model.network
    logits = np.asarray(network.unembedding.logits(network.features(stream_BTD)), np.float64)
    return np.asarray(jax.nn.log_softmax(logits)), np.argsort(np.argsort(-logits, axis=-1), axis=-1)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_each_layer_is_read_by_the_models_own_head(family: str):
    model, batch = small(family).ours, random_batch((6, 4), "left")
    seen = jh.run(model, batch, ["resid_pre", "resid_post"]).seen
    table = jh.logit_lens(model, batch)
    assert table.shape == (model.stack().layers + 1,)
    mask, tokens = np.asarray(batch.mask), np.asarray(batch.tokens)
    for layer, stream in enumerate([seen["resid_pre"][0], *seen["resid_post"]]):
        log_probability, rank = lens_by_hand(model, stream)
        for example in range(2):
            at = np.flatnonzero(mask[example])
            right = [(t, tokens[example, after]) for t, after in itertools.pairwise(at)]
            expected = [np.mean([found[example, t, token] for t, token in right]) for found in (log_probability, rank)]
            assert table.per_example is not None
            assert_close(table.per_example[:2, example, layer], expected)
    loss = jh.ablate(model, batch, jh.loss()).provenance["unedited"]
    assert table.grid("log_probability")[-1] == pytest.approx(-loss, abs=1e-5)


@pytest.mark.parametrize("by", [("layer",), ("layer", "head")])
def test_rows_of_a_long_text_are_read_a_few_at_a_time(by: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("gpt2"), random_batch((7, 5))
    whole = jh.logit_lens(model, batch, by=by).per_example
    monkeypatch.setattr(unembedding, "ROWS_AT_ONCE", 8)
    jax.clear_caches()
    monkeypatch.setattr("jaxheads.programs._PROGRAMS.kept", OrderedDict())
    assert_close(jh.logit_lens(model, batch, by=by).per_example, whole)


@pytest.mark.parametrize("family", ["bert", "t5", "deit"])
def test_the_last_layer_is_the_models_output(family: str):
    both = small(family)
    model, batch = both.ours, SPECS[family].batch(both.theirs)
    table = jh.logit_lens(model, batch, 1)
    output = np.asarray(jh.run(model, batch).output, np.float64)
    if output.ndim == 3:
        output = output[np.arange(len(batch)), np.asarray(model.network.readout_positions(batch))]
    log_probability = np.asarray(jax.nn.log_softmax(output))[:, 1]
    assert table.per_example is not None
    assert_close(table.per_example[0, :, -1], log_probability)
    assert_close(table.per_example[1, :, -1], (output > output[:, 1:2]).sum(axis=1).astype(float))


def test_the_lens_by_head_reads_what_each_head_writes():
    model, batch = small_model("gpt2"), random_batch((6, 4))
    answers = np.array([3, 9])
    table = jh.logit_lens(model, batch, answers, by=("layer", "head"))
    assert table.per_example is not None
    other = jh.logit_lens(model, batch, 5, by=("layer", "head"))
    assert other.per_example is not None
    direct = jh.direct_effects(model, batch, jh.logit_difference(answers, 5)).per_example
    assert_close(table.per_example[0] - other.per_example[0], direct)
    every = np.stack([jh.logit_lens(model, batch, token, by=("layer", "head")).per_example[0] for token in range(37)])  # type: ignore
    assert_close(every.mean(axis=0), np.zeros_like(every[0]))
    rank = (every > every[answers, np.arange(2)][None] + 1e-6).sum(axis=0)
    assert_close(table.per_example[1], rank.astype(float))


def test_wrong_arguments_of_a_lens_are_refused():
    model, batch = small_model("gpt2"), random_batch((5, 3))
    for arguments, options, message in (
        ((37,), {}, "answers must lie in 0..36"),
        (([1, 2, 3],), {}, "answers must be one token id or 2"),
        ((), {"by": ("head",)}, "by must be one of"),
        ((), {"stack": "decoder"}, "leave stack out"),
    ):
        with pytest.raises(ValueError, match=message):
            jh.logit_lens(model, batch, *arguments, **options)
    with pytest.raises(ValueError, match="needs a causal decoder"):
        jh.logit_lens(small_model("bert"), batch)


V, SAMPLE = 40, 25


def copier(W_O: np.ndarray, sharp: float = 60.0) -> jh.Model:
    """Return a model whose head attends to the previous token and writes it times W_O."""
    D = V + SAMPLE
    token, place = np.arange(V), V + np.arange(SAMPLE)
    query, key, value, write, embed = (np.zeros(shape) for shape in ((D, V), (D, V), (D, V), (V, D), (V, D)))
    query[place[1:], np.arange(SAMPLE - 1)] = sharp
    key[place, np.arange(SAMPLE)] = 1
    value[token, token], embed[:, :V], write[:, :V] = 1, np.eye(V), W_O
    places = np.zeros((SAMPLE, D))
    places[:, V:] = np.eye(SAMPLE)
    layer = {"W_Q": query[None], "W_K": key[None], "W_V": value[None], "W_O": write[None]}
    return jh.by_hand(embed, [layer], embed, positions=places)


@pytest.fixture(scope="module")
def sample() -> jh.Batch:
    rng = np.random.default_rng(0)
    return jh.Batch(np.stack([rng.permutation(V)[:SAMPLE] for _ in range(10)]))


def test_copying_by_logits_has_its_closed_forms(sample: jh.Batch):
    for rescaled in ("full", "half"):
        assert jh.logit_copying(copier(3 * np.eye(V)), sample, rescaled=rescaled).values[0, 0] == pytest.approx(1)
        assert jh.logit_copying(copier(-np.eye(V)), sample, rescaled=rescaled).values[0, 0] == pytest.approx(-1)
    assert np.isnan(jh.logit_copying(copier(np.zeros((V, V))), sample).values[0, 0])
    # a head that raises its token and the next one of the vocabulary
    ratio = jh.logit_copying(copier(np.eye(V) + np.roll(np.eye(V), 1, axis=1)), sample).per_example
    assert ratio is not None
    tokens = np.asarray(sample.tokens)
    next_is_in = np.array([[(token + 1) % V in row for token in row] for row in tokens])
    # each position is attended to by the next; the first also by itself, as it sees no other; the last by none
    attention = np.ones((10, SAMPLE))
    attention[:, 0], attention[:, -1] = 2, 0
    expected = attention.sum(1) / (attention * (1 + next_is_in)).sum(1)
    assert_close(ratio[:, 0, 0], 2 * expected - 1)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_copying_by_logits_is_the_obvious_computation(family: str):
    model, batch = small(family).ours, random_batch((7, 4), "left")
    seen = jh.run(model, batch, ["pattern", "v"]).seen
    table = jh.logit_copying(model, batch)
    assert table.per_example is not None
    network, group = model.network, 4 // model.stack().kv_heads
    for layer, head, example in ((0, 0, 0), (1, 3, 1)):
        real = np.flatnonzero(np.asarray(batch.mask)[example])
        tokens = np.asarray(batch.tokens)[example, real]
        W_O = model.stack().weights.W_O[layer, head]
        write = model.stack().block(layer).head_contribution(W_O, unit_stream(W_O))
        moved = seen["v"][layer, example, :, head // group] @ write
        features = network.with_frozen_statistics(moved[None], unit_stream(moved[None]))[0]
        logits = np.asarray(features @ network.unembedding.weight.T, np.float64)
        raised = np.maximum(logits - logits.mean(axis=1, keepdims=True), 0)
        attention = np.asarray(seen["pattern"])[layer, example, head][real].sum(axis=0)
        attended = sum(attention[s] * raised[s, token] for s, token in zip(real, tokens, strict=True))
        everything = sum(attention[s] * raised[s, np.unique(tokens)].sum() for s in real)
        assert table.per_example[example, layer, head] == pytest.approx(2 * attended / everything - 1, abs=1e-5)


def test_names_are_copied_by_a_head_that_copies():
    rng = np.random.default_rng(0)
    texts = np.stack([rng.permutation(V - 1)[:SAMPLE] for _ in range(10)])
    texts[:, 0] = V - 1  # the first position, which attends to itself, is no name: it would cancel its own embedding
    sample, names = jh.Batch(texts), texts[:, 1:4]
    for sign, negative in ((1, False), (-1, True)):
        model = copier(sign * np.eye(V))
        for top in (1, 5):
            assert jh.name_copying(model, sample, names, top=top, negative=negative).values[0, 0] == 1
            assert jh.name_copying(model, sample, names, top=top, negative=not negative).values[0, 0] == 0


@pytest.mark.parametrize(("family", "norm_of"), [("gpt2", 1), ("gemma2", None), ("bert", None)])
def test_name_copying_is_the_obvious_computation(family: str, norm_of: int | None):
    model, batch = small(family).ours, random_batch((7, 4), "left")
    names = np.array([3, 9, 20, *np.asarray(batch.tokens)[0, :2], int(batch.tokens[1, -1])])
    table = jh.name_copying(model, batch, names, norm_of=norm_of, top=7)
    stream = jh.run(model, batch, "resid_post").seen["resid_post"][0]
    network, group = model.network, 4 // model.stack().kv_heads
    assert table.per_example is not None
    for layer, head in ((0, 0), (1, 3)):
        block = model.stack().block(layer)
        normed = model.stack().block(layer if norm_of is None else norm_of).normed(stream)
        v = block.attention.keys_values(normed, batch.positions)[1][:, :, head // group]
        out = v @ block.attention.W_O[...][head]
        logits = np.asarray(network.unembedding.logits(network.features(block.head_contribution(out, out))))
        for example in range(2):
            tokens, real = np.asarray(batch.tokens)[example], np.asarray(batch.mask)[example]
            at = np.flatnonzero(real & np.isin(tokens, names))
            hits = [(logits[example, t] > logits[example, t, tokens[t]]).sum() < 7 for t in at]
            assert table.per_example[example, layer, head] == pytest.approx(np.mean(hits), abs=1e-6)


def test_wrong_arguments_of_copying_are_refused(sample: jh.Batch):
    model = copier(np.eye(V))
    with pytest.raises(ValueError, match="rescaled must be one of"):
        jh.logit_copying(model, sample, rescaled="none")  # type: ignore
    with pytest.raises(ValueError, match="is anywhere"):
        jh.name_copying(model, jh.Batch([[1, 2]]), 3)
    with pytest.raises(ValueError, match="names must be token ids"):
        jh.name_copying(model, sample, [0.5])
    with pytest.raises(ValueError, match="norm_of is a layer"):
        jh.name_copying(model, sample, 3, norm_of=1)
    both = small("vit")
    with pytest.raises(ValueError, match="needs logits over a vocabulary"):
        jh.name_copying(both.ours, SPECS["vit"].batch(both.theirs), 3)
    with pytest.raises(ValueError, match="norms the stream itself"):
        jh.logit_copying(small_model("bert"), random_batch((5, 3)))
