"""A transformer of explicit weights whose every answer is known: previous-token, duplicate and induction heads.

The stream is [token | position | previous | out]; patterns are sharp by large weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh

V, T = 26, 25
"""25 words and a BOS; the length of the segment that is repeated."""
LENGTH, SHARP, SURE = 2 * T + 1, 60.0, 20.0
D = V + LENGTH + 2 * V


def part(name: str) -> slice:
    """Where a part of the stream lies."""
    starts = dict(zip(("token", "position", "previous", "out"), np.cumsum([0, V, LENGTH, V]).tolist(), strict=True))
    return slice(starts[name], starts[name] + (LENGTH if name == "position" else V))  # type: ignore


def reading(width: int, **parts: np.ndarray) -> np.ndarray:
    """A matrix `[D, width]` that reads parts of the stream."""
    matrix = np.zeros((D, width))
    for name, weight in parts.items():
        matrix[part(name), : weight.shape[1]] = weight
    return matrix


def induction_transformer() -> jh.Model:
    """Layer 0: head 0 moves the previous token into "previous", head 1 looks at duplicates and writes nothing.
    Layer 1: head 0 looks where the previous token is its own, and copies what stands there into "out"."""
    H = LENGTH
    eye, nothing = np.eye(V), np.zeros((D, H))
    shift = np.eye(LENGTH, k=-1)  # position q asks for q - 1
    shift[0, 0] = 1.0  # the first has only itself to look at
    write = np.zeros((H, D))
    write[:V, part("previous")] = eye
    out = np.zeros((H, D))
    out[:V, part("out")] = eye
    layers = [
        {
            "W_Q": np.stack([SHARP * reading(H, position=shift), SHARP * reading(H, token=eye)]),
            "W_K": np.stack([reading(H, position=np.eye(LENGTH)), reading(H, token=eye)]),
            "W_V": np.stack([reading(H, token=eye), nothing]),
            "W_O": np.stack([write, np.zeros((H, D))]),
        },
        {
            "W_Q": np.stack([SHARP * reading(H, token=eye), nothing]),
            "W_K": np.stack([reading(H, previous=eye), nothing]),
            "W_V": np.stack([reading(H, token=eye), nothing]),
            "W_O": np.stack([out, np.zeros((H, D))]),
        },
    ]
    embed, unembed, places = np.zeros((V, D)), np.zeros((V, D)), np.zeros((LENGTH, D))
    embed[:, part("token")], unembed[:, part("out")] = eye, SURE * eye
    places[:, part("position")] = np.eye(LENGTH)
    return jh.by_hand(embed, layers, unembed, positions=places)


@pytest.fixture(scope="module")
def model() -> jh.Model:
    return induction_transformer()


@pytest.fixture(scope="module")
def batch() -> jh.Batch:
    rng = np.random.default_rng(0)
    segments = np.stack([rng.permutation(V - 1) for _ in range(8)])
    return jh.Batch(np.concatenate([np.full((8, 1), V - 1), segments, segments], axis=1))


def second(batch: jh.Batch) -> np.ndarray:
    """What the first half tells: the second half but for its first token."""
    return np.broadcast_to(np.arange(LENGTH) > T + 1, batch.tokens.shape)


def test_heads_do_what_they_were_made_for(model: jh.Model, batch: jh.Batch):
    found = jh.measure(model, batch, ("previous_token", "duplicate_token", "induction"))
    previous, duplicate, induction = found.values
    assert previous[0, 0] == pytest.approx(1, abs=1e-6)
    assert duplicate[0, 1] == pytest.approx(0.5, abs=1e-6)  # itself and the earlier one, half each
    assert induction[1, 0] == pytest.approx(1, abs=1e-6)


def test_ablation_returns_the_loss_to_that_of_knowing_nothing(model: jh.Model, batch: jh.Batch):
    effects = jh.ablate(model, batch, jh.loss(second(batch)), "zero")
    assert effects.provenance["unedited"] == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(effects.values[1, 0], np.log(V), atol=1e-5)
    assert effects.values[0, 0] > 3
    np.testing.assert_allclose(effects.values[[0, 1], [1, 1]], 0, atol=1e-6)


def test_paths_lead_from_the_previous_token_head_to_the_keys_of_the_induction_head(model: jh.Model, batch: jh.Batch):
    rng = np.random.default_rng(1)
    tokens = np.asarray(batch.tokens)
    other = np.concatenate([tokens[:, :1], rng.integers(0, V - 1, (8, LENGTH - 1))], axis=1)
    objective = jh.loss(second(batch))
    for kind, expected in (("k", True), ("q", False), ("v", False)):
        sent = jh.paths(model, batch, jh.Batch(other), objective, receivers=[(kind, 1, 0)]).grid("effect")  # type: ignore
        assert (np.abs(sent[0, 0]) > 1) == expected
        assert np.abs(sent[0, 1]) < 1e-5


def test_weights_tell_what_heads_were_made_for(model: jh.Model):
    found = jh.composition(model)
    scores = {kind: values[0, :, 1, 0] for kind, values in found.values.items()}
    assert scores["k"][0] == pytest.approx(V**-0.5, abs=1e-6)  # .1961: the identity with the identity
    assert scores["q"][0] == scores["v"][0] == 0
    assert np.isnan([scores[kind][1] for kind in "qkv"]).all()  # the duplicate head writes nothing
    np.testing.assert_allclose(found.frame["analytic"], D**-0.5)
    copying = jh.eigenvalue_copying(model).values
    assert copying[1, 0] == pytest.approx(1)
    assert jh.positional_kernel(model, 1, positions=LENGTH).grid("attention")[0, 0] == pytest.approx(1, abs=1e-6)
    top = jh.token_pairs(model, "ov", 1, 0, count=V).frame[:V]
    assert top["first"].tolist() == top["second"].tolist()


def test_what_does_not_fit_is_refused():
    good = {"W_Q": np.ones((2, 4, 3)), "W_K": np.ones((2, 4, 3)), "W_V": np.ones((2, 4, 3)), "W_O": np.ones((2, 3, 4))}
    embed = np.ones((5, 4))
    assert jh.by_hand(embed, [good], embed).stack().heads == 2
    for wrong, message in (
        (([], embed), "at least one layer"),
        (([{**good, "W_X": 1}], embed), r"does not know \['W_X'\]"),
        (([{name: good[name] for name in ("W_Q", "W_K", "W_O")}], embed), r"lacks \['W_V'\]"),
        (([{**good, "W_O": np.ones((2, 4, 3))}], embed), "W_O of every layer must have the shape"),
        (([{**good, "W_Q": np.full((2, 4, 3), np.nan)}], embed), "W_Q must be finite"),
        (([good], np.ones((5, 6))), "embed and unembed of one width"),
        (([{}], embed), "layer 0 lacks heads and an MLP"),
        (([{**good, "b_in": np.ones(3)}], embed), r"lacks \['W_in', 'W_out'\]"),
        (([good, {"W_in": np.ones((4, 3)), "W_out": np.ones((2, 4))}], embed), "W_out of an MLP of 3 units"),
        (([{"W_in": np.ones(4), "W_out": np.ones((2, 4))}], embed), "W_in must be finite numbers with 2 axes"),
    ):
        with pytest.raises(ValueError, match=message):
            jh.by_hand(embed, *wrong)


def test_a_gradient_flows_through_it(model: jh.Model, batch: jh.Batch):
    def second_loss(gates: jax.Array) -> jax.Array:
        output = jh.run(model, batch, edits=jh.gate(model, gates)).output
        return -jax.nn.log_softmax(output)[:, T + 1 : -1, :].max()

    assert np.isfinite(jax.grad(second_loss)(jnp.ones((2, 2)))).all()
