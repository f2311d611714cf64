"""Texts are padded to few lengths inside questions: no answer shows it, and texts of other lengths share programs."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.execution import lengths
from jaxheads.execution.lengths import Lengths, lengthened
from jaxheads.sweep.exact import plan

from .good_values import CONFIG
from .models.huggingface import assert_close
from .models.specs import SPECS
from .models.specs.spec import small

E, T, V = 4, 11, 37


@pytest.fixture(scope="module")
def model() -> jh.Model:
    return jh.init({**CONFIG, "n_layer": 3}, seed=1)


def batch(seed: int = 0, length: int = T, side: str = "left") -> jh.Batch:
    rng = np.random.default_rng(seed)
    tokens, mask = rng.integers(0, V, (E, length)), np.arange(length) >= np.array([0, 0, 1, 3])[:, None]
    return jh.Batch(tokens, mask if side == "left" else mask[:, ::-1], marks={"odd": tokens % 2})


def padded_and_not(ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A question's answer with padding inside, and without."""
    padded = ask()
    monkeypatch.setitem(lengths.COMPILATION_FLOPS, "cpu", -1.0)
    return padded, ask()


def loss() -> jh.Objective:
    return jh.loss(np.arange(T)[None] % 3 > np.zeros((E, 1)))


QUESTIONS: dict[str, Callable[[jh.Model], Any]] = {
    "ablate": lambda model: jh.ablate(model, batch(), loss(), by=("layer", "head", "position")),
    "resample": lambda model: jh.ablate(model, batch(), jh.logit_difference(1, 2), "resample", reference=batch(1)),
    "patch": lambda model: jh.patch(
        model, batch(), batch(1), jh.logit_difference(1, 2), "resid_pre", ("layer", "position")
    ),
    "knock_out": lambda model: jh.knock_out(model, batch(), jh.logit(1), np.full(E, T - 1), np.full(E, 5)),
    "attribute": lambda model: jh.attribute(model, batch(), batch(1), jh.loss(), site="v"),
    "measure": lambda model: jh.measure(model, batch()),
    "compare_heads": lambda model: jh.compare_heads(model, batch()),
    "direct_effects": lambda model: jh.direct_effects(
        model, batch(), jh.logit_difference(1, 2), by=("layer", "head", "position")
    ),
    "logit_lens": lambda model: jh.logit_lens(model, batch()),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_padding_inside_changes_no_answer(name: str, model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    padded, plain = padded_and_not(lambda: QUESTIONS[name](model), monkeypatch)
    assert padded.values.shape == plain.values.shape
    assert np.isnan(padded.values).tolist() == np.isnan(plain.values).tolist()
    assert_close(np.nan_to_num(padded.values), np.nan_to_num(plain.values), 1e-5)


def test_relevance_has_no_positions_of_padding_inside(model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    padded, plain = padded_and_not(lambda: jh.relevance(model, batch(), jh.loss()), monkeypatch)
    [ours], [theirs] = padded.streams.values(), plain.streams.values()
    assert ours.shape == (E, T)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "modernbert"])
def test_families_answer_alike(family: str, monkeypatch: pytest.MonkeyPatch):
    both, spec = small(family), SPECS[family]
    ours, texts = both.ours, spec.batch(both.theirs)
    stack = list(ours.stacks)[-1]
    padded, plain = padded_and_not(
        lambda: jh.ablate(ours, texts, jh.logit_difference(1, 2), "zero", stack=stack), monkeypatch
    )
    assert_close(padded.values, plain.values, 1e-5)


EVENT = "/jax/core/compile/backend_compile_duration"
COMPILED: list[float] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **kwargs: COMPILED.append(duration_secs) if event == EVENT else None
)


def programs_of(questions: Iterable[Callable[[], Any]]) -> list[int]:
    """The number of programs that each question compiles, from none."""
    jax.clear_caches()
    programs._PROGRAMS.kept.clear()
    counts = []
    for question in questions:
        COMPILED.clear()
        question()
        counts.append(len(COMPILED))
    return counts


def test_twelve_lengths_compile_at_most_twelve_programs(model: jh.Model):
    answer = jh.logit_difference(1, 2)
    counts = programs_of([partial(jh.ablate, model, batch(length, length), answer) for length in range(9, 21)])
    assert 0 < counts[0] <= 6
    assert sum(counts) <= 12
    assert max(counts[1:8]) == 0, "these lengths are padded to that of the first"


NEXT: dict[str, Callable[[jh.Model, int], Any]] = {
    "patch": lambda model, length: jh.patch(
        model, batch(1, length), batch(2, length), jh.logit(1), "resid_pre", ("layer", "position")
    ),
    "measure": lambda model, length: jh.measure(model, batch(1, length)),
    "importance": lambda model, length: jh.importance(model, batch(1, length), jh.loss()),
    "circuit": lambda model, length: jh.circuit(model, batch(1, length), jh.loss(), [(0, 0)], "zero"),
    "relevance": lambda model, length: jh.relevance(model, batch(1, length), jh.loss()),
}


@pytest.mark.parametrize("name", NEXT)
def test_the_next_length_compiles_at_most_one_program(name: str, model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(plan.COMPILATION_FLOPS, "cpu", 5e10)  # as users have it
    first, *later = programs_of([partial(NEXT[name], model, length) for length in (11, 12, 14)])
    assert 0 < first <= 6
    assert max(later) <= 1


def test_a_large_question_is_not_padded(model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    [padded] = Lengths(model).alike(batch())
    assert padded.tokens.shape == (E, 16)
    assert Lengths(model).alike(batch(), runs=1e9)[0].tokens.shape == (E, T)
    # Four lengths in each doubling take less padding than powers of two.
    one = batch(length=17)
    cost = Lengths(model)._cost(one, 1.0, False)
    monkeypatch.setitem(lengths.COMPILATION_FLOPS, "cpu", cost / 2)
    assert Lengths(model).alike(one)[0].tokens.shape == (E, 20)


def test_a_stream_of_one_length_is_soon_left_as_it_is(model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    own = Lengths(model)
    [longer] = Lengths(model).alike(batch())
    spent = own._cost(longer, 1.0, False) - own._cost(batch(), 1.0, False)
    monkeypatch.setitem(lengths.COMPILATION_FLOPS, "cpu", 2.5 * spent)
    sizes = [own.alike(batch(seed))[0].tokens.shape[1] for seed in range(4)]
    assert sizes == [16, 16, T, T]


def test_networks_and_metrics_of_users_see_their_own_lengths(model: jh.Model):
    shapes = []

    def seen(pattern_TS: jax.Array, example: jh.patterns.Example) -> tuple[jax.Array, bool]:
        shapes.append(pattern_TS.shape)
        return pattern_TS[-1, 0], True

    jh.measure(model, batch(), jh.Metric("seen", seen))
    assert set(shapes) == {(T, T)}


def test_lengthened_batches_keep_texts_marks_and_pairs():
    tokens = np.arange(8).reshape(1, 8)
    texts = jh.Batch(
        tokens,
        segments=np.repeat([[0, 1]], 4, axis=1),
        marks={"noun": tokens > 3, "head": np.ones((1, 8, 8), bool)},
        words=tokens,
    )
    longer = lengthened(texts, tokens=12)
    assert np.asarray(longer.mask).sum() == 8
    assert np.asarray(longer.segments)[0, 8:].tolist() == [1] * 4
    assert np.asarray(longer.words)[0, 8:].tolist() == [-1] * 4
    assert longer.marks is not None
    assert np.asarray(longer.marks["head"]).sum() == 64
    assert longer.marks["head"].shape == (1, 12, 12)
    assert longer.marks["noun"].shape == (1, 12)
