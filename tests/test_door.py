"""The door opens at once: what is imported when, and nothing that hides a public name."""

import subprocess
import sys
from pathlib import Path

import jaxheads as jh

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> str:
    """Run Python and return what it writes; nothing may go to stderr."""
    done = subprocess.run([sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_import_alone_imports_nothing_slow():
    slow = ("jax", "flax", "numpy", "pandas", "scipy", "transformers", "matplotlib", "orbax", "sklearn", "onnx")
    loaded = run("-c", "import jaxheads, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not set(loaded) & set(slow)


def test_a_model_that_runs_needs_no_package_that_only_some_questions_use():
    code = "import jaxheads as jh, sys; jh.ablate, jh.measure, jh.Batch, jh.init; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run("-c", code).split()}
    assert {"jax", "flax"} <= loaded
    assert not loaded & {"matplotlib", "sklearn", "networkx", "onnx", "transformers", "orbax", "gguf"}


def test_every_module_imports_alone_and_none_hides_a_public_name():
    assert run("-m", "tests.fresh_imports").endswith(" 0 failed\n")


def test_every_public_name_is_there():
    assert len(jh.__all__) > 90
    for name in jh.__all__:
        assert getattr(jh, name) is not None
    assert set(jh.__all__) <= set(dir(jh))
