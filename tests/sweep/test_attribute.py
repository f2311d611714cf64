"""Estimates from gradients: their laws, what they are on models where first order is exact, what is refused."""

from inspect import signature
from operator import attrgetter
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

import jaxheads as jh
from jaxheads.objectives import LogitDifference, Reads
from jaxheads.sweep.circuits.attribution import edge_attribution
from jaxheads.sweep.exact.patch import patch
from jaxheads.sweep.gradients.attribute import attribute
from jaxheads.sweep.gradients.backward import weight_gradient
from jaxheads.sweep.gradients.folding import fold
from jaxheads.sweep.gradients.qk_fix import key_effects, row_effects

from ..models.huggingface import VOCABULARY, alone, assert_close, pair, random_batch, small_model
from ..models.specs.spec import small
from . import by_hand, naive
from .by_hand import OBJECTIVE
from .linear import linear_model
from .seq2seq import a_batch

HEADS, CELLS = ("layer", "head"), ("layer", "head", "position")
ENDS = ("", "_low", "_high", "_n")
CLEAN, CORRUPT = random_batch((5, 4, 3), "left", seed=1), random_batch((5, 4, 3), "left", seed=2)


def estimates(model: jh.Model, method: Any = "atp", site: str = "z", by: Any = HEADS, **more: Any) -> np.ndarray:
    """Of every example, `[E, *by]`, denoising."""
    table = attribute(model, CLEAN, CORRUPT, OBJECTIVE, method, site=site, by=by, **more)
    assert table.per_example is not None
    return table.per_example[0]


def unedited(model: jh.Model, batch: jh.Batch = CORRUPT) -> np.ndarray:
    """The objective of each example."""
    return np.asarray(by_hand.judge(jh.run(model, batch).output, batch))


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Close, and NaN in the same places."""
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert_close(np.nan_to_num(ours), np.nan_to_num(theirs))
    assert np.nanmax(np.abs(theirs)) > 0.1


def test_atp_is_the_slope_of_the_patch():
    model = small_model("llama")
    same(estimates(model, by=CELLS), by_hand.slopes(model, CORRUPT, CLEAN, "z", CELLS))


def test_the_slope_is_a_finite_difference():
    model, step = small_model("llama"), 0.05
    source = jh.run(model, CLEAN, capture="z").seen["z"]

    def moved(layer: int, head: int, amount: float) -> np.ndarray:
        edit = jh.mix(model, "z", source[layer], layers=layer, heads=head, amount=amount)
        return np.asarray(by_hand.judge(jh.run(model, CORRUPT, edits=edit).output, CORRUPT), np.float64)

    for layer, head in ((0, 1), (1, 2)):
        far, near = (moved(layer, head, s * step) - moved(layer, head, -s * step) for s in (2, 1))
        slope = (8 * near - far) / (12 * step)
        np.testing.assert_allclose(estimates(model)[:, layer, head], slope, atol=3e-4)  # float32 over 2 steps


@pytest.mark.parametrize(
    ("family", "method", "site"), [("llama", "atp", "v"), ("llama", "atp+qk", "k"), ("gpt2", "atp+qk", "q")]
)
def test_exact_where_all_that_follows_is_linear(family: str, method: str, site: str):
    model = linear_model(family, gain=4.0)
    for by in (HEADS, CELLS, ("layer", "position"), ("layer",)):
        same(estimates(model, method, site, by), by_hand.effects(model, CORRUPT, CLEAN, site, by))


def test_a_saturated_pattern_has_no_slope_but_can_be_made_anew():
    model = linear_model("llama", gain=300.0)
    exact = by_hand.effects(model, CORRUPT, CLEAN, "k", CELLS)
    slopes = by_hand.slopes(model, CORRUPT, CLEAN, "k", CELLS)
    missed = (np.abs(slopes) < 1e-3) & (np.abs(exact) > 0.5)
    assert missed.sum() > 5
    same(estimates(model, "atp+qk", "k", CELLS), exact)


def test_keys_of_another_sequence_move_the_rows_of_their_queries():
    model, clean, corrupt = small("t5").ours, a_batch("t5"), a_batch("t5", seed=1)
    keys, layers = jh.run(model, clean, ["cross.k"]).seen["cross.k"], jnp.arange(model.stack("cross").layers)
    before = jh.run(model, corrupt, ["cross.pattern"]).seen["cross.pattern"]

    def judged(added: jax.Array) -> jax.Array:
        edit = jh.SiteEdit(layers, jnp.ones((len(layers), 1, 1, 1, 1)), added, "pattern", "cross", "add")
        logits = jh.run(model, corrupt, edits=edit).output[jnp.arange(3), model.network.readout_positions(corrupt)]
        return (logits[:, by_hand.RIGHT] - logits[:, by_hand.WRONG]).sum()

    slope = jax.grad(judged)(jnp.zeros_like(before))
    edits = [jh.freeze(model, "cross.k", keys, layers=[layer]) for layer in range(len(layers))]
    patched = [jh.run(model, corrupt, ["cross.pattern"], edit).seen["cross.pattern"][n] for n, edit in enumerate(edits)]
    expected = ((jnp.stack(patched) - before) * slope).sum(axis=(3, 4))
    table = attribute(model, clean, corrupt, OBJECTIVE, "atp+qk", site="k", stack="cross")
    assert before.shape[3] != before.shape[4]
    assert table.per_example is not None
    assert_close(table.per_example[0], jnp.swapaxes(expected, 0, 1))
    assert np.abs(expected).max() > 1e-3


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_patterns_made_anew_for_one_key_at_a_time(scale: float):
    rng = np.random.default_rng(0)
    visible = np.tril(np.ones((6, 6), bool))
    slope, scores, patched = (rng.normal(size=(1, 2, 3, 6, 6)).astype(np.float32) for _ in range(3))
    lowest = np.finfo(np.float32).min
    scores, patched = (np.where(visible, scale * part, lowest) for part in (scores, patched))
    before, slow = softmax(scores.astype(np.float64)), np.zeros((1, 2, 3, 6))
    for key in range(6):
        one = np.where(np.arange(6) == key, patched, scores).astype(np.float64)
        slow[..., key] = ((softmax(one) - before) * slope).sum(axis=(-1, -2))
    assert_close(key_effects(*map(jnp.asarray, (slope, scores, patched))), slow)
    after = softmax(patched.astype(np.float64))
    rows = row_effects(*(jnp.asarray(part, jnp.float32) for part in (slope, before, after)))
    assert_close(rows, ((after - before) * slope).sum(axis=-1))


def without(model: jh.Model, layer: int) -> list[jh.SiteEdit]:
    """Edits that hold what a layer writes in the corrupt run."""
    written = jh.run(model, CORRUPT, capture=("attn_out", "mlp_out")).seen
    return [jh.freeze(model, site, values, layers=[layer]) for site, values in written.items()]


@pytest.mark.parametrize(("family", "site", "by"), [("llama", "z", HEADS), ("bert", "pattern", CELLS)])
def test_dropping_layers(family: str, site: str, by: Any):
    """A cell's own layer adds nothing. Of two layers that leaves one: dropping the first takes nothing from the last
    one's cells, dropping the last leaves the first one's cells what does not go through it."""
    model = small_model(family)
    found = estimates(model, "atp+graddrop", site, by)
    for layer, dropped in ((0, 1), (1, 0)):
        slow = by_hand.slopes(model, CORRUPT, CLEAN, site, by, held=without(model, dropped))
        same(found[:, layer], np.abs(slow[:, layer]))
    np.testing.assert_array_equal(found, estimates(model, "atp*", site, by))


def test_a_cell_that_acts_directly_keeps_its_size():
    model = small_model("llama")
    same(estimates(model, "atp+graddrop")[:, 1], np.abs(estimates(model)[:, 1]))


def test_layers_without_an_mlp_are_dropped_too():
    model, batches = small("t5").ours, (a_batch("t5"), a_batch("t5", seed=1))
    size, plain = (attribute(model, *batches, jh.loss(), method, stack="decoder") for method in ("atp+graddrop", "atp"))
    assert size.per_example is not None
    assert plain.per_example is not None
    assert size.per_example is not None
    assert_close(size.per_example[0][:, -1], np.abs(plain.per_example[0][:, -1]))


def test_dropping_layers_with_patterns_made_anew():
    model = linear_model("llama", gain=4.0)
    direct = by_hand.effects(model, CORRUPT, CLEAN, "k", CELLS, held=without(model, 1))
    same(estimates(model, "atp*", "k", CELLS)[:, 0], np.abs(direct[:, 0]))


def test_no_drop_cuts_the_stream_off():
    model, by = small_model("gpt2"), ("layer", "position")
    slow = [by_hand.slopes(model, CORRUPT, CLEAN, "resid_pre", by, held=without(model, layer)) for layer in (0, 1)]
    same(estimates(model, "atp+graddrop", "resid_pre", by), np.abs(slow).mean(axis=0))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), left=st.booleans(), seed=st.integers(0, 99))
def test_cells_are_sums_over_real_tokens(lengths: list[int], left: bool, seed: int):
    mask = np.array([[t < n for t in range(4)][:: -1 if left else 1] for n in lengths])
    found = np.random.default_rng(seed).normal(size=(len(lengths), 2, 4, 3))
    cells, width = fold(found, mask, CELLS, max(lengths)), max(lengths)
    assert cells.shape == (len(lengths), 2, 3, width)
    for example, real in enumerate(mask):
        own = found[example][:, real].swapaxes(1, 2)
        np.testing.assert_array_equal(cells[example, ..., : real.sum()], own)
        assert np.isnan(cells[example, ..., real.sum() :]).all()
    for by, axes in ((HEADS, 3), (("layer", "position"), 2), (("layer",), (2, 3))):
        summed = np.where(np.isnan(cells).all(axis=axes), np.nan, np.nansum(cells, axis=axes))
        np.testing.assert_allclose(fold(found, mask, by, width), summed, atol=1e-12)


class Squared(LogitDifference):
    @staticmethod
    def value(read: jax.Array, reads: Reads) -> jax.Array:
        return LogitDifference.value(read, reads) ** 2


def test_paths_on_a_quadratic():
    """The midpoint is exact in one step, left and right miss by as much, in opposite ways."""
    model, squared = linear_model("llama", gain=4.0), Squared(OBJECTIVE.right, OBJECTIVE.wrong, None, "squared")
    exact = by_hand.effects(model, CORRUPT, CLEAN, "z", ("layer",))
    before = unedited(model)[:, None]
    exact = (before + exact) ** 2 - before**2

    def found(rule: Any, steps: int) -> np.ndarray:
        table = attribute(model, CLEAN, CORRUPT, squared, "ig", by=HEADS, rule=rule, steps=steps)
        assert table.per_example is not None
        return table.per_example[0].sum(axis=2)

    same(found("midpoint", 1), exact)
    for steps in (1, 3):
        left, right = (found(rule, steps) - exact for rule in ("left", "right"))
        assert_close(left, -right)
        assert_close(steps * left, found("left", 1) - exact)


def test_paths_sum_to_the_effect_of_the_layer():
    model = small_model("llama")
    exact = by_hand.effects(model, CORRUPT, CLEAN, "z", ("layer",))
    errors = [np.abs(estimates(model, "ig", steps=steps).sum(axis=2) - exact).max() for steps in (8, 16, 32)]
    assert errors[2] < 0.02 < np.abs(estimates(model).sum(axis=2) - exact).max()
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    same(estimates(model, "ig", rule="left", steps=1), estimates(model))


def test_padding_changes_nothing():
    model = linear_model("llama", gain=4.0)
    padded = estimates(model, "atp*", "k", CELLS)[2]
    bare = attribute(model, alone(CLEAN, 2), alone(CORRUPT, 2), OBJECTIVE, "atp*", site="k", by=CELLS)
    assert bare.per_example is not None
    assert_close(padded[..., :3], bare.per_example[0, 0])
    assert np.isnan(padded[..., 3:]).all()


@pytest.mark.parametrize(("method", "site"), [("atp", "v"), ("atp+qk", "k"), ("atp*", "k")])
def test_a_run_patched_with_itself(method: Any, site: str):
    table = attribute(linear_model("llama"), CLEAN, CLEAN, OBJECTIVE, method, site=site)
    np.testing.assert_array_equal(table.grid("effect"), 0)
    assert np.isnan(table.grid("normalised")).all()


@pytest.mark.parametrize("method", ["atp", "atp*"])
def test_directions_are_mirror_images(method: Any):
    model = small_model("llama")
    one = attribute(model, CLEAN, CORRUPT, OBJECTIVE, method, direction="noising")
    other = attribute(model, CORRUPT, CLEAN, OBJECTIVE, method, direction="denoising")
    np.testing.assert_array_equal(one.per_example, other.per_example)
    assert one.provenance["unedited"] == other.provenance["unedited"]
    assert (one.provenance["direction"], other.provenance["direction"]) == ("noising", "denoising")


def test_permuting_heads_permutes_the_table():
    order = np.array([2, 0, 3, 1])

    def permute(path: str, weight: Any) -> Any:
        name = path.rpartition(".")[2]
        if name not in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            return weight
        return weight[:, :, order] if name in ("W_Q", "W_K", "W_V") else weight[:, order]

    model = linear_model("gpt2", gain=4.0)
    permuted = estimates(naive.changed(model, permute), "atp+qk", "q")
    assert_close(permuted, estimates(model, "atp+qk", "q")[:, :, order])


@pytest.mark.parametrize("method", ["atp+qk", "atp*"])
def test_beside_exact_patching(method: Any):
    model = linear_model("llama", gain=4.0)
    table = attribute(model, CLEAN, CORRUPT, OBJECTIVE, method, site="k", exact=True)
    exact = patch(model, CLEAN, CORRUPT, OBJECTIVE, "k")
    assert exact.per_example is not None
    sizes = np.abs(exact.per_example[0]).mean(axis=0)
    assert_close(table.grid("exact"), exact.values[0] if method == "atp+qk" else sizes)
    ranks = stats.spearmanr(table.grid("effect").ravel(), table.grid("exact").ravel())[0]
    assert table.provenance["spearman"] == pytest.approx(ranks)
    assert list(table.frame) == [*exact.frame, "exact"]
    assert table.frame.index.equals(exact.frame.index)
    if method == "atp+qk":
        assert_close(table.values, exact.values)
    else:
        total = np.abs(unedited(model, CLEAN) - unedited(model)).mean()
        assert_close(table.grid("normalised") * total, table.grid("effect"))


def test_a_table_of_estimates():
    model = linear_model("llama")
    table = attribute(model, CLEAN, CORRUPT, OBJECTIVE, "ig", site="decoder.v", by=CELLS, steps=2, seed=3, level=0.9)
    assert table.name == "attribute"
    assert table.frame.index.names == ["stack", *CELLS]
    assert table.shape == (2, 2, 5)  # 2 key/value heads, and as many positions as the longest example has
    assert list(table.frame) == [f"{name}{end}" for name in ("effect", "normalised") for end in ENDS] + ["model"]
    said = table.provenance
    about = {"method": "ig", "site": "v", "by": list(CELLS), "direction": "denoising", "rule": "midpoint", "steps": 2}
    assert {key: said[key] for key in about} == about
    assert (said["seed"], said["level"], said["examples"], said["objective"]) == (3, 0.9, 3, "logit_difference")
    assert said["not_finite"] == []  # though two examples lack positions
    assert said["unedited"] == pytest.approx(unedited(model).mean(), abs=1e-5)
    assert (table.grid("effect_low")[..., :3] <= table.grid("effect_high")[..., :3]).all()


def test_what_is_not_finite_is_named_and_left_out():
    model, corrupt = small_model("llama"), np.where(np.asarray(CORRUPT.tokens) == 30, 0, np.asarray(CORRUPT.tokens))
    corrupt[1, 4] = 30
    poisoned = naive.changed(model, lambda path, w: w.at[30].set(np.nan) if path.startswith("embed") else w)
    clean = jh.Batch(np.where(np.asarray(CLEAN.tokens) == 30, 0, np.asarray(CLEAN.tokens)), CLEAN.mask)
    pairs = clean, jh.Batch(corrupt, CORRUPT.mask), OBJECTIVE
    table, sound = (attribute(each, *pairs, by=CELLS) for each in (poisoned, model))
    lost = [cell for cell in table.provenance["not_finite"] if cell["column"] == "effect"]
    assert {cell["example"] for cell in lost} == {1}
    assert {cell["position"] for cell in lost} <= {0, 1, 2, 3}
    assert table.per_example is not None
    assert sound.per_example is not None
    same(table.per_example[0][[0, 2]], sound.per_example[0][[0, 2]])


def test_pieces_change_nothing_and_compile_once():
    model, compiled = small_model("llama"), attrgetter("cache_size")(weight_gradient)
    whole, before = estimates(model, by=CELLS), compiled()
    same(estimates(model, by=CELLS, memory=1), whole)
    same(estimates(model, "ig", by=CELLS, memory=1, rule="left", steps=1), whole)
    assert compiled() <= before + 1


def test_edges_are_attributed_elsewhere(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def noted(*arguments: Any, **named: Any) -> str:
        asked.append(signature(edge_attribution).bind(*arguments, **named).arguments)
        return "a table of edges"

    monkeypatch.setattr("jaxheads.sweep.gradients.attribute.edge_attribution", noted)
    question = small_model("llama"), CLEAN, CORRUPT, OBJECTIVE
    path: dict[str, Any] = {"method": "eap-ig", "rule": "midpoint", "steps": 2, "direction": "noising", "exact": True}
    more: dict[str, Any]
    for more in ({"method": "eap"}, path):
        assert attribute(*question, **more, seed=3, memory=1 << 20) == "a table of edges"
        assert more.items() <= asked[-1].items()
        assert (asked[-1]["model"], asked[-1]["seed"], asked[-1]["memory"]) == (question[0], 3, 1 << 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "atp**"}, r"method must be one of atp, atp\+qk, .*, eap, eap-ig; got 'atp\*\*'"),
        ({"direction": "both"}, "direction must be one of denoising, noising; got 'both'"),
        ({"method": "atp+qk"}, "mends estimates at q and k; at z use 'atp'"),
        ({"site": "resid_pre"}, "resid_pre has no heads"),
        ({"site": "zz"}, "has the sites .*; got 'zz'"),
        ({"by": ("head",)}, "by must be one of"),
        ({"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        ({"steps": 3}, "rule and steps are arguments of 'ig' and 'eap-ig'; method='atp' takes none"),
        ({"method": "ig", "rule": "middle"}, "rule must be one of left, midpoint, right or None; got 'middle'"),
        ({"method": "ig", "steps": 0}, "steps must be at least 1, got 0"),
        ({"method": "eap", "steps": 3}, "steps are arguments of 'eap-ig'"),
        ({"method": "eap", "site": "v"}, "takes neither site nor by; got 'v'"),
        ({"corrupt": random_batch((5, 4, 4), "left")}, "same shape and the same padding"),
        ({"corrupt": jh.Batch([[VOCABULARY] * 5] * 3, CLEAN.mask)}, "lie in 0..36; got 37"),
        ({"level": 1.5}, "level: expected a number between 0 and 1"),
    ],
)
def test_wrong_questions_are_refused(arguments: dict[str, Any], message: str):
    question = {"clean": CLEAN, "corrupt": CORRUPT, "objective": OBJECTIVE, **arguments}
    with pytest.raises(ValueError, match=message):
        attribute(small_model("llama"), **question)


def test_dropping_layers_needs_two():
    model = pair("LlamaForCausalLM", num_hidden_layers=1).ours
    with pytest.raises(ValueError, match="GradDrop at z needs at least 2 layers, the decoder has one"):
        attribute(model, CLEAN, CORRUPT, OBJECTIVE, "atp*")


def test_a_share_without_a_sign_is_of_the_mean_size_of_the_difference():
    model, objective = small_model("llama"), jh.logit_difference(3, 7)
    clean, corrupt = random_batch((5,) * 4), random_batch((5,) * 4, seed=1)
    at_clean, at_corrupt = (np.asarray(jh.run(model, batch).output)[:, -1] for batch in (clean, corrupt))
    total_E = (at_clean[:, 3] - at_clean[:, 7]) - (at_corrupt[:, 3] - at_corrupt[:, 7])
    assert (total_E > 0).any()
    assert (total_E < 0).any()
    table = jh.attribute(model, clean, corrupt, objective, "atp+graddrop")
    assert_close(table.grid("normalised"), table.grid("effect") / np.abs(total_E).mean())
