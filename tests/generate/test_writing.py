"""Text is what `transformers` writes, token for token, and what whole forward passes say under every edit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jaxheads as jh
from jaxheads.generate import writer

from ..models.huggingface import assert_close, random_batch, small_model
from ..models.specs import SPECS
from ..models.specs.spec import _inputs, small

WRITE = [
    *("bloom", "codegen", "cohere", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_bigcode"),
    *("gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "llama", "llava", "llava_next", "mistral", "mixtral", "mpt"),
    *("olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
    *("stablelm", "starcoder2", "bart", "m2m_100", "marian", "mt5", "t5", "whisper"),
]
STEPS = 5


def writes(model: jh.Model) -> bool:
    return model.causal and model.network.unembedding is not None and model.network.classes_of is None


def test_every_family_that_writes_is_tested():
    assert sorted(WRITE) == [name for name in sorted(SPECS) if writes(small(name).ours)]


@pytest.mark.parametrize("name", WRITE)
def test_the_likeliest_tokens_are_those_of_transformers(name: str):
    both = small(name)
    batch = SPECS[name].batch(both.theirs, "left" if len(name) % 2 else "right")
    ours = jh.generate(both.ours, batch, STEPS, stop=(), logits=True)
    assert ours.logits is not None
    for example in range(len(batch)):
        inputs = _inputs(both.theirs, batch, example)
        ids = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
        tokens: list[int] = []
        for step in range(STEPS):  # without a cache of theirs, which some families get wrong
            with torch.no_grad():
                logits = both.theirs(**inputs).logits[0, -1]
            assert_close(ours.logits[example, step], logits)
            tokens.append(int(logits.argmax()))
            inputs = {**inputs, ids: torch.cat([inputs[ids], torch.tensor([tokens[-1:]])], 1)}
            if "token_type_ids" in inputs:
                inputs["token_type_ids"] = torch.zeros_like(inputs[ids])
        assert ours.tokens[example].tolist() == tokens


def seq2seq(lengths: tuple[int, ...] = (7, 4, 1)) -> jh.Batch:
    source, targets = random_batch(lengths, "left"), random_batch((3, 1, 2), seed=1)
    return jh.Batch(source.tokens, source.mask, targets=targets.tokens, target_mask=targets.mask)


def edits_of(model: jh.Model) -> list[jh.SiteEdit]:
    """An edit at each kind of site: of one row, of keys of all positions, of the stream, of a pattern."""
    stack = list(model.stacks)[-1] if "cross" not in model.stacks else "decoder"
    name = f"{stack}." if len(model.stacks) > 1 else ""
    own = model.stacks[stack]
    rng = np.random.default_rng(0)
    size, width = own.head_size, own.width
    edits = [
        jh.zero_heads(model, [(0, 1), (1, 0)], stack=stack, amount=0.7),
        jh.steer(model, f"{name}k", rng.standard_normal((1, 1, 1, size)), layers=1, heads=0),
        jh.mix(model, f"{name}v", rng.standard_normal((1, 1, 1, size)), layers=0, amount=0.5),
        jh.steer(model, f"{name}resid_post", rng.standard_normal((1, 1, width)), layers=0),
        jh.mix(model, f"{name}pattern", np.zeros((1, 1, 1, 1)), layers=1, heads=1, amount=0.5),
        jh.mix(model, f"{name}scores", np.full((1, 1, 1, 1), 0.3), layers=0, heads=0),
    ]
    edits.append(jh.window(model, [(0, 0), (1, 1)], recent=3, sink=1, stack=stack))
    if "cross" in model.stacks:
        edits.append(jh.zero_heads(model, [(0, 0)], stack="cross"))
        edits.append(jh.steer(model, "cross.k", rng.standard_normal((1, 1, 1, size)), layers=1))
        edits.append(jh.zero_heads(model, [(1, 1)], stack="encoder"))
    return edits


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_cached_steps_are_whole_runs_with_edits_at_every_step(name: str):
    """Cached = uncached to 1e-5: the text, once written, read in one pass under the same edits."""
    model = small(name).ours if name == "bart" else small_model(name)
    batch = seq2seq() if name == "bart" else random_batch((7, 4, 1))
    stack = "decoder" if name == "bart" else next(iter(model.stacks))
    sites = [f"{stack}.pattern", f"{stack}.z", f"{stack}.resid_post"]
    for edits in ((), edits_of(model)):
        ours = jh.generate(model, batch, 18, edits=edits, stop=(), logits=True, capture=sites)  # two segments
        assert ours.batch is not None
        assert ours.logits is not None
        whole = jh.run(model, ours.batch, sites, edits)
        P = whole.output.shape[1] - 18
        rows = slice(P - 1, -1)
        assert_close(ours.logits, np.asarray(whole.output)[:, rows])
        assert (ours.tokens == ours.logits.argmax(-1)).all()
        for site in sites:
            taken = np.asarray(whole.seen[site])
            taken = taken[:, :, :, rows] if "pattern" in site else taken[:, :, rows]
            seen = ours.seen[site][..., : taken.shape[-1]] if "pattern" in site else ours.seen[site]
            assert_close(seen, taken)


def test_the_slow_loop_writes_the_same_text_under_edits():
    """One whole run a token, no cache, no padding, one example at a time."""
    model, batch = small_model("llama"), random_batch((6, 3), "left")
    edits = edits_of(model)
    fast = jh.generate(model, batch, 4, edits=edits, stop=())
    for example in range(2):
        tokens = np.asarray(batch.tokens)[example][np.asarray(batch.mask)[example]].tolist()
        for _ in range(4):
            tokens.append(int(np.asarray(jh.run(model, jh.Batch([tokens]), edits=edits).output)[0, -1].argmax()))
        assert fast.tokens[example].tolist() == tokens[-4:]


def test_copies_write_what_each_writes_alone():
    model, batch = small_model("gpt2"), random_batch((5, 3, 2))
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    each = [jh.zero_heads(model, [head]) for head in heads]
    together = jh.generate(model, batch, 4, copies=each, stop=(), logits=True, capture="z")
    assert together.tokens.shape == (8, 3, 4)
    assert together.seen["z"].shape == (2, 8, 3, 4, 4, 6)
    # Little memory: some copies of some examples at a time.
    parted = jh.generate(model, batch, 4, copies=each, stop=(), memory=1)
    np.testing.assert_array_equal(parted.tokens, together.tokens)
    for number, edit in enumerate(each[:2]):
        alone = jh.generate(model, batch, 4, edits=edit, stop=(), logits=True, capture="z")
        np.testing.assert_array_equal(together.tokens[number], alone.tokens)
        assert together.logits is not None
        assert_close(together.logits[number], alone.logits)
        assert_close(together.seen["z"][:, number], alone.seen["z"])


def test_an_edit_of_one_example_changes_that_one():
    model, batch = small_model("gpt2"), random_batch((5, 3, 2))
    edit = jh.steer(model, "resid_post", np.full((1, 1, 24), 9.0) * np.arange(24), layers=0, examples=1, batch=batch)
    plain, edited = (jh.generate(model, batch, 3, edits=own, stop=(), logits=True) for own in ((), edit))
    assert plain.logits is not None
    assert edited.logits is not None
    differs = np.abs(plain.logits - edited.logits).max(axis=(1, 2)) > 1e-3
    assert differs.tolist() == [False, True, False]
    one_by_one = jh.generate(model, batch, 3, edits=edit, stop=(), memory=1)
    np.testing.assert_array_equal(one_by_one.tokens, edited.tokens)


def test_a_stream_is_its_batches_and_drawn_tokens_go_by_the_example_number():
    model = small_model("llama")
    whole, sample = random_batch((6, 4, 5, 2), "left"), jh.Sampling(temperature=1.5, top_k=20, top_p=0.9)
    drawn = jh.generate(model, whole, 6, sample=sample, stop=(), seed=3)
    stream = (whole.take(np.array(own)) for own in ([0, 1], [2, 3]))
    np.testing.assert_array_equal(jh.generate(model, stream, 6, sample=sample, stop=(), seed=3).tokens, drawn.tokens)
    other = jh.generate(model, whole, 6, sample=sample, stop=(), seed=4)
    assert (other.tokens != drawn.tokens).any()


def test_drawn_tokens_have_the_distribution_that_was_asked_for():
    """Shares of 4,000 draws from four logits: of all, of the two likeliest, of the nucleus."""
    import jax

    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = np.tile(np.log(probabilities).astype(np.float32), (4000, 1))

    def shares(sampling: jh.Sampling) -> np.ndarray:
        return np.bincount(np.asarray(sampling.drawn(jax.numpy.asarray(logits), keys)), minlength=4) / 4000

    assert np.abs(shares(jh.Sampling()) - probabilities).max() < 0.03
    assert np.abs(shares(jh.Sampling(top_k=2)) - [0.625, 0.375, 0, 0]).max() < 0.03
    assert np.abs(shares(jh.Sampling(top_p=0.6)) - [0.625, 0.375, 0, 0]).max() < 0.03
    assert shares(jh.Sampling(temperature=1e-3)).tolist() == [1, 0, 0, 0]


def test_a_text_ends_at_its_end_token_and_only_where_the_config_names_one():
    plain, batch = small_model("llama"), random_batch((5, 3, 2))
    free = jh.generate(plain, batch, 20, stop=(), logits=True)
    end = int(free.tokens[0, 3])
    model = dataclasses.replace(plain, hf_config={**(plain.hf_config or {}), "eos_token_id": [end], "pad_token_id": 7})
    ended = jh.generate(model, batch, 20, logits=True)
    for example in range(3):
        places = np.flatnonzero(free.tokens[example] == end)
        length = places[0] + 1 if len(places) else 20
        assert ended.lengths[example] == length
        assert (ended.tokens[example, :length] == free.tokens[example, :length]).all()
        assert (ended.tokens[example, length:] == 7).all()
        assert ended.logits is not None
        assert np.isnan(ended.logits[example, length:]).all()
        assert not np.isnan(ended.logits[example, :length]).any()
    nothing = dataclasses.replace(plain, hf_config={"eos_token_id": None})
    np.testing.assert_array_equal(jh.generate(nothing, batch, 20).tokens, free.tokens)
    beyond = dataclasses.replace(plain, hf_config={"eos_token_id": plain.config.vocab_size})
    np.testing.assert_array_equal(jh.generate(beyond, batch, 20).tokens, free.tokens)
    np.testing.assert_array_equal(jh.generate(plain, batch, 20, stop=end).lengths, ended.lengths)


def test_finished_chunks_are_read_back_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, batch = small_model("gpt2"), random_batch((5, 3, 2))
    ask: dict[str, Any] = {"stop": (), "logits": True, "sample": jh.Sampling(), "resume": tmp_path, "memory": 1}
    first = jh.generate(model, batch, 3, **ask)
    monkeypatch.setattr(writer, "begin", None)  # nothing is computed again
    again = jh.generate(model, batch, 3, **ask)
    assert again.tokens.tobytes() == first.tokens.tobytes()
    assert again.logits is not None
    assert first.logits is not None
    assert again.logits.tobytes() == first.logits.tobytes()


def test_bytes_of_the_cache_by_arithmetic():
    model = small_model("llama")  # 2 layers, 2 key/value heads of 6, float32
    written = jh.generate(model, random_batch((8, 5)), 4, stop=())
    assert written.cache_bytes == 2 * 2 * 2 * 6 * 4 * (8 + 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": lambda: small_model("bert")}, "does not write"),
        ({"steps": 60}, "expected at most 59"),
        ({"capture": "k"}, "not there at every step"),
        ({"stop": 99}, "token ids in 0..36"),
        ({"stop": "."}, "no tokenizer"),
        ({"copies": []}, "at least one copy"),
        ({"batch": lambda: iter(())}, "at least one batch"),
    ],
)
def test_what_can_not_be_asked(change: dict[str, Any], message: str):
    asked: dict[str, Any] = {"model": small_model("gpt2"), "batch": random_batch((5, 3)), "steps": 2}
    change = {name: value() if callable(value) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        jh.generate(**{**asked, **change})


def test_an_edit_at_some_positions_or_copies_of_other_shapes_are_refused():
    model, batch = small_model("gpt2"), random_batch((5, 3))
    edit = jh.mix(model, "z", np.zeros((1, 1, 1, 1)), layers=0, positions=[1], batch=batch)
    with pytest.raises(ValueError, match="has an axis of positions"):
        jh.generate(model, batch, 2, edits=edit)
    with pytest.raises(ValueError, match="read later tokens"):
        jh.generate(model, batch, 2, edits=jh.mix(model, "pattern", np.ones((1, 1, 1, 1)), layers=0))
    with pytest.raises(ValueError, match="same sites and shapes"):
        jh.generate(model, batch, 2, copies=[jh.zero_heads(model, [(0, 0)]), jh.zero_heads(model, [(0, 0), (1, 0)])])
