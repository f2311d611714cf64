"""Experiments that train models, in short: that they run from the command to the page, and what they are made of."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import (
    agreement_flow,
    factors,
    fine_tuning,
    induction_phase_change,
    markov_phases,
    overfitting_heads,
    pruned_speed,
    translation_heads,
    vision_heads,
)
from experiments.support import agreement_flow_page, induction_phase_change_page, pruned_speed_page
from jaxheads.data.tasks import Agreement, Markov
from jaxheads.data.tasks.agreement import MASK
from jaxheads.statistics import split_halves
from jaxheads.train import Trace
from tests import language

EXPERIMENTS: dict[str, tuple[Any, list[str], str, str]] = {
    "translation": (translation_heads, [], "One head left", "heads"),
    "agreement": (agreement_flow, [], "Correlation by layer", "layers"),
    "vision": (vision_heads, ["--layers", "1"], "Distance by layer", "distances"),
    "factors": (factors, ["--heads", "1", "2", "--depths", "1"], "## Withdrawn", "accuracy"),
    "overfitting": (overfitting_heads, [], "## Heads that harm fresh sentences", "heads"),
    "fine-tuning": (fine_tuning, [], "## Movement by layer", "movement"),
    "pruned": (pruned_speed, [], "with 99% of the accuracy left", "pruned"),
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
    toy = language.model("bert")
    toy = replace(toy, hf_config={**(toy.hf_config or {}), "architectures": ["BertModel"]})
    monkeypatch.setattr(jh, "load", lambda _: toy)


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
    assert runs.groupby("condition").size().to_dict() == dict.fromkeys(set(runs["condition"]), 8)
    first = runs[runs["layer"] == 1].set_index(["condition", "method"])["blank-out"]
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
    runs = tables["runs"]
    assert len(runs) == 2 * 2 * 2  # heads × data × seeds
    assert set(runs["head size"]) == {64, 32}
    varied = runs[runs["data"] == "varied"]
    assert varied["accuracy, own data"].equals(varied["accuracy, without shortcut"])
    assert set(tables["longer"]["steps"]) == {4 * 3}
    assert tables["over-seeds"][["low", "high"]].stack().between(0, 1).all()


def check_overfitting(tables: dict[str, Any]) -> None:
    runs, heads = tables["runs"], tables["heads"]
    assert runs.groupby("model").size().to_dict() == dict.fromkeys(("decay", "no decay", "untrained"), 4)
    assert np.allclose(runs["gap"], runs["fresh loss"] - runs["training loss"])
    assert len(heads) == 12 * 8
    means = heads.groupby(["model", "seed"])["heads, fresh"].mean().sort_index()
    assert np.allclose(means, runs.set_index(["model", "seed"])["mean head, fresh"].sort_index())


def check_fine_tuning(tables: dict[str, Any]) -> None:
    runs, heads = tables["runs"], tables["heads"]
    assert runs.groupby("condition").size().to_dict() == dict.fromkeys(fine_tuning.CONDITIONS, 2)
    assert runs["accuracy"].between(0, 1).all()
    assert len(heads) == 6 * 8
    assert heads["1 − cosine"].between(0, 1).all()
    assert heads["divergence"].between(0, np.log(2)).all()


def test_a_harmful_head_is_reported_on_other_sentences():
    """Head 1 lowers the loss of the choosing half alone; head 0 of neither half."""
    first, second = split_halves(8, 0)
    on_fresh = np.zeros((8, 1, 2))
    on_fresh[first, 0, 1], on_fresh[second, 0, 1], on_fresh[:, 0, 0] = -1.0, 0.5, 0.1
    on_training = np.zeros((8, 1, 2))
    on_training[:, 0, 0], on_training[:, 0, 1] = 2.0, 0.25
    row = overfitting_heads.summary(0.2, on_training, 0.7, on_fresh, 0)
    assert (row["harmful head, choosing"], row["harmful head, fresh"]) == (-1.0, 0.5)
    assert (row["harmful head, training"], row["needed head, training"]) == (0.25, 2.0)
    assert row["needed head, fresh"] == pytest.approx(0.1)
    assert row["gap"] == pytest.approx(0.5)


def test_patterns_that_stay_do_not_move_and_disjoint_ones_move_all_the_way():
    one, other = np.zeros((2, 1, 1, 3, 3)), np.zeros((2, 1, 1, 3, 3))
    one[..., 0], other[..., 1] = 1.0, 1.0
    mask = np.ones((2, 3), bool)
    stay, away = fine_tuning.moved(one, one, mask), fine_tuning.moved(one, other, mask)
    np.testing.assert_allclose(list(stay.values()), 0, atol=1e-12)
    np.testing.assert_allclose(away["1 − cosine"], 1)
    np.testing.assert_allclose(away["divergence"], np.log(2))


def check_pruned(tables: dict[str, Any]) -> None:
    quality = tables["quality"]
    assert np.abs(quality["smaller model's loss"] - quality["gated loss"]).max() < 1e-5
    assert tables["removed"]["order"].tolist() == ["importance", "ablation", "random"]
    assert (tables["lost"].set_index("removed").loc[0.0, "accuracy − whole"] == 0).all()
    assert quality.groupby("order")["removed"].max().tolist() == [0.9] * 3
    assert quality["heads a layer"].min() < 8
    sizes = tables["speed"].groupby("heads")["weights, MB"].first()
    assert sizes.is_monotonic_increasing


def check_induction(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert runs.groupby("condition").size().to_dict() == {"one layer": 2, "two layers": 2, "two layers, one length": 2}
    assert runs["loss"].between(2, 6).all()
    assert tables["onsets"]["condition"].tolist() == runs["condition"].tolist()
    assert (tables["over-seeds"]["n"] <= 2).all()


def check_markov(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert list(runs["condition"].unique()) == ["K = 2", "K = 2, one layer", "K = 2, doubly stochastic"]
    assert (runs["KL from Bayes at the end"] > 0).all()
    assert (runs["loss − Bayes"] - (runs["loss at the end"] - runs["loss of Bayes"])).abs().max() < 1e-6
    assert runs.groupby("condition")["loss of Bayes"].nunique().tolist() == [1, 1, 1]
    means = tables["intervals"]
    assert set(means["seeds"]) == {2}
    assert set(means["chains"]) == {markov_phases.EVALUATED}


CHECKS = {
    "translation": check_translation,
    "agreement": check_agreement,
    "vision": check_vision,
    "factors": check_factors,
    "overfitting": check_overfitting,
    "fine-tuning": check_fine_tuning,
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


def test_the_shortcut_alone_is_as_good_as_said():
    """Predict each token from the one length's distance back: the share that is right is the shortcut's accuracy."""
    for problem in factors.PROBLEMS:
        sample = problem.varied.sample(jax.random.key(0), 4000)
        tokens, targets, scored = (np.asarray(x) for x in (sample.batch.tokens, sample.targets, sample.weights))
        if problem.name == "induction":
            offset = problem.shortcut.shortest
            guess = np.roll(tokens, offset - 1, axis=1)
        else:  # the verb of the number of the noun that is read last; nouns' and verbs' singulars have even distances
            first_verb = problem.varied.vocabulary - 2
            first_noun = first_verb - 2 * problem.varied.nouns
            guess = first_verb + (tokens - first_noun) % 2
        right = ((guess == targets) * scored).sum() / scored.sum()
        # A wrong length is right by chance now and then: tokens of a segment are distinct, so only at other periods.
        assert right == pytest.approx(problem.by_shortcut, abs=0.02)


def test_phases_are_read_off_the_curves():
    steps = np.array([0, 10, 100, 1000])
    uni, bi = np.array([[0.2], [0.01], [0.05], [0.08]]), np.array([[0.3], [0.09], [0.04], [0.01]])
    values = {"choosing unigram": uni, "choosing bigram": bi}
    [row] = markov_phases.phases(Trace(steps, values)).to_dict("records")
    assert (row["nearest unigram at"], row["nearer bigram from"]) == (10, 100)
    assert (row["spacing there"], row["spacing then"]) == (10, 90)
    never = {**values, "choosing bigram": uni + 0.1}
    assert np.isnan(markov_phases.phases(Trace(steps, never))["nearer bigram from"][0])


def test_bayes_is_that_of_the_same_chains():
    """A model that is the Bayes predictor: its loss is that of Bayes, chain by chain; other chains have another."""
    task = Markov(2)
    samples = [task.sample(jax.random.key(seed), 64) for seed in (1, 2)]
    losses = []
    for sample in samples:
        assert sample.batch.tokens is not None
        assert sample.targets is not None
        law = markov_phases.laws(task, sample.batch.tokens)["Bayes"]
        losses.append(np.asarray(markov_phases.losses(jnp.log(law), sample.targets), np.float64))
    assert abs(losses[0].mean() - losses[1].mean()) > 0.005
    curves = {"loss": losses[0][None, None]}
    curves |= {f"KL from {name}": np.zeros((1, 1, 64)) for name in markov_phases.PREDICTORS}
    curves |= {"choosing unigram": np.zeros((1, 1)), "choosing bigram": np.zeros((1, 1))}
    measured = markov_phases.Measured(Trace(np.array([0]), curves), {"Bayes": losses[0]})
    assert measured.reported()["loss − Bayes"] == pytest.approx(np.zeros((1, 64)))


def test_the_nearest_step_is_chosen_on_other_chains():
    """The chains that choose prefer step 10; the reported chains, whose own least is at step 100, give its number."""
    kl_CRE = np.array([[[0.5, 0.5]], [[0.3, 0.4]], [[0.1, 0.1]]])
    curves = {"loss": kl_CRE, "KL from unigram": kl_CRE, "KL from bigram": kl_CRE, "KL from Bayes": kl_CRE}
    curves |= {"choosing unigram": np.array([[0.5], [0.2], [0.3]]), "choosing bigram": np.ones((3, 1))}
    measured = markov_phases.Measured(Trace(np.array([0, 10, 100]), curves), {"Bayes": np.zeros(2)})
    assert measured.reported()["KL from unigram when nearest"].tolist() == [[0.3, 0.4]]


def curves_of(scores: Sequence[Sequence[float]]) -> Trace:
    """Return a trace of one run with two heads in one layer, whose scores at each checkpoint are given."""
    return Trace(np.arange(len(scores)), {"induction": np.array(scores, float)[:, None, None, :]})


def test_the_best_head_is_reported_on_other_examples():
    choosing, reported = curves_of([[0.2, 0.1], [0.3, 0.9]]), curves_of([[0.1, 0.5], [0.8, 0.6]])
    measured = induction_phase_change.Measured(reported, choosing)
    assert measured.best("induction")[:, 0].tolist() == [0.1, 0.6]
    assert measured.best_head("induction").tolist() == [[0, 1]]


def test_an_order_of_onsets_must_exceed_the_resolution():
    """Two steps apart in every seed: an order at a spacing of 1, none at 5."""
    first = np.array([100.0, 110, 120, 130])
    columns = {"a": first, "b": first + np.array([2, 2.1, 1.9, 2]), "a examples": 0.0, "b examples": 0.5}
    for spacing, expected in ((1, "a"), (5, "not shown")):
        onsets = pd.DataFrame({"condition": "two layers", **columns, "a spacing": 1, "b spacing": spacing})
        [row] = induction_phase_change_page.orders(onsets, [("a", "b")]).to_dict("records")
        assert (row["comes first"], row["n"], row["resolution"]) == (expected, 4, spacing)
        assert row["low"] < 2 < row["high"]


def test_the_spacing_of_an_onset_is_that_of_the_checkpoints_about_it():
    steps = np.array([0, 10, 11, 12, 40])
    at = np.array([5.0, 10.5, 30, np.nan])
    assert induction_phase_change.spacing(steps, at).tolist()[:3] == [10, 1, 28]
    assert np.isnan(induction_phase_change.spacing(steps, at)[3])


def test_a_control_that_is_not_at_0_is_named():
    """Six seeds about 0.15 with flow and gradients: the page's sentence names this control, and no other."""
    rng, rows = np.random.default_rng(0), []
    for condition, method in product(("trained", "untrained", "random number"), ("raw", "rollout", "flow")):
        for seed in range(6):
            flow = 0.15 if (condition, method) == ("random number", "flow") else 0.0
            noise = 0.1 * (-1) ** seed * (1 + 0.1 * rng.random())
            numbers = {"blank-out": noise, "gradients": flow + noise, "subject first": 0.5}
            rows.append({"condition": condition, "seed": seed, "method": method, "layer": 1, **numbers})
    runs = pd.DataFrame(rows)
    means, compared = agreement_flow_page.over_seeds(runs), agreement_flow_page.differences(runs)
    last = agreement_flow_page.findings(runs, means, compared).splitlines()[-1]
    assert "of 12: random number, flow with gradients 0.15 [" in last
    assert ";" not in last
    assert set(compared["n"]) == {6}


def test_the_share_that_can_be_removed_is_chosen_on_other_examples():
    """The choosing examples lose nothing up to 0.1; the others have lost a tenth there."""
    columns = {"removed": [0.0, 0.1, 0.2], "choosing accuracy": [0.9, 0.9, 0.5], "accuracy": [0.8, 0.72, 0.8]}
    [row] = pruned_speed_page.removed(pd.DataFrame({"order": "ablation", "seed": 0, **columns}), 0.99).to_dict(
        "records"
    )
    assert (row["removed"], row["left"]) == (0.1, pytest.approx(0.9))


def test_losses_are_differences_seed_by_seed():
    rows = [
        {"order": order, "seed": seed, "removed": removed, "accuracy": 0.5 + 0.1 * seed - removed, "loss": removed}
        for order, seed, removed in product(("importance", "random"), range(3), (0.0, 0.1))
    ]
    lost = pruned_speed_page.lost(pd.DataFrame(rows)).set_index(["order", "removed"])
    row = lost.loc[("importance", 0.1)]
    assert row[["accuracy − whole low", "accuracy − whole", "accuracy − whole high"]].tolist() == pytest.approx(
        [-0.1] * 3
    )
    assert row["accuracy high"] - row["accuracy low"] > 0.1
    assert row["n"] == 3


def test_a_classifier_has_the_weights_of_the_model_and_a_fresh_head():
    bare = jh.load("minilm-l6")
    made = fine_tuning.classifier(bare)
    batch = bare.encode(["the dog barks", "a cat"])
    streams = [jh.run(model, batch, "resid_post").seen["resid_post"] for model in (bare, made)]
    np.testing.assert_array_equal(streams[0], streams[1])
    assert jh.run(made, batch).output.shape == (2, 2)
    with pytest.raises(ValueError, match="TinySSM"):
        fine_tuning.classifier(replace(bare, hf_config={**(bare.hf_config or {}), "architectures": ["TinySSMModel"]}))
