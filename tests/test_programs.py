"""Programs of a process that meets many shapes: few are kept, and the rest is given back."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.programs import compiled, mappings

from .models.huggingface import small_model


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> programs._Programs:
    """A record of its own that keeps 3 programs."""
    few = programs._Programs()
    monkeypatch.setattr(programs, "_PROGRAMS", few)
    monkeypatch.setattr(programs, "KEPT", 3)
    return few


def test_the_programs_used_last_are_kept(few: programs._Programs):
    traced = []

    @compiled
    def double(x: jax.Array) -> jax.Array:
        traced.append(x.shape[0])
        return 2 * x

    for size in (1, 2, 3, 1, 4, 1, 2):
        np.testing.assert_array_equal(double(jnp.ones(size)), 2 * np.ones(size))
    assert traced == [1, 2, 3, 4, 2]  # 2 was the oldest when 4 came; 1 was used again
    assert double.cache_size() == 3


def test_static_arguments_and_types_have_programs_of_their_own(few: programs._Programs):
    traced = []

    def power(x: jax.Array, exponent: int) -> jax.Array:
        traced.append((str(x.dtype), exponent))
        return x**exponent

    raised = compiled(power, static_argnames="exponent")
    for _ in range(2):
        for x in (jnp.ones(2), jnp.ones(2, jnp.int32)):
            for exponent in (2, 3):
                assert raised(x, exponent=exponent).dtype == x.dtype
    assert len(traced) == len(set(traced)) == 4


def test_each_static_function_has_a_program_that_can_be_forgotten(few: programs._Programs):
    applied = compiled(lambda function, x: function(x), static_argnums=0)
    for amount in range(8):
        assert float(applied(lambda x, amount=amount: x + amount, jnp.float32(1))) == 1 + amount
    assert applied.cache_size() == 3
    for number in range(4):
        applied(jnp.sin, number / 2)
    assert len(few.kept) == 3  # numbers of one type share a program


def test_inside_another_program_nothing_is_kept(few: programs._Programs):
    double = compiled(lambda x: 2 * x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(double))(jnp.ones((2, 3))), 2 * np.ones((2, 3)))
    assert float(jax.grad(lambda x: double(x).sum())(jnp.float32(1))) == 2
    assert not few.kept


def test_forgotten_programs_give_their_mappings_back(few: programs._Programs):
    if not mappings():
        pytest.skip("this system does not tell its mappings")
    scaled = compiled(lambda x: jnp.tanh(x) @ jnp.cos(x).T)
    counts = []
    for size in range(2, 26):
        scaled(jnp.ones((size, size)))
        counts.append(mappings())
    one_program = counts[1] - counts[0]
    assert counts[-1] - counts[5] < 8 * max(one_program, 20)  # 18 more programs were compiled


def test_everything_is_cleared_before_mappings_run_out(
    few: programs._Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(programs, "MAPPINGS_AFTER", 2)
    monkeypatch.setattr(programs, "mappings", lambda: 60_000)
    cleared = []
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: cleared.append(1))
    double = compiled(lambda x: 2 * x)
    for size in range(1, 6):
        double(jnp.ones(size))
    assert len(cleared) == 2  # after a clearing the count starts again
    assert "compiled programs are cleared after 60,000 memory mappings" in caplog.text


def test_everything_is_cleared_after_many_shapes(few: programs._Programs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "CLEARED_AFTER", 3)
    cleared = []
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: cleared.append(1))
    double = compiled(lambda x: 2 * x)
    for size in range(1, 9):
        np.testing.assert_array_equal(double(jnp.ones(size)), 2 * np.ones(size))
    assert len(cleared) == 2


def test_within_a_trace_nothing_is_cleared(few: programs._Programs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "CLEARED_AFTER", 0)
    cleared = []
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: cleared.append(1))
    double, held = compiled(lambda x: 2 * x), np.ones(3)
    jax.jit(lambda y: y + double(held))(jnp.ones(3))
    assert not cleared


def test_threads_share_programs(few: programs._Programs):
    model, outputs = small_model("gpt2"), {}

    def ask(size: int) -> None:
        outputs[size] = np.asarray(jh.run(model, jh.Batch([list(range(1, size + 1))])).output)

    threads = [threading.Thread(target=ask, args=(2 + number % 5,)) for number in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for size, output in outputs.items():
        np.testing.assert_array_equal(output, jh.run(model, jh.Batch([list(range(1, size + 1))])).output)
