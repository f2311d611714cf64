"""Cycles are read from programs' texts, ideals from what was traced; and no change loses a TPU's share unseen."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import accelerators
from experiments.support.accelerators_cycles import Program, ideal_cycles, ideal_step, layer_cycles
from experiments.support.accelerators_machines import MACHINES, MODELS, environment
from experiments.support.accelerators_worker import WORKS, Asked, question

LIBTPU = "libtpu==0.0.42"
LOOP_SHARES = {
    ("GPT-2 small", "bfloat16"): 0.5,
    ("SmolLM2 135M", "bfloat16"): 0.45,
    ("Llama 1.1B", "bfloat16"): 0.75,
    ("GPT-2 small", "differences"): 0.5,
    ("Llama 1.1B", "differences"): 0.6,
}
"""Least share of the ideal at which a layer of a model's edited copies runs on a v5e."""

TEXT = """HloModule jit_f

%inner (p: f32[2]) -> f32[2] {
  %a = f32[2]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"7"}}
  %g = f32[2]{0} all-gather-start(%a), replica_groups={}
}

%body (p: f32[2]) -> f32[2] {
  %b = f32[2]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"100"}}
  %w = f32[2]{0} while(%b), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

%left (p: f32[2]) -> f32[2] {
  %l = f32[2]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%right (p: f32[2]) -> f32[2] {
  %r = f32[2]{0} fusion(%p), backend_config={"window_config":{"estimated_cycles":"5000"}}
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %w = f32[2]{0} while(%p), condition=%c, body=%body
  %d = f32[2]{0} conditional(%p), branch_computations={%left, %right}
}
"""


def test_cycles_of_loops_and_branches():
    program = Program(TEXT)
    assert program.cycles(program.entry, unknown=10) == 10 * (100 + 3 * 7) + 5000
    assert program.layer_loop() == 100
    assert program.collectives() == {"all-gather": 1}


def test_the_ideal_counts_products_by_loops_branches_and_precision():
    x = jnp.ones((8, 8))
    once = 2 * 8**3 / 100

    def ideal(function, unknown: float = 1.0) -> float:
        return ideal_cycles(jax.make_jaxpr(function)(x).jaxpr, 100, unknown)

    def looped(x):
        return jax.lax.fori_loop(0, x.astype(int)[0, 0], lambda _, y: jnp.matmul(y, x, precision="default"), x)

    def scanned(x):
        return jax.lax.scan(lambda y, _: (jnp.matmul(y, x, precision="high"), None), x, length=5)[0]

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: jnp.matmul(x, x, precision="highest"), lambda: x)

    assert ideal(looped, unknown=7) == pytest.approx(7 * once)
    assert ideal(scanned) == pytest.approx(5 * 3 * once)
    assert ideal(either) == pytest.approx(6 * once)
    assert ideal(lambda x: x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)) == pytest.approx(once)
    assert ideal_step(jax.make_jaxpr(scanned)(x).jaxpr, 100) == pytest.approx(3 * once)


def test_the_ideal_of_a_layer_is_its_parameters():
    gpt2, llama = MODELS["GPT-2 small"], MODELS["SmolLM2 135M"]
    assert layer_cycles(gpt2, 10, 64, 2) == 10 * (12 * 768**2 + 2 * 768 * 64)
    assert layer_cycles(llama, 1, 0, 2) == 576 * (2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536)


def test_peaks_are_the_published_ones():
    assert [round(machine.clock * machine.products / 1e12) for machine in MACHINES.values()] == [197, 459, 918]


def test_options_name_what_there_is():
    with pytest.raises(ValueError, match=r"--works may be ablate z, .*; got dance"):
        accelerators.Options(works=("dance",)).check()
    assert accelerators.cells("GPT-2 small", "ablate z", 64) == 144
    assert accelerators.cells("Llama 1.1B", "patch resid", 64) == 22 * 64
    assert accelerators.million_questions(2.0, cells=10, examples=4) == 50_000


def test_every_work_is_a_question():
    import jaxheads as jh

    model = jh.init(
        {**MODELS["GPT-2 small"], "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 600}, shapes_only=True
    )
    asked = Asked("v5e-8", ("GPT-2 small",), WORKS, 2, 6, 1 << 30, ("full",), True)
    for work in WORKS:
        ask, arguments, options = question(work, model, asked)
        assert jh.rehearse(ask, *arguments, on=jax.devices(), **options)


@pytest.fixture(scope="session")
def libtpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder with libtpu, which is in no environment of ours: JAX would greet users of a CPU with errors."""
    if folder := os.environ.get("JAXHEADS_LIBTPU"):
        return folder
    folder = tmp_path_factory.mktemp("libtpu")
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), LIBTPU]
    subprocess.run(call, check=True)
    return str(folder)


@pytest.mark.tpu
@pytest.mark.parametrize(("model", "arithmetic"), LOOP_SHARES)
def test_the_share_of_a_tpu_is_kept(model: str, arithmetic: str, libtpu: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XLA_FLAGS")  # the suite's compile fast, and worse
    asked = Asked("v5e-8", (model,), ("ablate z",), 512, 64, 1 << 30, (arithmetic,), False)
    root = Path(__file__).parent.parent.parent
    code = [sys.executable, "-m", "experiments.support.accelerators_worker", json.dumps(asdict(asked))]
    settings = {**environment(), "PYTHONPATH": os.pathsep.join([libtpu, str(root)])}
    done = subprocess.run(code, env=settings, cwd=root, check=True, capture_output=True, text=True)
    [row] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert row["loop_share"] > LOOP_SHARES[model, arithmetic]
    assert row["gigabytes"] < 16
