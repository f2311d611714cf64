"""Experiments that train models, in short: that they run from the command to the page, and what they are made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import (
    agreement_flow,
    factors,
    induction_phase_change,
    markov_phases,
    pruned_speed,
    translation_heads,
    vision_heads,
)
from jaxheads.data.tasks import Agreement
from jaxheads.data.tasks.agreement import MASK
from jaxheads.train import Trace

EXPERIMENTS: dict[str, tuple[Any, list[str], str, str]] = {
    "translation": (translation_heads, [], "One head left", "heads"),
    "agreement": (agreement_flow, [], "Correlation by layer", "layers"),
    "vision": (vision_heads, ["--layers", "1"], "Distance by layer", "distances"),
    "factors": (factors, ["--heads", "1", "2", "--depths", "1"], "What more heads buy", "heads"),
    "pruned": (pruned_speed, [], "with 99 % of the accuracy left", "pruned"),
    "induction": (
        induction_phase_change,
        ["--steps", "6", "--batch", "4"],
        "one layer never forms induction",
        "two-layers",
    ),
    "markov": (markov_phases, ["--steps", "4"], "Beside the published losses", "K2"),
}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch):
    for module in (translation_heads, vision_heads, factors):
        monkeypatch.setattr(module, "EVALUATED", 16)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_from_the_command_to_the_page(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    module, options, heading, figure = EXPERIMENTS[name]
    module.main(["--quick", *options, "--out", str(tmp_path)])
    assert heading in capsys.readouterr().out
    assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    CHECKS[name]({path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")})


def check_translation(tables: dict[str, Any]) -> None:
    assert tables["alignment"]["AER"].between(0, 1).to_numpy().all()
    assert tables["gates"]["penalty"].tolist() == ["not gated", "0", "0.003", "0.03", "0.1", "0.3"] * 2
    assert tables["gates"]["loss"].gt(0).all()
    assert set(tables["one-left"]["stack"]) == {"encoder", "decoder", "cross"}
    assert len(tables["importance"]) == 24 * 2


def check_agreement(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert set(runs["condition"]) == {"trained", "untrained", "random number"}
    assert runs.groupby("condition").size().to_dict() == dict.fromkeys(set(runs["condition"]), 6)
    first = runs[runs["layer"] == 1].set_index(["condition", "way"])["blank-out"]
    for condition in ("trained", "untrained"):  # one layer's rollout and flow rank the words as its attention does
        assert first[condition]["raw"] == pytest.approx(first[condition]["rollout"])
        assert first[condition]["raw"] == pytest.approx(first[condition]["flow"])


def test_the_nearest_head_is_reported_on_the_other_half():
    """Heads whose halves disagree: the one that is nearest by luck is reported as far as it is."""
    choosing, reported = np.array([[1.0, 3, 5], [3, 2, 5]]), np.array([[4.0, 3, 5], [3, 2.5, 6]])
    index = np.indices((2, 3)).reshape(2, -1)
    columns = dict(zip(("seed", "head"), index, strict=True))
    name = vision_heads.chosen_by("distance")
    heads = pd.DataFrame({**columns, name: choosing.reshape(-1), "distance": reported.reshape(-1)})
    nearest, gain = vision_heads.chosen_and_reported(heads, "distance", largest=False)
    np.testing.assert_allclose((nearest, gain), ((4, 2.5), (3, 0.5)))
    furthest, gain = vision_heads.chosen_and_reported(heads, "distance")
    np.testing.assert_allclose((furthest, gain), ((5, 6), (0, -1)))


def test_a_penalty_is_chosen_by_the_half_that_does_not_report():
    columns = ["encoder", "decoder", "cross", "accuracy", "accuracy, half that chooses"]
    rows = [(8, 8, 8, 1.0, 1.0), (8, 8, 8, 1.0, 1.0), (4, 8, 8, 0.9, 0.995), (1, 8, 8, 1.0, 0.9)]
    gates = pd.DataFrame(rows, columns=columns)
    assert translation_heads.fewest(gates) == 1
    assert translation_heads.fewest(gates.iloc[:2]) is None


def check_vision(tables: dict[str, Any]) -> None:
    heads = tables["heads"]
    assert heads.groupby("condition").size().tolist() == [2 * 2 * 4] * 3
    assert sorted(set(heads["step"])) == [0, 3, 6]
    assert heads["distance"].between(0, 8.5).to_numpy().all()
    corners = heads[heads["condition"] == "corners"]
    assert corners["cls_to_corner"].between(0, 1).to_numpy().all()
    assert len(tables["accuracy"]) == 2 * 3


def check_factors(tables: dict[str, Any]) -> None:
    runs, variance = tables["runs"], tables["variance"]
    assert len(runs) == 2 * 2 * 2  # heads × data × seeds
    assert set(variance["effect"]) == {"heads", "data", "heads × data", "residual"}
    known = variance[variance["share"].notna()].groupby("outcome")["share"].sum()
    assert known.to_numpy() == pytest.approx(1)
    assert (runs["needed"] <= runs["heads"]).to_numpy().all()


def check_pruned(tables: dict[str, Any]) -> None:
    quality = tables["quality"]
    assert np.abs(quality["loss"] - quality["gated loss"]).max() < 1e-5
    assert quality.groupby("order")["removed"].max().tolist() == [0.9] * 3
    assert quality["heads a layer"].min() < 8
    sizes = tables["speed"].groupby("heads")["weights, MB"].first()
    assert sizes.is_monotonic_increasing


def check_induction(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert runs.groupby("condition").size().to_dict() == {"one layer": 2, "two layers": 2, "two layers, one length": 2}
    assert runs["loss"].between(2, 6).all()
    assert tables["onsets"]["condition"].tolist() == runs["condition"].tolist()


def check_markov(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert list(runs["condition"].unique()) == ["K = 2", "K = 2, one layer", "K = 2, doubly stochastic"]
    assert (runs["KL from Bayes at the end"] > 0).all()


CHECKS = {
    "translation": check_translation,
    "agreement": check_agreement,
    "vision": check_vision,
    "factors": check_factors,
    "pruned": check_pruned,
    "induction": check_induction,
    "markov": check_markov,
}


def test_ratios_are_taken_within_a_turn():
    repeats, seconds = [0, 0, 1, 1, 2, 2], [2, 1, 4, 2, 3, 2.0]
    heads = {"heads": [12, 6] * 3, "weights, MB": [8, 6] * 3}
    ratios = pruned_speed.ratios(pd.DataFrame({"batch": 16, "repeat": repeats, "seconds": seconds, **heads}))
    assert ratios["faster, %"].tolist() == pytest.approx([0, 100])
    assert ratios["least"].tolist() == pytest.approx([0, 50])
    assert ratios["published [P]"].tolist()[1] == 17.5


def test_blanking_a_word_out_is_masking_it():
    task = Agreement(masked=True)
    model = jh.init(task.model_config(num_hidden_layers=1), seed=3)
    sample = task.sample(jax.random.key(0), 3)
    assert sample.targets is not None
    assert sample.weights is not None
    falls = agreement_flow.blank_out(model.network, sample)

    def right(tokens: np.ndarray) -> np.ndarray:
        logits = np.asarray(jh.run(model, jh.Batch(tokens, sample.batch.mask)).output, np.float64)
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        at = np.asarray(sample.weights).argmax(axis=1)
        return p[np.arange(3), at, np.asarray(sample.targets)[np.arange(3), at]]

    tokens = np.array(sample.batch.tokens)
    blanked = tokens.copy()
    blanked[:, 2] = MASK
    np.testing.assert_allclose(falls[:, 2], right(tokens) - right(blanked), atol=1e-6)
    at = np.asarray(sample.weights).argmax(axis=1)
    np.testing.assert_allclose(falls[np.arange(3), at], 0, atol=1e-7)  # masked already


def test_needed_heads_are_those_without_which_it_fails():
    """A curve that stays, falls a little, and falls: two of four heads may go."""

    def curve(accuracies: Sequence[float]) -> pd.DataFrame:
        return pd.DataFrame({"heads": range(5), "accuracy": accuracies})

    for accuracies, expected in (([1, 1, 0.995, 0.9, 1.0], 2), ([1] * 5, 0), ([1, 0.5, 1, 1, 1], 4)):
        assert factors.needed_by(curve(accuracies)) == expected


def test_phases_are_read_off_the_curves():
    steps = np.array([0, 10, 100, 1000])
    uni, bi = np.array([[0.2], [0.01], [0.05], [0.08]]), np.array([[0.3], [0.09], [0.04], [0.01]])
    values = {"KL from unigram": uni, "KL from bigram": bi, "KL from bayes": bi, "loss": bi}
    [row] = markov_phases.phases(Trace(steps, values)).to_dict("records")
    assert (row["nearest unigram at"], row["nearer bigram from"]) == (10, 100)
    assert row["KL from unigram then"] == 0.01
    never = {**values, "KL from bigram": uni + 0.1}
    assert np.isnan(markov_phases.phases(Trace(steps, never))["nearer bigram from"][0])
