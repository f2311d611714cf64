"""Laws of the forward pass, whatever the family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.inputs.attention_inputs import AttentionInputs
from jaxheads.models.network import forward
from jaxheads.models.stack import run_block, take_rows

from .huggingface import SMALL, VOCABULARY, alone, assert_close, build, loaded, random_batch, small_model

SITES = (
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "z",
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
)
RIGHT, LEFT = random_batch((5, 3), types=2), random_batch((5, 3), "left", types=2)
sides = pytest.mark.parametrize("batch", [RIGHT, LEFT], ids=["right", "left"])


@pytest.fixture(scope="module", params=SMALL)
def model(request: pytest.FixtureRequest) -> jh.Model:
    return small_model(request.param)


def embed_tokens(model: jh.Model, batch: jh.Batch) -> jax.Array:
    """The stream before the first layer."""
    return jh.run(model, batch, SITES).seen["resid_pre"][0]


def test_shapes_are_those_of_the_design(model: jh.Model):
    seen = jh.run(model, RIGHT, SITES).seen
    K = model.stack().kv_heads
    heads = {"q": (2, 2, 5, 4, 6), "k": (2, 2, 5, K, 6), "v": (2, 2, 5, K, 6), "z": (2, 2, 5, 4, 6)}
    pairs = {"scores": (2, 2, 4, 5, 5), "pattern": (2, 2, 4, 5, 5)}
    streams = dict.fromkeys(SITES[6:], (2, 2, 5, 24))
    assert {site: value.shape for site, value in seen.items()} == {**heads, **pairs, **streams}
    assert jh.run(model, RIGHT, SITES).output.shape == (2, 5, VOCABULARY)
    named = f"{model.stack().name}.z"
    assert list(jh.run(model, RIGHT, [named]).seen) == [named]
    with pytest.raises(ValueError, match=r"has the sites .*got 'keys'"):
        jh.run(model, RIGHT, "keys")


@sides
def test_rows_of_patterns_sum_to_1_and_nothing_is_infinite(model: jh.Model, batch: jh.Batch):
    seen = jh.run(model, batch, SITES).seen
    assert all(np.isfinite(value).all() for value in seen.values())
    np.testing.assert_allclose(seen["pattern"].sum(axis=-1), 1, rtol=1e-5)
    assert seen["scores"].min() == np.finfo(np.float32).min


@sides
def test_masked_entries_stay_exactly_0_even_if_scores_are_edited(model: jh.Model, batch: jh.Batch):
    edit = jh.mix(model, "scores", 1e6 * jnp.arange(5.0)[None, None, None], layers=0)
    pattern = np.asarray(jh.run(model, batch, SITES, edit).seen["pattern"])
    visible = np.asarray(AttentionInputs.over(batch, causal=model.causal).visible)
    real = np.asarray(batch.mask)
    for layer in pattern:
        rows_BTNS = layer.swapaxes(1, 2)
        assert not rows_BTNS[real].swapaxes(1, 2)[~visible[real]].any()
    best = np.where(visible, np.arange(5), -1).argmax(axis=-1)[real]
    assert (pattern[0].swapaxes(1, 2)[real].argmax(axis=-1) == best[:, None]).all()


def test_left_padding_equals_no_padding_and_a_batch_its_singles(model: jh.Model):
    for batch in (LEFT, RIGHT):
        together = jh.run(model, batch, SITES)
        for example in range(2):
            real = np.asarray(batch.mask[example])
            single = jh.run(model, alone(batch, example), SITES)
            assert_close(together.output[example, real], single.output[0])
            pattern = np.asarray(together.seen["pattern"][:, example])[:, :, real][..., real]
            assert_close(pattern, single.seen["pattern"][:, 0])


def test_only_a_decoder_is_causal_as_its_gradient_shows(model: jh.Model):
    source = jnp.zeros((1, 1, 24))

    def logits(amount_T: jax.Array) -> jax.Array:
        edits = [
            jh.mix(model, "resid_pre", source, layers=0, positions=t, batch=whole, amount=amount_T[t]) for t in range(5)
        ]
        return jh.run(model, whole, edits=edits).output[0].sum(axis=-1)

    whole = random_batch((5,))
    influence_TS = np.abs(jax.jacobian(logits)(jnp.zeros(5)))
    assert (np.tril(influence_TS)[np.tril_indices(5)] > 0).all()
    later = influence_TS[np.triu_indices(5, 1)]
    assert (later == 0).all() if model.causal else (later > 0).all()
    assert model.causal == (model.stack().name == "decoder")


@sides
def test_a_few_rows_of_the_last_layer_are_those_of_the_full_run(model: jh.Model, batch: jh.Batch):
    stack, run = model.stack(), jh.run(model, batch, SITES)
    rows = jnp.array([[4, 0], [1, 2]])
    context, last = AttentionInputs.over(batch, causal=stack.causal), stack.block(stack.layers - 1)
    ours, _ = run_block(last, run.seen["resid_pre"][-1], context, rows_BR=rows)
    assert_close(ours, take_rows(run.seen["resid_post"][-1], rows))
    unembedding = model.network.unembedding
    if unembedding is None:
        return
    full = take_rows(run.output, rows)
    columns = jnp.array([[3, 36, 0], [5, 5, 1]])
    some = unembedding.logits(model.network.features(ours), columns)
    assert_close(some, jnp.stack([full[b][:, columns[b]] for b in range(2)]))


def test_heads_write_the_attention_output_one_by_one(model: jh.Model):
    seen, weights = jh.run(model, RIGHT, SITES).seen, model.stack().weights
    for layer in range(2):
        parts = [seen["z"][layer, :, :, head] @ weights.W_O[layer, head] for head in range(4)]
        bias = 0.0 if weights.b_O is None else weights.b_O[layer][None, None]
        assert_close(sum(parts) + bias, seen["attn_out"][layer])


def test_views_of_the_weights_give_queries_keys_and_values(model: jh.Model):
    if model.stack().name == "encoder":  # post-norm: a layer reads its stream as it is
        seen, weights = jh.run(model, RIGHT, SITES).seen, model.stack().weights
        assert weights.b_Q is not None
        for head in range(4):
            ours = seen["resid_pre"][1] @ weights.W_Q[1, head] + weights.b_Q[1, head][None, None]
            assert_close(ours, seen["q"][1, :, :, head])
    shapes = {name: value.shape for name, value in vars(model.stack().weights).items() if value is not None}
    K = model.stack().kv_heads
    assert shapes["W_Q"] == (2, 4, 24, 6)
    assert shapes["W_K"] == shapes["W_V"] == (2, K, 24, 6)
    assert shapes["W_O"] == (2, 4, 6, 24)


def test_permuting_the_heads_of_the_weights_permutes_the_patterns(model: jh.Model):
    order = np.array([1, 0, 3, 2])  # within each key/value head's group
    attention = model.stack().blocks.attention

    def permuted(path: tuple, weight: jax.Array) -> jax.Array:
        name = next(
            (n for n in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V") if n in jax.tree_util.keystr(path)),
            "",
        )
        if not name or (name[-1] in "KV" and model.stack().kv_heads != 4):
            return weight
        return jnp.take(weight, order, axis={"W_O": 1, "b_Q": 1, "b_K": 1, "b_V": 1}.get(name, 2))

    assert attention.W_Q.shape == (2, 24, 4, 6)
    other = jh.Model(jax.tree_util.tree_map_with_path(permuted, model.network))
    ours, theirs = jh.run(other, RIGHT, SITES), jh.run(model, RIGHT, SITES)
    assert_close(ours.seen["pattern"], theirs.seen["pattern"][:, :, order])
    assert_close(ours.output, theirs.output)
    assert np.abs(ours.seen["pattern"] - theirs.seen["pattern"]).max() > 0.01


def test_what_is_read_stays_in_its_layer(model: jh.Model):
    name = model.stack().name
    _, kept = forward(model.network, RIGHT, read={name: lambda seen: seen["pattern"].max(axis=(0, 2, 3))})
    full = jh.run(model, RIGHT, SITES).seen["pattern"]
    assert_close(kept[name], full.max(axis=(1, 3, 4)))


@pytest.mark.parametrize("family", SMALL)
def test_bfloat16_is_held_and_computed_in_bfloat16(family: str, tmp_path):
    theirs = build(SMALL[family])
    with jax.numpy_dtype_promotion("standard"):  # flax's norms take their statistics in float32 by promotion
        model = loaded(theirs, tmp_path, dtype=jnp.bfloat16)
        run = jh.run(model, RIGHT, SITES)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.network)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(run)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(run.seen["z"].astype(jnp.float32)[0], jh.run(small_model(family), RIGHT, SITES).seen["z"][0], 0.05)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda: jh.Batch([[1, 2, 37]]), r"lie in 0\.\.36; got 37 in example 0 at position 2"),
        (lambda: jh.Batch([[1, 2], [-1, 2]]), "got -1 in example 1 at position 0"),
        (lambda: jh.Batch(np.ones((1, 65), int)), "takes up to 64 tokens; got 65"),
    ],
)
def test_a_batch_that_does_not_fit_the_model_is_refused(model: jh.Model, batch, message: str):
    with pytest.raises(ValueError, match=message):
        jh.run(model, batch())


def test_padding_does_not_count_as_context(model: jh.Model):
    model.check(jh.Batch(np.ones((1, 70), int), np.arange(70)[None] >= 6))


def test_token_types_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match=r"token types of .* lie in 0\.\.1; got 2"):
        jh.run(small_model("bert"), jh.Batch([[1, 2]], None, [[0, 2]]))


def test_models_and_runs_show_themselves_in_a_few_lines():
    model = small_model("llama")
    lines = repr(model).splitlines()
    assert lines[0].startswith(f"Model {model.name}: Llama, ")
    assert "logits of 37" in lines[0]
    assert lines[1] == "  decoder: 2 layers × 4 heads (2 key/value heads) of 6, width 24"
    assert lines[2] == f"  no tokenizer: {model.no_tokenizer}"
    run = jh.run(model, jh.Batch(np.arange(8).reshape(2, 4)), capture="pattern")
    assert repr(run) == f"Run of {model.name}: output [2, 4, 37], pattern [2, 2, 4, 4, 4]"
    jax.jit(lambda run: repr(run) and run.output)(run)  # tracers have shapes, too
