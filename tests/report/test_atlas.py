"""The atlas, whole on small models: what it asks, what it leaves out, what it writes, and how it goes on."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads import cli
from jaxheads.data.prompts import NAMES, OBJECTS, PLACES
from jaxheads.data.successors import SERIES
from jaxheads.measure.patterns import scoring
from jaxheads.models.families.bert import Bert, BertConfig
from jaxheads.models.families.gpt2 import GPT2, GPT2Config
from jaxheads.report.atlas import Atlas, atlas
from jaxheads.report.inputs import prose
from jaxheads.sweep.exact import work
from jaxheads.tables import HeadTable

from ..data.test_prompts import word_tokenizer

WORDS = [*NAMES.split(), *PLACES.split(), *OBJECTS.split()]
TEXT = "\n\n".join(" ".join(WORDS[at : at + 20 + at // 20]) for at in range(0, 180, 20))
"""Nine passages of 20 to 28 words."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "nine.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def decoder() -> jh.Model:
    tokenizer = word_tokenizer([*WORDS, *" ".join(SERIES.values()).split()])
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_inner=16,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        tie_word_embeddings=True,
        head="lm",
    )
    return jh.Model(GPT2(config, rngs=nnx.Rngs(0)), tokenizer, name="small")


@pytest.fixture(scope="module")
def encoder(decoder: jh.Model) -> jh.Model:
    config = BertConfig(
        vocab_size=len(decoder.tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_act="gelu",
        max_position_embeddings=64,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        tie_word_embeddings=True,
        head="none",
        pooler=True,
    )
    return jh.Model(Bert(config, rngs=nnx.Rngs(0)), decoder.tokenizer, name="small encoder")


@pytest.fixture(scope="module")
def made(decoder: jh.Model, text: Path) -> Atlas:
    return atlas(decoder, text=text, examples=3, measured=8)


def test_a_decoder_is_asked_everything(made: Atlas):
    assert [question.name for question in made.ablations] == ["prose_loss", "repeat_loss", "ioi_logit_difference"]
    assert made.left_out == ()
    assert made.table.frame.index.names == ["stack", "layer", "head"]
    assert len(made.table.frame) == 4
    expected = {"entropy", "previous_token", "first_token", "induction", "duplicate_token", "prose_loss", "repeat_loss"}
    assert expected <= set(made.table.metrics)
    assert "next_token" not in made.table.metrics
    assert {"retrieval", "name_mover", "copy_suppression", "successor"} <= set(made.table.metrics)
    tried = {"previous_token", "self_token", "sink", "positional", "duplicate_token", "induction", "retrieval"}
    assert set(made.table.provenance["roles"]["nulls"]) == tried | {"name_mover", "copy_suppression", "successor"}
    assert {"role", "roles", "jobs", "score", "null", "q_value", "positional_offset"} <= set(made.table.frame.columns)


def test_random_heads_earn_no_role(made: Atlas):
    assert set(made.table.frame["role"]) == {""}


def test_its_effects_are_those_of_ablate(made: Atlas, decoder: jh.Model):
    stage = made.ablations[1].screen
    table = jh.ablate(decoder, stage.batch, stage.objective, "mean", reference=stage.reference)
    np.testing.assert_array_equal(made.effects[1].per_example, table.per_example)
    np.testing.assert_array_equal(made.table.grid("repeat_loss"), table.values)


def test_repeats_are_scored_on_their_second_half_only(made: Atlas, decoder: jh.Model):
    batch = made.ablations[1].screen.batch
    reads = made.ablations[1].screen.objective.reads(decoder, batch)
    assert reads.target is not None
    assert reads.weight is not None
    for example in range(3):
        real = np.asarray(batch.tokens)[example][np.asarray(batch.mask)[example]]
        segment = real[len(real) % 2 :][len(real) // 2 :]
        np.testing.assert_array_equal(np.asarray(reads.target)[example][np.asarray(reads.weight)[example] > 0], segment)


def test_leaders_of_the_screen_are_asked_again_on_fresh_examples(made: Atlas, decoder: jh.Model):
    for ablation, screened, again in zip(made.ablations, made.effects, made.again, strict=True):
        asked, values = again.grid("asked"), again.grid("effect")
        assert sorted(asked.flat) == ["leader", "leader", "sample", "sample"]
        order = np.argsort(-np.abs(screened.values), axis=None)
        assert set(np.flatnonzero(asked.reshape(-1) == "leader")) == set(order[:2])
        stage, rows = ablation.again, [np.asarray(s.batch.tokens) for s in (ablation.screen, ablation.again)]
        texts = [{tuple(row[: min(map(len, rows[0]))]) for row in tokens} for tokens in rows]
        assert not texts[0] & texts[1], "no example of the screen is asked again"
        layer, head = (int(index[0]) for index in np.nonzero(asked == "leader"))
        groups: Any = {"groups": stage.groups, "reference_groups": stage.reference_groups}
        by_hand = jh.ablate(
            decoder, stage.batch, stage.objective, sets={"one": [(layer, head)]}, reference=stage.reference, **groups
        )
        np.testing.assert_allclose(values[layer, head], by_hand.values[0], atol=1e-6)
        np.testing.assert_array_equal(made.table.grid(f"{ablation.name}_again"), values)
        optimism = np.sign(screened.values) * (screened.values - values)
        np.testing.assert_allclose(again.grid("optimism"), optimism, atol=1e-6)
        assert np.isnan(again.grid("q")[asked == "sample"]).all()


def test_the_page_says_how_many_examples_each_interval_rests_on(made: Atlas):
    page = made.text()
    assert page.count("| n   |") == 3
    assert "fewer than 10 independent examples" in page
    assert made.table.provenance["roles"]["nulls"]["induction"]["draws"] == 4
    assert set(made.table.provenance["roles"]["power"]["induction"]) == {"0.3", "0.5", "0.8"}


def test_every_token_of_the_text_is_measured_once(decoder: jh.Model, text: Path):
    batches = prose(decoder, text)
    words = sum(len(decoder.tokenizer(part)["input_ids"]) for part in TEXT.split("\n\n"))
    lead = sum(len(batch) for batch in batches)
    assert sum(int(np.asarray(batch.mask).sum()) for batch in batches) == words + lead


def test_an_encoder_leaves_out_what_needs_a_decoder(encoder: jh.Model, text: Path, tmp_path: Path):
    result = atlas(encoder, text=text, examples=3, measured=8)
    assert result.ablations == ()
    assert "small encoder has no language-model head" in result.left_out[0]
    assert "next_token" in result.table.metrics
    assert not {"prose_loss", "repeat_loss"} & set(result.table.frame.columns)
    result.save(tmp_path)
    assert "## Left out" in (tmp_path / "summary.md").read_text()
    assert not (tmp_path / "effects.png").exists()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "nowhere.txt"),
        ("", ValueError, "holds no text"),
        ("Ann went", ValueError, "too few to split into 8 examples"),
    ],
    ids=["missing", "empty", "short"],
)
def test_a_text_that_will_not_do(decoder: jh.Model, tmp_path: Path, content: str | None, error: Any, message: str):
    path = tmp_path / "nowhere.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        atlas(decoder, text=path)


def test_a_model_without_a_tokenizer_is_told_so(decoder: jh.Model):
    with pytest.raises(ValueError, match="needs a tokenizer to read prose; bare has none"):
        atlas(jh.Model(decoder.network, name="bare"))
    with pytest.raises(ValueError, match="at least 2 examples and 8 measured"):
        atlas(decoder, examples=1)


def test_from_the_command_to_the_files(
    decoder: jh.Model, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("jaxheads.models.load.load", lambda source: decoder)
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    command = ["atlas", "small", "--text", str(text), "--out", str(tmp_path), "--examples", "2", "--measured", "8"]
    calls: list[int] = []
    real = work.edited
    monkeypatch.setattr("jaxheads.sweep.exact.plan.FILE_FLOPS", {"cpu": 1})  # a file for each layer

    def stopped(*arguments: Any, **options: Any):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(work, "edited", stopped)
    assert cli.main(command) == 130
    assert "goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "atlas.parquet").exists()

    monkeypatch.setattr(scoring, "program", lambda: pytest.fail("measured again"))
    assert cli.main(command) == 0
    assert len(calls) == 3 + 12 - 2, "2 layers are asked in 3 ablations of 2 stages; 2 were finished"
    printed = capsys.readouterr().out
    assert "## Roles" in printed
    assert printed.splitlines()[-1] == f"open {tmp_path / 'heads.html'}"
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "atlas.parquet",
        "atlas.csv",
        "atlas.md",
        "patterns.png",
        "effects.png",
        "summary.md",
        "heads.html",
    } <= names
    assert ".unfinished" not in names
    about = json.loads((tmp_path / "atlas.provenance.json").read_text())
    assert {"model", "weights", "seed", "versions", "device", "command", "git"} <= set(about)
    table = HeadTable.load(tmp_path / "atlas")
    pd.testing.assert_frame_equal(table.frame.reset_index(), pd.read_parquet(tmp_path / "atlas.parquet").reset_index())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["atlas", "no-such-model"], "no-such-model"),
        (["atlas", "owner/absent"], "owner/absent"),
    ],
)
def test_an_error_is_one_line(command: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    assert cli.main(command) == 1
    message_line = capsys.readouterr().err
    assert message_line.startswith("jaxheads: ")
    assert message in message_line
    assert not list(tmp_path.iterdir()), "nothing is written for a model that is not there"


def test_a_folder_that_cannot_be_written_is_noticed_before_the_model_is_read(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    monkeypatch.setattr("jaxheads.models.load.load", lambda source: pytest.fail("read"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(["atlas", "small", "--out", str(out)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("jaxheads: [Errno 20] can't write")


def test_a_full_disk_is_one_line_whatever_raised_it(tmp_path: Path, monkeypatch, capsys):
    def full(source: str) -> None:
        raise RuntimeError("INTERNAL: write failed: No space left on device")

    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    monkeypatch.setattr("jaxheads.models.load.load", full)
    assert cli.main(["atlas", "small", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "jaxheads: INTERNAL: write failed: No space left on device\n"


def test_the_zoo_is_listed(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    assert cli.main(["zoo"]) == 0
    assert re.search(r"^\| smollm2-135m +\|", capsys.readouterr().out, re.MULTILINE)
