import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jax
import pytest

from jaxheads import provenance, source_state


def git(directory, *arguments):
    settings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    settings |= {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    settings |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments], env=settings, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_environment_says_versions_device_flags_and_time():
    state = provenance.environment()
    assert state == json.loads(json.dumps(state))
    assert tuple(state) == provenance.OF_THE_RUN
    assert state["versions"]["jax"] == jax.__version__
    assert state["versions"]["numpy"] == importlib.metadata.version("numpy")
    device = jax.devices()[0]
    assert state["device"] == {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
    }
    with jax.default_matmul_precision("bfloat16"), jax.enable_x64(True):
        changed = provenance.environment()
    assert (changed["arithmetic"], changed["matmul_precision"], changed["x64"]) == ("bfloat16", "bfloat16", True)
    assert state["x64"] is False
    age = datetime.now(UTC) - datetime.fromisoformat(state["time_utc"])
    assert timedelta(0) <= age < timedelta(minutes=2)


def test_environment_does_not_import_what_it_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import would raise
    monkeypatch.setitem(sys.modules, "flax", None)
    versions = provenance.environment()["versions"]
    assert versions["transformers"] == importlib.metadata.version("transformers")
    assert versions["flax"] == importlib.metadata.version("flax")


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-of-this-name",))
    assert provenance.environment()["versions"] == {"no-such-package-of-this-name": None}


def test_environment_tells_no_place_on_the_disk(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/jaxheads", "atlas", "/home/me/m.gguf", "--out=/tmp/r s"])
    state = provenance.environment()
    assert state["command"] == ["jaxheads", "atlas", "m.gguf", "--out=r s"]
    assert str(Path(provenance.__file__).parents[1]) not in json.dumps(state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/results", "results"),
        ("/home/me/results/", "results"),
        ("/home/john smith/a", "a"),
        ("--out=/home/me/my results", "--out=my results"),
        ("/home/john smith/a,/b/c", "a,c"),
        (r"C:\Users\me\x", "x"),
        ("see /home/me/a and '/b/c'", "see a and 'c'"),
        ("file:///home/me/a", "a"),
        ("relative/path", "relative/path"),
        ("../results", "../results"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("one / two", "one / two"),
        ("gpt2", "gpt2"),
    ],
)
def test_absolute_paths_keep_their_last_component(text, expected):
    assert provenance.without_directories(text) == expected


def test_git_state_of_a_clean_tree(repository):
    expected = {"revision": git(repository, "rev-parse", "HEAD"), "dirty": False}
    assert source_state.git_state(repository / "package") == expected
    (repository / "result.csv").write_text("1")
    assert source_state.git_state(repository / "package") == expected


@pytest.mark.parametrize("changed", ["package/code.py", "package/new.py", "elsewhere/new.py", "pyproject.toml"])
def test_git_state_is_dirty_when_code_differs(repository, changed):
    (repository / changed).parent.mkdir(exist_ok=True)
    (repository / changed).write_text("y = 2\n")
    state = source_state.git_state(repository / "package")
    assert state is not None
    assert state["dirty"] is True


def test_git_is_asked_again_only_after_a_change(repository, monkeypatch):
    package, asked = repository / "package", []
    own = source_state._git
    monkeypatch.setattr(source_state, "_git", lambda *arguments: asked.append(arguments) or own(*arguments))
    state = source_state.git_state(package)
    assert asked
    asked.clear()
    assert source_state.git_state(package) == state
    assert not asked, "nothing has changed, and processes were started"


@pytest.mark.parametrize("changed", ["package/code.py", "package/new.py", "elsewhere/new.py", "notes/new.py"])
def test_git_state_follows_the_code_within_a_process(repository, changed):
    (repository / "notes").mkdir()
    (repository / "notes" / "text.md").write_text("no code")
    clean = source_state.git_state(repository / "package")
    assert clean is not None
    assert not clean["dirty"]
    (repository / changed).parent.mkdir(exist_ok=True)
    (repository / changed).write_text("y = 2\n")
    assert source_state.git_state(repository / "package") == clean | {"dirty": True}
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    later = source_state.git_state(repository / "package")
    assert later == {"revision": git(repository, "rev-parse", "HEAD"), "dirty": False}
    git(repository, "checkout", "-q", "--detach", clean["revision"])
    assert source_state.git_state(repository / "package") == clean


def test_a_wheel_reads_its_commit_from_a_file(repository):
    assert source_state.source_state(repository / "package") == source_state.git_state(repository / "package")
    state = {"revision": "0" * 40, "dirty": False}
    (repository / "package" / source_state.BUILT_FROM).write_text(json.dumps(state))
    assert source_state.source_state(repository / "package") == state


def test_git_state_is_not_misled_by_a_hook_s_environment(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(repository / "nowhere"))
    assert source_state.git_state(repository / "package") is not None


def test_git_state_is_none_where_the_directory_is_nobody_s_source(repository, tmp_path_factory, monkeypatch):
    (repository / "site-packages").mkdir()
    (repository / "site-packages" / "installed.py").write_text("")
    assert source_state.git_state(repository / "site-packages") is None
    outside = tmp_path_factory.mktemp("outside")
    assert source_state.git_state(outside) is None
    git(outside, "init", "-q")
    assert source_state.git_state(outside) is None
    monkeypatch.setenv("PATH", "")
    assert source_state.git_state(repository / "package") is None


def test_file_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert provenance.file_sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
