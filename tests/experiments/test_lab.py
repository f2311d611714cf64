"""The lab's experiments from the command to the page, in short, and what they are made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import agreement_flow, factors, lab, pruned_speed, translation_heads, vision_heads
from jaxheads.data.tasks import Agreement
from jaxheads.data.tasks.agreement import MASK

EXPERIMENTS: dict[str, tuple[Callable[[list[str]], None], list[str], str, str]] = {
    "translation": (translation_heads.main, [], "One head left", "heads"),
    "agreement": (agreement_flow.main, [], "Correlation by layer", "layers"),
    "vision": (vision_heads.main, ["--layers", "1"], "Distance by layer", "distances"),
    "factors": (factors.main, ["--heads", "1", "2", "--depths", "1"], "What more heads buy", "heads"),
    "pruned": (pruned_speed.main, [], "Removed with 99 %", "pruned"),
}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch: pytest.MonkeyPatch):
    for module in (translation_heads, vision_heads, factors):
        monkeypatch.setattr(module, "EVALUATED", 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp(name) for name in EXPERIMENTS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_from_the_command_to_the_page(name: str, made: dict[str, Path], capsys: pytest.CaptureFixture):
    main, options, heading, figure = EXPERIMENTS[name]
    main(["--quick", *options, "--out", str(made[name])])
    assert heading in capsys.readouterr().out
    assert (made[name] / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    tables = {path.stem: pd.read_csv(path) for path in made[name].glob("*.csv")}
    CHECKS[name](tables)
    assert not jax.config.values["jax_disable_most_optimizations"]


def check_translation(tables: dict[str, Any]) -> None:
    assert tables["alignment"]["AER"].between(0, 1).to_numpy().all()
    assert tables["gates"]["penalty"].tolist() == [0, 0.003, 0.03, 0.1, 0.3]
    assert set(tables["one-left"]["stack"]) == {"encoder", "decoder", "cross"}
    assert len(tables["importance"]) == 24


def check_agreement(tables: dict[str, Any]) -> None:
    runs = tables["runs"]
    assert set(runs["condition"]) == {"trained", "untrained", "random number"}
    assert runs.groupby("condition").size().to_dict() == dict.fromkeys(set(runs["condition"]), 6)
    first = runs[runs["layer"] == 1].set_index(["condition", "way"])["blank-out"]
    for condition in ("trained", "untrained"):  # one layer's rollout and flow rank the words as its attention does
        assert first[condition]["raw"] == pytest.approx(first[condition]["rollout"])
        assert first[condition]["raw"] == pytest.approx(first[condition]["flow"])


def check_vision(tables: dict[str, Any]) -> None:
    heads = tables["heads"]
    assert heads.groupby("condition").size().tolist() == [4] * 5
    assert heads["distance"].between(0, 9.9).to_numpy().all()
    texture = heads[heads["condition"] == "texture"]
    assert texture["to_partner"].between(0, 1).to_numpy().all()
    assert len(tables["accuracy"]) == 5


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


CHECKS = {
    "translation": check_translation,
    "agreement": check_agreement,
    "vision": check_vision,
    "factors": check_factors,
    "pruned": check_pruned,
}


def test_ratios_are_taken_within_a_turn():
    table = pd.DataFrame(
        {"batch": 16, "heads": [12, 6] * 3, "repeat": [0, 0, 1, 1, 2, 2], "seconds": [2, 1, 4, 2, 3, 2.0],
         "weights, MB": [8, 6] * 3}
    )  # fmt: skip
    found = pruned_speed.ratios(table)
    assert found["faster, %"].tolist() == pytest.approx([0, 100])
    assert found["least"].tolist() == pytest.approx([0, 50])
    assert found["published [P]"].tolist()[1] == 17.5


def test_blanking_a_word_out_is_masking_it():
    task = Agreement(masked=True)
    model = jh.init(task.model_config(num_hidden_layers=1), seed=3)
    sample = task.sample(jax.random.key(0), 3)
    assert sample.targets is not None
    assert sample.weights is not None
    found = agreement_flow.blank_out(model.network, sample)

    def right(tokens: np.ndarray) -> np.ndarray:
        logits = np.asarray(jh.run(model, jh.Batch(tokens, sample.batch.mask)).output, np.float64)
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        at = np.asarray(sample.weights).argmax(axis=1)
        return p[np.arange(3), at, np.asarray(sample.targets)[np.arange(3), at]]

    tokens = np.array(sample.batch.tokens)
    blanked = tokens.copy()
    blanked[:, 2] = MASK
    np.testing.assert_allclose(found[:, 2], right(tokens) - right(blanked), atol=1e-6)
    at = np.asarray(sample.weights).argmax(axis=1)
    np.testing.assert_allclose(found[np.arange(3), at], 0, atol=1e-7)  # masked already


def test_needed_heads_are_those_without_which_it_fails():
    """A curve that stays, falls a little, and falls: two of four heads may go."""

    def curve(accuracies: Sequence[float]) -> pd.DataFrame:
        return pd.DataFrame({"heads": range(5), "accuracy": accuracies})

    for accuracies, expected in (([1, 1, 0.995, 0.9, 1.0], 2), ([1] * 5, 0), ([1, 0.5, 1, 1, 1], 4)):
        assert factors.needed_by(curve(accuracies)) == expected


def test_a_file_name_has_no_spaces():
    assert lab.file_name("K = 2, one layer") == "K2-one-layer"
