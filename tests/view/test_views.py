"""What views hold: the numbers of answers, the right form for each, still pictures, and refusals."""

from pathlib import Path

import numpy as np
import pytest

import jaxheads as jh
from jaxheads import view
from jaxheads.view.components import component_graph

from .test_files import unpacked

GRID = np.arange(6.0).reshape(2, 3) - 2.5


def table(name: str = "ablate", sign: float = 1.0, **extras) -> jh.HeadTable:
    columns = {"effect": jh.tables.Column(sign * GRID, GRID - 1, GRID + 1, np.full(GRID.shape, 8))}
    about = {"model": "a model", "level": 0.9, "units": {"effect": "nats"}}
    return jh.HeadTable.from_columns(name, "decoder", columns, about, extras=extras)


def test_a_table_shows_its_columns_with_interval_n_rank_role_and_q():
    roles = np.where(GRID > 1, "induction, sink", "")
    own = table(role=np.where(GRID > 1, "induction", ""), roles=roles, q_value=np.abs(GRID) / 10)
    payload = own.view().payload
    [effect] = payload["metrics"]
    assert (effect["name"], effect["unit"], effect["level"], payload["kind"]) == ("effect", "nats", 0.9, "heatmap")
    read = {part: unpacked(effect[part]) for part in ("value", "low", "high", "n", "rank", "q")}
    np.testing.assert_array_equal(read["value"], GRID)
    np.testing.assert_array_equal(read["rank"], np.arange(6, 0, -1).reshape(2, 3))
    np.testing.assert_allclose(read["q"], np.abs(GRID) / 10, rtol=1e-6)
    assert payload["words"] == {"role": [*roles.flat]}


def test_two_tables_are_a_scatter_with_their_rank_correlation():
    payload = table().view(against=table("attribute", -1.0)).payload
    assert payload["kind"] == "scatter"
    assert [own["name"] for own in payload["metrics"]] == ["ablate effect", "attribute effect"]
    assert payload["note"] == "Spearman's rank correlation over 6 cells: -1.00"
    assert payload["diagonal"]
    other = jh.HeadTable.from_columns("x", "decoder", {"effect": jh.tables.Column(np.eye(2))})
    with pytest.raises(ValueError, match=r"expected a table over \['layer', 'head'\] of shape \[2, 3\]"):
        table().view(against=other)


def test_a_table_by_layer_is_curves_and_one_of_more_axes_has_named_rows():
    columns = {"rank": jh.tables.Column(np.arange(3.0)), "top": jh.tables.Column(np.ones(3))}
    by_layer = jh.HeadTable.from_columns("logit_lens", "decoder", columns, axes=("layer",))
    payload = by_layer.view("top").payload
    assert [panel["lines"] for panel in payload["panels"]] == [["top"], ["rank"]]
    np.testing.assert_array_equal(unpacked(payload["lines"][0]["middle"]), [0, 1, 2])
    deep = jh.tables.Column(np.arange(12.0).reshape(2, 2, 3))
    payload = (
        jh.HeadTable.from_columns("p", "decoder", {"effect": deep}, axes=("layer", "head", "position")).view().payload
    )
    assert payload["rowNames"][1] == "layer 0 head 1"
    assert payload["names"][3] == "layer 0 head 1 position 0"
    assert unpacked(payload["metrics"][0]["value"])[1, 0] == 3


def test_words_are_no_numbers():
    with pytest.raises(ValueError, match="expected a column of numbers, got 'role'"):
        table(role=np.full(GRID.shape, "x")).view("role")


def test_edges_lead_to_the_heads_that_read_them():
    senders = ["embed", "head 0.0", "head 0.1", "mlp 0", "head 1.0", "head 1.1", "mlp 1"]
    receivers = ["q 0.0", "q 0.1", "k 0.0", "v 0.0", "mlp 0", "q 1.1", "q 1.0", "k 1.0", "v 1.0", "mlp 1", "logits"]
    nodes, own, read, kinds = component_graph(senders, receivers)
    names = [node["name"] for node in nodes]
    assert [names[number] for number in own] == senders
    assert names[read[1]] == "head 0.1"
    assert names[read[2]] == "k 0.0"  # two heads share it
    assert nodes[read[2]]["note"] == "keys of heads 0.0 to 0.1"
    assert kinds == ["q", "q", "k", "v", "", "q", "q", "k", "v", "", ""]
    rows = [nodes[number]["row"] for number in (*own, read[-1])]
    assert rows == sorted(rows)
    full = component_graph(["embed", "head 0.0"], ["q 0.0", "k 0.0", "v 0.0", "logits"])
    assert full[2][:3] == [full[1][1]] * 3


def test_a_graph_has_its_strongest_edges_first():
    nodes = [{"name": "a", "row": 0}, {"name": "b", "row": 1}, {"name": "c", "row": 2}]
    payload = view.graph(nodes, [[0, 1], [1, 2], [0, 2]], [0.1, -2.0, np.nan], kinds=["q", "k", "v"]).payload
    assert (payload["edges"], payload["kinds"]) == ([[1, 2], [0, 1]], ["k", "q"])
    with pytest.raises(ValueError, match=r"numbers of nodes in 0\.\.2"):
        view.graph(nodes, [[0, 3]], [1.0])


def test_relevance_colours_the_tokens_and_leaves_padding_out():
    values = np.array([[1.0, -2.0, np.nan]], np.float32)
    answer = jh.Relevance("attnlrp", {"decoder": values}, None, None, {"decoder": np.array([[5, 6, 0]])}, {})
    [row] = answer.view().payload["rows"]
    assert row["texts"] == ["5", "6", "0"]
    np.testing.assert_array_equal(unpacked(row["values"]), values[0])


def test_composition_shows_its_pairs_strongest_first():
    values = np.full((2, 2, 2, 2), np.nan)
    values[0, :, 1, :] = [[0.1, 0.4], [0.2, 0.3]]
    answer = jh.Composition({"q": values}, 0.1, (0.12, 0.01), "decoder", 0)
    payload = answer.view().payload
    assert payload["edges"] == [[0, 3], [1, 3], [1, 2], [0, 2]]
    assert "0.120 ± 0.010" in payload["note"]
    assert answer.view(layout="matrix").payload["rowNames"] == ["0.0", "0.1", "1.0", "1.1"]


def test_a_run_shows_what_it_read_without_padding():
    config = {"model_type": "gpt2", "vocab_size": 37, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    batch = jh.Batch([[0, 1, 2, 3]], [[0, 1, 1, 1]], segments=[[0, 0, 0, 1]], words=[[-1, 0, 0, 1]])
    run = jh.run(jh.init(config), batch, capture="pattern")
    payload = view.attention(run, heads=[(1, 0)]).payload
    assert payload["queries"] == ["1", "2", "3"]
    assert payload["words"]["keys"] == [0, 0, 1]
    assert payload["parts"]["queries"] == ["text 1", "text 1", "text 2"]
    [head] = payload["heads"]
    assert (head["layer"], head["head"]) == (1, 0)
    expected = np.asarray(run.seen["pattern"])[1, 0, 0, 1:, 1:]
    np.testing.assert_allclose(unpacked(head["pattern"]), expected, atol=1e-4)
    with pytest.raises(ValueError, match="example: the run has 1 examples"):
        run.view(example=1)
    with pytest.raises(ValueError, match="capture='pattern'"):
        jh.run(jh.init(config), batch, capture="z").view()


def test_patches_lie_on_the_image_and_frames_on_the_spectrogram():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"image_size": [8, 12], "patch_size": 4, "num_channels": 3, "layer_norm_eps": 0.02}
    vit = jh.init({"model_type": "vit", "architectures": ["ViTModel"], **sizes})
    pixels = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    payload = jh.run(vit, jh.Batch(pixels=pixels), capture="pattern").view(example=1).payload
    assert payload["queries"][:3] == ["CLS", "row 0 column 0", "row 0 column 1"]
    assert payload["pictures"]["queries"]["grid"] == [2, 3]
    assert payload["pictures"]["queries"]["before"] == 1
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperModel"],
        "vocab_size": 9,
        "num_mel_bins": 5,
        "d_model": 8,
    }
    config |= {f"{side}_{field}": 2 for side in ("encoder", "decoder") for field in ("layers", "attention_heads")}
    config |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_source_positions": 8, "max_target_positions": 4}
    config |= {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
    features = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(np.float32)
    batch = jh.Batch(features=features, targets=[[2, 5, 1]], target_mask=[[1, 1, 0]])
    payload = jh.run(jh.init(config), batch, capture="cross.pattern").view("cross").payload
    assert (payload["queries"], payload["keys"][:2], payload["self"]) == (["2", "5"], ["0.00 s", "0.02 s"], False)
    assert payload["pictures"]["keys"]["grid"] == [1, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patterns": np.full((2, 2), 1.5)}, "weights from 0 to 1"),
        ({"patterns": np.ones((2, 3)) / 3}, "keys need texts of their own"),
        ({"patterns": np.eye(2), "tokens": ["a"]}, "expected 2 texts"),
        ({"patterns": np.eye(2)[None, None], "heads": [(0, 1)]}, "1 × 1 heads"),
        ({"patterns": np.eye(2)[None].repeat(2, 0)}, "of each of 2 patterns"),
        ({"patterns": np.eye(2), "chosen": (3, 3)}, "chosen"),
        ({"patterns": np.eye(2), "tokens": view.Tokens(["a", "b"], backdrop=view.Backdrop(np.eye(4), (2, 2)))}, "grid"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        view.attention(**arguments)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_still_pictures_of_every_kind(tmp_path: Path, ending: str):
    odd = ["$x$", "a\n", "", " 雨"]  # no formula, no line end in a label, no warning of a glyph
    nodes = [{"name": "a$", "row": 0}, {"name": "b", "row": 2}]
    views = [
        view.attention(np.eye(4), odd),
        view.attention(np.eye(4)[None, None].repeat(3, 1), odd),
        table().view(),
        table().view(against=table("other", -1.0)),
        view.tokens([odd], [[1.0, -1.0, np.nan, 0.5]]),
        view.matrix(np.eye(4), rows=odd, columns=odd, texts=[odd] * 4),
        view.graph(nodes, [[0, 1]], [1.0]),
        view.curves([1, 2], {"$a": {"runs": np.eye(2)}}, marks={"$a": [1]}, levels={"b": 0.5}, log=True),
    ]
    for number, own in enumerate(views):
        assert own.save(tmp_path / f"{number}.{ending}").stat().st_size > 1000
    with pytest.raises(ValueError, match="ends in one of"):
        views[0].save(tmp_path / "view.nonesuch")


def test_a_mimebundle_has_a_frame_and_a_widget(monkeypatch: pytest.MonkeyPatch):
    own = table().view()
    bundle = own._repr_mimebundle_()
    assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    assert own._repr_mimebundle_().keys() == {"text/plain", "text/html"}
