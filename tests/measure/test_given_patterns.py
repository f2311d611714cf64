"""Patterns that are given as arrays have the numbers of the model that they come from."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxheads as jh
from jaxheads.models.inputs import query_rows

from ..models.huggingface import random_batch, small_model

MARKS = {"noun": np.arange(14).reshape(2, 7) % 3 == 0, "pair": np.tile(np.eye(7, k=-1), (2, 1, 1))}


def measured(family: str, metrics: Any = None, side: str = "left") -> tuple[jh.Batch, np.ndarray, jh.HeadTable]:
    """A batch, the patterns of its run, and what `measure` says of them."""
    batch = random_batch((7, 5), side).marked(MARKS).clustered([1, 1])
    model = small_model(family)
    patterns = jh.run(model, batch, capture="pattern").seen["pattern"]
    return batch, np.asarray(patterns), jh.measure(model, batch, metrics)


def same_examples(ours: jh.HeadTable, theirs: jh.HeadTable) -> None:
    assert ours.per_example is not None
    assert theirs.per_example is not None
    np.testing.assert_allclose(ours.per_example, theirs.per_example, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_given_patterns_measure_as_their_model_does(family: str, side: str):
    batch, patterns, expected = measured(family, side=side)
    table = jh.measure_patterns(
        patterns, batch.mask, tokens=batch.tokens, clusters=[1, 1], causal=family == "llama", name="mine"
    )
    assert list(table.frame) == list(expected.frame)
    assert table.frame["model"].iloc[0] == "mine"
    for name in (
        *jh.METRICS,
        *(f"{name}{end}" for name in jh.METRICS for end in ("_low", "_high")),
        "positional_offset",
    ):
        np.testing.assert_allclose(table.grid(name), expected.grid(name), rtol=0, atol=1e-6, err_msg=name)
    same_examples(table, expected)
    np.testing.assert_array_equal(np.asarray(table.clusters), np.asarray(expected.clusters))
    same = ("examples", "tokens", "tokens_sha256", "metrics", "nothing_to_measure", "level", "of")
    assert {key: table.provenance[key] for key in same} == {key: expected.provenance[key] for key in same}
    assert table.provenance["weights"].startswith("patterns sha256")


def test_marks_variants_and_metrics_of_ones_own():
    own = jh.Metric("second", lambda A, example: (A[:, 1].mean(), True))
    metrics = (jh.token_class("noun"), jh.marked_share("pair"), "sink", "tl_previous_token_abs", own)
    batch, patterns, _ = measured("llama")
    padded = np.asarray(~batch.mask)
    expected = jh.measure(small_model("llama"), batch, metrics[:-1])
    table = jh.measure_patterns(patterns, batch.mask, metrics, tokens=batch.tokens, marks=MARKS)
    np.testing.assert_allclose(table.values[:-1], expected.values, rtol=0, atol=1e-6)
    assert padded.any()
    one = jh.measure_patterns(patterns, batch.mask, own)
    np.testing.assert_allclose(one.values, table.values[-1], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"has no mark 'noun'; it has none"):
        jh.measure_patterns(patterns, batch.mask, metrics)
    with pytest.raises(ValueError, match="metric 'bad': its function must return a number"):
        jh.measure_patterns(patterns, batch.mask, jh.Metric("bad", lambda A, example: (A, True)))


def test_arrays_of_any_framework_and_layers_in_a_list():
    batch, patterns, expected = measured("llama", "entropy")
    tensors = torch.tensor(patterns)
    forms = {
        "jax": jnp.asarray(patterns),
        "torch": tensors,
        "with a gradient": tensors.clone().requires_grad_(),
        "layers": list(patterns),
        "layers of torch": tuple(tensors),
        "sown": [(jnp.asarray(layer),) for layer in patterns],
        "variables": [nnx.Intermediate(jnp.asarray(layer)) for layer in patterns],
        "lists": patterns.tolist(),
    }
    for name, form in forms.items():
        table = jh.measure_patterns(form, torch.tensor(np.asarray(batch.mask)), "entropy")
        np.testing.assert_allclose(table.values, expected.values, rtol=0, atol=1e-6, err_msg=name)
    for half in (tensors.bfloat16(), jnp.asarray(patterns, jnp.bfloat16), patterns.astype(np.float16)):
        table = jh.measure_patterns(half, batch.mask, "entropy")
        # Half precision itself: bfloat16 has 8 bits of a weight.
        np.testing.assert_allclose(table.values, expected.values, rtol=0, atol=0.02)


def test_nan_at_padding_does_not_count():
    batch, patterns, expected = measured("bert")
    mask = np.asarray(batch.mask)
    broken = np.where((mask[:, :, None] & mask[:, None])[None, :, None], patterns, np.nan)
    table = jh.measure_patterns(broken, mask, tokens=batch.tokens)
    np.testing.assert_allclose(table.values, expected.values, rtol=0, atol=1e-6)


def test_cross_attention_and_images():
    translator = jh.init(jh.data.tasks.Translation(shortest=2, longest=3).model_config(d_model=8))
    masks: dict[str, Any] = {"mask": [[1, 1, 1, 1], [1, 1, 1, 0]], "target_mask": [[1, 1, 1], [1, 1, 0]]}
    batch = jh.Batch([[3, 4, 5, 6], [3, 4, 5, 0]], targets=[[1, 5, 6], [1, 4, 0]], **masks)
    patterns = jh.run(translator, batch, capture="cross.pattern").seen["cross.pattern"]
    expected = jh.measure(translator, batch, stack="cross")
    table = jh.measure_patterns(patterns, batch.target_mask, key_mask=batch.mask)
    assert table.metrics == expected.metrics
    np.testing.assert_allclose(table.values, expected.values, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="previous_token: not defined for cross-attention"):
        jh.measure_patterns(patterns, batch.target_mask, "previous_token", key_mask=batch.mask)
    with pytest.raises(ValueError, match=r"layer 0, example 1, .* do not sum to 1"):
        jh.measure_patterns(patterns, key_mask=[[1, 1, 1, 1], [1, 1, 0, 0]])
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = jh.init({"model_type": "vit", "image_size": 4, "patch_size": 2, **sizes})
    images = jh.Batch(pixels=np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
    expected = jh.measure(vit, images)
    pixels = [[np.nan, np.nan], [0, 0], [0, 2], [2, 0], [2, 2]]
    table = jh.measure_patterns(jh.run(vit, images, capture="pattern").seen["pattern"], pixels=pixels)
    assert table.metrics == expected.metrics
    np.testing.assert_allclose(table.values, expected.values, rtol=0, atol=1e-6)


def test_a_stream_in_chunks_is_the_whole():
    batch, patterns, expected = measured("llama")
    mask, tokens = np.asarray(batch.mask), np.asarray(batch.tokens)

    def pieces() -> Iterator[dict[str, Any]]:
        for example in range(2):
            real = mask[example]
            own = patterns[:, example : example + 1][:, :, :, real][..., real]
            yield {"patterns": own, "tokens": tokens[example : example + 1, real], "clusters": [1]}

    for stream in (pieces(), list(pieces())):
        table = jh.measure_patterns(stream)
        same_examples(table, expected)
        assert table.provenance["tokens_sha256"] == expected.provenance["tokens_sha256"]
    small = jh.measure_patterns(patterns, mask, tokens=tokens, memory=1)
    same_examples(small, expected)
    with pytest.raises(ValueError, match=r"expected \(2, 4\) layers and heads in every input, got \(1, 4\)"):
        jh.measure_patterns([{"patterns": patterns}, {"patterns": patterns[:1]}])
    with pytest.raises(ValueError, match="tokens: a stream's inputs bring their own"):
        jh.measure_patterns(pieces(), tokens=tokens)
    with pytest.raises(ValueError, match="must be a mapping of patterns, mask"):
        jh.measure_patterns(iter([patterns]))
    with pytest.raises(ValueError, match="the iterable gave none"):
        jh.measure_patterns(iter([]))


def test_long_patterns_are_read_and_checked_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    patterns = rng.dirichlet(np.ones(11), (2, 3, 2, 11)).astype(np.float32)
    given = {"mask": np.arange(11) < [[11], [8], [11]], "tokens": rng.integers(0, 5, (3, 11)), "sums_to_one": False}
    whole = jh.measure_patterns(patterns, **given)
    jax.clear_caches()
    monkeypatch.setattr("jaxheads.programs._PROGRAMS.kept", OrderedDict())
    monkeypatch.setattr(query_rows, "BLOCK_BYTES", 4 * 2 * 11 * 4)  # four rows
    blocks = jh.measure_patterns(patterns, **given)
    assert blocks.per_example is not None
    np.testing.assert_allclose(blocks.per_example, whole.per_example, rtol=1e-6, atol=1e-6)  # type: ignore
    patterns[1, 2, 1, 9, 3] = np.nan
    with pytest.raises(ValueError, match="layer 1, example 2, head 1, query 9 has NaN or infinity"):
        jh.measure_patterns(patterns, **given)


UNIFORM = np.full((2, 3, 2, 4, 4), 0.25, np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patterns": UNIFORM[0]}, "put the patterns of one layer in a list"),
        ({"patterns": [UNIFORM[0], UNIFORM[0, :, :1]]}, "one shape .* in every layer"),
        ({"patterns": UNIFORM.astype(int)}, "must be floating point numbers, got int64"),
        ({"patterns": 2 * UNIFORM}, "layer 0, example 0, head 0, query 0 has weights .* do not sum to 1 .*: 2"),
        ({"patterns": np.where(UNIFORM > 0, np.nan, 0)}, "has NaN or infinity at a real query and key"),
        ({"patterns": UNIFORM * [2, 2, 2, -2]}, "has a negative weight"),
        ({"causal": True}, "query 0 has attention to a later key"),
        ({"mask": np.ones((3, 5))}, r"mask must be \[examples, queries\] \[3, 4\], got \[3, 5\]"),
        ({"mask": [[1, 1, 1, 0]] * 3}, "do not sum to 1 .*: 0.75"),
        ({"tokens": np.ones((2, 4), int)}, r"tokens must be \[examples, queries\] \[3, 4\], got \[2, 4\]"),
        ({"tokens": np.ones((3, 4))}, "tokens must be integers"),
        ({"key_mask": np.zeros((3, 4))}, "with a real key in each"),
        ({"pixels": np.zeros((3, 2))}, "pixels must be"),
        ({"marks": {"noun": np.ones(4)}}, "the mark 'noun' must be numbers"),
        ({"metrics": "induction"}, "induction: not defined for patterns without tokens="),
        ({"clusters": [1, 2]}, "clusters"),
    ],
)
def test_what_is_no_attention_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.measure_patterns(**{"patterns": UNIFORM, **arguments})


def test_rows_need_not_sum_to_one_if_so_said():
    table = jh.measure_patterns(2 * UNIFORM, metrics=("first_token", "entropy"), sums_to_one=False)
    np.testing.assert_allclose(table.grid("first_token"), 0.5, atol=1e-6)
    assert table.range_of("first_token") == (0.0, np.inf)
    assert table.provenance["of"] == "given numbers"
