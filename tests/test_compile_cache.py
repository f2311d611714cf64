"""Compiled programs on disk: what was changed there is never run, and nobody else can write there."""

import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest

from jaxheads import compile_cache
from jaxheads.compile_cache import Programs, keep_compilations


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "xla", compile_cache._private(tmp_path / "xla"))


def test_a_program_comes_back_and_each_changed_byte_is_a_miss(programs: Programs, tmp_path: Path):
    assert programs.get("key") is None
    programs.put("key", b"a program")
    assert programs.get("key") == b"a program"
    [path] = (tmp_path / "xla").iterdir()
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            assert programs.get("key") is None
            assert not path.exists()
    programs.put("key", b"a program")
    path.rename(path.with_name(compile_cache._name("other")))
    assert programs.get("other") is None


def test_the_folder_and_its_files_are_the_user_s_alone(programs: Programs, tmp_path: Path):
    programs.put("key", b"a program")
    [path] = (tmp_path / "xla").iterdir()
    assert stat.S_IMODE((tmp_path / "xla").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_folder_at_its_path_is_not_read(programs: Programs, tmp_path: Path):
    programs.put("key", b"mine")
    (tmp_path / "xla").rename(tmp_path / "moved")
    other = Programs(tmp_path / "xla", compile_cache._private(tmp_path / "xla"))
    other.put("key", b"theirs")
    assert programs.get("key") == b"mine"


def test_links_are_not_followed(programs: Programs, tmp_path: Path):
    programs.put("key", b"a program")
    [path] = (tmp_path / "xla").iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert programs.get("key") is None
    programs.put("key", b"another")
    assert programs.get("key") == b"another"
    assert (tmp_path / "elsewhere").read_bytes().endswith(b"a program")


def test_what_was_used_longest_ago_makes_room(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_cache, "LIMIT", 3 * 132)
    for number in range(3):
        programs.put(str(number), bytes(100))
        os.utime(tmp_path / "xla" / compile_cache._name(str(number)), (number, number))
    assert programs.get("0") is not None  # used, so the second is the oldest
    programs.put("3", bytes(100))
    assert [programs.get(str(number)) is not None for number in range(4)] == [True, False, True, True]
    programs.put("large", bytes(1000))
    assert programs.get("large") is None
    assert len(list((tmp_path / "xla").iterdir())) == 3


def test_a_full_disk_is_no_error(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache.os, "replace", full)
    programs.put("key", b"a program")
    assert programs.get("key") is None
    assert not list((tmp_path / "xla").iterdir())


def test_a_folder_that_others_can_write_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    # A command may have set one, and the suite sets none.
    for name, value in (("jax_compilation_cache_dir", None), ("jax_enable_compilation_cache", True)):
        request.addfinalizer(partial(jax.config.update, name, jax.config.values[name]))
        jax.config.update(name, value)

    def refused(reason: str) -> None:
        with pytest.raises(OSError, match=reason):
            keep_compilations(tmp_path / "xla")
        assert jax.config.values["jax_compilation_cache_dir"] is None

    (tmp_path / "xla").write_bytes(b"")
    refused("File exists")
    (tmp_path / "xla").unlink()
    for mode in (0o777, 0o720, 0o1703):
        (tmp_path / "xla").mkdir()
        (tmp_path / "xla").chmod(mode)
        refused("expected 0700: another user could write programs there")
        (tmp_path / "xla").rmdir()
    (tmp_path / "xla").mkdir()
    monkeypatch.setattr(compile_cache.os, "geteuid", lambda: os.getuid() + 1)
    refused("belongs to another user")


ROUNDS = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jaxheads.compile_cache import Programs, keep_compilations
folder = Path(sys.argv[1])
keep_compilations(folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits, get = [], Programs.get
def counted(self, key):
    hits.append(get(self, key) is not None)
    return get(self, key)
Programs.get = counted
x = jnp.arange(8.0)
f = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))
values = []
for damage in (False, False, True, False):
    for path in folder.iterdir() if damage else ():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    jax.clear_caches()
    hits.clear()
    values.append(float(f(x)))
    print(any(hits))
assert len(set(values)) == 1
"""


def test_jax_reads_whole_programs_and_compiles_where_one_was_changed(tmp_path: Path):
    command = [sys.executable, "-c", ROUNDS, str(tmp_path / "xla")]
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False", "True"]
    assert done.stderr == ""


DEFAULT = """
import os, sys
import jax, jax.numpy as jnp
import jaxheads as jh
assert jax.config.values["jax_compilation_cache_dir"] is None, "importing sets nothing"
jax.jit(lambda x: x + 1)(jnp.ones(3))
assert jax.config.values["jax_compilation_cache_dir"] is None, "nor does a program that is not ours"
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
model = jh.init({"model_type": "gpt2", "vocab_size": 37, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2})
table = jh.ablate(model, jh.Batch([[1, 2, 3], [4, 5, 6]]), jh.loss())
print(len(hits), jax.config.values["jax_compilation_cache_dir"], float(table.values.sum()))
other = os.environ.get("OTHER")
if other:
    jax.config.update("jax_compilation_cache_dir", other)
    for shift in (1.0, 2.0):
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x) + shift)(jnp.ones((9, 9)))
    print(len(os.listdir(other)))
"""


def by_default(folder: Path, **environment: str) -> list[str]:
    """Hits, folder and result of a first question in a process of its own, which must print nothing beside them."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    own = {"JAXHEADS_CACHE": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", DEFAULT]
    done = subprocess.run(command, env=inherited | own | environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_programs_are_kept_by_default_once_jaxheads_compiles(tmp_path: Path):
    first, second = by_default(tmp_path), by_default(tmp_path)
    assert first[:2] == ["0", str(tmp_path / "xla")]
    assert int(second[0]) >= 3, "the second process compiles nothing of ours again"
    assert second[1:] == first[1:]


def test_the_user_s_settings_of_jax_go_before_ours(tmp_path: Path):
    assert by_default(tmp_path / "a", JAX_ENABLE_COMPILATION_CACHE="0")[:2] == ["0", "None"]
    assert not (tmp_path / "a").exists()
    (tmp_path / "own").mkdir()
    chosen = by_default(tmp_path / "b", OTHER=str(tmp_path / "own"))
    assert int(chosen[-1]) > 0, "a folder that is chosen later is used from then on"


def test_a_home_that_cannot_be_written_ends_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    hits, folder, _ = by_default(tmp_path / "file" / "below")
    assert (hits, folder) == ("0", "None")
