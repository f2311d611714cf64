"""Commands that answer at once import nothing that takes long."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from jaxheads import cli

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
        ("from jaxheads.cli import main; main(['zoo'])", "| smollm2-135m "),
        ("from jaxheads.models.families import FAMILIES; print(*FAMILIES)", " llama "),
    ],
)
def test_nothing_slow_is_imported(statement: str, shown: str):
    command = [sys.executable, "-c", ALONE.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown in done.stdout
    assert done.stderr.splitlines()[-1].split() == ["slow:"]


FLAGS = {
    "model": ["", " "],
    "stack": [""],
    "text": ["no-such-file", "."],
    "sentences": ["no-such-file", ".", __file__],
    "images": ["no-such-folder", __file__],
    "audio": ["no-such-folder", __file__],
    "out": [__file__],
    "examples": ["0", "-1", "1.5", "many"],
    "measured": ["0", "-2", "1.5", "many"],
    "seed": ["-1", "4294967296", "0.5", "none"],
    "distributed": ["without a coordinator"],
}
"""What is not of a flag's kind."""


@pytest.mark.parametrize("flag", [field.name for field in dataclasses.fields(cli.Atlas) if field.name != "page"])
def test_what_is_not_of_a_flags_kind_is_refused_by_name_before_a_model_is_fetched(flag: str, monkeypatch, capsys):
    def load(*arguments: object, **named: object) -> None:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr("jaxheads.models.load.load", load)
    for value in FLAGS[flag]:
        words = {"model": [value], "distributed": ["--distributed"]}.get(flag, [f"--{flag}", value])
        try:
            status = cli.main(["atlas", *words])
        except SystemExit as error:  # what tyro refuses
            status = error.code
        assert status in (1, 2)
        written = capsys.readouterr()
        named = "can't write" if flag == "out" else flag
        assert named in (written.err + written.out).lower(), value
