import os
import stat

import pytest

from jaxheads.files import write_atomically, write_together


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
