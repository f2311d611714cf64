"""Heads beside gold relations between words: planted trees, shifts, and the slow way by patterns that are kept."""

from dataclasses import replace

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences
from jaxheads.measure.words.relations import share

from . import planted

TO_HEAD, TO_DEPENDENT, SHIFT = (("decoder", 0, head) for head in range(3))


def test_a_gold_tree_as_attention_is_right_and_its_transpose_in_the_other_direction():
    frame = jh.relations(planted.model(), planted.sentences(), least=1).frame
    for relation in ("nsubj", "obj", "det", "amod"):
        assert frame.loc[TO_HEAD, f"{relation}_to_head"] == 1
        assert frame.loc[TO_DEPENDENT, f"{relation}_to_head"] == 0
        assert frame.loc[TO_HEAD, f"{relation}_to_head_mass"] == pytest.approx(1, abs=1e-5)
        assert frame.loc[TO_HEAD, f"{relation}_to_dependent"] == 0
    # "a" has dependents by two relations: what its arg-max is says the first of them in the sentence.
    for relation in ("det", "amod"):
        assert frame.loc[TO_DEPENDENT, f"{relation}_to_dependent"] > 0.3
    chains = planted.sentences(words="acfg")
    frame = jh.relations(planted.model(), chains, least=1).frame
    for relation in ("obj", "amod", "det"):
        assert frame.loc[TO_DEPENDENT, f"{relation}_to_dependent"] == 1
        assert frame.loc[TO_DEPENDENT, f"{relation}_to_dependent_mass"] == pytest.approx(1, abs=1e-5)


def test_a_word_with_several_dependents_is_right_at_any_of_them_and_is_one_word():
    both = planted.sentences(words="ach")  # "a" has two objects
    frame = jh.relations(planted.model(), both, least=1).frame
    assert frame.loc[TO_DEPENDENT, "obj_to_dependent"] == 1
    assert frame.loc[TO_DEPENDENT, "obj_to_dependent_mass"] == pytest.approx(1, abs=1e-5)
    assert frame["obj_to_dependent_words"].iloc[0] == len(both)
    assert frame["obj_to_head_words"].iloc[0] == 2 * len(both)


def test_a_shift_has_the_share_of_its_offset_and_no_gain():
    # One piece a word: a shift of tokens is one of words.
    chains = planted.sentences(200, words="acfgh")
    table = jh.relations(planted.model(offset=-1), chains, least=1)
    for name in ("obj", "amod", "det"):
        pairs = [
            link.head - link.dependent for sentence in chains for link in sentence.links["deprel"] if link.label == name
        ]
        share = np.mean([offset == -1 for offset in pairs])
        assert table.frame.loc[SHIFT, f"{name}_to_head"] == pytest.approx(share)
        offset = table.frame.loc[SHIFT, f"{name}_to_head_offset"]
        if offset == -1:
            assert table.frame.loc[SHIFT, f"{name}_to_head_gain"] <= share


def always(word: str, sentence_count: int = 40) -> Sentences:
    """Return sentences whose every word but the first hangs on the word before it."""
    rng, made = np.random.default_rng(0), []
    for number in range(sentence_count):
        words = tuple(rng.permutation(list("acdefgh"))[:6].tolist())
        links = tuple(Link(index, index - 1, word) for index in range(1, 6))
        made.append(Sentence(words, links={"deprel": (Link(0, -1, "root"), *links)}, document=str(number % 8)))
    return Sentences(tuple(made))


def test_where_every_head_is_the_word_before_a_shift_is_right_and_gains_nothing():
    frame = jh.relations(planted.model(offset=-1), always("dep")).frame
    row = frame.loc[SHIFT]
    assert [row["dep_to_head"], row["dep_to_head_base"], row["dep_to_head_gain"]] == [1, 1, 0]
    assert row["dep_to_head_offset"] == -1
    assert row["dep_to_dependent_offset"] == 1
    assert row["dep_to_dependent"] == 0


def slowly(model: jh.Model, gold: Sentences) -> dict[str, np.ndarray]:
    """Return hits and words of each column, from patterns that are kept, one sentence at a time."""
    hits: dict[str, list[np.ndarray]] = {}
    causal = model.stack().causal
    for number in range(len(gold)):
        batch = model.encode(gold[number : number + 1])
        [pooled] = jh.pool_words(jh.run(model, batch, capture=("pattern",)).seen["pattern"], batch)
        inside = np.flatnonzero(pooled.words >= 0)
        pattern = pooled.pattern[:, :, inside][..., inside]
        pattern[..., np.arange(len(inside)), np.arange(len(inside))] = -1
        choice = pattern.argmax(axis=-1)
        right: dict[tuple[str, int], set[int]] = {}
        for link in gold[number].links["deprel"]:
            for direction, (query, key) in {
                "to_head": (link.dependent, link.head),
                "to_dependent": (link.head, link.dependent),
            }.items():
                if link.head >= 0 and (not causal or key < query):
                    right.setdefault((f"{link.label}_{direction}", query), set()).add(key)
        for (name, query), keys in right.items():
            hits.setdefault(name, []).append(np.isin(choice[:, :, query], list(keys)))
    return {name: np.mean(own, axis=0) for name, own in hits.items()}


CONFIG = {"model_type": "bert", "vocab_size": len(planted.VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2}
CONFIG |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": planted.CONTEXT}
GPT2 = {"model_type": "gpt2", "vocab_size": len(planted.VOCABULARY), "n_embd": 16, "n_layer": 2, "n_head": 2}
GPT2 |= {"n_positions": planted.CONTEXT}


@pytest.mark.parametrize("config", [CONFIG, GPT2], ids=["bidirectional", "causal"])
def test_shares_within_the_forward_pass_are_those_of_patterns_that_are_kept(config: dict):

    model = replace(jh.random_weights(jh.init(config), 0), tokenizer=planted.tokenizer())
    gold = planted.sentences(20)
    table = jh.relations(model, gold, least=1)
    expected = slowly(model, gold)
    assert {name for name in expected if name in table.metrics} == set(expected)
    for name, own in expected.items():
        np.testing.assert_allclose(table.grid(name), own, atol=1e-6, err_msg=name)
    assert table.provenance["only_earlier_words"] == model.stack().causal


def test_halves_make_up_the_whole_and_are_parted_by_document():
    model, gold = planted.model(), planted.sentences()
    whole, *halves = (jh.relations(model, gold, half=half, least=1) for half in (None, 0, 1))
    both = [jh.half_of(gold, half) for half in (0, 1)]
    assert sum(map(len, both)) == len(gold)
    assert not {one.document for one in both[0]} & {one.document for one in both[1]}
    assert len(both[1]) == halves[1].frame["nsubj_to_head_words"].iloc[0]
    words = [table.frame["obj_to_head_words"].iloc[0] for table in (whole, *halves)]
    assert words[0] == words[1] + words[2]
    shares = [table.frame.loc[SHIFT, "det_to_head"] for table in (whole, *halves)]
    assert shares[0] * words[0] == pytest.approx(shares[1] * words[1] + shares[2] * words[2])
    assert whole.provenance["documents"] == 8
    assert [table.provenance["documents"] for table in halves] == [4, 4]


def test_labels_of_words_part_relations_by_the_dependents_tag():
    frame = jh.relations(planted.model(), planted.sentences(), "upos", least=1).frame
    assert frame.loc[TO_HEAD, "NOUN_to_head"] == 1
    assert frame["NOUN_to_head_words"].iloc[0] == 3 * 40
    assert "VERB_to_head" not in frame  # the root has no head


def test_small_memory_and_a_resumed_run_give_the_same(tmp_path):
    model, gold = planted.model(), planted.sentences()
    whole = jh.relations(model, gold, least=1)
    small = jh.relations(model, gold, least=1, memory=1, resume=tmp_path)
    again = jh.relations(model, gold, least=1, memory=1, resume=tmp_path)
    np.testing.assert_allclose(small.values, whole.values, atol=1e-6)
    np.testing.assert_array_equal(again.values, small.values)


def test_other_trees_of_the_same_length_are_right_by_chance_alone():
    gold = planted.sentences(200)
    null = jh.shuffled_links(gold, 0)
    frame = jh.relations(planted.model(), null, least=1).frame
    assert frame.loc[TO_HEAD, "nsubj_to_head"] < 0.3
    for real, other in zip(gold, null, strict=True):
        assert real.words == other.words
        assert sorted(link.label for link in real.links["deprel"]) == sorted(
            link.label for link in other.links["deprel"]
        )
    assert any(real.heads != other.heads for real, other in zip(gold, null, strict=True))
    # each tree comes once, and none stays
    assert sorted(map(str, (one.heads for one in null))) == sorted(map(str, (one.heads for one in gold)))


def test_a_length_that_comes_once_has_no_other_tree():
    lonely = Sentences((*planted.sentences(4, words="acf"), *planted.sentences(1, words="ac")))
    assert len(jh.shuffled_links(lonely, 0)) == 4
    with pytest.raises(ValueError, match="no two sentences of one length"):
        jh.shuffled_links(planted.sentences(1), 0)
    with pytest.raises(ValueError, match="links must be one of"):
        jh.shuffled_links(planted.sentences(4), 0, "coref")


def test_what_can_not_be_related_is_refused():
    model, gold = planted.model(), planted.sentences()
    with pytest.raises(ValueError, match="labels must be one of"):
        jh.relations(model, gold, "depprel")
    with pytest.raises(ValueError, match="at least 4 documents"):
        jh.relations(model, planted.sentences(documents=3))
    with pytest.raises(ValueError, match="no relation has least=1000 words"):
        jh.relations(model, gold, least=1000)


def test_rows_are_documents_so_that_a_choice_among_them_warns_of_no_repeats():
    # Documents of one short sentence each have rows that repeat.
    table = jh.relations(planted.model(), planted.sentences(40, documents=40, words="abc"), least=1)
    assert table.clusters is not None
    assert len(set(table.clusters.tolist())) == table.examples == 40
    best = jh.held_out(table, "obj_to_head", 1)
    assert best.index[0] == TO_HEAD
    assert best["obj_to_head"].iloc[0] == 1
    half = jh.relations(planted.model(), planted.sentences(40, documents=40, words="abc"), least=1, half=1)
    assert half.clusters is not None
    assert set(half.clusters.tolist()) < set(range(40))


def test_a_share_that_is_held_out_keeps_its_interval_within_0_and_1():
    """Rows of a ratio count as much as their documents have words, and so may lie above 1; no bound does."""
    counts = np.array([1.0, 40, 2, 60, 1, 3, 50, 2])
    hits = counts - np.array([0, 6, 0, 1, 0, 0, 5, 1])
    column = share(hits[:, None, None], counts, 0.95, (0.0, 1.0))
    assert np.max(np.asarray(column.per_example, float)) > 1
    table = jh.HeadTable.from_columns("own", "decoder", {"share": column}, clusters=np.arange(8))
    for seed in range(8):
        held = jh.held_out(table, "share", n=1, seed=seed).iloc[0]
        assert 0 <= held["share_low"] <= held["share"] <= held["share_high"] <= 1
    again = jh.with_intervals(table, "skew-corrected").frame.iloc[0]
    assert 0 <= again["share_low"] <= again["share_high"] <= 1
