"""Commands that answer at once import nothing that takes long."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxheads"
SLOW = ("jax", "flax", "numpy", "pandas", "transformers", "huggingface_hub", "matplotlib")

# The package's own __init__ is left out: what it imports is not the command's choice.
ALONE = f"""
import sys, types
package = types.ModuleType("jaxheads")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["jaxheads"] = package
try:
    {{statement}}
finally:
    print("slow:", *(name for name in {SLOW} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("from jaxheads.cli import main; main(['--help'])", "usage: jaxheads"),
        ("from jaxheads.cli import main; main(['atlas', '--help'])", "./atlas-MODEL/"),
        ("from jaxheads.cli import main; main(['zoo'])", "| smollm2-135m |"),
        ("from jaxheads.models.families import FAMILIES; print(*FAMILIES)", "llama mistral"),
    ],
)
def test_nothing_slow_is_imported(statement: str, shown: str):
    command = [sys.executable, "-c", ALONE.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown in done.stdout
    assert done.stderr.splitlines()[-1].split() == ["slow:"]
