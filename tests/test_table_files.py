"""Files of tables that were killed, mixed or damaged: one whole table is read, or one clear error."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxheads.tables import HeadTable

from .test_tables import assert_same, table

KILLED_SAVES = """
import os, signal, sys
from pathlib import Path
from tests.test_tables import table
from dataclasses import replace
tables = {name: replace(table(), name="t", provenance={"which": name}) for name in ("old", "new")}
for name, made in tables.items():
    made.save(Path(sys.argv[1]) / name)
rename = os.replace
for count in range(5):
    folder = Path(sys.argv[1]) / f"killed-{count}"
    tables["old"].save(folder)
    if not (child := os.fork()):
        done = []
        def kill(old, new):
            if len(done) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(rename(old, new))
        os.replace = kill
        tables["new"].save(folder)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_a_save_killed_between_its_files_is_noticed(tmp_path: Path):
    """After each number of renames: one of the two tables whole, or one clear error."""
    subprocess.run([sys.executable, "-c", KILLED_SAVES, str(tmp_path)], check=True)
    whole = {name: HeadTable.load(tmp_path / name / "t") for name in ("old", "new")}
    outcomes = []
    for folder in sorted(tmp_path.glob("killed-*")):
        try:
            loaded = HeadTable.load(folder / "t")
        except ValueError as error:
            outcomes.append(str(error).split(": ")[-1])
        else:
            [name] = [name for name, table in whole.items() if table.provenance == loaded.provenance]
            assert_same(loaded, whole[name])
            outcomes.append(name)
    assert outcomes[0] == "old"
    assert len(outcomes) == 5
    assert all("a save was stopped" in text and "Save the table again" in text for text in outcomes[1:])
    replaced = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    for name in ("t.parquet", "t.per_example.parquet", "t.provenance.json"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(tmp_path / "old", mixed)
        (mixed / name).write_bytes(replaced[name])
        with pytest.raises(ValueError, match="are of two tables"):
            HeadTable.load(mixed / "t")


def test_damage_is_noticed(tmp_path: Path):
    original = table(2)
    original.save(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("test.parquet", "test.per_example.parquet", "test.provenance.json"):
        whole = (tmp_path / name).read_bytes()
        for at, bit in zip(rng.integers(0, len(whole), 60), rng.integers(0, 8, 60), strict=True):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (tmp_path / name).write_bytes(damaged)
            with suppress(ValueError):  # or a bit that says nothing
                assert_same(HeadTable.load(tmp_path / "test"), original)
        (tmp_path / name).write_bytes(whole)


def test_tables_of_earlier_versions_and_reformatted_json_are_read(tmp_path: Path):
    original = table(2)
    original.save(tmp_path)
    path = tmp_path / "test.provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True) + "\r\n")
    assert_same(HeadTable.load(tmp_path / "test"), original)
    for name in ("test.parquet", "test.per_example.parquet"):
        stored = pq.read_table(tmp_path / name)
        metadata = {key: value for key, value in stored.schema.metadata.items() if key != b"jaxheads.table"}
        pq.write_table(stored.replace_schema_metadata(metadata), tmp_path / name)
    assert_same(HeadTable.load(tmp_path / "test"), original)
