"""The indirect-object experiment, whole on a small model and in short on the real one."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flax import nnx

import jaxheads as jh
from experiments import ioi
from jaxheads.data import ioi_prompts
from jaxheads.data.prompts import FRAMES, NAMES, OBJECTS, PLACES
from jaxheads.models.families.gpt2 import GPT2, GPT2Config
from jaxheads.tables import HeadTable

from ..data.test_prompts import word_tokenizer
from ..models.huggingface import small_model


@cache
def small() -> jh.Model:
    """Random weights that do attend, over a vocabulary of whole words."""
    tokenizer = word_tokenizer([*NAMES.split(), *PLACES.split(), *OBJECTS.split()])
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=6,
        n_inner=16,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        tie_word_embeddings=True,
        head="lm",
    )
    return jh.Model(GPT2(config, rngs=nnx.Rngs(0)), tokenizer, name="small")


def quick(directory: Path, monkeypatch: pytest.MonkeyPatch, model: Callable[[], jh.Model] = small) -> None:
    monkeypatch.setattr(jh, "load", lambda _: model())
    ioi.main(["--model", "small", "--quick", "--out", str(directory)])


def test_from_the_command_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    quick(tmp_path, monkeypatch)
    assert "logit difference, clean prompts" in capsys.readouterr().out
    assert not (tmp_path / ".partial").exists()
    effects, attention = HeadTable.load(tmp_path / "ablate"), HeadTable.load(tmp_path / "attention")
    assert effects.per_example is not None
    assert effects.per_example.shape == (ioi.QUICK_EXAMPLES, 2, 6)
    assert effects.provenance["groups"] > 1
    assert effects.provenance["means"] == "by position"
    assert attention.metrics == ioi.POSITIONS
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert (about["model"], about["examples"], about["seed"]) == ("small", 8, 0)
    for name in ("effects", "end_to_io"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 100_000
    written = [path for path in tmp_path.iterdir() if path.suffix in (".md", ".json", ".csv")]
    assert not [path.name for path in written if str(tmp_path) in path.read_text(encoding="utf-8")]
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert ioi_prompts(small().tokenizer, examples=8, seed=0, bos=False).texts[0] in summary


def test_the_paper_s_numbers_stand_with_their_mark_and_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quick(tmp_path, monkeypatch)
    frame = pd.read_csv(tmp_path / "comparison.csv", index_col="quantity")
    published = frame["paper, GPT-2 small"].dropna()
    assert published.tolist() == [3.56, 0.49, 0.007, 0.59, 0.51]
    assert set(frame.loc[published.index, "mark"]) == {"[P]"}
    assert not frame["what differs"].isna().to_numpy().any()
    known = frame.dropna(subset=["ours"])
    low, ours, high = known[["ours_low", "ours", "ours_high"]].to_numpy().T
    assert (low <= ours).all()
    assert (ours <= high).all()


def test_answers_are_those_of_the_whole_forward_pass():
    model = small()
    prompts = ioi_prompts(model.tokenizer, examples=5, seed=1, bos=False)
    answers = ioi.answers(model, prompts)
    run = jh.run(model, ioi.batch_of(prompts), capture="pattern")
    logits, pattern = np.asarray(run.output, np.float64), np.asarray(run.seen["pattern"])
    for b, end in enumerate(prompts.end):
        right, wrong = logits[b, end, prompts.indirect_object[b]], logits[b, end, prompts.subject[b]]
        assert answers.difference[b] == pytest.approx(right - wrong, abs=1e-5)
        assert answers.probability[b] == pytest.approx(np.exp(right) / np.exp(logits[b, end]).sum(), abs=1e-6)
        attention = [pattern[:, b, :, end, position[b]] for position in (prompts.io, prompts.s1, prompts.s2)]
        np.testing.assert_allclose(answers.attention[b], np.stack(attention, axis=-1), atol=1e-6)


def test_answers_do_not_depend_on_how_many_run_together(monkeypatch: pytest.MonkeyPatch):
    prompts = ioi_prompts(small().tokenizer, examples=5, seed=1, bos=False)
    whole = ioi.answers(small(), prompts)
    monkeypatch.setattr(ioi, "AT_ONCE", 2)
    chunks = ioi.answers(small(), prompts)
    for name in ("difference", "probability", "attention"):
        np.testing.assert_allclose(getattr(chunks, name), getattr(whole, name), atol=1e-5)


def test_templates_are_all_of_the_prompts():
    assert len(FRAMES) * 2 == ioi.TEMPLATES


def test_heads_are_chosen_on_one_half_and_reported_on_the_other():
    per_example = np.zeros((4, 2, 6))
    per_example[:2, 1, 3], per_example[:2, 0, 0] = -5, 4
    per_example[2:, 1, 3] = [-1, -3]
    per_example[2:, 0, 1] = 99  # the largest of all, on the half that nothing is chosen on
    attention = np.full((4, 2, 6, 3), 0.05)
    attention[:2, 1, 3, 0], attention[2:, 1, 3, 0] = 0.9, [0.6, 0.4]
    means = per_example.mean(axis=0)
    effects = HeadTable.from_columns(
        "ablate", "decoder", {"effect": ioi.Column(means, per_example=per_example)}, squeeze=True
    )
    leading = ioi.leading_heads(effects, attention, np.array([0, 1]), np.array([2, 3]))
    assert leading.index[:2].tolist() == [(1, 3), (0, 0)]
    first = leading.loc[(1, 3)]
    assert (first["effect_when_chosen"], first["effect"], first["end_to_io"]) == (-5, -2, pytest.approx(0.5))
    assert first["effect_low"] <= -2 <= first["effect_high"]
    assert (first["optimism"], first["effect_n"]) == (3, 2)
    assert (first["attends_to"], leading.loc[(0, 0), "attends_to"]) == ("IO", "elsewhere")


@pytest.mark.parametrize(
    ("attention", "expected"),
    [((0.5, 0.1, 0.2), "IO"), ((0.1, 0.1, 0.6), "S2"), ((0.1, 0.6, 0.1), "S1"), ((0.19, 0.1, 0.1), "elsewhere")],
)
def test_what_a_head_attends_to(attention: tuple[float, ...], expected: str):
    assert ioi.attends_to(np.array(attention)) == expected


def test_a_head_has_the_roles_of_path_patching_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quick(tmp_path, monkeypatch)
    leading, circuit = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("leading", "circuit"))
    for row in leading.to_dict("records"):
        same = circuit[(circuit["layer"] == row["layer"]) & (circuit["head"] == row["head"])]
        assert row["role"] == (", ".join(same["role"]) or "–")
    assert (leading["effect_n"].to_numpy() == 4).all(), "half of the 8 templates"


def test_a_stopped_run_keeps_its_parts_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ioi, "findings_results", stopped)
    with pytest.raises(SystemExit) as exit:
        quick(tmp_path, monkeypatch)
    assert exit.value.code == 130
    assert "goes on from here" in capsys.readouterr().err
    assert list((tmp_path / ".partial").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("family", "message"), [("bert", "is no decoder with a vocabulary"), ("llama", "has no tokenizer")]
)
def test_what_predicts_no_words_is_refused(family: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small_model(family)
    with pytest.raises(SystemExit, match=message):
        quick(tmp_path, monkeypatch, lambda: model)
    assert not list(tmp_path.iterdir())


def test_halves_need_two_prompts_each():
    with pytest.raises(ValueError, match="at least 4 clusters"):
        ioi.study(small(), 3, 0)


def test_where_results_go():
    assert ioi.Options(model="owner/Model-0.5B").folder == Path("results/ioi-Model-0.5B")
    assert ioi.Options(model="some/file.Q4.gguf").folder == Path("results/ioi-file.Q4")
    assert ioi.Options(out=Path("here")).folder == Path("here")
    assert (ioi.Options().count, ioi.Options(quick=True).count, ioi.Options(examples=5, quick=True).count) == (32, 8, 5)


@pytest.mark.weights
def test_smollm2_names_the_indirect_object():
    model = jh.load("smollm2-135m")
    prompts = ioi_prompts(model.tokenizer, examples=20, seed=3, bos=False)
    clean, corrupt = ioi.answers(model, prompts), ioi.answers(model, prompts.corrupted(3))
    assert clean.difference.mean() > 2
    assert (clean.difference > 0).mean() > 0.8
    assert abs(corrupt.difference.mean()) < 1
