from pathlib import Path

import pytest

from jaxheads.data import passages


def test_the_packaged_passages_are_64_short_different_ones():
    texts = passages()
    assert len(texts) == len(set(texts)) == 64
    assert all(50 <= len(passage.split()) <= 80 for passage in texts)
    assert not any("\n" in passage for passage in texts)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_users_file_is_split_at_blank_lines(tmp_path: Path, ending: str):
    path = tmp_path / "own.txt"
    lines = ["\ufeffOne line", "and its second.", "", "  ", "", "Déjà vu.", ""]
    path.write_bytes(ending.join(lines).encode())
    assert passages(path) == passages(str(path)) == ["One line and its second.", "Déjà vu."]


@pytest.mark.parametrize("text", ["", " \n\n\t\n"])
def test_a_file_without_text_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "blank.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"blank\.txt holds no text"):
        passages(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text: byte 3"):
        passages(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        passages(tmp_path / "nowhere.txt")
