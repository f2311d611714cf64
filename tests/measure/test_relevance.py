"""Every method on networks whose answer is known, and the laws that hold for random ones."""

import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.execution.resources import Resources
from jaxheads.measure.relevance.backward_pass import EntryMix, mixed_objective
from jaxheads.measure.relevance.batch_objective import BatchObjective
from jaxheads.measure.relevance.chefer import chefer_lrp_maps, chefer_maps
from jaxheads.measure.relevance.methods import METHODS
from jaxheads.measure.relevance.rules import Rules

from ..models.huggingface import assert_close
from ..models.specs import SPECS
from ..models.specs.spec import small

OBJECTIVE = jh.logit_difference(1, 2)
V, D = 6, 12


def asked(family: str) -> tuple[jh.Model, jh.Batch]:
    both = small(family)
    return both.ours, SPECS[family].batch(both.theirs)


def copying() -> jh.Model:
    """A head whose every position attends to token 0 and writes it where only the unembedding reads, and a head that
    attends evenly and writes nothing."""
    embed, unembed = np.eye(V, D), np.eye(V, D, k=V)
    look = np.zeros((2, D, V))
    look[0, :V] = np.eye(V)
    query, key = look.copy(), look.copy()
    query[0, :V], key[0, :V] = 0, 0
    query[0, :V, 0], key[0, 0, 0] = 40.0, 1.0
    write = np.zeros((2, V, D))
    write[0] = np.eye(V, D, k=V) * 3
    return jh.by_hand(embed, [{"W_Q": query, "W_K": key, "W_V": look, "W_O": write}], unembed)


@pytest.fixture(scope="module")
def sentence() -> jh.Batch:
    return jh.Batch([[3, 0, 4, 5], [0, 2, 3, 1]])


@pytest.mark.parametrize("method", ["cplrp", "voita", "attnlrp", "chefer", "chefer-lrp"])
def test_a_copy_is_due_to_what_is_copied(method: Any, sentence: jh.Batch):
    found = jh.relevance(copying(), sentence, jh.logit(0), method)
    others = found.tokens.copy()
    others[[0, 1], [1, 0]] = 0
    if method.startswith("chefer"):
        others[:, -1] -= 1  # the answer's own row
    assert found.value == pytest.approx(3, abs=1e-5)
    np.testing.assert_allclose(others, 0, atol=1e-5)
    assert (found.tokens[[0, 1], [1, 0]] > 0.4).all()
    assert found.heads is not None
    assert found.heads.grid("relevance")[0, 1] == pytest.approx(0, abs=1e-6)
    if method == "cplrp":
        np.testing.assert_allclose(found.tokens.sum(axis=1), 3, atol=1e-5)
    if method in ("cplrp", "chefer"):
        assert found.heads.grid("relevance")[0, 0] == pytest.approx(3, abs=1e-4)
    if method == "voita":
        assert found.heads.grid("relevance")[0, 0] == pytest.approx(1)


def test_gradient_times_input_is_the_slope_of_fading():
    model, batch = asked("bert")
    found = jh.relevance(model, batch, OBJECTIVE, "gradient")
    reads, [stack] = OBJECTIVE.reads(model, batch), model.network.streams
    base = jnp.zeros((1, 1, stack.width))

    def faded(share: jax.Array) -> jax.Array:
        mixes = {stack.name: EntryMix(base, share)}
        return mixed_objective(model.network, batch, reads, mixes, value=OBJECTIVE.value).sum()

    mask = np.asarray(batch.mask)
    assert_close(np.nan_to_num(found.tokens), np.where(mask, -jax.grad(faded)(jnp.zeros(mask.shape)), 0))
    assert (np.isnan(found.tokens) == ~mask).all()


def test_gradient_of_heads_is_their_importance():
    model, batch = asked("gpt2")
    heads = jh.relevance(model, batch, OBJECTIVE, "gradient").heads
    assert heads is not None
    assert heads.per_example is not None
    assert_close(np.abs(heads.per_example), jh.importance(model, batch, OBJECTIVE).per_example)


def test_integrated_gradients_are_complete():
    model, batch = asked("llama")
    explained = BatchObjective.of(model, batch, OBJECTIVE, Resources())
    blank = jh.Batch(np.full_like(batch.tokens, 7), batch.mask)
    difference = explained.value() - BatchObjective.of(model, blank, OBJECTIVE, Resources()).value()
    coarse, fine = (
        jh.relevance(model, batch, OBJECTIVE, "integrated-gradients", baseline=7, steps=steps) for steps in (8, 128)
    )
    missed = [np.abs(np.nansum(found.tokens, axis=1) - difference).max() for found in (coarse, fine)]
    assert missed[1] < 2e-3
    assert missed[1] < missed[0] / 10
    np.testing.assert_allclose(np.asarray(fine.value), explained.value(), atol=1e-5)
    assert np.nanmax(np.abs(fine.tokens[np.asarray(batch.tokens == 7) & np.asarray(batch.mask)]), initial=0) == 0


def test_the_default_baseline_is_complete_and_the_gap_is_told():
    """RMSNorm jumps at zero: from there no number of steps is enough. The mean embedding is no such place."""
    model, batch = asked("llama")
    table_VD = np.asarray(model.network.embed.embedding[...])
    change = _value(model, batch) - _value(model, batch, table_VD.mean(axis=0))
    starts: list[tuple[Any, int]] = [(None, 16), (None, 128), ("zeros", 128)]
    found = {
        (baseline, steps): jh.relevance(
            model, batch, OBJECTIVE, "integrated-gradients", baseline=baseline, steps=steps, stack=None
        )
        for baseline, steps in starts
    }
    coarse, fine, zeros = found.values()
    assert fine.gap is not None
    assert coarse.gap is not None
    assert zeros.gap is not None
    assert_close(fine.gap, np.nansum(fine.tokens.astype(float), axis=1) - change)
    assert np.abs(fine.gap).max() < 3e-3 < np.abs(zeros.gap).max()
    assert np.abs(fine.gap).max() < np.abs(coarse.gap).max() / 4
    assert fine.provenance["baseline"] == "mean"
    assert fine.provenance["completeness_gap"] == pytest.approx(np.abs(fine.gap).mean())
    assert fine.provenance["baseline_change"] == pytest.approx(np.abs(change).mean(), abs=1e-5)
    assert zeros.provenance["baseline"] == "zeros"
    assert jh.relevance(model, batch, OBJECTIVE, "gradient").gap is None
    with pytest.raises(ValueError, match=r"baseline must be .*mean, zeros.*got .mask."):
        jh.relevance(model, batch, OBJECTIVE, "integrated-gradients", baseline="mask")  # type: ignore[arg-type]


def _value(model: jh.Model, batch: jh.Batch, embedding: np.ndarray | None = None) -> np.ndarray:
    """Return the objective of a batch, or of one whose tokens all have this embedding."""
    edits = () if embedding is None else jh.mix(model, "resid_pre", embedding[None, None], layers=0)
    out = jh.run(model, batch, edits=edits).output[jnp.arange(len(batch)), model.network.readout_positions(batch)]
    return np.asarray(out[:, 1] - out[:, 2], float)


def test_conductance_of_a_linear_answer_is_what_a_head_writes():
    """In one layer under a linear read-out it is exact, whatever the number of steps."""
    rng = np.random.default_rng(0)
    shapes = {"W_Q": (3, D, 4), "W_K": (3, D, 4), "W_V": (3, D, 4), "W_O": (3, 4, D)}
    layer = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    unembed = rng.standard_normal((V, D))
    model = jh.by_hand(rng.standard_normal((V, D)), [layer], unembed)
    batch = jh.Batch([[3, 0, 4, 5], [0, 2, 3, 1]])
    heads = jh.relevance(model, batch, jh.logit(1), "integrated-gradients", steps=3, baseline="zeros").heads
    assert heads is not None
    z = np.asarray(jh.run(model, batch, "z").seen["z"])[0, :, -1]
    assert_close(heads.per_example, np.einsum("bnh,nhd,d->bn", z, layer["W_O"], unembed[1])[:, None])


def test_attention_is_weighted_by_its_gradient():
    """Chefer's maps equal those of a gradient by an addition to the pattern."""
    model, batch = asked("gpt2")
    part, mask = model.stack(), np.asarray(batch.mask)
    pattern = jh.run(model, batch, "pattern").seen["pattern"]

    def objective_of_added(added: jax.Array) -> jax.Array:
        ones = jnp.ones((part.layers, 1, 1, 1, 1))
        edit = jh.SiteEdit(jnp.arange(part.layers), ones, added, "pattern", part.name, "add")
        out = jh.run(model, batch, edits=edit).output[jnp.arange(len(batch)), model.network.readout_positions(batch)]
        return (out[:, 1] - out[:, 2]).sum()

    expected = np.maximum(np.asarray(pattern * jax.grad(objective_of_added)(jnp.zeros_like(pattern))), 0)
    explained = BatchObjective.of(model, batch, OBJECTIVE, Resources())
    _, maps = chefer_maps(explained, model.network.stacks)
    assert_close(maps[part.name].mean, np.moveaxis(expected.mean(axis=2), 1, 0))
    assert_close(maps[part.name].heads, np.moveaxis(expected.sum(axis=(3, 4)), 1, 0))
    _, by_rules = chefer_lrp_maps(explained, model.network.stacks)
    assert by_rules[part.name].mean.min() >= 0
    assert np.abs(by_rules[part.name].mean - maps[part.name].mean).max() > 1e-3
    assert mask.any()


@pytest.mark.parametrize(
    ("method", "rules"),
    [("chefer-lrp", None), ("attnlrp", Rules(norm="identity")), ("attnlrp", Rules(softmax="identity"))],
)
def test_quotients_by_numbers_near_zero_are_exact(method: Any, rules: Rules | None):
    """With these weights float32 is off by 1e-3: one score of attention is nearly 0."""
    spec = SPECS["gpt2"]
    theirs = spec.build(seed=3)
    batch = spec.batch(theirs, seed=3)
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        found = jh.relevance(jh.load(directory), batch, OBJECTIVE, method, rules=rules)
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            exact = jh.relevance(jh.load(directory, dtype=np.float64), batch, OBJECTIVE, method, rules=rules)
    assert found.heads is not None
    assert exact.heads is not None
    ours, reference = (np.asarray(heads.per_example) for heads in (found.heads, exact.heads))
    size_E11 = np.abs(reference).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(ours / size_E11, reference / size_E11, atol=1e-5)
    size_E1 = np.nanmax(np.abs(exact.tokens), axis=1, keepdims=True)
    np.testing.assert_allclose(found.tokens / size_E1, exact.tokens / size_E1, atol=1e-5)
    assert not jax.config.values["jax_enable_x64"]


def test_rollout_of_a_model_is_that_of_its_patterns():
    model, batch = asked("bert")
    pattern = np.asarray(jh.run(model, batch, "pattern").seen["pattern"], np.float64).mean(axis=2)
    mixed = (pattern + np.eye(pattern.shape[-1])) / 2
    product = mixed[1] @ mixed[0]
    rows = np.asarray(batch.last)
    for objective in (None, OBJECTIVE):
        found = jh.relevance(model, batch, objective, "rollout")
        expected = np.where(batch.mask, product[np.arange(len(rows)), rows], 0)
        assert_close(np.nan_to_num(found.tokens), expected)
        assert found.heads is None
    flow = jh.relevance(model, batch, None, "flow")
    np.testing.assert_allclose(np.nansum(flow.tokens, axis=1), 1, atol=1e-6)
    by_networkx = jh.relevance(model, batch, None, "flow", solver="networkx")
    np.testing.assert_allclose(flow.tokens, by_networkx.tokens, atol=1e-6)


def test_rows_of_a_loss_are_weighted():
    model, batch = asked("gpt2")
    keep = np.asarray(batch.lengths) > 1
    batch = batch.take(np.flatnonzero(keep))
    pattern = np.asarray(jh.run(model, batch, "pattern").seen["pattern"], np.float64).mean(axis=2)
    mixed = (pattern + np.eye(pattern.shape[-1])) / 2
    product, lengths = mixed[1] @ mixed[0], np.asarray(batch.lengths)
    expected = [product[example, : length - 1].mean(axis=0) for example, length in enumerate(lengths)]
    found = jh.relevance(model, batch, jh.loss(), "rollout")
    assert_close(np.nan_to_num(found.tokens), np.where(batch.mask, np.stack(expected), 0))


PADDED = ("flow", "chefer-lrp", "integrated-gradients")


@pytest.mark.parametrize("method", PADDED)
def test_padding_and_company_do_not_matter(method: Any):
    both = small("llama")
    right = SPECS["llama"].batch(both.theirs)
    moved = [
        np.stack([np.roll(row, -int(n)) for row, n in zip(np.asarray(part), np.asarray(right.lengths), strict=True)])
        for part in (right.tokens, right.mask)
    ]
    left = jh.Batch(*moved)
    options: dict[str, Any] = {"steps": 4} if method == "integrated-gradients" else {}
    found, other = (jh.relevance(both.ours, one, OBJECTIVE, method, **options) for one in (right, left))
    alone = jh.relevance(both.ours, right, OBJECTIVE, method, memory=1, **options)
    for example, length in enumerate(np.asarray(right.lengths)):
        assert_close(other.tokens[example, -length:], found.tokens[example, :length])
    assert_close(np.nan_to_num(alone.tokens), np.nan_to_num(found.tokens))
    for one in (other, alone):
        if one.heads is not None and found.heads is not None:
            assert_close(one.heads.per_example, found.heads.per_example)


def test_permuting_heads_permutes_the_table():
    rng = np.random.default_rng(0)
    shapes = {"W_Q": (3, D, 4), "W_K": (3, D, 4), "W_V": (3, D, 4), "W_O": (3, 4, D)}
    layers = [{name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2)]
    embed, unembed, order = rng.standard_normal((V, D)), rng.standard_normal((V, D)), [2, 0, 1]
    turned = [{name: weight[order] for name, weight in layer.items()} for layer in layers]
    batch = jh.Batch([[3, 0, 4, 5], [0, 2, 3, 1]])
    for method in ("attnlrp", "chefer", "voita-code"):
        one, other = (
            jh.relevance(jh.by_hand(embed, weights, unembed), batch, jh.logit(1), method)
            for weights in (layers, turned)
        )
        assert one.heads is not None
        assert other.heads is not None
        assert_close(other.heads.values, one.heads.values[:, order])
        assert_close(other.tokens, one.tokens)


def test_half_precision():
    """Rules and watches keep the network's dtype; relevance is near that of the same weights in float32."""
    model, batch = asked("llama")
    short = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, model.network)
    long = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, short)
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms need it
        found, expected = (jh.relevance(jh.Model(one), batch, OBJECTIVE, "voita-code") for one in (short, long))
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=0.1 * np.nanmax(np.abs(expected.tokens)))


def test_shares_of_a_layer():
    model, batch = asked("llama")
    found = jh.relevance(model, batch, None, "voita")
    assert found.heads is not None
    np.testing.assert_allclose(np.abs(np.asarray(found.heads.per_example)).sum(axis=-1), 1, atol=1e-5)
    assert found.provenance["objective"] == "logit"
    logits = np.asarray(jh.run(model, batch).output)[np.arange(len(batch)), np.asarray(batch.last)]
    assert_close(found.value, logits.max(axis=-1))


@pytest.mark.parametrize("method", ["chefer", "attnlrp"])
def test_two_streams(method: Any):
    """Relevance crosses to the source; a position that attention cannot see gets none."""
    model, batch = asked("t5")
    found = jh.relevance(model, batch, OBJECTIVE, method, stack="cross")
    assert set(found.streams) == {"encoder", "decoder"}
    assert found.tokens.shape == batch.tokens.shape
    assert np.abs(np.nan_to_num(found.tokens)).max() > 1e-3
    assert found.heads is not None
    assert found.heads.stack == "cross"
    frame = found.frame
    assert batch.tokens is not None
    assert batch.target_mask is not None
    assert len(frame) == int(batch.mask.sum() + batch.target_mask.sum())
    assert frame.loc[("encoder", 1, 2), "id"] == batch.tokens[1, 2]
    assert frame.loc[("decoder", 0, 1), "relevance"] == found.streams["decoder"][0, 1]
    assert jh.relevance(model, batch, OBJECTIVE, method).heads is None


def test_what_cannot_be_asked_is_refused():
    model, batch = asked("gpt2")
    both, two = asked("t5")
    clip, images = asked("clip")
    text_alone = images.only("tokens")
    refused_inputs: list[tuple[Any, str]] = [
        ((model, batch, OBJECTIVE, "lime"), "method must be one of rollout, flow"),
        ((model, batch, None, "attnlrp"), "attnlrp needs an objective, such as"),
        ((both, two, OBJECTIVE, "rollout"), "rollout is defined for one stream; .* has encoder, decoder"),
        ((clip, text_alone, None, "flow"), "flow is defined for one stream; .* has text, vision"),
    ]
    for arguments, message in refused_inputs:
        with pytest.raises(ValueError, match=message):
            jh.relevance(*arguments)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        ("gradient", {"rules": jh.Rules()}, "gradient has no rules to choose; attnlrp, cplrp"),
        ("integrated-gradients", {"steps": 0}, "steps must be at least 1"),
        ("integrated-gradients", {"baseline": batch.take([0])}, "a baseline needs the batch's shape and padding"),
        ("flow", {"solver": "simplex"}, "solver must be one of"),
        ("attnlrp", {"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
    ]
    for method, options, message in refused:
        with pytest.raises(ValueError, match=message):
            jh.relevance(model, batch, OBJECTIVE, method, **options)
    assert len(METHODS) == 10
