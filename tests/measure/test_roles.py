"""Planted heads are found, and noise earns no name."""

import numpy as np
import pytest

from jaxheads.evidence.roles import Evidence, name_heads
from jaxheads.report.role_evidence import role_table
from jaxheads.statistics import split_halves

L, N = 3, 4


def noise(examples: int, seed: int, *, layers: int = L, heads: int = N, mean: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).beta(10 * mean, 10 * (1 - mean), (examples, layers, heads))


def planted(role: str, where: tuple[int, int], mean: float, *, examples: int = 40, seed: int = 0) -> Evidence:
    scores = noise(examples, seed)
    scores[:, where[0], where[1]] = np.random.default_rng(seed + 50).beta(20 * mean, 20 * (1 - mean), examples)
    return Evidence(role, scores, noise(examples, seed + 100), "random weights")


def test_planted_heads_are_found_with_the_number_that_earned_it():
    table = name_heads([planted("induction", (2, 1), 0.8), planted("previous_token", (0, 3), 0.6, seed=1)])
    roles = table.grid("role")
    assert roles[2, 1] == "induction"
    assert roles[0, 3] == "previous_token"
    assert (roles != "").sum() == 2
    row = table.frame.loc[("decoder", 2, 1)]
    assert row["score"] == pytest.approx(0.8, abs=0.06)
    assert row["score_low"] < row["score"] < row["score_high"]
    assert row["chance_corrected"] == pytest.approx((row["score"] - row["null"]) / (1 - row["null"]))
    assert row["q_value"] < 1e-6
    unnamed = table.frame.loc[("decoder", 1, 1)]
    assert unnamed["roles"] == ""
    assert unnamed[["score", "score_low", "score_high", "null", "chance_corrected", "q_value"]].isna().all()
    assert table.provenance["tried"] == {"heads": 12, "roles": 2, "tests": 24}
    assert table.provenance["nulls"]["induction"]["kind"] == "random weights"


def test_a_head_with_two_roles_is_named_by_the_stronger():
    weaker, stronger = planted("weaker", (1, 1), 0.5), planted("stronger", (1, 1), 0.9, seed=1)
    table = name_heads([weaker, stronger])
    assert table.grid("role")[1, 1] == "stronger"
    assert table.grid("roles")[1, 1] == "stronger, weaker"


def test_a_role_that_yields_is_a_head_s_own_only_where_it_has_no_other():
    sink, other = planted("sink", (1, 1), 0.9), planted("induction", (1, 1), 0.5, seed=1)
    assert name_heads([sink, other]).grid("role")[1, 1] == "sink"
    table = name_heads([sink, other], yielding=("sink",))
    assert table.grid("role")[1, 1] == "induction"
    assert table.grid("roles")[1, 1] == "induction, sink"
    assert name_heads([sink], yielding=("sink",)).grid("role")[1, 1] == "sink"


def test_every_number_comes_from_the_half_that_did_not_choose():
    evidence = planted("induction", (2, 1), 0.8)
    choose, confirm = split_halves(40, 0)
    row = name_heads([evidence]).frame.loc[("decoder", 2, 1)]
    scores, null = np.asarray(evidence.scores), np.asarray(evidence.null)
    hardest = np.unravel_index(null[choose].mean(axis=0).argmax(), (L, N))
    assert row["score"] == pytest.approx(scores[confirm, 2, 1].mean())
    assert row["null"] == pytest.approx(null[(confirm, *hardest)].mean())


def test_noise_earns_no_name():
    """Scores drawn from the null itself: a table with any false role is rarer than the level, even without a floor."""
    false = [
        (
            name_heads([Evidence("x", noise(24, seed), noise(24, 10_000 + seed), "same")], least=0).grid("role") != ""
        ).any()
        for seed in range(200)
    ]
    assert np.mean(false) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def test_a_sure_but_small_difference_earns_no_name():
    scores, null = noise(400, 0, mean=0.2), noise(400, 1, mean=0.1)
    assert (name_heads([Evidence("x", scores, null, "random weights")]).grid("role") == "").all()
    assert (name_heads([Evidence("x", scores, null, "random weights")], least=0).grid("role") != "").all()


def test_more_heads_tried_ask_for_more():
    """The same lone head, just sure enough among twelve, is not among twelve thousand."""
    _, confirm = split_halves(16, 0)
    lone = np.full(16, 0.6)
    lone[confirm] += 0.25 * np.linspace(-1, 1, 8)

    def named(layers: int) -> bool:
        scores = noise(16, 3, layers=layers, mean=0.3)
        scores[:, 1, 2] = lone
        evidence = Evidence("x", scores, np.full_like(scores, 0.3), "constant")
        return name_heads([evidence]).grid("role")[1, 2] == "x"

    assert named(3)
    assert not named(3000)


def test_the_order_within_a_half_is_irrelevant():
    evidence = planted("induction", (2, 1), 0.8)
    choose, confirm = split_halves(40, 0)
    order = np.arange(40)
    order[choose], order[confirm] = choose[::-1], np.roll(confirm, 3)
    shuffled = Evidence("induction", np.asarray(evidence.scores)[order], np.asarray(evidence.null)[order], "n")
    plain, other = name_heads([evidence]), name_heads([shuffled])
    assert (plain.grid("role") == other.grid("role")).all()
    for column in ("score", "null", "chance_corrected", "q_value"):
        np.testing.assert_allclose(plain.grid(column), other.grid(column))


def test_the_split_seed_may_change_numbers_but_not_a_clear_role():
    evidence = [planted("induction", (2, 1), 0.8)]
    tables = [name_heads(evidence, seed=seed) for seed in range(5)]
    assert all((table.grid("role") == tables[0].grid("role")).all() for table in tables)
    assert len({float(table.grid("score")[2, 1]) for table in tables}) > 1


def test_examples_that_say_nothing_are_left_out():
    evidence = planted("induction", (2, 1), 0.8, examples=60)
    scores, null = np.array(evidence.scores), np.array(evidence.null)
    scores[::3], null[1::7] = np.nan, np.nan
    table = name_heads([Evidence("induction", scores, null, "random weights")])
    assert table.grid("role")[2, 1] == "induction"
    silent = name_heads([Evidence("induction", np.full_like(scores, np.nan), null, "random weights")])
    assert (silent.grid("role") == "").all()


def test_roles_are_saved_and_loaded(tmp_path):
    table = name_heads([planted("induction", (2, 1), 0.8)])
    table.save(tmp_path)
    assert type(table).load(tmp_path / "roles").grid("role")[2, 1] == "induction"


ENTROPY = 1 + noise(8, 0)


@pytest.mark.parametrize(
    ("evidence", "options", "message"),
    [
        (lambda: [], {}, "at least one role"),
        (lambda: [planted("x", (0, 0), 0.5)] * 2, {}, "may come once"),
        (lambda: [Evidence("x", ENTROPY, ENTROPY, "n")], {}, "an entropy or a distance can't"),
        (lambda: [Evidence("x", noise(8, 0), noise(9, 0), "n")], {}, "the same examples"),
        (lambda: [Evidence("x", np.zeros(3), np.zeros(3), "n")], {}, "examples, layers, heads"),
        (lambda: [Evidence("x", noise(2, 0), noise(2, 1), "n")], {}, "at least 4 examples"),
        (lambda: [planted("x", (0, 0), 0.5)], {"least": 2}, "least in 0..1"),
        (lambda: [planted("x", (0, 0), 0.5)], {"level": 0}, "level"),
    ],
)
def test_what_does_not_fit_is_refused(evidence, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        name_heads(evidence(), **options)


def test_a_head_of_two_jobs_is_polysemous_and_mixed_if_they_are_alike():
    first, second = planted("first", (1, 1), 0.9), planted("second", (1, 1), 0.85, seed=1)
    faint, lone = planted("faint", (1, 1), 0.4, seed=2), planted("lone", (2, 0), 0.9, seed=3)
    table = name_heads([first, second, faint, lone], mixed=0.8)
    assert table.grid("role")[1, 1] == "mixed"
    assert table.grid("roles")[1, 1] == "first, second, faint"
    assert table.grid("score")[1, 1] == pytest.approx(0.9, abs=0.06)
    assert table.grid("role")[2, 0] == "lone"
    assert table.grid("jobs")[1, 1] == 3
    assert table.grid("jobs")[2, 0] == 1
    assert name_heads([first, faint], mixed=0.8).grid("role")[1, 1] == "first"
    assert name_heads([first, second, faint, lone]).grid("role")[1, 1] == "first"
    yielding = name_heads([first, second], mixed=0.8, yielding=("first",))
    assert yielding.grid("role")[1, 1] == "second"
    assert yielding.grid("jobs")[1, 1] == 1
    with pytest.raises(ValueError, match="mixed must be a share"):
        name_heads([first], mixed=1.5)


def test_rows_of_a_ratio_may_leave_the_range_of_their_mean():
    evidence = planted("x", (1, 1), 0.6)
    scores = np.array(evidence.scores)
    scores[0, 1, 1], scores[1, 1, 1] = 1.4, -0.3
    with pytest.raises(ValueError, match="from 0 to 1"):
        Evidence("x", scores, evidence.null, "offset")
    assert name_heads([Evidence("x", scores, evidence.null, "offset", ratio=True)]).grid("role")[1, 1] == "x"
    scores[::2, 1, 1] = 1.3  # in both halves
    of_ratio = Evidence("x", scores, evidence.null, "offset", ratio=True)
    named, table = name_heads([of_ratio]), role_table(of_ratio)
    assert named.grid("role")[1, 1] == "x"
    assert named.grid("score_high")[1, 1] == 1
    assert (table.grid("x_high") <= 1).all()
    assert table.grid("x_low")[1, 1] < np.mean(scores[:, 1, 1]) == pytest.approx(table.grid("x")[1, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        Evidence("x", scores + 1, evidence.null, "offset", ratio=True)
