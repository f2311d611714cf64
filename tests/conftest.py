"""JAX made strict, and nothing asked of the model hub: what every test runs under."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["JAXHEADS_PROGRESS"] = "0"  # on a slow machine bars would appear that no test expects
# Tests leave nothing in the user's cache; who names a folder of their own for JAX has it used.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")
# For processes that tests start as well: parts of another precision answer another question.
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"

# The suite compiles thousands of small programs and runs most of them once: what the compiler would win, it never earns
# back. Without the new fusion emitters alone a program compiles in less than 2/3 of the time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

import signal

import jax
import pytest

from jaxheads import programs
from jaxheads.sweep.exact import plan

# Where the suite is started in the background, a shell has Ctrl-C ignored, and so would the processes that tests stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests count programs. `_few_mappings` forgets them between two tests.
programs.KEPT = programs.CLEARED_AFTER = 10**9

# Models of tests are so small that no start column of their own would be worth its program: laws are of these, too.
plan.COMPILATION_FLOPS["cpu"] = 0.0

# And so small that all their copies would go up in one pass: the engine's laws are of its groups, and
# `sweep/test_upward.py` has the pass equal to them.
plan.UPWARD = 0

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAPPINGS = 30_000
"""Every compiled program maps some 45 pieces of memory, and Linux allows a process 65,530: one more is a crash."""


@pytest.fixture(autouse=True)
def _few_mappings():
    """Compiled programs are forgotten between tests before their mappings run out: one file alone may use them up."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def each_part_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are kept wait for no others, and their files are not merged."""
    monkeypatch.setattr("jaxheads.execution.parts.SECONDS", 0)
    monkeypatch.setattr("jaxheads.execution.parts.MERGED", 10**9)


@pytest.fixture(scope="session")
def glassllm(tmp_path_factory) -> ModuleType:
    """The package's own NumPy model, imported from its unpacked wheel."""
    directory = tmp_path_factory.mktemp("glassllm")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, "glassllm==0.1.0"]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    spec = importlib.util.spec_from_file_location("glassllm", Path(directory, "glassllm", "__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["glassllm"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
