"""Clusters of examples: one meaning in measures, sweeps, streams, selection, roles and files."""

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import array_batches
from jaxheads.evidence import Evidence, held_out, name_heads
from jaxheads.statistics import mean_interval, split_halves
from jaxheads.tables import Column, HeadTable

from ..models.huggingface import random_batch, small_model

LABELS = np.array(["b", "a", "b", "c", "a", "b", "d", "c"])


@pytest.fixture(scope="module")
def batch() -> jh.Batch:
    return random_batch((6, 5, 6, 4, 6, 5, 6, 6))


QUESTIONS = {
    "measure": lambda model, batch, **options: jh.measure(model, batch, "entropy", **options),
    "ablate": lambda model, batch, **options: jh.ablate(model, batch, jh.loss(), "zero", **options),
    "importance": lambda model, batch, **options: jh.importance(model, batch, jh.loss(), normalise=None, **options),
    "direct": lambda model, batch, **options: jh.direct_effects(model, batch, jh.logit(3), **options),
    "variability": lambda model, batch, **options: jh.variability(model, batch, 4, **options),
}


@pytest.mark.parametrize("name", ["measure", "ablate", "direct"])
def test_a_question_s_intervals_are_over_clusters(name: str, batch: jh.Batch, tmp_path):
    model, ask = small_model("gpt2"), QUESTIONS[name]
    plain, table = ask(model, batch), ask(model, batch, clusters=LABELS)
    np.testing.assert_array_equal(table.per_example, plain.per_example)
    np.testing.assert_allclose(table.values, plain.values, rtol=1e-6)
    assert table.per_example is not None
    metric = table.metrics[0]
    expected = mean_interval(table.per_example, clusters=LABELS, within=(-np.inf, np.inf))
    np.testing.assert_allclose(table.grid(f"{metric}_low"), expected.low, rtol=1e-4, atol=1e-6)
    assert (table.grid(f"{metric}_n") == 4).all()
    assert (plain.grid(f"{metric}_n") == 8).all()
    table.save(tmp_path)
    loaded = HeadTable.load(tmp_path / table.name)
    np.testing.assert_array_equal(loaded.clusters, [0, 1, 0, 2, 1, 0, 3, 2])
    np.testing.assert_array_equal(loaded.per_example, table.per_example)


def test_variability_is_over_the_clusters_of_the_examples_that_count(batch: jh.Batch):
    table = jh.variability(small_model("gpt2"), batch, 5, clusters=LABELS)
    # the example of 4 tokens is too short
    assert (table.grid("variability_n") == 4).all()
    assert table.clusters is not None
    assert len(table.clusters) == 7


@pytest.mark.parametrize("name", ["measure", "ablate", "importance"])
def test_a_stream_s_batches_bring_their_own(name: str, batch: jh.Batch):
    model, ask = small_model("gpt2"), QUESTIONS[name]
    whole = batch.clustered(LABELS)
    one, stream = ask(model, whole), ask(model, iter([whole.take(np.arange(3)), whole.take(np.arange(3, 8))]))
    ours, theirs = (table.frame.drop(columns="model").to_numpy(float) for table in (one, stream))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(one.clusters, stream.clusters)
    with pytest.raises(ValueError, match="the batches of a stream bring their own"):
        ask(model, iter([batch]), clusters=LABELS)
    with pytest.raises(ValueError, match="one label for each of 8 examples"):
        ask(model, batch, clusters=LABELS[:3])


def test_both_runs_of_a_patched_pair_are_one_example(batch: jh.Batch):
    model = small_model("gpt2")
    corrupt = jh.Batch((np.asarray(batch.tokens) + 1) % 90, batch.mask)
    for direction in ("denoising", "noising"):
        table = jh.patch(model, batch, corrupt, jh.logit(3), clusters=LABELS, direction=direction)
        assert (table.grid("effect_n") == 4).all()
    with pytest.raises(ValueError, match="must have the same clusters"):
        jh.patch(model, batch.clustered(LABELS), corrupt.clustered(np.arange(8)), jh.logit(3))


def test_heads_compared_over_clusters(batch: jh.Batch):
    model = small_model("gpt2")
    pairs, alone = (jh.compare_heads(model, batch, "js", clusters=c) for c in (LABELS, None))
    np.testing.assert_allclose(pairs.values, alone.values, rtol=1e-6)
    assert (pairs.n == 4).all()
    assert (alone.n == 8).all()


def test_arrays_bring_their_labels():
    labels = np.arange(10) // 3
    batches = list(array_batches(np.ones((10, 4), int), examples=4, clusters=labels))
    np.testing.assert_array_equal(np.concatenate([np.asarray(b.clusters) for b in batches]), labels)
    with pytest.raises(ValueError, match="one label for each of 10 rows"):
        list(array_batches(np.ones((10, 4), int), examples=4, clusters=labels[:3]))


def test_halves_hold_whole_clusters():
    labels = np.random.default_rng(0).integers(9, size=60)
    first, second = split_halves(60, 0, labels)
    assert not set(labels[first]) & set(labels[second])
    assert sorted([*first, *second]) == list(range(60))
    with pytest.raises(ValueError, match="at least 4 clusters, two for each half, got 3"):
        split_halves(60, 0, np.arange(60) % 3)


def luck(copies: int, seed: int, clusters: bool) -> HeadTable:
    """Noise of 40 heads, each example several times."""
    own = np.random.default_rng(seed).standard_normal((16 // copies, 5, 8))
    values = np.concatenate([own] * copies)
    labels = np.tile(np.arange(len(own)), copies) if clusters else None
    columns = {"effect": Column(*mean_interval(values, clusters=labels), values)}
    return HeadTable.from_columns("luck", "decoder", columns, squeeze=True, clusters=labels)


def test_selection_does_not_leak_through_copies():
    """The best of noise on held-out examples is 0 on average, copies or not; without labels it is above, and warns."""
    reported = [held_out(luck(2, seed, True), n=1, seed=seed)["effect"].iloc[0] for seed in range(60)]
    assert abs(np.mean(reported)) < 0.25
    leaking = []
    for seed in range(60):
        with pytest.warns(UserWarning, match="8 of 16 examples repeat others"):
            leaking.append(held_out(luck(2, seed, False), n=1, seed=seed)["effect"].iloc[0])
    assert np.mean(leaking) > 0.3


def test_held_out_stays_within_the_metric_s_range(batch: jh.Batch):
    table = jh.measure(small_model("gpt2"), batch, ["first_token", "entropy"])
    assert table.range_of("first_token") == (0, 1)
    assert table.range_of("entropy") == (0, np.inf)
    frame = held_out(table, "first_token", n=8)
    assert frame["first_token_high"].to_numpy().max() <= 1
    assert frame["first_token_low"].to_numpy().min() >= 0
    shares = jh.HeadTable.from_columns(
        "s", "decoder", {"share": Column(np.ones((1, 1)), per_example=np.ones((8, 1, 1)))}
    )
    assert held_out(shares, n=1)["share_low"].iloc[0] == pytest.approx(float(mean_interval(np.ones(4)).low))
    effects = jh.ablate(small_model("gpt2"), batch, jh.loss(), "zero")
    assert effects.range_of("effect") == (-np.inf, np.inf)


def test_held_out_of_variability_whose_examples_may_exceed_one(batch: jh.Batch):
    table = jh.variability(small_model("gpt2"), batch, 4)
    values = np.array(table.per_example)
    values[0] = 1.2
    columns = {"variability": Column(table.values, per_example=values, range=table.range_of("variability"))}
    frame = held_out(jh.HeadTable.from_columns("v", "decoder", columns, squeeze=True), n=1)
    assert np.isfinite(frame["variability"].iloc[0])


def test_held_out_tests_a_head_whose_examples_are_all_equal():
    values = np.zeros((16, 1, 3))
    values[:, 0, 1] = 0.5
    columns = {"effect": Column(values.mean(axis=0), per_example=values, range=(-np.inf, np.inf))}
    frame = held_out(jh.HeadTable.from_columns("e", "decoder", columns, squeeze=True), n=2, clusters=np.arange(16))
    # eight equal differences: the exact test of signs
    assert frame["p"].tolist() == [0.5**8, 1.0]


def test_held_out_gives_q_and_n():
    frame = held_out(luck(1, 0, False), n=4)
    assert {"effect_n", "optimism", "p", "q"} <= set(frame)
    assert (frame["effect_n"].to_numpy() == 8).all()
    assert (frame["q"].to_numpy() >= frame["p"].to_numpy()).all()


def test_roles_are_tested_over_clusters():
    rng = np.random.default_rng(0)
    own = rng.beta(2, 8, (12, 3, 4))
    scores, null = np.concatenate([own] * 3), rng.beta(1, 12, (36, 3, 4))
    labels = np.tile(np.arange(12), 3)
    table = name_heads([Evidence("x", scores, null, "random", clusters=labels)], least=0)
    assert set(table.grid("score_n")[table.grid("role") != ""]) <= {6.0}
    beside = name_heads([Evidence("x", scores, null, "random")], least=0, clusters=labels)
    assert beside.frame.equals(table.frame)
    with pytest.warns(UserWarning, match="repeat others"):
        eager = name_heads([Evidence("x", scores, null, "random")], least=0)
    assert (eager.grid("role") != "").sum() >= (table.grid("role") != "").sum()


def test_the_null_knows_the_spread_between_draws():
    """Draws of unequal strength: one draw lets heads of another through, several do not."""
    single, several = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def model(rng: np.random.Generator = rng) -> np.ndarray:
            means = np.clip(rng.uniform(0.05, 0.4) * rng.random((1, 2, 6)), 0.01, 0.9)
            return rng.beta(20 * means, 20 * (1 - means), (60, 2, 6))

        scores, draws = model(), np.stack([model() for _ in range(4)])
        for null, false in ((draws[0], single), (draws, several)):
            table = name_heads([Evidence("x", scores, null, "random")], least=0)
            false.append((table.grid("role") != "").any())
        assert table.provenance["nulls"]["x"]["draws"] == 4
        assert table.provenance["nulls"]["x"]["spread"] > 0
        assert "one draw" not in table.provenance["conditional_on"]["x"]
    assert np.mean(several) <= 0.05 + 0.06
    assert np.mean(single) > 0.3


def test_the_power_is_the_rate_at_which_such_heads_are_named():
    named, power = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        means = np.full((1, 2, 12), 0.1)
        null = rng.beta(8 * means, 8 * (1 - means), (24, 2, 12))
        means = means.copy()
        means[0, 0, 0] = 0.1 + 0.3 * 0.9
        scores = rng.beta(8 * means, 8 * (1 - means), (24, 2, 12))
        table = name_heads([Evidence("x", scores, null, "random")])
        named.append(table.grid("role")[0, 0] == "x")
        power.append(table.provenance["power"]["x"]["0.3"])
    assert np.mean(power) == pytest.approx(np.mean(named), abs=0.25)
