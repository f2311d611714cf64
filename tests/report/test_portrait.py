"""Portraits: what a page shows beside an atlas's tables, each against a slow or a closed form."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.measure.sampling.answer import TokenScores
from jaxheads.report.atlas import Atlas
from jaxheads.report.portrait import AtlasTables, Portrait, portrait, raised_tokens, read_atlas, write_headvis
from jaxheads.report.portrait.contexts import attended_tokens, favourites
from jaxheads.report.portrait.exhibits import Bins, exhibits
from jaxheads.report.portrait.history import checkpoints_in, history
from jaxheads.report.portrait.likeness import neighbours
from jaxheads.report.portrait.tables import roles_of
from jaxheads.report.portrait.words_of_numbers import about_role
from jaxheads.report.sources import inputs_of

from .small_models import small_decoder


def test_a_text_said_twice_is_two_equal_halves_and_patterns_are_those_of_a_run(small: jh.Model, prose_file: Path):
    inputs = inputs_of(small, small.stack(None), text=prose_file, images=None, audio=None, measured=8, seed=0)
    twice, one, other = exhibits(small, small.stack(None), inputs.batches)
    half = (len(twice.queries) - 1) // 2
    assert twice.queries[1 : 1 + half] == twice.queries[1 + half :]
    assert one.queries != other.queries
    ids = small.tokenizer.convert_tokens_to_ids([word.strip() for word in one.queries])
    batch = jh.Batch(np.array([ids], np.int32), np.ones((1, len(ids)), bool))
    seen = jh.run(small, batch, capture="pattern").seen["pattern"]
    np.testing.assert_allclose(one.patterns, np.asarray(seen)[:, 0], atol=1e-6)


def test_bins_add_keys_and_average_queries():
    bins = Bins(["CLS", "a", "b"], np.array([0, 1, 1, 2]))
    np.testing.assert_array_equal(bins.matrix(mean=False), [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(bins.matrix(mean=True), [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])


def test_tokens_beyond_their_share_are_told_of_those_that_occur_often():
    values = np.array([[[0.1, 0.6, 0.3], [0.2, 0.0, 0.0]]], np.float32)
    ids, usual, shares = attended_tokens(TokenScores(np.array([7, 8, 9]), np.array([6, 3, 1]), values))
    np.testing.assert_array_equal(ids, [7, 8])
    np.testing.assert_allclose(usual, [0.6, 0.3])
    np.testing.assert_allclose(shares, [[0.6 / 2.7, 1.8 / 2.7], [1, 0]], rtol=1e-6)
    np.testing.assert_array_equal(favourites(shares, usual, 1), [[1], [0]])


def test_a_heads_raised_tokens_are_those_of_its_output_through_the_frozen_norm(small: jh.Model, monkeypatch: Any):
    monkeypatch.setattr(raised_tokens, "STANDS_OUT", -np.inf)
    rng = np.random.default_rng(0)
    batch = jh.Batch(rng.integers(5, 60, (3, 9)).astype(np.int32), np.ones((3, 9), bool))
    texts, queries = rng.permuted(np.tile(np.arange(3), (4, 1)), axis=1), rng.integers(1, 9, (4, 3))
    texts[3, 2] = -1
    ids, logits = raised_tokens.raised_tokens(small, small.stack(None), [batch], texts, queries)
    run = jh.run(small, batch, capture=("z", "resid_post"))
    z, last, W_O = run.seen["z"], run.seen["resid_post"][-1], small.stack(None).weights.W_O
    for head in range(4):
        for context in range(3):
            text, query = texts[head, context], queries[head, context]
            if text < 0:
                continue
            layer, own = divmod(head, 2)
            added = z[layer, text, query, own] @ W_O[layer, own]
            features = small.network.with_frozen_statistics(added[None, None], last[text, query][None, None])[0, 0]
            expected = np.asarray(jnp.einsum("f,vf->v", features, small.network.unembedding.weight))
            order = np.argsort(-expected)[: raised_tokens.RAISED]
            np.testing.assert_array_equal(ids[head, context], order)
            np.testing.assert_allclose(logits[head, context], (expected - expected.mean())[order], atol=1e-5)


def test_a_portrait_has_every_head_and_says_what_is_left_out(drawn: Portrait):
    assert len(drawn.contexts) == len(drawn.tokens) == len(drawn.alike) == 4
    assert all(0 <= context["query"] < len(drawn.texts[context["text"]]) for context in drawn.contexts[0])
    assert all(0 <= other["low"] <= other["value"] <= other["high"] <= 1 for own in drawn.alike for other in own)
    roles = roles_of(drawn.tables.table)
    assert roles["earned"] == [[], [], ["induction"], []]
    [induction] = [role for role in roles["tried"] if role["name"] == "induction"]
    assert (induction["metric"], induction["heads"]) == ("induction", 1)
    assert [role["metric"] for role in roles["tried"] if role["name"] == "sink"] == ["first_token"]


def test_similar_heads_are_chosen_on_other_texts_than_their_numbers(monkeypatch: pytest.MonkeyPatch):
    asked: list[list[int]] = []

    def compared(model: Any, stream: list[jh.Batch], by: str, **options: Any) -> SimpleNamespace:
        texts = [int(row[0]) for batch in stream for row in np.asarray(batch.tokens)]
        asked.append(texts)
        # The first half sees heads 0 and 1 alike, the second one no two heads, and estimates that leave 0 to 1.
        values = np.full((3, 3), -0.1) if len(asked) == 2 else np.array([[1, 1.2, 0], [1.2, 1, 0.3], [0, 0.3, 1]])
        values = np.pad(values, (0, 1), constant_values=np.nan)  # a head that writes nothing
        heads = [(0, 0), (0, 1), (0, 2), (0, 3)]
        return SimpleNamespace(values=values, low=values - 0.1, high=values + 0.4, n=np.full((4, 4), 5), heads=heads)

    monkeypatch.setattr("jaxheads.report.portrait.likeness.compare_heads", compared)
    batches = [
        jh.Batch(np.arange(10 * part, 10 * part + 10)[:, None], clusters=np.arange(10) // 2 + 5 * part)
        for part in range(3)
    ]
    model: Any = None
    alike = neighbours(model, batches)
    chose, told = (set(texts) for texts in asked)
    assert chose | told == set(range(20))
    assert not {text // 2 for text in chose} & {text // 2 for text in told}
    assert (alike[0][0]["head"], alike[1][0]["head"], alike[2][0]["head"]) == (1, 0, 1)
    assert [len(own) for own in alike] == [2, 2, 2, 0]
    assert {(own["value"], own["low"], round(own["high"], 3)) for head in alike for own in head} == {(0, 0, 0.3)}


def test_an_atlas_is_read_back_and_belongs_to_one_model(
    small: jh.Model, small_atlas: Atlas, prose_file: Path, tmp_path: Path
):
    with pytest.raises(FileNotFoundError, match="holds no atlas: make one by"):
        read_atlas(tmp_path)
    small_atlas.save(tmp_path)
    tables = read_atlas(tmp_path)
    np.testing.assert_array_equal(tables.table.values, small_atlas.table.values)
    for name, table in AtlasTables.of(small_atlas).again.items():
        np.testing.assert_array_equal(tables.again[name].per_example, table.per_example)
    with pytest.raises(ValueError, match="make its atlas anew"):
        portrait(replace(small, identity=lambda: "sha256:other"), tables, text=prose_file)


def test_headvis_reads_back_what_a_run_sees(drawn: Portrait, small: jh.Model, tmp_path: Path):
    assert len(write_headvis(drawn, tmp_path)) == 4 + 4
    config, scatter = (json.loads((tmp_path / name).read_text()) for name in ("config.json", "scatter_data.json"))
    assert config["heads"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (config["n_layers"], config["n_heads"], config["n_intervals"], config["has_umap"]) == (2, 2, 5, False)
    assert set(config["metrics"]) == set(config["metric_descriptions"])
    for row in scatter:
        table = drawn.tables.table.frame.loc[("decoder", row["layer"], row["head"])]
        assert row["induction_score"] == pytest.approx(table["induction"], abs=1e-4)
        assert row["prev_token_score"] == row["previous_token_score"]
        assert set(config["metrics"]) <= set(row)
    head = json.loads((tmp_path / "heads" / "L1H0.json").read_text())
    assert {sequence["interval"] for sequence in head["sequences"]} <= set(range(1, 6))
    sequence = head["sequences"][0]
    length = sequence["seq_len"]
    assert length == len(sequence["tokens"])
    ids = small.tokenizer.convert_tokens_to_ids([word.strip() for word in sequence["tokens"]])
    seen = jh.run(small, jh.Batch(np.array([ids], np.int32), np.ones((1, length), bool)), capture="pattern").seen
    pattern = np.asarray(seen["pattern"])[1, 0, 0].reshape(-1)
    np.testing.assert_allclose(sequence["attention_values"], pattern[sequence["attention_indices"]], atol=1e-4)
    kept = np.zeros(length * length, bool)
    kept[sequence["attention_indices"]] = True
    strongest = np.sort(pattern.reshape(length, length), axis=1)[:, -8:]
    assert kept.sum() == (strongest >= 0.005).sum()
    near = [
        value
        for index, value in zip(sequence["attention_indices"], sequence["attention_values"], strict=True)
        if abs(index // length - index % length) == 0
    ]
    assert sum(head["qk_distance_histogram"]["bin_values"]) > sum(near)
    with pytest.raises(ValueError, match="HeadVis shows heads on texts"):
        write_headvis(replace(drawn, samples=None), tmp_path)


def test_a_history_measures_every_checkpoint_on_the_same_texts(prose_file: Path, tmp_path: Path):
    for name in ("step-100", "step-20", "notes"):
        (tmp_path / name).mkdir()
    steps = checkpoints_in(tmp_path)
    assert [step for step, _ in steps] == [20, 100]
    models = {str(path): small_decoder(seed) for seed, (_, path) in enumerate(steps)}
    inputs = inputs_of(
        models[str(steps[0][1])],
        models[str(steps[0][1])].stack(None),
        text=prose_file,
        images=None,
        audio=None,
        measured=8,
        seed=0,
    )
    told = history(steps, (2, 2), inputs, ["entropy"], ["induction"], load_model=models.__getitem__)
    assert [column["name"] for column in told["columns"]] == ["entropy", "induction"]
    for number, model in enumerate(models.values()):
        measured = jh.measure(model, inputs.batches, ["entropy"]).grid("entropy")
        np.testing.assert_array_equal(told["columns"][0]["values"][number], measured)
    with pytest.raises(ValueError, match="expected 3 layers of 2 heads"):
        history(steps, (3, 2), inputs, ["entropy"], [], load_model=models.__getitem__)
    (tmp_path / "step-20").rmdir()
    with pytest.raises(ValueError, match="two folders or more"):
        checkpoints_in(tmp_path)


def test_relations_are_told_in_words():
    assert "at the word that it depends on" in about_role("nsubj_to_head")
    assert about_role("unheard_of") == ""
