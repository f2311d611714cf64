import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from jaxheads import files
from jaxheads.files import check_writable, disk_is_full, sweep, temporary_directory, write_atomically, write_together
from jaxheads.interrupts import terminable, uninterrupted


def test_writes_bytes_or_through_a_function_and_makes_directories(tmp_path):
    path = write_atomically(tmp_path / "a" / "b" / "x.bin", b"one")
    assert path.read_bytes() == b"one"
    write_atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.bin"]


def test_a_failing_writer_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = write_atomically(tmp_path / "x", b"old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match=r"can't write .*b: a directory is in the way\. Choose") as caught:
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert isinstance(caught.value, IsADirectoryError)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_an_error_names_the_path_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"can't write .*file/inside: .*Choose a directory"):
        write_atomically(tmp_path / "file" / "inside", b"x")
    assert os.listdir(tmp_path) == ["file"]


def test_files_get_the_permissions_that_the_umask_says(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_the_first_file_is_renamed_last_and_what_is_stale_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    renamed: list[str] = []
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (renamed.append(Path(new).name), replace(old, new)))
    (tmp_path / "stale").write_bytes(b"old")
    write_together({tmp_path / "a": b"", tmp_path / "b": b""}, [tmp_path / "stale", tmp_path / "none"])
    assert renamed == ["b", "a"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_all_renames(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace = os.replace

    def interrupted(old: Any, new: Any) -> None:
        replace(old, new)
        signal.raise_signal(number)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), terminable():
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_is_left_alone():
    handlers: list[Any] = []

    def run() -> None:
        with uninterrupted(), terminable():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxheads.files import temporary_directory, write_atomically
folder = Path(sys.argv[1])
def content(file):
    file.write(bytes(10**6))
    with temporary_directory(folder) as inner:
        (inner / "large").write_bytes(bytes(10**6))
        print("half", flush=True)
        sys.stdin.read()
write_atomically(folder / "x", content)
"""


def test_what_a_killed_process_has_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        write_atomically(tmp_path / "y", b"")
        sweep(tmp_path)
        assert len(os.listdir(tmp_path)) == 3
    finally:
        process.kill()
        process.communicate()
    assert len(os.listdir(tmp_path)) == 3
    (tmp_path / ".mine.tmp").write_bytes(b"")
    write_atomically(tmp_path / "y", b"")
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "y"]


def test_a_temporary_directory_goes_unless_it_is_renamed(tmp_path: Path):
    with temporary_directory(tmp_path) as folder:
        (folder / "x").write_bytes(b"")
    with temporary_directory(tmp_path) as folder:
        folder.rename(tmp_path / "kept")
    assert os.listdir(tmp_path) == ["kept"]


def test_an_error_of_the_clean_up_does_not_hide_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(files.os, "fsync", full)
    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(OSError, match=r"can't write .*x: No space left on device\. Free some space") as caught:
        write_atomically(tmp_path / "x", b"new")
    assert disk_is_full(caught.value)
    assert disk_is_full(ValueError("tensorstore: Failed to write: No space left on device [28]"))
    assert not disk_is_full(ValueError("no"))


def test_two_processes_leave_the_files_of_one(tmp_path: Path):
    """Renames of two calls in turn would leave files of both."""

    def write(content: bytes) -> None:
        for _ in range(40):
            write_together({tmp_path / name: content for name in "abcdef"})

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / name).read_bytes() for name in "abcdef"}) == 1
    assert sorted(os.listdir(tmp_path)) == list("abcdef")


def test_a_directory_that_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_writable(tmp_path / "not" / "there")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    for wrong in ("file", "file/below"):
        with pytest.raises(OSError, match=f"can't write .*{wrong}: Not a directory. Choose a directory"):
            check_writable(tmp_path / wrong)

    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"Disk quota exceeded\. Free some space"):
        check_writable(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "PATIENCE", 3)
    with files._locked(tmp_path):
        write_atomically(tmp_path / "x", b"")
    with temporary_directory(tmp_path) as folder:
        monkeypatch.setattr(files, "_wait_for_lock", lambda descriptor: pytest.fail("waits for itself"))
        write_atomically(folder / "x", b"")


def test_a_folder_that_something_still_writes_to_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, remove, times = tmp_path / "unfinished", shutil.rmtree, []
    folder.mkdir()

    def removed(path: Path, *, ignore_errors: bool) -> None:
        remove(path, ignore_errors=ignore_errors)
        times.append(path)
        if len(times) == 1:
            (path / "late").mkdir(parents=True)

    monkeypatch.setattr(shutil, "rmtree", removed)
    files._discard(folder)
    assert not folder.exists()
