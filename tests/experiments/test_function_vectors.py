"""Function vectors beside induction heads: whole on a small model, and what it is made of."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments import function_vectors
from jaxheads.tables import HeadTable

from ..data.test_prompts import word_tokenizer


def small() -> jh.Model:
    words = [word for pairs in function_vectors.OWN.values() for word in pairs.replace(",", "").split()]
    tokenizer = word_tokenizer(sorted({*words, "Q", "A", ":"}))
    config = {
        "model_type": "gpt2",
        "vocab_size": len(tokenizer),
        "n_positions": 64,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 6,
    }
    made = jh.init(config, seed=3)
    return jh.Model(made.network, tokenizer, name="small", hf_config=config)


def test_from_the_command_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(jh, "load", lambda _: small())
    function_vectors.main(["--model", "small", "--quick", "--out", str(tmp_path)])
    assert "## Removal" in capsys.readouterr().out
    heads = HeadTable.load(tmp_path / "heads")
    assert heads.metrics == ("effect", "effect_when_choosing", "effect_of_shuffled")
    assert np.asarray(heads.per_example).shape == (3, 3, 2, 6)
    about = json.loads((tmp_path / "provenance.json").read_text())
    assert about["tasks"] == list(function_vectors.OWN)
    assert pd.read_csv(tmp_path / "vectors.csv")["prompt"].tolist()[:2] == ["examples", "bare"]


def test_no_pair_chooses_and_reports():
    tasks, _ = function_vectors.read_tasks(None)
    tasks["opposite"].append(("cold", "hot"))
    asked = function_vectors.ask(tasks, 2, 3, 0)
    for name, pairs in tasks.items():
        halves = [
            {frozenset(pair) for pair in pairs if any(f"Q: {pair[0]}\n" in text for text in few.clean)}
            for few in (asked[name].choosing, asked[name].reporting)
        ]
        assert not halves[0] & halves[1]


def test_random_heads_have_the_layers_of_the_chosen_ones():
    heads = [(1, 0), (1, 1), (4, 2)]
    for chosen in function_vectors.random_sets(heads, {*heads, (4, 3)}, 6, 0):
        assert [layer for layer, _ in chosen] == [1, 1, 4]
        assert len(set(chosen)) == 3
        assert not set(chosen) & {*heads, (4, 3)}


def test_a_folder_without_tasks_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--tasks: expected a folder of \.json files"):
        function_vectors.read_tasks(tmp_path)
    (tmp_path / "one.json").write_text('[{"input": "a b", "output": "c d"}]')
    tasks, files = function_vectors.read_tasks(tmp_path)
    assert tasks == {"one": [("a b", "c d")]}
    assert list(files) == ["one.json"]
