"""Path patching equals two whole runs with edits; what has a closed form; what is not run, and what is refused."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import jaxheads as jh
from jaxheads.execution.resources import Resources
from jaxheads.sweep.path_patching import engine as path_engine
from jaxheads.sweep.path_patching import paths as module
from jaxheads.sweep.path_patching.engine import PathChunk
from jaxheads.sweep.path_patching.paths import all_paths, paths
from jaxheads.sweep.path_patching.work import PathInputs, path_inputs

from ..models.huggingface import SMALL, VOCABULARY, assert_close, pair, random_batch, small_model
from . import naive

DEPTH = {"llama": "num_hidden_layers", "gpt2": "n_layer", "bert": "num_hidden_layers"}
Judge = Callable[[Any], np.ndarray]
QUICK = settings(deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
"""Every drawing compiles: a failing one is not made smaller."""


@functools.cache
def deep_model(family: str, layers: int = 4) -> jh.Model:
    """Layers of four heads: paths need some."""
    return pair(SMALL[family], **{DEPTH[family]: layers}).ours


def other_tokens(batch: jh.Batch, shared: int = 0, seed: int = 7) -> jh.Batch:
    """The batch with other random tokens, but for its first columns."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, batch.tokens.shape)
    tokens[:, :shared] = np.asarray(batch.tokens)[:, :shared]
    return jh.Batch(tokens, batch.mask, batch.token_types)


def question(batch: jh.Batch, by_loss: bool = False) -> tuple[Any, Judge]:
    """A logit difference at each example's last token, or the loss, and the same by hand."""
    right, wrong = np.random.default_rng(0).integers(0, VOCABULARY, (2, len(batch)))
    asked = naive.loss() if by_loss else naive.logit_difference(right, wrong, np.asarray(batch.last))
    return asked.objective, lambda logits: asked.judge(np.asarray(logits, np.float64), batch)


def recorded(model: jh.Model, base: jh.Batch, edits: list[Any], mlp_out: Any, receiver: Any) -> tuple[Any, Any]:
    """Where a receiver receives, as (site, layer, heads), and what it reads in a run with only direct paths open."""
    final: Any = ("resid_post", model.stack().layers - 1)
    site, layer, *heads = final if receiver == "logits" else receiver
    site = "mlp_out" if site == "mlp" else site
    if mlp_out is not None:  # a receiving MLP is not held itself
        layers = [each for each in range(len(mlp_out)) if (site, layer) != ("mlp_out", each)]
        edits = [*edits, jh.freeze(model, "mlp_out", mlp_out, layers=layers)]
    seen = jh.run(model, base, ("q", "k", "v", "mlp_out", "resid_post"), edits).seen
    return (site, layer, heads or None), seen[site][layer]


def slow(
    model: jh.Model,
    clean: jh.Batch,
    corrupt: jh.Batch,
    judge: Judge,
    receivers: Sequence[Any],
    *,
    direction: str = "noising",
    mlps: str = "recomputed",
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Effects `[E,L,N]` by whole runs: for each sender one a receiver, and one with them all."""
    base, other = (clean, corrupt) if direction == "noising" else (corrupt, clean)
    run = jh.run(model, base, ("z", "mlp_out"))
    z_LBTNH, theirs_LBTNH = run.seen["z"], jh.run(model, other, ("z", "mlp_out")).seen["z"]
    where_BT = np.ones(base.tokens.shape, np.float32) if where is None else where.astype(np.float32)
    before_B, stack = judge(run.output), model.stack()
    found = np.zeros((len(base), stack.layers, stack.heads))
    for layer, head in np.ndindex(found.shape[1:]):
        sent = z_LBTNH.at[layer, :, :, head].set(theirs_LBTNH[layer, :, :, head])
        held, received = [jh.freeze(model, "z", sent)], []
        for receiver in receivers:
            mlp_out = run.seen["mlp_out"] if mlps == "frozen" else None
            (site, at, heads), values = recorded(model, base, held, mlp_out, receiver)
            edit = jh.mix(model, site, values, layers=at, heads=heads)
            axes = (1, *where_BT.shape, *[1] * (edit.weight.ndim - 3))
            received.append(replace(edit, weight=edit.weight * where_BT.reshape(axes)))
        found[:, layer, head] = judge(jh.run(model, base, edits=received).output) - before_B
    return found


def comes_before(model: jh.Model, receivers: Sequence[Any]) -> np.ndarray:
    """The layers `[L]` whose heads come before any of the receivers."""
    limits = [99 if one == "logits" else one[1] - (one[0] != "mlp") for one in receivers]
    return np.arange(model.stack().layers) <= max(limits)


def assert_paths(table: jh.HeadTable, effects: np.ndarray, before_L: np.ndarray) -> None:
    """The table's effects are these where there is a path, and NaN where there is none (and there nothing happens)."""
    assert table.per_example is not None
    assert np.isnan(table.per_example[:, :, ~before_L]).all()
    assert np.isnan(table.values[:, ~before_L]).all()
    assert_close(table.per_example[0][:, before_L], effects[:, before_L])
    np.testing.assert_allclose(effects[:, ~before_L], 0, atol=1e-5)
    assert table.provenance["not_finite"] == []


CASES: dict[str, dict[str, Any]] = {
    "queries at one position": {"kinds": "qq", "positions": "one", "side": "left", "shared": 5, "by_loss": True},
    "everything": {"kinds": "qkvm", "direction": "denoising", "mlps": "frozen", "by_loss": True},
    "values and an MLP at some positions": {"kinds": "vm", "positions": "some", "direction": "denoising"},
    "logits": {"side": "left"},
    "logits, MLPs frozen": {"positions": "some", "direction": "denoising", "mlps": "frozen"},
}


def draw_receivers(draw: Any, stack: Any, kinds: str) -> list[Any]:
    """Receivers of these kinds (m is an MLP); the logits for none."""
    heads = {"q": stack.heads, "k": stack.kv_heads, "v": stack.kv_heads}
    chosen: list[Any] = []
    first = draw(st.integers(0, 3))  # heads one after the other, so that none is drawn twice
    for number, kind in enumerate(kinds):
        layer = draw(st.integers(0 if kind == "m" else 1, stack.layers - 1))
        head = 0 if kind == "m" else (first + number) % heads[kind]
        chosen.append(("mlp", layer) if kind == "m" else (kind, layer, head))
    return chosen or ["logits"]


@pytest.mark.parametrize(
    ("family", "case"),
    [(f, c) for i, f in enumerate(SMALL) for j, c in enumerate(CASES) if (i + j) % 3 or c == "logits"],
)
@settings(QUICK, max_examples=3)
@given(data=st.data())
def test_equals_two_whole_runs(family: str, case: str, data: Any):
    model, draw = deep_model(family), data.draw
    case_of = {"kinds": "", "positions": None, "side": "right", "shared": 0, "by_loss": False, **CASES[case]}
    how = {key: case_of[key] for key in ("direction", "mlps") if key in case_of}
    clean = random_batch(draw(st.permutations((8, 7, 6))), case_of["side"], seed=draw(st.integers(0, 3)))
    corrupt = other_tokens(clean, case_of["shared"])
    last = np.asarray(clean.last)
    where = {
        "one": np.arange(8) == last[:, None] - 1,
        "some": np.isin(np.arange(8) - last[:, None], draw(st.sampled_from([[0, -2], [-5, 0]]))),
    }.get(case_of["positions"])
    receivers = draw_receivers(draw, model.stack(), case_of["kinds"])
    base = corrupt if case_of.get("direction") == "denoising" else clean  # whose tokens a loss is about
    objective, judge = question(base, case_of["by_loss"] and model.causal)
    positions = last - 1 if case_of["positions"] == "one" else where
    table = paths(model, clean, corrupt, objective, receivers, positions=positions, **how)
    effects = slow(model, clean, corrupt, judge, receivers, where=where, **how)
    assert_paths(table, effects, comes_before(model, receivers))


@pytest.mark.parametrize(("family", "kind"), [("llama", "q"), ("gpt2", "v"), ("bert", "k")])
def test_every_pair_is_a_receiver_by_itself(family: str, kind: Any):
    model, batch = deep_model(family), random_batch((8, 6), "left")
    other, positions, stack = other_tokens(batch), np.asarray(batch.last) - [0, 3], model.stack()
    objective, judge = question(batch)
    table = all_paths(model, batch, other, objective, kind, positions=positions)
    receivers = stack.heads if kind == "q" else stack.kv_heads
    assert table.per_example is not None
    assert table.frame.index.names == ["stack", "layer", "head", "receiver_layer", "receiver_head"]
    assert table.shape == (4, 4, 4, receivers)
    where = np.arange(8) == positions[:, None]
    for receiver in ((kind, 1, receivers - 1), (kind, 3, 0)):
        effects = slow(model, batch, other, judge, [receiver], where=where)
        cells = table.per_example[:, :, :, :, receiver[1], receiver[2]]
        assert_close(cells[0, :, : receiver[1]], effects[:, : receiver[1]])
    layers = np.arange(4)
    there = np.broadcast_to((layers[:, None] < layers)[:, None, :, None], table.shape)
    np.testing.assert_array_equal(np.isfinite(table.values[0]), there)
    np.testing.assert_array_equal(np.isfinite(table.grid("effect_low")), there)
    assert table.provenance["not_finite"] == []


CLEAN = random_batch((8, 7, 6))
CORRUPT = other_tokens(CLEAN)
OBJECTIVE, JUDGE = question(CLEAN)


def test_a_run_patched_with_itself_does_not_change():
    model, asked = deep_model("llama"), cast(list[Any], ["logits", [("q", 2, 1)]])
    for receivers, layers in zip(asked, (4, 2), strict=True):
        table = paths(model, CLEAN, CLEAN, OBJECTIVE, receivers)
        np.testing.assert_allclose(table.grid("effect")[:layers], 0, atol=1e-5)
        assert np.isnan(table.grid("normalised")).all()


@pytest.mark.parametrize("layers", [1, 4])
def test_without_mlps_the_logits_receive_what_a_head_writes(layers: int):
    model = deep_model("gpt2", layers)
    run, other = (jh.run(model, batch, ("z", "resid_post")) for batch in (CLEAN, CORRUPT))
    written = np.einsum("lbtnh,lnhd->lnbtd", other.seen["z"] - run.seen["z"], model.stack().weights.W_O)
    table = paths(model, CLEAN, CORRUPT, OBJECTIVE, "logits", mlps="frozen")
    for layer, head in np.ndindex(table.shape):
        stream = run.seen["resid_post"][-1] + written[layer, head]
        effects = JUDGE(model.network.output(stream, CLEAN)) - JUDGE(run.output)
        assert table.per_example is not None
        assert_close(table.per_example[0, :, layer, head], effects)


def test_an_mlp_reads_the_heads_of_its_own_layer():
    model = deep_model("gpt2", 1)
    run, other = (jh.run(model, batch, ("z", "resid_mid", "mlp_out")) for batch in (CLEAN, CORRUPT))
    block: Any = model.stack().block(0)
    written = np.einsum("btnh,nhd->nbtd", (other.seen["z"] - run.seen["z"])[0], model.stack().weights.W_O[0])
    table = paths(model, CLEAN, CORRUPT, OBJECTIVE, [("mlp", 0)], mlps="frozen")
    for head in range(4):
        stream = run.seen["resid_mid"][0] + block.mlp(block.mlp_norm(run.seen["resid_mid"][0] + written[head]))
        effects = JUDGE(model.network.output(stream, CLEAN)) - JUDGE(run.output)
        assert table.per_example is not None
        assert_close(table.per_example[0, :, 0, head], effects)


def test_a_table_of_paths():
    model = deep_model("llama")
    receivers: Any = [("q", 2, np.int64(3)), ["q", 1, 0]]
    table = paths(model, CLEAN, CORRUPT, OBJECTIVE, receivers, level=0.9, seed=4)
    assert list(table.frame) == [
        *(f"{name}{end}" for name in ("effect", "normalised") for end in ("", "_low", "_high", "_n")),
        "model",
    ]
    assert table.values.shape == (2, 4, 4)
    total = JUDGE(jh.run(model, CORRUPT).output) - JUDGE(jh.run(model, CLEAN).output)
    np.testing.assert_allclose(table.values[1, :2], table.values[0, :2] / total.mean(), rtol=1e-4)
    said = table.provenance
    assert said["receivers"] == ["q 1.0", "q 2.3"]
    assert (said["direction"], said["mlps"], said["positions"]) == ("noising", "recomputed", "all")
    assert (said["examples"], said["level"], said["seed"]) == (3, 0.9, 4)
    assert said["unedited"] == pytest.approx(JUDGE(jh.run(model, CLEAN).output).mean(), abs=1e-5)


def inputs_of(model: jh.Model, clean: jh.Batch, corrupt: jh.Batch, objective: Any, positions: Any) -> PathInputs:
    """What `paths` makes of a pair, noising."""
    options: dict[str, Any] = {"direction": "noising", "mlps": "recomputed", "positions": positions}
    return next(path_inputs(model, model.stack(), [(clean, corrupt, objective)], **options, resources=Resources()))


def engine_chunk(model: jh.Model) -> tuple[PathChunk, dict[str, Any]]:
    """All examples, and the engine's static arguments."""
    inputs = inputs_of(model, CLEAN, CORRUPT, OBJECTIVE, None)
    return inputs.chunk(np.arange(len(CLEAN))), inputs.static


def test_direct_paths_run_no_attention():
    model = deep_model("gpt2")
    chunk, static = engine_chunk(model)

    def poison(path: str, weight: Any) -> Any:
        return weight.at[:].set(np.nan) if path.endswith(("W_Q", "W_K", "W_V")) else weight

    sound = path_engine.send_to_end(chunk, 1, np.arange(4), **static)
    chunk = replace(chunk, network=naive.changed(model, poison).network)
    np.testing.assert_array_equal(path_engine.send_to_end(chunk, 1, np.arange(4), **static), sound)
    assert np.isfinite(sound).all()


def test_layers_before_the_sender_and_attention_before_the_receivers_are_not_run():
    model = deep_model("gpt2")
    chunk, static = engine_chunk(model)
    receivers = {"decoder": {"q": jnp.arange(4)[None] == jnp.array([[9], [9], [9], [1]])}}

    def poison(path: str, weight: Any) -> Any:
        if "blocks" not in path:
            return weight
        weight = weight.at[:1].set(np.nan)
        return weight.at[1:3].set(np.nan) if path.endswith(("W_Q", "W_K", "W_V")) else weight

    def found(chunk: PathChunk) -> np.ndarray:
        return np.asarray(path_engine.send_to_receivers(chunk, receivers, (3, 3), 1, np.arange(4), **static))

    sound = found(chunk)
    np.testing.assert_array_equal(found(replace(chunk, network=naive.changed(model, poison).network)), sound)
    assert np.isfinite(sound).all()


@pytest.mark.parametrize(("shared", "positions", "first"), [(0, None, 0), (5, None, 4), (0, 6, 4), (8, None, 12)])
def test_positions_that_cannot_change_are_not_run(shared: int, positions: Any, first: int):
    batch = random_batch((8, 8))
    for family, expected in (("gpt2", first), ("bert", 0)):
        inputs = inputs_of(small_model(family), batch, other_tokens(batch, shared), OBJECTIVE_OF_ALL, positions)
        assert inputs.spec.first == expected


def test_pieces_and_compilations():
    model = deep_model("llama")
    whole = paths(model, CLEAN, CORRUPT, OBJECTIVE, [("q", 2, 1)])
    engine: Any = path_engine.send_to_receivers
    before = engine.cache_size()
    again = paths(model, CLEAN, CORRUPT, OBJECTIVE, [("q", 1, 0), ("q", 3, 2)])  # other layers and heads
    assert engine.cache_size() == before
    pieces = paths(model, CLEAN, CORRUPT, OBJECTIVE, [("q", 2, 1)], memory=1)
    assert engine.cache_size() == before + 1
    assert pieces.per_example is not None
    assert whole.per_example is not None
    assert_close(pieces.per_example[:, :, :2], whole.per_example[:, :, :2])
    assert not np.allclose(again.values[:, 0], whole.values[:, 0], atol=1e-3)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, asked = deep_model("llama"), []
    real = module.send_to_end

    def counted(*arguments: Any, **named: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(1)
        return real(*arguments, **named)

    def ask(directory: Path | None, **changes: Any) -> jh.HeadTable:
        return paths(model, CLEAN, CORRUPT, OBJECTIVE, "logits", resume=directory, **changes)

    whole = ask(None)
    monkeypatch.setattr(module, "send_to_end", counted)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    asked.clear()
    resumed = ask(tmp_path)
    assert len(asked) == 2
    assert resumed.frame.equals(whole.frame)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):  # another question takes none of its pieces
        ask(tmp_path, direction="denoising")
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, positions=np.asarray(CLEAN.last))


OBJECTIVE_OF_ALL = jh.logit_difference(3, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupt": random_batch((8, 7))}, r"same shape and the same padding.* \(3, 8\) and \(2, 8\)"),
        ({"corrupt": random_batch((8, 7, 6), "left")}, "same shape and the same padding"),
        ({"corrupt": jh.Batch(np.full((3, 8), VOCABULARY), CLEAN.mask)}, r"token ids .* lie in 0\.\.36"),
        ({"direction": "both"}, "direction must be one of denoising, noising; got 'both'"),
        ({"mlps": "zero"}, "mlps must be one of recomputed, frozen; got 'zero'"),
        ({"receivers": "mlp"}, "receivers must be a sequence .* got 'mlp'"),
        ({"receivers": []}, r"receivers must be 'logits' or a list of others.* got \[\]"),
        ({"receivers": ("q", 1, 2)}, r"receivers\[0\] must be .* got 'q'"),
        ({"receivers": [("z", 1, 2)]}, r"a receiver is .* got \('z', 1, 2\)"),
        ({"receivers": [("q", 1)]}, r"got \('q', 1\)"),
        ({"receivers": [("mlp", 1, 0)]}, r"got \('mlp', 1, 0\)"),
        ({"receivers": [("q", 1.0, 0)]}, r"receivers\[0\]\[1\] must be a whole number, got 1\.0"),
        ({"receivers": [("q", 4, 0)]}, r"is not there: the decoder has layers 0\.\.3, and at q heads 0\.\.3"),
        ({"receivers": [("k", 1, 2)]}, r"and at k heads 0\.\.1"),
        ({"receivers": [("mlp", -1)]}, "is not there"),
        ({"receivers": [("q", 1, 1), ("q", 0, 1)]}, r"no path leads to receiver \('q', 0, 1\)"),
        ({"receivers": [("q", 1, 1), ("q", 1, 1)]}, r"named once, got \('q', 1, 1\) twice"),
        ({"receivers": [("q", 1, 1), "logits"]}, "no other receiver could show"),
        ({"positions": [1, 2]}, r"one column of the batch for each of 3 examples, or bool \(3, 8\); got int"),
        ({"positions": [0.5, 1, 2]}, "got float"),
        ({"positions": 8}, r"must lie in 0\.\.7, got 8"),
        ({"positions": 7}, r"a real token of every example; examples \[1, 2\] have none"),
        ({"positions": 3}, r"reads the logits at none of the positions in examples \[0, 1, 2\]"),
        ({"level": 95}, "level: expected a number between 0 and 1, got 95"),
        ({"stack": "encoder"}, "has the stacks decoder; got 'encoder'"),
        ({"objective": jh.logit_difference(3, VOCABULARY)}, r"token ids in 0\.\.36"),
    ],
)
def test_wrong_questions_are_refused(changes: dict[str, Any], message: str):
    arguments = {"clean": CLEAN, "corrupt": CORRUPT, "objective": OBJECTIVE, "receivers": "logits", **changes}
    with pytest.raises(ValueError, match=message):
        paths(deep_model("llama"), **arguments)


def test_pairs_that_are_not_there_are_refused():
    wrong: Any = "mlp"
    with pytest.raises(ValueError, match="kind must be one of q, k, v; got 'mlp'"):
        all_paths(deep_model("llama"), CLEAN, CORRUPT, OBJECTIVE, wrong)
    with pytest.raises(ValueError, match="need two layers; the decoder has 1"):
        all_paths(deep_model("gpt2", 1), CLEAN, CORRUPT, OBJECTIVE)
