"""Make the results that take minutes again and compare them with the committed ones: `make check-results`.

    python -m tests.check_results [PAGE | EXPERIMENT …]

Each page names the command that made it; the command runs with a scratch folder as --out, on the models that it names.
Numbers of tables must agree within ABSOLUTE + RELATIVE × their size: other processors and versions of XLA round
otherwise, and a rounding can turn a rank or an interval's end. Words (roles, names of heads) must agree in all but
WORDS of the cells.

Experiments on data that is not committed can't be made again here. They run with `--quick` on sentences of their own,
which shows that they work.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
MADE_BY = re.compile(r"^Made by `(.+?)` with ", re.MULTILINE)

QUICK = ("atlas-minilm-l6", "head-measures/dinov2-small", "whisper-alignment")
"""Pages whose commands take some minutes together on 2 cores."""

ON_DATA = (
    *("agreement_heads", "entity_heads", "fine_tuning", "function_vectors", "gaze", "genres", "head_parsers"),
    *("head_probes", "reading_times", "sentiment_heads", "structure", "syntax_heads"),
)
"""Experiments whose committed pages are of data that users fetch; each takes about a minute with `--quick`."""

RELATIVE, ABSOLUTE, WORDS = 1e-2, 1e-3, 0.02


def command_of(page: Path) -> list[str]:
    """Return the words of the command that a page says it was made by.

    Raises:
        ValueError: for a page that names none.
    """
    named = MADE_BY.search(page.read_text(encoding="utf-8"))
    if named is None:
        raise ValueError(f"{page} names no command that made it")
    return shlex.split(named[1])


def made_again(name: str, out: Path) -> Path:
    """Run the command of the page in `results/NAME` with another --out; return the folder of its files."""
    words = command_of(ROOT / "results" / name / "summary.md")
    if "--out" in words:
        del words[words.index("--out") :][:2]
    program = [sys.executable, "-m", "jaxheads", *words[1:]] if words[0] == "jaxheads" else [sys.executable, *words[1:]]
    subprocess.run([*program, "--out", str(out)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    folders = sorted(path.parent for path in out.rglob("summary.md"))
    return next(folder for folder in folders if folder == out or folder.name == Path(name).name)


def disagreements(committed: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """Return what differs between two tables beyond the tolerances, in words."""
    if list(committed) != list(again) or len(committed) != len(again):
        return [f"other columns or rows: {list(committed)} × {len(committed)}, {list(again)} × {len(again)}"]
    wrong = []
    for column in committed:
        old, new = committed[column], again[column]
        if pd.api.types.is_numeric_dtype(old) and pd.api.types.is_numeric_dtype(new):
            differs = ~np.isclose(new.astype(float), old.astype(float), RELATIVE, ABSOLUTE, equal_nan=True)
            allowed = 0.0
        else:
            differs, allowed = (old.fillna("").astype(str) != new.fillna("").astype(str)).to_numpy(), WORDS
        if differs.mean() > allowed:
            row = int(np.argmax(differs))
            wrong.append(
                f"{column}: {int(differs.sum())} of {len(old)} differ; row {row}: {old.iloc[row]}, now {new.iloc[row]}"
            )
    return wrong


def check(name: str, out: Path) -> list[str]:
    """Make a page's results again, and return what differs in its tables, in words."""
    folder, wrong = made_again(name, out), []
    for path in sorted((ROOT / "results" / name).glob("*.csv")):
        if not (folder / path.name).exists():
            wrong.append(f"{path.name} is not made any more")
            continue
        tables = (pd.read_csv(own) for own in (path, folder / path.name))
        wrong += [f"{path.name}: {words}" for words in disagreements(*tables)]
    return wrong


def check_quick(name: str, out: Path) -> list[str]:
    """Run an experiment with `--quick` and without data; return what is wrong, in words."""
    command = [sys.executable, "-m", f"experiments.{name}", "--quick", "--out", str(out)]
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        return [f"exit {ended.returncode}: {' '.join(ended.stderr.split()[-60:])}"]
    return [] if list(out.rglob("summary.md")) else ["it wrote no page"]


def main(names: list[str]) -> int:
    """Check pages and experiments; print what differs and return 1 if anything does, else 0."""
    failed = 0
    for name in names or (*QUICK, *ON_DATA):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            wrong = (check_quick if name in ON_DATA else check)(name, Path(scratch))
        good, place = ("runs", "experiments") if name in ON_DATA else ("as committed", "results")
        print(f"{place}/{name}: {good if not wrong else 'DIFFERS'} ({time.perf_counter() - start:.0f} s)")
        print(*(f"  {words}\n" for words in wrong), sep="", end="", flush=True)
        failed += bool(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
