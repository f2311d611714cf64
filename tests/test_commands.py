"""`jaxheads measure`, `ablate`, `patch` and `compare`: tables as Python's, from any file, and errors in one line."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from jaxheads import cli
from jaxheads.commands.options import QUESTIONS, from_file
from jaxheads.data.prompts import NAMES
from jaxheads.sweep.exact import work

from .data.test_prompts import word_tokenizer

WORDS: list[str] = list(NAMES.split()[:24])
E, T = 6, 5


@pytest.fixture(scope="module")
def model() -> jh.Model:
    tokenizer = word_tokenizer(WORDS)
    config = {"model_type": "gpt2", "vocab_size": len(tokenizer), "n_positions": 16, "n_embd": 16, "n_layer": 2}
    return jh.Model(jh.init({**config, "n_head": 2}).network, tokenizer, name="small")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [" ".join(rng.choice(WORDS, T)) for _ in range(E)]})
    frame["other"] = [" ".join([*text.split()[:2], *rng.choice(WORDS, 1), *text.split()[3:]]) for text in frame["text"]]
    return frame.assign(right=WORDS[:E], wrong=WORDS[E : 2 * E], document=[0, 0, 1, 1, 2, 2])


@pytest.fixture(autouse=True)
def _our_model(model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxheads.commands.questions.load", lambda source: model)
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)


def ids(model: jh.Model, words: Any) -> np.ndarray:
    return np.array([model.tokenizer(word)["input_ids"][0] for word in words])


def write(rows: pd.DataFrame, path: Path) -> Path:
    writers = {
        ".txt": lambda: path.write_text("\n\n".join(rows["text"]) + "\n"),
        ".jsonl": lambda: rows.to_json(path, orient="records", lines=True),
        ".csv": lambda: rows.to_csv(path, index=False),
        ".parquet": lambda: rows.to_parquet(path),
    }
    writers[path.suffix]()
    return path


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet"])
def test_a_loss_is_ablated_as_python_ablates_it(ending: str, model: jh.Model, rows: Any, tmp_path: Path, capsys: Any):
    data = write(rows, tmp_path / f"data{ending}")
    assert cli.main(["ablate", "small", str(data), "--method", "zero", "--out", str(tmp_path / "out")]) == 0
    table = jh.HeadTable.load(tmp_path / "out" / "ablate")
    expected = jh.ablate(model, model.encode(rows["text"].tolist()), jh.loss(), "zero")
    np.testing.assert_array_equal(table.per_example, expected.per_example)
    printed = capsys.readouterr().out
    assert "| stack" in printed
    assert f"files in {tmp_path / 'out'}" in printed
    assert not (tmp_path / "out" / ".unfinished").exists()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["method"] == "zero"


def test_answers_and_clusters_come_from_columns(model: jh.Model, rows: Any, tmp_path: Path):
    data = write(rows, tmp_path / "data.csv")
    words = ["ablate", "small", str(data), "--objective", "logit-difference", "--clusters", "document"]
    assert cli.main([*words, "--limit", "4", "--by", "layer", "--out", str(tmp_path)]) == 0
    table = jh.HeadTable.load(tmp_path / "ablate")
    batch = model.encode(rows["text"].tolist()[:4]).clustered([0, 0, 1, 1])
    objective = jh.logit_difference(ids(model, rows["right"][:4]), ids(model, rows["wrong"][:4]))
    expected = jh.ablate(model, batch, objective, by=("layer",))
    pd.testing.assert_frame_equal(table.frame, expected.frame)
    assert table.frame["effect_n"].tolist() == [2, 2]


def test_patching_and_measuring_are_python_s(model: jh.Model, rows: Any, tmp_path: Path):
    data = write(rows, tmp_path / "data.parquet")
    words = ["--clean", "text", "--corrupt", "other", "--site", "resid_pre", "--by", "layer", "position"]
    assert cli.main(["patch", "small", str(data), *words, "--out", str(tmp_path)]) == 0
    clean, corrupt = (model.encode(rows[name].tolist()) for name in ("text", "other"))
    objective = jh.logit_difference(ids(model, rows["right"]), ids(model, rows["wrong"]))
    expected = jh.patch(model, clean, corrupt, objective, "resid_pre", ("layer", "position"))
    np.testing.assert_array_equal(jh.HeadTable.load(tmp_path / "patch").values, expected.values)
    assert cli.main(["measure", "small", str(data), "--metrics", "entropy", "first_token", "--out", str(tmp_path)]) == 0
    expected = jh.measure(model, clean, ("entropy", "first_token"))
    pd.testing.assert_frame_equal(jh.HeadTable.load(tmp_path / "measure").frame, expected.frame)


@pytest.mark.parametrize("ending", [".toml", ".yaml", ".json"])
def test_options_come_from_a_file_and_the_command_line_before_it(ending: str, rows: Any, tmp_path: Path, capsys: Any):
    data = write(rows, tmp_path / "data.csv")
    text = {
        ".toml": f'model = "small"\ndata = "{data}"\nmetrics = ["entropy"]\nlimit = 3\nmax-length = 4\n',
        ".yaml": f"model: small\ndata: {data}\nmetrics: [entropy]\nlimit: 3\nmax_length: 4\n",
        ".json": json.dumps({"model": "small", "data": str(data), "metrics": ["entropy"], "limit": 3, "max_length": 4}),
    }
    config = tmp_path / f"run{ending}"
    config.write_text(text[ending])
    assert cli.main(["measure", "--config", str(config), "--limit", "2", "--out", str(tmp_path / "out")]) == 0
    table = jh.HeadTable.load(tmp_path / "out" / "measure")
    assert (table.metrics, table.examples, table.provenance["tokens"]) == (("entropy",), 2, 8)
    # What a run says of itself runs again.
    again = from_file(QUESTIONS["measure"], tmp_path / "out" / "run.json")
    assert (again.limit, again.max_length, again.data) == (2, 4, data)


def test_a_run_that_was_stopped_goes_on(model: jh.Model, rows: Any, tmp_path: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.setattr("jaxheads.sweep.exact.plan.FILE_FLOPS", {"cpu": 1})  # a file for each layer
    command = ["ablate", "small", str(write(rows, tmp_path / "data.csv")), "--out", str(tmp_path / "out")]
    calls: list[int] = []
    real = work.edited

    def stopped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(work, "edited", stopped)
    assert cli.main(command) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert len(calls) == 3, "of two layers one was finished"
    expected = jh.ablate(model, model.encode(rows["text"].tolist()), jh.loss())
    np.testing.assert_allclose(jh.HeadTable.load(tmp_path / "out" / "ablate").values, expected.values, atol=1e-6)


WRONG: list[tuple[list[str], str]] = [
    (["measure"], "MODEL is missing: jaxheads measure MODEL DATA"),
    (["measure", "small"], "DATA is missing"),
    (["measure", "small", "nowhere.csv"], "nowhere.csv is not there"),
    (["measure", "small", "DATA", "--limit", "0"], "--limit must be 1 or more, got 0"),
    (["measure", "small", "DATA", "--level", "95"], "--level must lie between 0 and 1"),
    (["measure", "small", "DATA", "--seed", "-1"], "--seed must be from 0 up"),
    (["measure", "small", "DATA", "--column", "txt"], "has the columns text, other, right, wrong, document; got 'txt'"),
    (["measure", "small", "DATA", "--metrics", "entropie"], "entropie"),
    (["measure", "small", "DATA", "--stack", "encoder"], "has the stacks decoder; got 'encoder'"),
    (["ablate", "small", "DATA", "--by", "heads"], "by"),
    (["ablate", "small", "DATA", "--objective", "logit-difference", "--right", "text"], "expected one token"),
    (["patch", "small", "DATA", "--clean", "text", "--corrupt", "right"], "6 pairs differ in length, first row 1: 5"),
    (["compare", "here"], "expects two folders or more, got 1"),
    (["compare", "here", "there"], "here is no folder of saved tables"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_told_in_one_line(
    words: list[str], message: str, rows: Any, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = str(write(rows, tmp_path / "data.csv"))
    assert cli.main([data if word == "DATA" else word for word in words]) == 1
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert message in line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "limits = 3", "unknown options limits; known are model, data"),
        ("run.toml", "limit = 'three'", "limit must be int, got 'three'"),
        ("run.toml", "limit = [", "run.toml: "),
        ("run.yaml", "- a", "expected options by name, got list"),
        ("run.json", '{"of": "weight"}', "of must be one of weights, norms, raw_norms, got 'weight'"),
        ("run.ini", "", "expected a file that ends in .toml, .yaml or .json"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(name: str, text: str, message: str, tmp_path: Path, capsys: Any):
    (tmp_path / name).write_text(text)
    assert cli.main(["measure", "--config", str(tmp_path / name)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", '{"text": "a"}\n{"text":', "line 2 is no JSON"),
        ("data.jsonl", '["a"]', "line 1 must be an object"),
        ("data.jsonl", '{"text": "a"}\n{"text": null}', "column 'text' is empty in row 2"),
        ("data.csv", "text\n", "holds no example"),
        ("data.txt", "\n", "holds no example"),
        ("data.xlsx", "", "expected a file that ends in .txt, .jsonl, .csv or .parquet, got '.xlsx'"),
        ("data.parquet", "no parquet", "data.parquet: "),
    ],
)
def test_data_that_will_not_do(name: str, content: str, message: str, tmp_path: Path, capsys: Any):
    (tmp_path / name).write_text(content)
    assert cli.main(["measure", "small", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_option_is_explained(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, kind in QUESTIONS.items():
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        shown = capsys.readouterr().out
        assert f"jaxheads {command} smollm2-135m" in shown
        for entry in fields(kind):
            if entry.name not in ("model", "data"):
                assert f"--{entry.name.replace('_', '-')}" in shown


class TestCompare:
    def saved(self, folder: Path, shift: float, *, seed: int = 0, examples: str = "the same") -> Path:
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(12, 2, 8)) + np.arange(16).reshape(2, 8)
        values[:, 1, 7] += shift
        interval = jh.statistics.mean_interval(values)
        column = jh.tables.Column(*interval, per_example=values)
        about = {"examples_sha256": examples}
        jh.HeadTable.from_columns("ablate", "decoder", {"effect": column}, about, squeeze=True).save(folder)
        return folder

    def test_paired_differences_have_intervals(self, tmp_path: Path, capsys: Any):
        first, second = self.saved(tmp_path / "base", 0.0), self.saved(tmp_path / "tuned", 3.0)
        assert cli.main(["compare", str(first), str(second), "--out", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        assert "| ablate  | effect   |" in printed
        assert "the same" in printed
        [row] = [line for line in printed.splitlines() if line.startswith("| decoder")]
        assert [cell.strip() for cell in row.strip("|").split("|")][1:3] == ["1", "7"]
        table = jh.HeadTable.load(tmp_path / "out" / "ablate-effect-tuned-less-base")
        assert table.values[1, 7] == pytest.approx(3.0, abs=1e-6)
        assert np.abs(table.values).sum() == pytest.approx(3.0, abs=1e-5)
        assert (tmp_path / "out" / "compare.md").read_text().strip() in printed

    def test_other_examples_are_not_paired(self, tmp_path: Path, capsys: Any):
        folders = [self.saved(tmp_path / str(n), 0.0, seed=n, examples=str(n)) for n in range(3)]
        assert cli.main(["compare", *map(str, folders)]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ablate")]
        assert len(lines) == 2
        for line in lines:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert float(cells[3]) > 0.9
            assert int(cells[4]) >= 8
            assert cells[-1] == "others"

    def test_tables_of_other_heads_are_refused(self, tmp_path: Path, capsys: Any):
        first = self.saved(tmp_path / "base", 0.0)
        column = jh.tables.Column(np.ones((3, 3)))
        jh.HeadTable.from_columns("ablate", "decoder", {"effect": column}).save(tmp_path / "large")
        assert cli.main(["compare", str(first), str(tmp_path / "large")]) == 1
        assert "expected tables of the same heads, got decoder [2, 8]" in capsys.readouterr().err
        (tmp_path / "empty").mkdir()
        assert cli.main(["compare", str(first), str(tmp_path / "empty")]) == 1
        assert "a table of one name in all folders" in capsys.readouterr().err
