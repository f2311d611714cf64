"""Path patching where two stacks write to one stream, and where others follow: equal to whole runs with edits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads.models.stack import Stack
from jaxheads.sweep.cached_run import stream_of

from ..models.huggingface import assert_close
from ..models.specs.spec import small
from .seq2seq import a_batch, judge

OBJECTIVE = jh.loss()


def place(stream: Stack, senders: Stack, receiver: Any) -> tuple[str, int, Any]:
    """Which site of which layer receives, and which of its heads."""
    if receiver in ("logits", "memory"):
        part = stream.members[-1]
        return f"{part.name}.resid_post", part.layers - 1, None
    kind, layer, *heads = receiver
    if kind == "mlp":
        [part] = [part.name for part in stream.members if "mlp_out" in part.sites]
        return f"{part}.mlp_out", layer, None
    return kind if "." in kind else f"{senders.name}.{kind}", layer, heads


def slow(
    model: jh.Model,
    base: jh.Batch,
    other: jh.Batch,
    stack: str,
    receivers: Sequence[Any],
    where_BT: np.ndarray,
    *,
    frozen: bool,
) -> np.ndarray:
    """Effects `[E,L,N]`: for each sender a run for every receiver, and one with them all."""
    senders, stream = model.stack(stack), stream_of(model.network, stack)
    sites = [f"{part.name}.{site}" for part in stream.members for site in ("z", "mlp_out") if site in part.sites]
    run, theirs = (jh.run(model, batch, sites).seen for batch in (base, other))
    found = np.zeros((len(base), senders.layers, senders.heads))
    for layer, head in np.ndindex(found.shape[1:]):
        sent = run[f"{stack}.z"].at[layer, :, :, head].set(theirs[f"{stack}.z"][layer, :, :, head])
        z = {name: value for name, value in run.items() if name.endswith(".z")} | {f"{stack}.z": sent}
        held = [jh.freeze(model, name, value) for name, value in z.items()]
        received = []
        for receiver in receivers:
            site, at, heads = place(stream, senders, receiver)
            for name in [name for name in sites if frozen and name.endswith("mlp_out")]:
                layers = [each for each in range(senders.layers) if (name, each) != (site, at)]
                held = [*held[: len(z)], jh.freeze(model, name, run[name], layers=layers)]
            values = jh.run(model, base, [site], held).seen[site][at]
            chosen = where_BT if values.ndim == 3 else where_BT[..., None]
            values = np.where(chosen[..., None], values, jh.run(model, base, [site]).seen[site][at])
            received.append(jh.mix(model, site, values, layers=at, heads=heads))
        found[:, layer, head] = judge(model, base, received) - judge(model, base)
    return found


def reached(stack: str, receivers: Sequence[Any], layers: int) -> np.ndarray:
    """Which layers' heads have a path to any receiver, by what a layer of a decoder does: its own heads, those of its
    cross-attention, its MLP."""
    order = {"decoder": 0, "encoder": 0, "cross": 1}
    there = np.zeros(layers, bool)
    for receiver in receivers:
        kind, at = (receiver, layers) if isinstance(receiver, str) else receiver[:2]
        name = kind.split(".")[0] if "." in kind else stack
        same = kind == "mlp" or order[name] > order[stack]
        there |= np.arange(layers) <= (at if same else at - 1)
    return there


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("decoder", ["logits"], {}),
    ("cross", ["logits"], {"direction": "denoising", "mlps": "frozen"}),
    ("encoder", ["memory"], {}),
    ("encoder", ["memory"], {"mlps": "frozen", "positions": "one"}),
    ("decoder", [("cross.q", 0, 1), ("cross.q", 1, 0)], {}),
    ("decoder", [("q", 1, 1), ("cross.q", 1, 0), ("mlp", 0)], {"mlps": "frozen", "positions": "one"}),
    ("cross", [("decoder.v", 1, 0), ("q", 1, 1)], {"direction": "denoising"}),
    ("cross", [("mlp", 0)], {"positions": "one"}),
    ("encoder", [("k", 1, 0), ("v", 1, 1), ("mlp", 1)], {"direction": "denoising"}),
]


@pytest.mark.parametrize(("case", "family"), [(case, ("t5", "bart")[case % 2]) for case in range(len(CASES))])
def test_equals_whole_runs(case: int, family: str):
    stack, receivers, how = CASES[case]
    model, clean, corrupt = small(family).ours, a_batch(family), a_batch(family, seed=1)
    base, other = (corrupt, clean) if how.get("direction") == "denoising" else (clean, corrupt)
    side, part = model.stack(stack).queries.of(base), model.stack(stack)
    where_BT = np.asarray(side.mask)
    options = dict(how)
    if how.get("positions") == "one":
        options["positions"] = np.maximum(np.asarray(side.last) - 1, where_BT.argmax(axis=1))  # the loss reads no last
        where_BT = np.arange(side.shape[1]) == options["positions"][:, None]
    asked: Any = receivers[0] if isinstance(receivers[0], str) else receivers
    table = jh.paths(model, clean, corrupt, OBJECTIVE, asked, stack=stack, **options)
    expected = slow(model, base, other, stack, receivers, where_BT, frozen=how.get("mlps") == "frozen")
    there = reached(stack, receivers, part.layers)
    assert table.per_example is not None
    assert_close(table.per_example[0][:, there], expected[:, there])
    assert np.abs(expected[:, there]).max() > 1e-3
    assert np.isnan(table.per_example[0][:, ~there]).all()
    np.testing.assert_allclose(expected[:, ~there], 0, atol=1e-5)
    assert table.stack == stack


@pytest.mark.parametrize(
    ("stack", "kind"), [("decoder", "cross.q"), ("cross", "decoder.k"), ("cross", "q"), ("encoder", "v")]
)
def test_every_pair_is_a_receiver_by_itself(stack: str, kind: str):
    model, clean, corrupt = small("t5").ours, a_batch("t5"), a_batch("t5", seed=1)
    table = jh.all_paths(model, clean, corrupt, OBJECTIVE, kind, stack=stack)
    part, nearest = model.stack(stack), 0 if kind == "cross.q" else 1
    layers = np.arange(part.layers)
    there = (layers[:, None] + nearest <= layers)[:, None, :, None]
    np.testing.assert_array_equal(np.isfinite(table.values[0]), np.broadcast_to(there, table.shape))
    assert table.per_example is not None
    for layer, head in ((part.layers - 1, 1), (nearest, 0)):
        one = jh.paths(model, clean, corrupt, OBJECTIVE, [(kind, layer, head)], stack=stack)
        senders = np.arange(part.layers) + nearest <= layer
        cells = table.per_example[0][:, :, :, layer, head]
        assert one.per_example is not None
        assert senders.any() == np.isfinite(cells).any()
        assert_close(cells[:, senders], one.per_example[0][:, senders])
        assert np.abs(cells[:, senders]).max(initial=0) > (1e-4 if senders.any() else -1)


@pytest.mark.parametrize(
    ("stack", "receivers", "message"),
    [
        ("encoder", "logits", "direct path from the encoder ends .* receivers='memory'"),
        ("decoder", "memory", "decoder's stream is the model's last.* receivers='logits'"),
        ("decoder", [("cross.k", 1, 0)], "keys and values of the cross-attention .* receivers='memory'"),
        (
            "encoder",
            [("cross.q", 1, 0)],
            r"receiver 'cross.q' is not there: the stream of the encoder has the stacks enc",
        ),
        ("cross", [("decoder.q", 0, 0)], "no path leads to receiver"),
        ("cross", [("decoder.mlp", 0)], "'decoder.mlp' is not there: .* with MLPs in cross"),
        ("encoder", ["memory", ("q", 1, 0)], "receivers must be 'memory' or a list of others"),
    ],
)
def test_receivers_that_are_not_on_the_stream_are_refused(stack: str, receivers: Any, message: str):
    model = small("t5").ours
    with pytest.raises(ValueError, match=message):
        jh.paths(model, a_batch("t5"), a_batch("t5", seed=1), OBJECTIVE, receivers, stack=stack)
