"""Attention block by block of query rows gives what whole attention gives, in memory that grows with the length."""

from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxheads as jh
from jaxheads import programs
from jaxheads.execution.cost import forward_bytes
from jaxheads.models.attention.attend import attend
from jaxheads.models.attention.row_edits import RowEdit
from jaxheads.models.inputs import query_rows
from jaxheads.models.inputs.attention_inputs import AttentionInputs
from jaxheads.models.inputs.batch import Positions
from jaxheads.models.inputs.masks import Mask
from jaxheads.models.network import forward
from jaxheads.models.sites import editor

from .huggingface import assert_close
from .networks import random_model
from .specs import SPECS
from .specs.spec import compare, small, their_run

B, T, N, K, H = 2, 13, 4, 2, 3
RNG = np.random.default_rng(0)
MASK = np.ones((B, T), bool)
MASK[0, :2] = MASK[1, 10:] = False
SEGMENTS = np.array([[0] * 5 + [1] * 8, [0] * 7 + [1] * 6])


class ColumnSums:
    """Reads how much each key gets of all queries, by head."""

    def start(self) -> Array:
        return jnp.zeros((B, N, T))

    def add(self, sums: Array, sites: Any, first: Any) -> Array:
        pattern_BNtS = sites["pattern"]
        real_t = first + jnp.arange(pattern_BNtS.shape[2]) < T
        return sums + jnp.where(real_t[None, None, :, None], pattern_BNtS, 0).sum(axis=2)

    def finish(self, sums: Array) -> Array:
        return sums


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything run in blocks of one query row, with no program of whole attention at hand."""
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(programs, "_PROGRAMS", programs._Programs())


def inputs() -> tuple[Array, Array, Array]:
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H)
    q, k, v = (jnp.asarray(RNG.standard_normal(shape, np.float32)) for shape in shapes)
    return q, k, v


def mask(*, causal: bool = True, window: int | None = None, whole: bool = False) -> Mask:
    positions = Positions(jnp.asarray(MASK), segments=jnp.asarray(SEGMENTS))
    context = AttentionInputs.within(positions, causal=causal)
    if whole:
        return Mask.of(context.visible)
    return context.mask if window is None else context.mask.within(context.queries, context.keys, window)


def site_edits() -> RowEdit:
    def values(*shape: int) -> Array:
        return jnp.asarray(RNG.standard_normal((1, *shape), np.float32))

    edits = (
        jh.SiteEdit(jnp.arange(1), jnp.full((1, 1, N, 1, 1), 0.5), values(B, N, T, T), "scores", "decoder"),
        jh.SiteEdit(jnp.arange(1), values(1, 1, T, 1), jnp.ones((1, 1, 1, 1, 1)), "pattern", "decoder", "add"),
        jh.SiteEdit(jnp.arange(1), jnp.ones((1, 1, 1, 1, 1)), values(1, 1, 1, H), "v", "decoder", "add"),
    )
    return editor(edits, "decoder", jnp.int32(0), {"sums": ColumnSums()})


CASES: dict[str, dict[str, Any]] = {
    "plain": {"mask": mask()},
    "both ways": {"mask": mask(causal=False)},
    "given whole": {"mask": mask(whole=True)},
    "near": {"mask": mask(window=3), "cap": 0.7},
    "sinks": {"mask": mask(), "sinks": jnp.arange(4.0), "scale": jnp.arange(1.0, 5)[None, :, None, None]},
    "biased": {"mask": mask(), "bias": jnp.asarray(RNG.standard_normal((1, N, T, T), np.float32))},
    "by key": {"mask": mask(), "bias": jnp.asarray(RNG.standard_normal((B, N, 1, T), np.float32))},
    "edited": {"mask": mask(), "edit": site_edits()},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 5])
def test_blocks_are_whole_attention_cut_up(monkeypatch: pytest.MonkeyPatch, case: str, rows: int):
    settings = {"scale": 0.6, **CASES[case]}
    visible_BT = jnp.broadcast_to(settings["mask"].array(), (B, T, T)).any(axis=-1)

    def attended(*qkv: Array) -> dict[str, Array]:
        z, seen = attend(*qkv, **settings)
        rows_BT = {"z": z, **{site: jnp.moveaxis(seen[site], 1, 2) for site in ("scores", "pattern")}}
        # A query that sees no key is padding: what it attends to has no meaning.
        values = {name: jnp.where(visible_BT[:, :, None, None], x, 0) for name, x in rows_BT.items()}
        return values | ({"sums": seen.get("sums", seen["pattern"].sum(axis=2))} if "edit" in settings else {})

    def run(*qkv: Array) -> Any:
        def square(*qkv: Array) -> tuple[Array, Any]:
            values = attended(*qkv)
            return jnp.square(values["z"]).sum(), values

        return jax.value_and_grad(square, argnums=(0, 1, 2), has_aux=True)(*qkv)

    qkv = inputs()
    whole = jax.jit(run)(*qkv)
    assert "scan" not in str(jax.make_jaxpr(run)(*qkv))
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 4 * B * N * T * rows)
    assert query_rows.block_rows(B, N, T, T) == rows
    assert "scan" in str(jax.make_jaxpr(lambda *qkv: run(*qkv))(*qkv))
    jax.tree.map(assert_close, jax.jit(lambda *qkv: run(*qkv))(*qkv), whole)


@pytest.mark.parametrize("name", ["t5", "deberta_v2", "gpt_oss", "gemma2", "falcon", "bart", "modernbert"])
def test_families_in_blocks_are_those_of_transformers(blocks: None, name: str):
    both, spec = small(name), SPECS[name]
    batch = spec.batch(both.theirs, "left")
    sites = [f"{stack}.{site}" for stack in both.ours.stacks for site in ("pattern", "resid_pre")]
    ours = jh.run(both.ours, batch, sites)
    for example in range(len(batch)):
        compare(ours, their_run(both.theirs, batch, example), both.ours, batch, example)


def test_a_bias_or_an_edit_that_takes_no_rows_is_given_whole_scores(blocks: None):
    q, k, v = inputs()
    seen: list[tuple[int, ...]] = []

    def edit(site: str, value: Array) -> Array:
        seen.append(value.shape)
        return value

    def bias(q: Array, k: Array) -> Array:
        return jnp.zeros((1, 1, q.shape[1], k.shape[1]))

    ours = attend(q, k, v, mask(), scale=1.0, edit=edit)[0]
    assert (B, N, T, T) in seen
    assert_close(attend(q, k, v, mask(), scale=1.0, bias=bias)[0], ours)


def test_memory_grows_with_the_length_and_so_it_is_foreseen():
    model = random_model("llama", max_position_embeddings=8192)
    stack, sizes, foreseen = model.stack(), [], []
    for length in (2048, 4096, 8192):
        batch = jh.Batch(np.zeros((1, length), int))

        def run(network: Any, batch: jh.Batch) -> Any:
            return forward(network, batch)[0]

        lowered = jax.jit(run).lower(model.network, batch)
        sizes.append(attrgetter("temp_size_in_bytes")(lowered.compile().memory_analysis()))
        foreseen.append(forward_bytes(stack, batch))
    # The scores of 8,192 tokens alone are 2 GB.
    assert sizes[2] < 2.2 * sizes[1] < 5 * sizes[0]
    assert sizes[2] < 2**27
    assert all(0.4 < a / b < 2.5 for a, b in zip(foreseen, sizes, strict=True)), (foreseen, sizes)
