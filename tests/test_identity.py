"""What a resume directory knows its questions by: code, closures, weights as they are, versions, settings."""

import functools
import importlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxheads as jh
from jaxheads import provenance
from jaxheads.execution.identity import fingerprint

from .models.huggingface import random_batch, small_model

ROOT = Path(__file__).parent.parent

SCALE = 2.0


def scaled(x: float) -> float:
    return SCALE * x


def calls_scaled(x: float) -> float:
    return scaled(x) + 1


def adding(amount: float) -> Callable[[float], float]:
    return lambda x: x + amount


def with_default(x: float, power: int = 2) -> float:
    return x**power


class Plain:
    """An object whose content is its attributes, and what it has computed once."""

    def __init__(self, size: int):
        self.size = size

    @functools.cached_property
    def square(self) -> int:
        return self.size**2


@dataclass(frozen=True)
class Pair:
    first: Any
    second: Any = None


SAME = [
    (adding(1), adding(1)),
    (functools.partial(adding, 1), functools.partial(adding, 1)),
    (optax.adam(1e-3), optax.adam(1e-3)),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"x", "y", "z"}, {"z", "y", "x"}),
    (Plain(3), Plain(3)),
    (np.arange(3), np.arange(6)[:3]),
    (jax.random.key(3), jax.random.key(3)),
    (np.random.default_rng(4), np.random.default_rng(4)),
    (Path("a"), Path("a")),
]

DIFFERENT = [
    (adding(1), adding(2)),
    (lambda x: x + 1, lambda x: x + 2),
    (lambda x: x + 1, lambda x: x - 1),
    (functools.partial(adding, 1), functools.partial(adding, 2)),
    (optax.adam(1e-3), optax.adam(1e-2)),
    (jax.jit(scaled), jax.jit(with_default)),
    (Plain(3), Plain(4)),
    (Plain(3).__init__, Plain(4).__init__),
    (Pair(1), Pair(1, 2)),
    (Pair(1), (1, None)),
    ((1, 2), [1, 2]),
    (1, 1.0),
    (1, True),
    (1, "1"),
    (0.0, -0.0),
    ((1, (2, 3)), ((1, 2), 3)),
    (("ab", "c"), ("a", "bc")),
    (np.ones(1, np.float32), np.ones(1)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.array(["a", "b"], object), np.array(["a", "c"], object)),
    (np.zeros(3000), np.eye(1, 3000, 1500)[0]),  # their repr is the same
    (jax.random.key(3), jax.random.key(4)),
    (jnp.sin, jnp.cos),
    (np.add, np.subtract),
    (len, max),
    (int, float),
    (Path("a"), Path("b")),
]


@pytest.mark.parametrize("pair", SAME, ids=lambda pair: type(pair[0]).__name__)
def test_equal_content_has_one_identity(pair: tuple[Any, Any]):
    assert fingerprint(pair[0]) == fingerprint(pair[1])


@pytest.mark.parametrize("pair", DIFFERENT, ids=lambda pair: type(pair[0]).__name__)
def test_other_content_has_another_identity(pair: tuple[Any, Any]):
    assert fingerprint(pair[0]) != fingerprint(pair[1])


def test_what_was_computed_once_and_kept_is_no_content():
    used, fresh = Plain(3), Plain(3)
    assert used.square == 9
    assert fingerprint(used) == fingerprint(fresh)


def test_globals_and_functions_that_a_function_uses_count(monkeypatch: pytest.MonkeyPatch):
    before = fingerprint(calls_scaled)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert fingerprint(calls_scaled) != before


def test_defaults_count(monkeypatch: pytest.MonkeyPatch):
    before = fingerprint(with_default)
    monkeypatch.setattr(with_default, "__defaults__", (3,))
    assert fingerprint(with_default) != before


def test_an_object_that_holds_itself_has_an_identity():
    def ring(size: int) -> list[Any]:
        items: list[Any] = list(range(size))
        items.append(items)
        return items

    assert fingerprint(ring(2)) == fingerprint(ring(2)) != fingerprint(ring(3))


@pytest.mark.parametrize("held", [threading.Lock(), open(__file__)], ids=["lock", "file"])  # noqa: SIM115
def test_what_has_no_content_is_refused_unless_it_has_an_identity(held: Any):
    def uses_it(x: Any) -> Any:
        return held, x

    with pytest.raises(TypeError, match=r"can't tell the content of a \S+, so.*attribute `identity`"):
        fingerprint(uses_it)
    holder = Plain(1)
    holder.lock = held  # type: ignore[attr-defined]
    holder.identity = "version 1"  # type: ignore[attr-defined]
    before = fingerprint(holder)
    holder.identity = "version 2"  # type: ignore[attr-defined]
    assert fingerprint(holder) != before


def test_traced_values_are_refused():
    with pytest.raises(TypeError, match="being traced"):
        jax.jit(lambda x: fingerprint(x) and x)(1.0)


@pytest.mark.parametrize("setting", ["version", "precision", "x64"])
def test_versions_and_numeric_settings_count(monkeypatch: pytest.MonkeyPatch, setting: str):
    before = fingerprint("a")
    if setting == "version":
        monkeypatch.setattr(provenance, "version", lambda package: "0.0.1")
        after = fingerprint("a")
    elif setting == "precision":
        with jax.default_matmul_precision("bfloat16"):
            after = fingerprint("a")
    else:
        with jax.enable_x64(True):
            after = fingerprint("a")
    assert before != after


def test_identities_are_the_same_in_every_process(tmp_path: Path):
    code = """
        import jaxheads as jh
        from jaxheads.execution.identity import fingerprint
        from tests import test_identity as here

        model, batch = here.small_model("gpt2"), here.random_batch((3, 2))
        values = model, batch, jh.loss(), here.optax.adam(1e-3), list(jh.METRICS.items())
        print(fingerprint(values, here.calls_scaled, here.Plain(2), {"a", "b", "c"}, here.Pair))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    prints = {
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


class Shifted:
    """A user's objective; two of them share a name."""

    name = "mine"

    def __init__(self, shift: float):
        self.shift = shift
        self.value = lambda read, reads: read[:, 0, 0] + read[:, 0, 1] * shift

    def reads(self, model: jh.Model, batch: jh.Batch) -> Any:
        return jh.logit_difference(3, 7).reads(model, batch)


QUESTIONS: dict[str, Callable[..., Any]] = {
    "ablate": lambda model, objective, **options: jh.ablate(model, random_batch((5, 4)), objective, "zero", **options),
    "importance": lambda model, objective, **options: jh.importance(model, random_batch((5, 4)), objective, **options),
    "relevance": lambda model, objective, **options: (
        jh.relevance(model, random_batch((5, 4)), objective, "gradient", stack=model.stack().name, **options).heads
    ),
}


def numbers(answer: Any) -> bytes:
    return np.asarray(answer.values).tobytes()


@pytest.mark.parametrize("name", ["ablate", "importance", "relevance"])
def test_two_objectives_of_one_name_share_no_parts(name: str, tmp_path: Path):
    ask, model = QUESTIONS[name], small_model("gpt2")
    first, second = (numbers(ask(model, Shifted(shift), resume=tmp_path)) for shift in (1.0, -1.0))
    assert first == numbers(ask(model, Shifted(1.0)))
    assert second == numbers(ask(model, Shifted(-1.0))) != first


@pytest.mark.parametrize("change", ["update", "assign"])
def test_weights_changed_in_place_make_another_question(change: str, tmp_path: Path):
    ask = QUESTIONS["ablate"]
    model = jh.Model(nnx.clone(small_model("gpt2").network), name="trained in place")
    before = numbers(ask(model, jh.loss(), resume=tmp_path))
    if change == "update":
        weights = nnx.state(model.network, nnx.Param)
        nnx.update(model.network, jax.tree.map(lambda weight: weight * 1.5, weights))
    else:
        W_O = model.stack().blocks.attention.W_O
        W_O[...] = W_O[...] * 2
    after = numbers(ask(model, jh.loss(), resume=tmp_path))
    assert before != after == numbers(ask(model, jh.loss()))


@pytest.mark.parametrize("where", ["other/site-packages", "other/dist-packages", "target"])
def test_packages_of_other_environments_count_by_their_version(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Packages of a system, of a user or of `--target` are read by an environment, too: their locks are no content."""
    name = f"package_in_{where.partition('/')[2].partition('-')[0] or where}"
    folder = tmp_path / where
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "top_level.txt").write_text(name)
    source = "import threading\nLOCK = threading.Lock()\ndef locked():\n    return LOCK\n"
    (folder / f"{name}.py").write_text(source)
    (tmp_path / f"own_{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(folder)
    installed, own = importlib.import_module(name), importlib.import_module(f"own_{name}")
    assert len(fingerprint(installed.locked)) == 16
    with pytest.raises(TypeError, match="can't tell the content"):
        fingerprint(own.locked)
